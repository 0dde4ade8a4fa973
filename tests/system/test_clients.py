"""Foreign MCP clients that nobody here wrote, each on a whole run of a real A2A agent over HTTP.

The Python SDK's client, the TypeScript SDK's client and the command line of the MCP inspector start the server as a
process, in the protocol's older era, which begins with initialize, and in that of 2026-07-28.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import orjson
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult, TextContent

from orchestrator.doors.schemas import TOOLS
from orchestrator.model import JsonObject
from tests.conformance.node import NODE, installed
from tests.system.conftest import running

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]  # the first test waits until the clients are installed

CLIENTS = Path(__file__).parent / "clients"
DEADLINE_S = 60.0

SPOKEN = {"legacy": "2025-11-25", "2026-07-28": "2026-07-28"}
SERVER = ["-m", "orchestrator", "mcp", "--in-process"]
TOOL_NAMES = [tool.name for tool in TOOLS]
IS_ERROR = 5
"""The inspector's exit code when a tool's result says that it is an error."""

SIZE = 5 * 2**20
PAGE_BYTES = 262_144
WHOLE = b"".join(b"line at byte %018d\n" % offset for offset in range(0, SIZE, 32))
SCRIPT = """\
say hello
command make -> built
artifact 5MB report.txt
ask Which colour? | red | blue
final all done"""
TYPES = (
    "run_started message_added agent_message command_started command_finished artifact_added input_required "
    "agent_message run_completed"
).split()


@dataclass(frozen=True)
class Place:
    """Where one test's server works, the environment of its children, and how to spawn on its agent."""

    cwd: Path
    home: Path
    env: dict[str, str]
    spawn: JsonObject

    @property
    def server(self) -> JsonObject:
        """How a client starts the server."""
        return {"command": sys.executable, "args": SERVER, "cwd": str(self.cwd), "env": self.env}


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder of the Node clients: installed once, beside the interpreter, by whichever worker comes first."""
    return installed(CLIENTS / "package.json", "node")


@pytest.fixture
def place(tmp_path: Path, cwd: Path) -> Generator[Place]:
    """A directory, a home of its own and a running A2A agent."""
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "ORCHESTRATOR_HOME": os.environ["ORCHESTRATOR_HOME"]}
    with running("test_agents", "scripted", "--port", "0", cwd=cwd, **env) as agent:
        assert agent.stdout is not None
        ready = json.loads(agent.stdout.readline())
        yield Place(cwd, home, env, ready["spawn_run"])
    assert not list(home.iterdir()), "something was left in the home directory"


# ---- the Python SDK's client ----


@asynccontextmanager
async def python_client(place: Place, mode: str = "auto") -> AsyncGenerator[Client]:
    """A client with a server of its own, which says nothing on stderr."""
    log = place.cwd.with_name("stderr")
    with log.open("w") as stderr:
        transport = stdio_client(StdioServerParameters(**place.server), errlog=stderr)
        async with Client(transport, mode=mode) as client:
            yield client
    assert log.read_text() == ""


async def call(client: Client, tool: str, **arguments: Any) -> JsonObject:
    """The document of a call that must succeed, the same in both channels of the result."""
    return document_of(await client.call_tool(tool, arguments))


def document_of(result: CallToolResult) -> JsonObject:
    (block,) = result.content
    assert isinstance(block, TextContent)
    assert not result.is_error, block.text
    assert orjson.loads(block.text) == result.structured_content
    return cast(JsonObject, result.structured_content)


async def whole_run(client: Client, spawn: JsonObject) -> JsonObject:
    """Drives one run from its start to its result. Reports what clients/whole_run.ts reports."""
    tools = (await client.list_tools()).tools
    run_id = (await call(client, "spawn_run", **spawn))["run_id"]
    events, answers = await follow(client, run_id)
    (seq,) = (event["seq"] for event in events if event["type"] == "artifact_added")
    return {
        "protocol": client.protocol_version,
        "tools": [tool.name for tool in tools],
        "events": events,
        "answers": answers,
        "artifact": await read(client, run_id, seq),
        "waited": await call(client, "wait_runs", run_ids=[run_id]),
        "run": await call(client, "get_run", run_id=run_id),
    }


async def follow(client: Client, run_id: str) -> tuple[list[JsonObject], list[JsonObject]]:
    """Follows the run to its end and answers what it asks."""
    events: list[JsonObject] = []
    answers: list[JsonObject] = []
    after_seq = 0
    while True:
        page = await call(client, "poll_events", run_id=run_id, after_seq=after_seq)
        events += page["events"]
        after_seq = page["next_after_seq"]
        if page["has_more"]:
            continue
        for request in page.get("pending", ()):
            decision = request["options"][0]["id"]
            answer = {"run_id": run_id, "request_id": request["request_id"], "decision": decision}
            answers.append(await call(client, "continue_run", **answer))
        if page["status"] in ("completed", "failed", "cancelled"):
            return events, answers


async def read(client: Client, run_id: str, seq: int) -> JsonObject:
    """Reads the text of an event page by page."""
    field = {"run_id": run_id, "seq": seq, "field_path": "/text", "limit": PAGE_BYTES}
    content, pages, offset = b"", 0, 0
    while True:
        page = await call(client, "get_event_artifact", **field, offset=offset)
        content, pages = content + page["content"].encode(), pages + 1
        if not page["has_more"]:
            return {"bytes": len(content), "pages": pages, "sha256": sha256(content).hexdigest()}
        offset = page["next_offset"]


def check(report: JsonObject, mode: str) -> None:
    """What a whole run of SCRIPT looks like to any client."""
    events = report["events"]
    assert report["protocol"] == SPOKEN[mode]
    assert report["tools"] == TOOL_NAMES
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    types = [event["type"] for event in events if event["type"] != "status_changed"]
    assert types == TYPES
    (artifact,) = (event["data"] for event in events if event["type"] == "artifact_added")
    assert artifact["name"] == "report.txt"
    assert artifact["artifact_refs"]["/text"]["total_bytes"] == SIZE
    assert len(artifact["text"]) < 2_000
    assert report["artifact"] == {"bytes": SIZE, "pages": 20, "sha256": sha256(WHOLE).hexdigest()}
    assert [answer["mode"] for answer in report["answers"]] == ["answer"]
    texts = [event["data"]["text"] for event in events if event["type"] == "agent_message"]
    assert texts == ["hello", "the answer is: red"]
    assert report["waited"]["done"]
    assert report["run"]["status"] == "completed"
    assert report["run"]["result"]["final_response"] == "all done"
    assert report["run"]["last_seq"] == len(events)


@pytest.mark.parametrize("mode", SPOKEN)
async def test_the_python_client_drives_a_whole_run(place: Place, mode: str) -> None:
    async with python_client(place, mode) as client:
        check(await whole_run(client, {**place.spawn, "prompt": SCRIPT}), mode)


async def test_the_call_that_the_agent_prints_works_as_it_is(place: Place) -> None:
    async with python_client(place) as client:
        run_id = (await call(client, "spawn_run", **place.spawn))["run_id"]
        _, answers = await follow(client, run_id)
        assert len(answers) == 1
        assert (await call(client, "get_run", run_id=run_id))["result"]["final_response"] == "all done"


# ---- the TypeScript SDK's client ----


async def node(place: Place, *arguments: str | Path) -> tuple[int, bytes, str]:
    """Runs Node to its end. Returns its exit code, stdout and stderr; nothing of its process group outlives it."""
    process = await asyncio.create_subprocess_exec(
        NODE,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=place.cwd,
        env=place.env,
        start_new_session=True,
    )
    left: list[psutil.Process] = []
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
        left = await asyncio.to_thread(members, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    assert not left
    assert process.returncode is not None
    return process.returncode, out, err.decode()


def members(group: int) -> list[psutil.Process]:
    """The processes of a group that still live."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.parametrize("mode", SPOKEN)
async def test_the_typescript_client_drives_a_whole_run(
    place: Place, packages: Path, tmp_path: Path, mode: str
) -> None:
    # a copy, because Node looks for packages beside the script
    script = tmp_path / "whole_run.ts"
    shutil.copy(CLIENTS / "whole_run.ts", script)
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    order = {"server": place.server, "protocol": mode, "spawn_run": {**place.spawn, "prompt": SCRIPT}}
    code, out, err = await node(place, script, json.dumps(order))
    assert (code, err) == (0, "")
    check(orjson.loads(out), mode)


# ---- the inspector, whose every call is a server process of its own ----


@dataclass(frozen=True)
class Inspector:
    """The inspector's command line in one era: legacy or modern."""

    place: Place
    main: Path
    era: str

    async def __call__(self, method: str, *options: str, code: int = 0) -> JsonObject:
        """The result of one request. The inspector must end with this exit code."""
        env = [word for name, value in self.place.env.items() for word in ("-e", f"{name}={value}")]
        how = ["--transport", "stdio", "--protocol-era", self.era, "--format", "json", *env]
        arguments = ["--cli", *how, "--method", method, *options, "--", sys.executable, *SERVER]
        ended, out, err = await node(self.place, self.main, *arguments)
        assert ended == code, (out, err)
        assert err == "" or code, err
        return orjson.loads(out)["result"]

    async def call(self, tool: str, **arguments: Any) -> JsonObject:
        """The document of a tool call that must succeed."""
        result = await self("tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments))
        return document_of(CallToolResult.model_validate(result))

    async def refusal(self, tool: str, **arguments: Any) -> str:
        """The sentence of a tool call that must be refused."""
        words = ["--tool-name", tool, "--tool-args-json", json.dumps(arguments)]
        result = await self("tools/call", *words, code=IS_ERROR)
        assert result["isError"]
        assert "structuredContent" not in result
        return result["content"][0]["text"]


@pytest.fixture(params=["legacy", "modern"])
def inspector(request: pytest.FixtureRequest, place: Place, packages: Path) -> Inspector:
    """The inspector in each era."""
    scope = packages / "node_modules" / "@modelcontextprotocol"
    return Inspector(place, scope / "inspector" / "clients" / "launcher" / "build" / "index.js", request.param)


async def test_the_inspectors_strict_lint_finds_nothing(inspector: Inspector) -> None:
    listed = await inspector("tools/list", "--strict")
    assert [tool["name"] for tool in listed["tools"]] == TOOL_NAMES


@pytest.mark.parametrize("inspector", ["modern"], indirect=True)
async def test_the_inspector_reads_the_runs_of_a_server_that_lives(inspector: Inspector, place: Place) -> None:
    async with python_client(place) as owner:
        report = await whole_run(owner, {**place.spawn, "prompt": SCRIPT})
        run_id, last_seq = report["run"]["run_id"], report["run"]["last_seq"]
        (seq,) = (event["seq"] for event in report["events"] if event["type"] == "artifact_added")
        field = {"run_id": run_id, "seq": seq, "field_path": "/text", "limit": PAGE_BYTES}
        listed, run, page, first = await asyncio.gather(
            inspector.call("list_runs"),
            inspector.call("get_run", run_id=run_id),
            inspector.call("poll_events", run_id=run_id),
            inspector.call("get_event_artifact", **field),
        )
        assert [row["run_id"] for row in listed["runs"]] == [run_id]
        assert run == report["run"]
        assert page["events"] == report["events"]
        assert page["next_after_seq"] == last_seq
        second, end = await asyncio.gather(
            inspector.call("get_event_artifact", **field, offset=first["next_offset"]),
            inspector.call("get_event_artifact", **field, offset=SIZE - PAGE_BYTES),
        )
        assert (first["content"] + second["content"]).encode() == WHOLE[: 2 * PAGE_BYTES]
        assert end["content"].encode() == WHOLE[-PAGE_BYTES:]
        assert [first["has_more"], second["has_more"], end["has_more"]] == [True, True, False]


@pytest.mark.parametrize("inspector", ["modern"], indirect=True)
async def test_only_the_server_that_spawned_a_run_commands_it(inspector: Inspector, place: Place) -> None:
    async with python_client(place) as owner:
        run_id = (await call(owner, "spawn_run", **place.spawn))["run_id"]
        waiting = await inspector.call("wait_runs", run_ids=[run_id])
        assert waiting["runs"][0]["status"] == "input_required"
        assert waiting["runs"][0]["pending"][0]["text"] == "Which colour?"
        answer, cancel = await asyncio.gather(
            inspector.refusal("continue_run", run_id=run_id, decision="red"),
            inspector.refusal("cancel_run", run_id=run_id),
        )
        assert answer.startswith(f"not_owner: {run_id} belongs to process ")
        assert cancel == answer
        await follow(owner, run_id)
        assert (await inspector.call("get_run", run_id=run_id))["result"]["final_response"] == "all done"


@pytest.mark.parametrize("inspector", ["legacy"], indirect=True)
async def test_a_key_finds_the_same_run_from_every_process(inspector: Inspector, place: Place) -> None:
    finished = {**place.spawn, "prompt": "final all done", "idempotency_key": "finished"}
    async with python_client(place) as owner:
        run_id = (await call(owner, "spawn_run", **finished))["run_id"]
        await call(owner, "wait_runs", run_ids=[run_id])
        again = await inspector.call("spawn_run", **finished)
        assert (again["run_id"], again["status"]) == (run_id, "completed")
    # a run of the inspector's own ends with the process that it lives in
    waiting = {**place.spawn, "idempotency_key": "waiting"}
    first = await inspector.call("spawn_run", **waiting)
    second = await inspector.call("spawn_run", **waiting)
    assert (second["run_id"], second["status"]) == (first["run_id"], "failed")
    assert (await inspector.call("get_run", run_id=first["run_id"]))["error"]["code"] == "host_lost"
