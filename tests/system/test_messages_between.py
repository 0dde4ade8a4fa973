"""Real agents of two kinds in one tree: they write to each other, ask, delegate and finish together; from their own
shells too. And messages that outlive the host's death."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller
from tests.system.desk import Desk
from tests.system.hosts import wait_gone
from tests.system.shell import Shell, shell

pytestmark = [pytest.mark.system]

MSG = f"{sys.executable} -m orchestrator msg"


def claude(tool: str, **arguments: Any) -> str:
    return f"call mcp__orchestrator__{tool} {json.dumps(arguments)}\nheard"


def codex(tool: str, **arguments: Any) -> str:
    return f"call mcp__orchestrator.{tool} {json.dumps(arguments)}\nheard"


async def approved(desk: Desk, run_id: str) -> str:
    """Approves what a run asks until it rests otherwise. Returns its status."""
    while (run := await desk.settled(run_id))["status"] == "input_required":
        request = run["pending"][0]
        if request["kind"] != "approval":
            break
        await desk.call("continue_run", run_id=run_id, request_id=request["request_id"], decision="approve")
    return run["status"]


async def said(desk: Desk, run_id: str) -> list[str]:
    return [event["data"]["text"] for event in await desk.events(run_id, "agent_message")]


async def test_a_question_waits_whatever_time_its_client_gives_tools(both: Desk) -> None:
    hasty = Tools(both.engine, Caller(cwd=both.cwd, env={**both.env, "MCP_TOOL_TIMEOUT": "500"}))
    given = {"cwd": str(both.cwd), "backend": "claude_code"}
    script = "\n".join([claude("ask_caller", question="Which?"), "final done"])
    run_id = (await hasty.call("spawn_run", {**given, "prompt": script}))["run_id"]
    await both.settled(run_id)
    await asyncio.sleep(1.5)  # three times as long as the agent's client would wait
    run = await both.answered(run_id, text="this one")
    assert run["status"] == "completed", run
    assert any('"answer":"this one"' in text for text in await said(both, run_id))


async def test_two_kinds_of_agents_finish_a_task_together(both: Desk) -> None:
    place = {"cwd": str(both.cwd)}
    hand = "\n".join(
        [
            codex("send_message", to="boss", text="I am ready"),
            codex("fetch_messages", wait_ms=45_000),
            "file result.txt written by the hand",
            codex("report_progress", text="written", percent=100),
            "final the hand is done",
        ]
    )
    helper = "\n".join([claude("send_message", to="boss", text="I am the helper"), "final helped"])
    run_id = await both.spawn(
        claude("spawn_run", backend="codex", prompt=hand, nickname="hand", **place),
        claude("fetch_messages", wait_ms=45_000),
        claude("send_message", to="hand", text="write it"),
        claude("ask_caller", question="Is one file enough?", options=["yes", "no"]),
        claude("spawn_run", backend="claude_code", prompt=helper, nickname="helper", **place),
        claude("fetch_messages", after_seq=1, wait_ms=45_000),
        claude("spawn_run", backend="claude_code", prompt="final never", permission="full_access", **place),
        "final all is done",
        nickname="boss",
        backend_config={"delegate": True},
    )
    run = await both.settled(run_id)
    assert [request["text"] for request in run["pending"]] == ["Is one file enough?"]
    run = await both.answered(run_id, decision="yes")
    assert run["status"] == "completed", run
    texts = await said(both, run_id)
    assert any('"answer":"yes"' in text for text in texts)
    assert any("I am ready" in text for text in texts)
    assert any("I am the helper" in text for text in texts)
    assert any("permission_ceiling" in text for text in texts)
    listed = {row["agent_name"]: row for row in (await both.call("list_agents"))["agents"]}
    assert set(listed) == {"boss", "hand", "helper"}
    for name in ("hand", "helper"):
        child = await both.settled(listed[name]["run_id"])
        assert (child["status"], child["parent_run_id"]) == ("completed", run_id), child
    assert (both.cwd / "result.txt").read_text() == "written by the hand\n"
    assert (await both.settled(listed["hand"]["run_id"]))["progress"] == {"text": "written", "percent": 100}


async def test_an_agent_writes_from_its_own_shell_or_is_told_what_to_do_instead(both: Desk) -> None:
    run_id = await both.spawn(f"run {MSG} send caller 'from the shell of Claude'", f"run {MSG} whoami", nickname="tom")
    assert await approved(both, run_id) == "completed"
    commands = [event["data"] for event in await both.events(run_id, "command_finished")]
    assert [command.get("exit_code") for command in commands] == [0, 0], commands
    assert "tom" in commands[1]["output"]
    other = await both.spawn(f"run {MSG} send caller 'from a sandbox'", backend="codex")
    assert await approved(both, other) == "completed"
    (command,) = [event["data"] for event in await both.events(other, "command_finished")]
    letters = (await both.call("fetch_agent_messages"))["messages"]
    texts = [letter["parts"][0]["text"] for letter in letters]
    assert command["exit_code"] == 6, command
    assert "use the tool send_message" in command["output"], "its sandbox lets no command reach a socket"
    assert texts == ["from the shell of Claude"]


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Shell]:
    """A shell with a host of its own."""
    with shell(tmp_path / "shell") as place:
        yield place


def test_a_host_that_is_killed_between_sending_and_fetching_loses_nothing(person: Shell) -> None:
    assert person.run("run", "-b", "scripted", "--name", "tom", "final done").code == 0
    for text in ("one", "two"):
        assert person.run("msg", "send", "tom", text).code == 0
    (host,) = person.ground.hosts()
    host.kill()
    wait_gone(host)
    assert person.run("say", "tom", "call fetch_messages {}\nfinal done").code == 0
    assert person.run("wait", "tom").code == 0
    events = person.run("events", "tom", "--types", "agent_message", "--json").lines
    (answer,) = [json.loads(event["data"]["text"]) for event in events if "messages" in event["data"]["text"]]
    assert [letter["parts"][0]["text"] for letter in answer["messages"]] == ["one", "two"]


def test_a_person_writes_and_reads_by_commands(person: Shell) -> None:
    assert person.run("msg", "whoami").out == "caller\n"
    assert person.run("msg", "list").out == ""
    assert person.run("msg", "inbox").out == ""
    assert person.run("msg", "wait", "--timeout", "0.1").code == 124
    script = 'call send_message {"to": "caller", "text": "hello, person"}\nfinal done'
    assert person.run("run", "-b", "scripted", "--name", "tom", script).code == 0
    assert "tom\tcompleted\t" in person.run("msg", "list").out
    assert "hello, person" in person.run("msg", "wait", "--timeout", "20").out
    (letter,) = person.json("msg", "inbox")["messages"]
    assert letter["from"]["agent_name"] == "tom"
    assert person.json("msg", "inbox", "--after", "1")["messages"] == []
    assert person.run("msg", "inbox").out == ""
    woken = person.json("msg", "send", "tom", "final again", "--deliver", "wake")
    assert woken["delivered"] == "woken"
    assert person.run("wait", woken["run_id"]).code == 0
    unknown = person.run("msg", "send", "tim", "hello")
    assert unknown.code == 4
    assert "did you mean 'tom'" in unknown.err
