"""The sessions of Claude Code: resumed, forked, lost; what a run uses and may use; and what its model is given.

The model remembers by its API's requests alone, so what it says of a conversation is what Claude Code kept of it.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.model import JsonObject
from tests.models.claude_player import ClaudePlayer
from tests.models.player import agent_environment
from tests.system.desk import Desk, desk

pytestmark = [pytest.mark.system]

SCHEMA: JsonObject = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # a PNG


@pytest.fixture(scope="module")
def model() -> Iterator[ClaudePlayer]:
    """The model of all runs here."""
    with ClaudePlayer() as player:
        yield player


@pytest.fixture
async def claude(model: ClaudePlayer, cwd: Path, tmp_path: Path) -> AsyncGenerator[Desk]:
    """A desk at which Claude Code works."""
    async with desk("claude_code", cwd, agent_environment(model, tmp_path)) as place:
        yield place


async def done(claude: Desk, *script: str, **more: Any) -> JsonObject:
    """Runs a script to its end."""
    run = await claude.finished(*script, **more)
    assert run["status"] == "completed", run
    return run


async def resumed(claude: Desk, run: JsonObject, *script: str) -> JsonObject:
    """Goes on with the session of a run that is over. Returns the new run once it is over."""
    answer = await claude.call("continue_run", run_id=run["run_id"], text="\n".join(script))
    assert answer["mode"] == "resume"
    return await claude.settled(answer["run_id"])


async def begun(claude: Desk, run: JsonObject) -> JsonObject:
    """What was told when the run began."""
    (event,) = await claude.events(run["run_id"], "run_started")
    return event["data"]


async def texts(claude: Desk, run: JsonObject) -> list[str]:
    """What the agent said."""
    return [event["data"]["text"] for event in await claude.events(run["run_id"], "agent_message")]


def last_said(model: ClaudePlayer) -> list[JsonObject]:
    """The parts of the newest message to the model, without what Claude Code itself adds."""
    parts: list[JsonObject] = model.requests[-1]["messages"][-1]["content"]
    return [part for part in parts if not str(part.get("text", "")).startswith(("<system-reminder>", "[Image: "))]


# ---- resume and fork


async def test_a_session_is_resumed_with_all_that_was_said(claude: Desk) -> None:
    first = await done(claude, "say one")
    second = await resumed(claude, first, "remember")
    third = await resumed(claude, second, "remember")
    assert [run["result"]["final_response"] for run in (second, third)] == ["1 earlier prompts", "2 earlier prompts"]
    assert {run["session_id"] for run in (first, second, third)} == {first["session_id"]}
    native = [(await begun(claude, run))["native_session_id"] for run in (first, second, third)]
    assert len(set(native)) == 1
    assert third["resumed_from_run_id"] == second["run_id"]


async def test_a_fork_leaves_its_origin_alone(claude: Desk) -> None:
    first = await done(claude, "say one")
    fork = await done(claude, "remember", session_mode="fork", session_id=first["session_id"])
    again = await done(claude, "remember", session_mode="fork", session_id=fork["session_id"])
    origin = await resumed(claude, first, "remember")
    assert fork["result"]["final_response"] == "1 earlier prompts"
    assert again["result"]["final_response"] == "2 earlier prompts"
    assert origin["result"]["final_response"] == "1 earlier prompts"
    assert len({run["session_id"] for run in (first, fork, again)}) == 3
    native = [(await begun(claude, run))["native_session_id"] for run in (first, fork, again, origin)]
    assert native[3] == native[0]
    assert len(set(native)) == 3


async def test_a_session_is_resumed_after_a_failure_and_after_a_cancellation(claude: Desk) -> None:
    failed = await claude.finished("say one", "run true", "fail because")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "agent_error")
    assert failed["error"]["resumable"]
    run = await resumed(claude, failed, "remember")
    assert run["result"]["final_response"] == "1 earlier prompts"
    answer = await claude.call("continue_run", run_id=run["run_id"], text="run tail -f /dev/null")
    await claude.seen(answer["run_id"], "command_started")
    cancelled = await claude.call("cancel_run", run_id=answer["run_id"])
    assert cancelled["status"] == "cancelled"
    run = await resumed(claude, cancelled, "remember")
    assert (run["status"], run["result"]["final_response"]) == ("completed", "3 earlier prompts")


async def test_another_engine_resumes_a_session(model: ClaudePlayer, cwd: Path, tmp_path: Path) -> None:
    env = agent_environment(model, tmp_path)
    async with desk("claude_code", cwd, env) as claude:
        first = await done(claude, "say one")
    async with desk("claude_code", cwd, env) as claude:
        second = await resumed(claude, first, "remember")
        assert second["result"]["final_response"] == "1 earlier prompts"
        assert second["agent_name"] == first["agent_name"]


@pytest.mark.parametrize("mode", ["resume", "fork"])
async def test_a_session_that_is_lost_is_no_fresh_start(claude: Desk, model: ClaudePlayer, mode: str) -> None:
    first = await done(claude, "say one")
    shutil.rmtree(Path(claude.env["CLAUDE_CONFIG_DIR"]) / "projects")
    before = len(model.requests)
    run = await claude.finished("file a.txt x", session_mode=mode, session_id=first["session_id"])
    assert (run["status"], run["error"]["code"]) == ("failed", "agent_error")
    assert "does not have the session" in run["error"]["message"]
    assert run["error"]["resumable"] is False
    assert "spawn a new run" in run["error"]["next_step"]
    assert len(model.requests) == before
    assert not (claude.cwd / "a.txt").exists()


# ---- steering


async def test_a_running_agent_hears_what_is_said_to_it(claude: Desk) -> None:
    run_id = await claude.spawn("say started", "listen", "say end")
    await claude.seen(run_id, "agent_message")
    for _ in range(2):
        answer = await claude.call("continue_run", run_id=run_id, text="turn left")
        assert answer["mode"] == "steer"
    run = await claude.settled(run_id)
    assert run["status"] == "completed", run
    assert (await texts(claude, run))[:2] == ["started", "heard: turn left"]
    said = [event["data"]["text"] for event in await claude.events(run_id, "message_added")]
    assert said == ["say started\nlisten\nsay end", "turn left", "turn left"]
    assert len(await claude.events(run_id, "run_completed")) == 1


async def test_what_is_said_while_the_agent_gives_its_last_answer_is_answered_too(claude: Desk) -> None:
    run_id = await claude.spawn("say one", "run true", "sleep 1", "say two")
    await claude.seen(run_id, "command_finished")
    await claude.call("continue_run", run_id=run_id, text="remember")
    run = await claude.settled(run_id)
    assert run["status"] == "completed", run
    assert await texts(claude, run) == ["one", "two", "1 earlier prompts"]
    assert run["result"]["final_response"] == "1 earlier prompts"
    assert run["result"]["usage"]["turns"] == 3


# ---- what a run uses, and may use


async def test_usage_and_cost_are_those_of_one_run(claude: Desk) -> None:
    first = await done(claude, "usage 100000 1000", "say one")
    second = await resumed(claude, first, "usage 1000 10", "say two")
    fork = await done(claude, "usage 1000 10", "say three", session_mode="fork", session_id=first["session_id"])
    costly, *cheap = [run["result"]["usage"] for run in (first, second, fork)]
    assert (costly["input_tokens"], costly["output_tokens"], costly["turns"]) == (100_000, 1000, 1)
    for usage in cheap:
        assert (usage["input_tokens"], usage["output_tokens"], usage["turns"]) == (1000, 10, 1)
        assert usage["cost_usd"] == pytest.approx(costly["cost_usd"] / 100)


async def test_the_cost_of_a_cancelled_run_is_not_that_of_the_next(claude: Desk) -> None:
    first = await done(claude, "usage 1000 10", "say one")
    answer = await claude.call("continue_run", run_id=first["run_id"], text="usage 100000 1000\nrun tail -f /dev/null")
    await claude.seen(answer["run_id"], "command_started")
    await claude.call("cancel_run", run_id=answer["run_id"])
    third = await resumed(claude, first, "usage 1000 10", "say three")
    assert third["result"]["usage"] == first["result"]["usage"]


async def test_what_helpers_use_is_counted(claude: Desk) -> None:
    given = {"description": "h", "subagent_type": "general-purpose", "prompt": "usage 500 50\nsay helped"}
    script = ("usage 100 10", f"call Agent {json.dumps({**given, 'run_in_background': False})}", "say end")
    usage = (await done(claude, *script))["result"]["usage"]
    assert usage["turns"] == 3
    assert (usage["input_tokens"], usage["output_tokens"]) == (700, 70)


async def test_a_run_ends_when_its_model_was_called_as_often_as_it_may(claude: Desk) -> None:
    run = await claude.finished("file 1 x", "file 2 x", "file 3 x", "say end", limits={"max_turns": 2})
    assert (run["status"], run["error"]["code"]) == ("failed", "budget_exceeded")
    assert "limits.max_turns" in run["error"]["message"]
    files = sorted(path.name for path in claude.cwd.iterdir() if path.is_file())
    assert files in (["1"], ["1", "2"]), "the tool of the last answer may be used, and no other"
    assert run["error"]["resumable"]
    again = await resumed(claude, run, "remember")
    assert (again["status"], again["result"]["final_response"]) == ("completed", "1 earlier prompts")


DEAR: JsonObject = {"limits": {"max_cost_usd": 0.005}}


async def test_a_run_ends_when_it_cost_what_it_may_and_the_next_one_counts_anew(claude: Desk) -> None:
    run = await claude.finished("usage 1000 10", "file 1 x", "usage 9000 10", "run true", "say end", **DEAR)
    assert (run["status"], run["error"]["code"]) == ("failed", "budget_exceeded")
    assert "limits.max_cost_usd" in run["error"]["message"]
    assert await texts(claude, run) == []
    (ended,) = await claude.events(run["run_id"], "command_finished")
    assert ended["data"]["status"] in ("completed", "interrupted")
    told = [event["data"].get("usage") for event in await claude.events(run["run_id"], "status_changed")]
    assert [usage["cost_usd"] > 0.02 for usage in told if usage][-1], "what it used is told all the same"
    again = await resumed(claude, run, "usage 1000 10", "remember")
    assert (again["status"], again["result"]["final_response"]) == ("completed", "1 earlier prompts")
    assert again["result"]["usage"]["cost_usd"] < DEAR["limits"]["max_cost_usd"]


async def test_what_was_written_while_a_run_ended_is_told(claude: Desk) -> None:
    """Claude Code tells of the cost while it already runs the tools of that answer, and ends in the middle of them."""
    run = await claude.finished("usage 1000 10", "file 1 x", "usage 9000 10", "file 2 x", "say end", **DEAR)
    assert (run["status"], run["error"]["code"]) == ("failed", "budget_exceeded")
    events = await claude.events(run["run_id"], "file_changed")
    told = sorted(change["path"] for event in events for change in event["data"]["changes"])
    assert told == sorted(path.name for path in claude.cwd.iterdir() if path.is_file())


# ---- structured output


async def test_structured_output_is_what_the_schema_says(claude: Desk) -> None:
    run = await done(claude, 'json {"n": "x"}', 'json {"n": 1}', output_schema=SCHEMA)
    assert run["result"]["structured_output"] == {"n": 1}
    assert await claude.events(run["run_id"], "tool_started", "tool_finished") == []


@pytest.mark.parametrize(("script", "words"), [('json {"n": "x"}', "/n"), ("say nothing of the kind", "gave none")])
async def test_output_that_does_not_fit_fails_and_says_why(claude: Desk, script: str, words: str) -> None:
    run = await claude.finished(script, output_schema=SCHEMA)
    assert (run["status"], run["error"]["code"]) == ("failed", "invalid_output")
    assert words in run["error"]["message"]
    assert run["error"]["resumable"]


# ---- what the model is given


async def test_an_added_system_prompt_reaches_the_model_also_on_resume(claude: Desk) -> None:
    first = await done(claude, "system ZEPHYR", backend_config={"append_system_prompt": "Say ZEPHYR."})
    second = await resumed(claude, first, "system ZEPHYR")
    third = await done(
        claude, "system ZEPHYR", "system QUIXOTE", session_mode="resume", session_id=first["session_id"],
        backend_config={"append_system_prompt": "Say QUIXOTE."},
    )  # fmt: skip
    assert first["result"]["final_response"] == second["result"]["final_response"] == "ZEPHYR is there"
    assert await texts(claude, third) == ["ZEPHYR is not there", "QUIXOTE is there"]


@pytest.mark.parametrize("wanted", [None, "claude-haiku-4-5"])
async def test_the_model_that_works_is_told(claude: Desk, model: ClaudePlayer, wanted: str | None) -> None:
    run = await done(claude, "say x", backend_config={"model": wanted} if wanted else {})
    assert model.requests[-1]["model"] == wanted or wanted is None
    assert (await begun(claude, run))["model"] == model.requests[-1]["model"]


async def test_images_texts_and_data_reach_the_model(claude: Desk, model: ClaudePlayer) -> None:
    text = base64.b64encode("größer".encode()).decode()
    parts: list[JsonObject] = [
        {"type": "text", "text": "say seen"},
        {"type": "file", "bytes_base64": PIXEL, "mime_type": "image/png", "name": "p.png"},
        {"type": "file", "bytes_base64": text, "mime_type": "text/plain", "name": "n.txt"},
        {"type": "data", "data": {"k": [1]}},
        {"type": "file", "uri": f"file://{claude.cwd}/a.txt"},
    ]
    await done(claude, input_message={"parts": parts})
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    said = last_said(model)
    assert [part["type"] for part in said] == ["text", "image", "document", "text", "text"]
    assert said[1]["source"] == source
    assert (said[2]["source"]["data"], said[2]["title"]) == ("größer", "n.txt")
    assert json.loads(said[3]["text"].removeprefix("```json").removesuffix("```")) == {"k": [1]}
    assert said[4]["text"].strip() == f"File: {claude.cwd}/a.txt"


@pytest.mark.parametrize("prompt", ["say look at @note.txt", "/context", "/clear", "!touch made", "# keep this"])
async def test_a_prompt_is_no_command_line(claude: Desk, model: ClaudePlayer, prompt: str) -> None:
    (claude.cwd / "note.txt").write_text("INLINED\n")
    run = await done(claude, prompt)
    assert [part["text"].strip() for part in last_said(model)] == [prompt]
    assert "INLINED" not in json.dumps(model.requests[-1])
    assert await texts(claude, run) == [prompt.removeprefix("say ") if " @" in prompt else "This is no script."]
    assert not (claude.cwd / "made").exists()


SERVER = """
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    answers = {
        "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                       "serverInfo": {"name": "probe", "version": "0"}},
        "tools/list": {"tools": [{"name": "length", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": f"{len(os.environ['PROBE_TOKEN'])} characters"}]},
    }
    if asked.get("method") in answers:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answers[asked["method"]]}), flush=True)
"""
SECRET = "swordfish-4711-" + "x" * 20


async def test_an_mcp_server_is_reached_and_its_credentials_stay_with_it(claude: Desk, tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(SERVER)
    server = {"command": sys.executable, "args": [f"{tmp_path}/probe.py"], "env": {"PROBE_TOKEN": SECRET}}
    config = {"mcp_servers": {"probe": server}}
    run = await claude.finished("call mcp__probe__length {}", "heard", backend_config=config)
    (request,) = run["pending"]
    assert request["detail"] == {"tool": "mcp__probe__length", "arguments": {}}
    knowing = [process for process in claude.processes() if SECRET in str(process.environ())]
    assert ["probe.py" in str(process.cmdline()) for process in knowing] == [True]
    assert [p.cmdline() for p in psutil.process_iter() if SECRET in str(_command_line(p))] == []
    run = await claude.answered(run["run_id"], decision="approve")
    assert run["status"] == "completed", run
    assert f"{len(SECRET)} characters" in (await texts(claude, run))[0]
    (ended,) = await claude.events(run["run_id"], "tool_finished")
    assert (ended["data"]["server"], ended["data"]["tool"]) == ("probe", "length")
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(".orchestrator" in path.parts for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
