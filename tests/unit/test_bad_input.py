"""Every wrong call is refused with a code and a sentence that helps, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.doors.tools import Tools
from orchestrator.errors import OrchestratorError
from tests.conftest import open_tools, wait_until

GIVEN = "{cwd}"
NO_RUN = "run_0000000000000000000000"


async def refused(tools: Tools, tool: str, arguments: dict[str, Any]) -> str:
    with pytest.raises(OrchestratorError) as caught:
        await tools.call(tool, arguments)
    return caught.value.sentence


SPAWN: list[tuple[dict[str, Any], str]] = [
    ({"cwd": "relative"}, "invalid_argument: cwd 'relative' is relative"),
    ({"cwd": "/no/such/directory"}, "does not exist"),
    ({"cwd": __file__}, "is not a directory"),
    ({"cwd": "/proc/\0"}, "invalid_argument: cwd"),
    ({"cwd": 7}, "invalid_argument: cwd: 7 is not of type 'string'"),
    ({"prompt": None}, "invalid_argument: prompt"),
    ({"prompt": "  \n"}, "there is nothing to do"),
    ({"input_message": {"role": "user", "parts": []}}, "not both"),
    ({"prompt": ..., "input_message": {"role": "user", "parts": []}}, "at least one part"),
    ({"prompt": ..., "input_message": {"role": "robot", "parts": [1]}}, "role is 'robot'"),
    ({"prompt": ..., "input_message": {"parts": [{"type": "text"}]}}, "parts[0] of type text takes text"),
    ({"prompt": ..., "input_message": {"parts": [{"type": "file"}]}}, "needs uri or bytes_base64"),
    ({"prompt": ..., "input_message": {"parts": [{"type": "file", "bytes_base64": "!"}]}}, "not valid base64"),
    ({"prompt": ..., "input_message": {"parts": [{"type": "video"}]}}, "text, data or file"),
    ({"prompt": ..., "input_message": {"prats": []}}, "no key 'prats'"),
    ({"backend": "scriptd"}, "did you mean 'scripted'?"),
    ({"promt": "x"}, "unknown_argument: spawn_run has no argument 'promt'; did you mean 'prompt'"),
    ({"profile": "reviewer"}, "profile_not_found: no profile 'reviewer'"),
    ({"profile": 7}, "profile: 7 is not of type 'string'"),
    ({"workspace": {"mode": "tree"}}, "takes one of: shared, worktree, clone"),
    ({"workspace": 7}, "workspace: 7 is not of type 'object'"),
    ({"workspace": {"bse": "main"}}, "no key 'bse'; did you mean 'base'"),
    ({"workspace": {"mode": "worktree"}}, "is in no git repository"),
    ({"workspace": {"base": "main"}}, "workspace.base goes with mode"),
    ({"workspace": {"mode": "worktree", "repo": "/x"}}, "workspace.repo goes with mode 'clone'"),
    ({"workspace": {"mode": "worktree", "base": "--upload-pack=x"}}, "does not begin with '-'"),
    ({"workspace": {"mode": "clone", "repo": "https://u:secret@host/x"}}, "holds a password"),
    ({"workspace": {"mode": "clone", "repo": "https://token@host/x"}}, "git's own credential helpers"),
    ({"workspace": {"mode": "clone", "repo": "https://host/x?private_token=t"}}, "git's own credential helpers"),
    ({"workspace": {"mode": "clone", "repo": "https://[token@host/x"}}, "git's own credential helpers"),
    ({"workspace": {"mode": "clone", "repo": "ssh://git:secret@host/x"}}, "holds a password"),
    ({"workspace": {"mode": "clone", "repo": "x"}}, "an absolute path or a URL"),
    ({"checks": [""]}, "checks[0].run must be a command"),
    ({"checks": [{"run": "x", "tmeout_s": 1}]}, "did you mean 'timeout_s'"),
    ({"checks": [{"run": "x", "timeout_s": True}]}, "checks[0].timeout_s must be a number"),
    ({"checks": ["x", {"name": "x", "run": "y"}]}, "two checks are called 'x'"),
    ({"checks": ["x"] * 21}, "a run takes 20"),
    ({"acceptance": [" "]}, "each one thing that must hold"),
    ({"limits": {"fix_attempts": 1.5}}, "limits.fix_attempts must be a whole number"),
    ({"on_finsh": {}}, "unknown_argument"),
    ({"permission": "root"}, "takes one of: read_only, workspace_write, full_access"),
    ({"on_approval": "maybe"}, "ask, deny, allow"),
    ({"session_mode": "resume"}, "needs the session_id"),
    ({"session_id": "ses_0"}, "session_id goes with session_mode"),
    ({"session_mode": "resume", "session_id": "../../etc/passwd"}, "is not a valid session_id"),
    ({"session_mode": "resume", "session_id": "ses_0"}, "session_not_found"),
    ({"nickname": "../x"}, "is not a valid nickname"),
    ({"nickname": ".hidden"}, "is not a valid nickname"),
    ({"nickname": "x" * 65}, "is not a valid nickname"),
    ({"output_schema": {"type": "objekt"}}, "not a valid JSON Schema, at $.type"),
    ({"output_schema": []}, "output_schema"),
    ({"limits": {"timeout_s": 0}}, "limits.timeout_s must be a positive number of seconds"),
    ({"limits": {"timeout_s": True}}, "limits.timeout_s"),
    ({"limits": {"max_turn": 3}}, "no limit 'max_turn'; did you mean 'max_turns'"),
    ({"limits": {"max_turns": 1.5}}, "limits.max_turns must be a whole number"),
    ({"limits": {"max_cost_usd": 0}}, "limits.max_cost_usd must be a positive number, not 0"),
    (
        {"limits": {"max_turns": 3}, "backend": "remote_a2a"},
        "backend 'remote_a2a' does not say what its agent uses, so it cannot keep limits.max_turns",
    ),
    ({"metadata": {"x": "y" * 3000}}, "limit_exceeded: metadata is over"),
    ({"prompt": "x" * 5_000_000}, "limit_exceeded: the message is over"),
]


@pytest.mark.parametrize(("change", "words"), SPAWN, ids=[words[:40] for _, words in SPAWN])
async def test_a_wrong_spawn_is_refused(tools: Tools, cwd: Path, change: dict[str, Any], words: str) -> None:
    arguments = {"backend": "scripted", "cwd": str(cwd), "prompt": "say x"} | change
    sentence = await refused(tools, "spawn_run", {k: v for k, v in arguments.items() if v is not ...})
    assert words in sentence
    assert list(cwd.iterdir()) == []


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("get_run", {}, "name the run by run_id or agent_name"),
    ("get_run", {"run_id": NO_RUN, "agent_name": "x"}, "one of them"),
    ("get_run", {"run_id": NO_RUN}, "run_not_found"),
    ("get_run", {"run_id": "../../../etc/passwd"}, "is not a valid run_id"),
    ("get_run", {"run_id": ""}, "is not a valid run_id"),
    ("get_run", {"agent_name": "nobody"}, "agent_not_found: no agent 'nobody'"),
    ("get_run", {"agent_name": "../keys"}, "is not a valid agent_name"),
    ("get_run", {"run_id": NO_RUN, "cwd": "nowhere"}, "is relative"),
    ("poll_events", {"run_id": NO_RUN}, "run_not_found"),
    ("poll_events", {"run_id": NO_RUN, "limit": 0}, "limit: 0 is less than the minimum of 1"),
    ("poll_events", {"run_id": NO_RUN, "limit": 1001}, "limit"),
    ("poll_events", {"run_id": NO_RUN, "after_seq": -1}, "after_seq"),
    ("poll_events", {"run_id": NO_RUN, "wait_ms": 60_000}, "wait_ms"),
    ("poll_events", {"run_id": NO_RUN, "types": []}, "types"),
    ("poll_events", {"run_id": NO_RUN, "max_chars": 10}, "max_chars"),
    ("wait_runs", {}, "wait_runs needs run_ids"),
    ("wait_runs", {"run_ids": []}, "run_ids"),
    ("wait_runs", {"run_ids": [NO_RUN]}, "run_not_found"),
    ("wait_runs", {"run_ids": [NO_RUN], "until": "some"}, "any, all"),
    ("continue_run", {"run_id": NO_RUN, "text": "x"}, "run_not_found"),
    ("cancel_run", {"run_id": NO_RUN}, "run_not_found"),
    ("list_runs", {"status": "runing"}, "takes one of: queued, running"),
    ("list_runs", {"limit": 0}, "limit"),
    ("list_runs", {"cursor": "../x"}, "is not a valid cursor"),
    ("list_runs", {"cwd": "/no/such/directory"}, "does not exist"),
    ("get_event_artifact", {"run_id": NO_RUN, "seq": 1}, "needs field_path: JSON Pointer"),
    ("get_event_artifact", {"run_id": NO_RUN, "seq": 1, "field_path": "/x"}, "run_not_found"),
    ("no_such_tool", {}, "no tool 'no_such_tool'"),
    ("get_rum", {}, "did you mean 'get_run'"),
]


@pytest.mark.parametrize(("tool", "arguments", "words"), OTHERS)
async def test_a_wrong_call_is_refused(
    tools: Tools, cwd: Path, tool: str, arguments: dict[str, Any], words: str
) -> None:
    assert words in await refused(tools, tool, arguments)
    assert list(cwd.iterdir()) == []


async def finished(tools: Tools, cwd: Path, *script: str) -> dict[str, Any]:
    arguments = {"backend": "scripted", "cwd": str(cwd), "prompt": "\n".join(script)}
    run = await tools.call("spawn_run", arguments)
    await tools.call("wait_runs", {"run_ids": [run["run_id"]]})
    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seq": 99, "field_path": "/text"}, "artifact_not_found: run"),
        ({"seq": 3, "field_path": "text"}, "is no JSON Pointer"),
        ({"seq": 3, "field_path": "/nothing"}, "at that place it has '/text', '/message_id'"),
        ({"seq": 3, "field_path": "/../../spec.json"}, "artifact_not_found"),
        ({"seq": 3, "field_path": "/text/0"}, "artifact_not_found"),
        ({"seq": 3, "field_path": "/text", "offset": 10}, "offset 10 is past the end; the field has 5 bytes"),
        ({"seq": 3, "field_path": "/text", "limit": 300_000}, "limit"),
        ({"seq": 0, "field_path": "/text"}, "seq"),
    ],
)
async def test_a_wrong_artifact_read_is_refused(tools: Tools, cwd: Path, arguments: dict[str, Any], words: str) -> None:
    run = await finished(tools, cwd, "say hello")
    assert words in await refused(tools, "get_event_artifact", {"run_id": run["run_id"], **arguments})


async def test_a_near_miss_of_a_name_is_told(tools: Tools, cwd: Path) -> None:
    run = await finished(tools, cwd, "say hello")
    near = run["agent_name"][:-1]
    assert f"did you mean {run['agent_name']!r}" in await refused(tools, "get_run", {"agent_name": near})


async def test_a_finished_run_takes_no_answer(tools: Tools, cwd: Path) -> None:
    run = await finished(tools, cwd, "say hello")
    for arguments in ({"decision": "approve"}, {"request_id": "x", "text": "y"}):
        assert "wrong_state" in await refused(tools, "continue_run", {"run_id": run["run_id"], **arguments})
    assert "give text" in await refused(tools, "continue_run", {"run_id": run["run_id"]})


async def test_a_store_of_another_version_is_refused_and_left_alone(tools: Tools, cwd: Path) -> None:
    run = await finished(tools, cwd, "say hello")
    version = cwd / ".orchestrator" / "VERSION"
    version.write_text("2\n", encoding="utf-8")
    before = sorted(cwd.rglob("*"))
    spawn = {"backend": "scripted", "cwd": str(cwd), "prompt": "say x"}
    assert (await refused(tools, "spawn_run", spawn)).startswith("store_version: ")
    async with open_tools(cwd) as fresh:
        assert (await refused(fresh, "get_run", {"run_id": run["run_id"]})).startswith("store_version: ")
    assert sorted(cwd.rglob("*")) == before


async def test_a_directory_that_cannot_be_written_is_told(tools: Tools) -> None:
    # /proc refuses new directories to everybody, root too
    spawn = {"backend": "scripted", "cwd": "/proc/self", "prompt": "say x"}
    assert (await refused(tools, "spawn_run", spawn)).startswith("store_error: cannot write")


async def test_a_damaged_run_is_told_and_hides_no_other(tools: Tools, cwd: Path) -> None:
    good = await finished(tools, cwd, "say good")
    bad = await finished(tools, cwd, "say bad")
    lives = tools._engine.lives  # pyright: ignore[reportPrivateUsage]
    await wait_until(lambda: bad["run_id"] not in lives, "it lives in the files alone")
    directory = cwd / ".orchestrator" / "runs" / bad["run_id"]
    (directory / "run.json").unlink()
    (directory / "events.jsonl").write_bytes(b"\xffnonsense\n")
    listed = await tools.call("list_runs", {})
    assert [row["run_id"] for row in listed["runs"]] == [good["run_id"]]
    assert [row["run_id"] for row in listed["unreadable"]] == [bad["run_id"]]
    assert "store_error" in await refused(tools, "get_run", {"run_id": bad["run_id"]})
