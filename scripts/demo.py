"""A whole run, watched: a real A2A agent, the real MCP server, a real MCP client.

Starts `python -m test_agents scripted` and `python -m orchestrator mcp`, spawns a run, shows its events as they come,
and goes away when it asks something. A second client finds the run, answers, reads its 5 MB artifact page by page,
and shows the result and where the files lie. Everything runs on loopback and in a temporary directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters

SCRIPT = """\
think The task is small: look, change, check.
todo [>] look around; change the greeting; run the tests
command ls -> greeting.py  tests/
sleep 0.4
say I found greeting.py. One thing I cannot know:
ask Which language should the greeting have? | English | French
todo [x] look around; [>] change the greeting; run the tests
file greeting.py print("Bonjour !")
sleep 0.4
command [1] pytest -> 1 failed: greeting has a space before the mark
sleep 0.4
file greeting.py print("Bonjour!")
command pytest -> 2 passed
todo [x] look around; [x] change the greeting; [x] run the tests
artifact 5MB test-log.txt
usage 1200 340 0.01
final The greeting is French now, and the tests pass."""

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code: str, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def heading(text: str) -> None:
    print("\n" + paint("1;36", f"── {text} ") + paint("36", "─" * max(0, 76 - len(text))), flush=True)


def show(event: dict[str, Any]) -> None:  # noqa: C901  one case per type of event
    """One event, one line or a few."""
    data = event["data"]
    match event["type"]:
        case "run_started":
            text = f"agent {data['agent']!r} over A2A {data['protocol']} at {data['agent_url']}"
        case "message_added":
            text = f"sent to the agent: {data['text'].splitlines()[0]} ..."
        case "agent_message":
            text = paint("1", data["text"])
        case "reasoning":
            text = paint("2", data["text"])
        case "command_started":
            text = paint("33", f"$ {data['command']}")
        case "command_finished":
            text = f"  exit {data['exit_code']}: {data['output']}"
        case "file_changed":
            text = ", ".join(f"{change['kind']} {change['path']}" for change in data["changes"])
        case "todo_updated":
            marks = {"pending": "☐", "in_progress": "◐", "completed": "☑"}
            text = "   ".join(f"{marks[item['status']]} {item['text']}" for item in data["items"])
        case "artifact_added":
            ref = data["artifact_refs"]["/text"]
            text = f"{data['name']}: {ref['total_bytes']:,} bytes in {ref['chunk_count']} chunk files"
        case "input_required":
            text = paint("1;35", data["request"]["text"])
        case "status_changed" if "resolved" in data:
            text = f"the answer is in: {data['resolved'].get('decision')}"
        case "status_changed":
            text = data.get("detail") or f"task {data['remote_ref']['task_id']}"
        case "run_completed":
            text = paint("1;32", data["final_response"])
        case _:
            text = json.dumps(data)[:100]
    print(f"  {paint('2', format(event['seq'], '3'))}  {event['type']:17} {text}", flush=True)


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Calls a tool and returns its document; a refusal ends the demo."""
    result = await client.call_tool(tool, arguments)
    if result.is_error or result.structured_content is None:
        raise SystemExit(f"{tool}: {result.content}")
    return result.structured_content


async def read_artifact(client: Client, run_id: str, seq: int) -> None:
    started, size, pages, offset = time.perf_counter(), 0, 0, 0
    while True:
        page = await call(
            client, "get_event_artifact", run_id=run_id, seq=seq, field_path="/text", offset=offset, limit=262_144
        )
        size, pages = size + page["returned_bytes"], pages + 1
        if not page["has_more"]:
            break
        offset = page["next_offset"]
    took = time.perf_counter() - started
    print(f"  {size:,} bytes in {pages} pages, {took:.2f} s; the last line is {page['content'].splitlines()[-1]!r}")


async def follow(client: Client, run_id: str, after: int = 0) -> tuple[str, int, int]:
    """Shows the run's events until it is over or waits. Returns its status, its last event and its artifact's."""
    artifact = 0
    while True:
        page = await call(client, "poll_events", run_id=run_id, after_seq=after)
        for event in page["events"]:
            show(event)
            artifact = event["seq"] if event["type"] == "artifact_added" else artifact
        after = page["next_after_seq"]
        if page["status"] in ("input_required", "completed") and not page["has_more"]:
            return page["status"], after, artifact


async def spawn_and_leave(server: StdioServerParameters, agent_url: str) -> tuple[str, int]:
    """The first client: it delegates, looks on for a while, and goes away."""
    async with Client(server) as client:
        tools = await client.list_tools()
        print(f"  {len(tools.tools)} tools: {', '.join(tool.name for tool in tools.tools)}")
        heading("spawn_run: returns at once")
        task = {"backend": "remote_a2a", "cwd": server.cwd, "prompt": SCRIPT}
        run = await call(client, "spawn_run", **task, backend_config={"agent_url": agent_url})
        print(f"  {run['run_id']}, agent {run['agent_name']!r}, {run['status']}")
        heading("poll_events: what happens, as it happens")
        _, after, _ = await follow(client, run["run_id"])
        return run["run_id"], after


async def find_and_finish(server: StdioServerParameters, run_id: str, after: int) -> None:
    """The second client: it knows nothing but its directory."""
    async with Client(server) as client:
        (found,) = (await call(client, "list_runs"))["runs"]
        print(f"  list_runs: {found['run_id']}, {found['status']}: {found['summary']}")
        heading("continue_run: the run waits, so we answer it")
        answer = await call(client, "continue_run", run_id=run_id, decision="French")
        print(f"  mode {answer['mode']!r}, status {answer['status']!r}")
        heading("poll_events goes on where the first client was")
        _, _, artifact = await follow(client, run_id, after)
        heading("get_event_artifact: 5 MB, page by page")
        await read_artifact(client, run_id, artifact)
        heading("get_run: the result")
        result = await call(client, "get_run", run_id=run_id)
        print(f"  {result['status']}: {paint('1;32', result['result']['final_response'])}")
        print(f"  usage {result['result']['usage']}")


async def demo(folder: Path) -> None:
    project = folder / "project"
    project.mkdir()
    os.environ["ORCHESTRATOR_HOME"] = str(folder / "home")
    heading("A real A2A agent: python -m test_agents scripted")
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "test_agents", "scripted", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert agent.stdout is not None
        introduction = json.loads(await agent.stdout.readline())
        print(f"  it serves its card at {introduction['card']}")
        heading("The MCP server, as a client starts it: python -m orchestrator mcp")
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "orchestrator", "mcp"], cwd=str(project), env=dict(os.environ)
        )
        run_id, after = await spawn_and_leave(server, introduction["agent_url"])
        heading("The client goes away. Its run does not: a second client finds it")
        await find_and_finish(server, run_id, after)
        heading("Where it lies: plain files")
        directory = project / ".orchestrator" / "runs" / run_id
        for path in sorted(directory.iterdir()):
            size = sum(f.stat().st_size for f in [path, *path.rglob("*")] if f.is_file())
            print(f"  {path.relative_to(project)!s:62} {size:>10,} B")
    finally:
        heading("The host, which owns live runs, ends by itself after ten idle minutes; here at once")
        stop = [sys.executable, "-m", "orchestrator", "host", "stop", "--cancel"]
        await (await asyncio.create_subprocess_exec(*stop)).wait()
        agent.terminate()
        await agent.wait()
    print("\n" + paint("1;32", "Done.") + " The README says how to use this from Claude Code, Codex and other clients.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="orchestrator-demo-") as name:
        asyncio.run(demo(Path(name)))
