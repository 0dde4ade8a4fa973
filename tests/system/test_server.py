"""The MCP server as its clients start and end it: a process on a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import orjson
import pytest

from orchestrator import __version__
from orchestrator.model import JsonObject
from tests.system.conftest import agent, server

pytestmark = pytest.mark.system


def last_event(cwd: Path, run_id: str) -> JsonObject:
    return orjson.loads((cwd / ".orchestrator/runs" / run_id / "events.jsonl").read_bytes().splitlines()[-1])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, None])
def test_every_way_to_end_the_server_leaves_true_states_on_disk(cwd: Path, how: signal.Signals | None) -> None:
    with agent(cwd) as url, server(cwd) as mcp:
        base = {"backend": "scripted", "cwd": str(cwd)}
        working = mcp.call("spawn_run", **base, prompt="say hi\nsleep 100")["run_id"]
        waiting = mcp.call("spawn_run", **base, prompt="ask Which?")["run_id"]
        config = {"agent_url": url}
        remote = mcp.call(
            "spawn_run", backend="remote_a2a", cwd=str(cwd), prompt="say hi\nsleep 100", backend_config=config
        )["run_id"]
        mcp.call("poll_events", run_id=working, types=["agent_message"])
        mcp.call("wait_runs", run_ids=[waiting])
        mcp.call("poll_events", run_id=remote, types=["agent_message"])
        task = mcp.call("get_run", run_id=remote)["remote_ref"]["task_id"]
        # a call is under way while the server is ended
        mcp.write(
            {
                "jsonrpc": "2.0",
                "id": 999,
                "method": "tools/call",
                "params": {"name": "wait_runs", "arguments": {"run_ids": [working]}},
            }
        )
        assert mcp.end(how) == 0
        for run_id in (working, waiting):
            event = last_event(cwd, run_id)
            assert event["type"] == "run_failed"
            assert event["data"]["code"] == "host_lost"
            assert event["data"]["resumable"]
        assert "Which?" in last_event(cwd, waiting)["data"]["message"]
        assert last_event(cwd, remote)["type"] == "agent_message", "it is left to the next owner"
        assert state_of(url, task) == "TASK_STATE_WORKING"
        live = Path(os.environ["ORCHESTRATOR_HOME"], "live")
        assert [path.name for path in live.iterdir()] == [remote]
        with server(cwd) as following:
            assert following.call("cancel_run", run_id=remote)["status"] == "cancelled"
            assert state_of(url, task) == "TASK_STATE_CANCELED"


def state_of(url: str, task: str) -> str:
    body = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": task}}
    answer = httpx.post(f"{url}/a2a/jsonrpc", json=body, headers={"A2A-Version": "1.0"}, trust_env=False)
    return answer.json()["result"]["status"]["state"]


def test_a_killed_servers_runs_are_told_as_lost_by_the_next(cwd: Path) -> None:
    with server(cwd) as first:
        run_id = first.call("spawn_run", backend="scripted", cwd=str(cwd), prompt="say hi\nask Which?")["run_id"]
        first.call("wait_runs", run_ids=[run_id])
        first.process.kill()
        first.process.wait()
    with server(cwd) as second:
        run = second.call("get_run", run_id=run_id)
        assert run["status"] == "failed"
        assert run["error"]["code"] == "host_lost"
        assert "Which?" in run["error"]["message"]
        assert [row["status"] for row in second.call("list_runs")["runs"]] == ["failed"]


def test_another_servers_live_run_can_be_read_but_not_commanded(cwd: Path) -> None:
    with server(cwd) as owner, server(cwd) as other:
        run_id = owner.call("spawn_run", backend="scripted", cwd=str(cwd), prompt="say hi\nask Which?")["run_id"]
        digest = other.call("wait_runs", run_ids=[run_id])
        assert digest["runs"][0]["status"] == "input_required"
        assert other.refusal("continue_run", run_id=run_id, text="x").startswith("not_owner: ")
        assert other.refusal("cancel_run", run_id=run_id).startswith("not_owner: ")
        owner.call("continue_run", run_id=run_id, text="this")
        page = other.call("poll_events", run_id=run_id, types=["run_completed"])
        assert page["events"][0]["data"]["final_response"] == "the answer is: this"


def test_an_error_is_one_sentence_with_a_code(cwd: Path) -> None:
    with server(cwd) as mcp:
        assert mcp.refusal("get_run", run_id="run_0") == "run_not_found: no run 'run_0'; call list_runs"
        assert "did you mean 'prompt'" in mcp.refusal("spawn_run", backend="scripted", cwd=str(cwd), promt="x")
        assert mcp.refusal("no_such_tool").startswith("invalid_argument: no tool")


def test_the_tool_list_is_small(cwd: Path) -> None:
    with server(cwd) as mcp:
        tools = mcp.request("tools/list")["tools"]
    assert len(tools) == 8
    assert len(orjson.dumps({"tools": tools})) < 10_000
    seen = [[tool["name"], tool["description"], tool["inputSchema"]] for tool in tools]
    assert len(orjson.dumps(seen)) < 6_000
    assert b"title" not in orjson.dumps(seen)


def test_a_flood_of_spawns_is_answered_whole(cwd: Path) -> None:
    with server(cwd) as mcp:
        params = {"name": "spawn_run", "arguments": {"backend": "scripted", "cwd": str(cwd), "prompt": "say x"}}
        for number in range(1000, 1200):
            mcp.write({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
        answers = [mcp.read()["result"] for _ in range(200)]
        assert not any(answer.get("isError") for answer in answers)
        names = {answer["structuredContent"]["agent_name"] for answer in answers}
        assert len(names) == 200


def test_the_command_says_its_version() -> None:
    out = subprocess.run(
        [sys.executable, "-m", "orchestrator", "--version"], capture_output=True, text=True, check=True, timeout=30
    )
    assert out.stdout.strip() == f"orchestrator {__version__}"
