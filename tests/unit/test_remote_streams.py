"""Remote agents whose streams break, stall and lie: what the run says is what the task is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from orchestrator.doors.tools import Tools
from orchestrator.model import JsonObject
from tests.fake_agent import TASK, FakeAgent, Reply, chunk, said, task, update


async def spawn(tools: Tools, agent: FakeAgent, cwd: Path, **config: Any) -> str:
    config = {"agent_url": agent.base, **config}
    arguments = {"backend": "remote_a2a", "cwd": str(cwd), "prompt": "go", "backend_config": config}
    return (await tools.call("spawn_run", arguments))["run_id"]


async def settled(tools: Tools, run_id: str) -> JsonObject:
    digest = await tools.call("wait_runs", {"run_ids": [run_id]})
    assert digest["done"], digest
    return await tools.call("get_run", {"run_id": run_id})


async def run(tools: Tools, agent: FakeAgent, cwd: Path, **config: Any) -> JsonObject:
    return await settled(tools, await spawn(tools, agent, cwd, **config))


async def texts(tools: Tools, run_id: str) -> list[str]:
    page = await tools.call("poll_events", {"run_id": run_id, "types": ["agent_message"], "wait_ms": 0})
    return [event["data"]["text"] for event in page["events"]]


async def test_a_clean_end_of_the_stream_is_not_taken_for_completion(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")}, update("WORKING", said("half", "m1")))

    async def get(reply: Reply) -> None:
        await reply.result(task("WORKING", history=[said("half", "m1")]))

    async def subscribe(reply: Reply) -> None:
        snapshot = {"task": task("WORKING", history=[said("half", "m1")])}
        await reply.stream(snapshot, update("COMPLETED", said("whole", "m2")))

    agent.on |= {"SendStreamingMessage": send, "GetTask": get, "SubscribeToTask": subscribe}
    result = await run(tools, agent, cwd)
    assert result["status"] == "completed"
    assert result["result"]["final_response"] == "whole"
    assert await texts(tools, result["run_id"]) == ["half", "whole"]
    assert agent.methods() == ["SendStreamingMessage", "GetTask", "SubscribeToTask"]


async def test_a_stream_cut_in_the_middle_of_an_event_loses_and_doubles_nothing(
    tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")}, chunk("log", "one "), chunk("log", "two ", append=True))
        await reply.raw(b'data: {"jsonrpc": "2.0", "resu')

    async def get(reply: Reply) -> None:
        parts = [{"text": text} for text in ("one ", "two ", "three")]
        await reply.result(task("COMPLETED", artifacts=[{"artifactId": "log", "parts": parts}]))

    agent.on |= {"SendStreamingMessage": send, "GetTask": get}
    result = await run(tools, agent, cwd)
    assert result["result"]["final_response"] == "one two three"
    page = await tools.call("poll_events", {"run_id": result["run_id"], "types": ["artifact_added"]})
    assert [event["data"]["text"] for event in page["events"]] == ["one two three"]


async def test_a_streamed_end_wins_over_a_later_snapshot(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")}, update("FAILED", said("it broke", "m1")))

    async def get(reply: Reply) -> None:
        await reply.result(task("WORKING"))

    agent.on |= {"SendStreamingMessage": send, "GetTask": get}
    result = await run(tools, agent, cwd)
    assert result["status"] == "failed"
    assert result["error"]["message"] == "it broke"


async def test_an_error_in_the_stream_is_checked_against_the_task(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")})
        await reply.raw(
            b'event: error\r\ndata: {"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"boom"}}\r\n\r\n'
        )

    async def get(reply: Reply) -> None:
        await reply.result(task("FAILED"))

    agent.on |= {"SendStreamingMessage": send, "GetTask": get}
    assert (await run(tools, agent, cwd))["error"]["code"] == "agent_error"


async def test_a_reply_without_a_task_completes_the_run(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"message": said("here you are", "m1")})

    agent.on["SendStreamingMessage"] = send
    result = await run(tools, agent, cwd)
    assert result["result"]["final_response"] == "here you are"
    assert await texts(tools, result["run_id"]) == ["here you are"]


async def test_an_agent_that_does_not_stream_is_polled(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    agent.card["capabilities"] = {}
    states = iter(["WORKING", "COMPLETED"])

    async def send(reply: Reply) -> None:
        await reply.result({"task": task("SUBMITTED")})

    async def get(reply: Reply) -> None:
        await reply.result(task(next(states), message=said("done", "m1")))

    agent.on |= {"SendMessage": send, "GetTask": get}
    result = await run(tools, agent, cwd)
    assert result["result"]["final_response"] == "done"
    assert agent.methods() == ["SendMessage", "GetTask", "GetTask"]


async def test_the_remote_reference_is_on_disk_as_soon_as_it_is_known(
    tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    held = asyncio.Event()

    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")}, update("WORKING", said("hi", "m1")))
        await held.wait()

    agent.on["SendStreamingMessage"] = send
    run_id = await spawn(tools, agent, cwd)
    page = await tools.call("poll_events", {"run_id": run_id, "types": ["status_changed"]})
    assert page["events"][0]["data"]["remote_ref"]["task_id"] == TASK
    held.set()
    await tools.call("cancel_run", {"run_id": run_id})


async def test_a_lost_first_answer_is_found_by_its_context_and_never_sent_again(
    tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    async def send(reply: Reply) -> None:
        await reply.begin_stream()

    async def find(reply: Reply) -> None:
        await reply.result({"tasks": [task("WORKING")]})

    async def get(reply: Reply) -> None:
        sent = next(request for request in agent.seen if request["method"] == "SendStreamingMessage")
        await reply.result(task("COMPLETED", history=[sent["params"]["message"]], message=said("found", "m1")))

    agent.on |= {"SendStreamingMessage": send, "ListTasks": find, "GetTask": get}
    result = await run(tools, agent, cwd)
    assert result["result"]["final_response"] == "found"
    assert agent.methods().count("SendStreamingMessage") == 1


async def test_a_message_that_may_not_have_arrived_is_told_and_not_sent_again(
    tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    async def send(reply: Reply) -> None:
        await reply.begin_stream()

    async def find(reply: Reply) -> None:
        await reply.result({"tasks": []})

    agent.on |= {"SendStreamingMessage": send, "ListTasks": find}
    result = await run(tools, agent, cwd)
    assert result["error"]["code"] == "lost_contact"
    assert agent.methods().count("SendStreamingMessage") == 1


async def test_an_agent_that_stays_away_is_given_up_in_the_end(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")})

    async def get(reply: Reply) -> None:
        await reply.body("503 Service Unavailable", b"{}")

    agent.on |= {"SendStreamingMessage": send, "GetTask": get}
    result = await run(tools, agent, cwd, lost_contact_s=0.5)
    assert result["error"]["code"] == "lost_contact"
    assert result["error"]["resumable"]
    assert result["remote_ref"]["task_id"] == TASK


async def test_a_login_that_happens_elsewhere_lets_the_run_go_on(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    logged_in = asyncio.Event()

    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")}, update("AUTH_REQUIRED", said("log in please", "m1")))

    async def get(reply: Reply) -> None:
        await reply.result(
            task("COMPLETED", message=said("done", "m2")) if logged_in.is_set() else task("AUTH_REQUIRED")
        )

    agent.on |= {"SendStreamingMessage": send, "GetTask": get}
    run_id = await spawn(tools, agent, cwd)
    waiting = await settled(tools, run_id)
    assert waiting["status"] == "auth_required"
    assert waiting["pending"][0]["text"] == "log in please"
    logged_in.set()
    page = await tools.call("poll_events", {"run_id": run_id, "types": ["run_completed"]})
    assert page["status"] == "completed"
    events = await tools.call("poll_events", {"run_id": run_id, "types": ["status_changed"], "wait_ms": 0})
    resolved = [event["data"]["resolved"] for event in events["events"] if "resolved" in event["data"]]
    assert [entry["outcome"] for entry in resolved] == ["withdrawn"]


async def test_a_new_credential_given_as_an_answer_is_used_and_never_written(
    tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    async def send(reply: Reply) -> None:
        token = agent.seen[-1]["headers"].get("authorization")
        if token == "Bearer the-new-token-9":
            await reply.stream(update("COMPLETED", said(f"hello {token}", "m2")))
        else:
            await reply.stream({"task": task("WORKING")}, update("AUTH_REQUIRED", said("log in", "m1")))

    agent.on["SendStreamingMessage"] = send
    run_id = await spawn(tools, agent, cwd, auth_token="the-old-token-1")
    await settled(tools, run_id)
    await tools.call("continue_run", {"run_id": run_id, "backend_config": {"auth_token": "the-new-token-9"}})
    assert (await settled(tools, run_id))["result"]["final_response"] == "hello Bearer ***"
    written = b"".join(path.read_bytes() for path in (cwd / ".orchestrator").rglob("*") if path.is_file())
    assert b"the-new-token-9" not in written
    assert b"the-old-token-1" not in written


async def test_the_token_can_come_from_the_callers_environment(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"message": said("hi", "m1")})

    agent.on["SendStreamingMessage"] = send
    assert (await run(tools, agent, cwd, auth_token_env="AGENT_TOKEN"))["status"] == "completed"
    assert {request["headers"]["authorization"] for request in agent.seen} == {"Bearer a-token-of-the-environment"}
    missing = await run(tools, agent, cwd, auth_token_env="NO_SUCH_VARIABLE")
    assert missing["error"]["code"] == "auth_failed"


async def test_cancel_ends_the_run_even_when_the_agent_is_deaf(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    deaf = asyncio.Event()

    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")}, update("WORKING", said("hi", "m1")))
        await deaf.wait()

    async def cancel(reply: Reply) -> None:
        await deaf.wait()

    agent.on |= {"SendStreamingMessage": send, "CancelTask": cancel}
    run_id = await spawn(tools, agent, cwd)
    await tools.call("poll_events", {"run_id": run_id, "types": ["agent_message"]})
    answer = await tools.call("cancel_run", {"run_id": run_id})
    assert answer["status"] == "cancelled"
    assert "CancelTask" in agent.methods()
