"""A remote run under its next owner: found again by its task, with nothing lost and nothing told twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.doors.tools import Tools
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home, RunDir
from orchestrator.store.log import RunLog
from test_agents.a2a_agent import Settings, serve
from test_agents.scripted import Scripted
from tests.conftest import open_tools
from tests.fake_agent import CONTEXT, TASK, FakeAgent, Reply, chunk, said, task, update
from tests.unit.runs import events_of, new_log

URI = "urn:orchestrator-mcp:a2a:orchestration:v1"


async def begun(home: Home, cwd: Path, url: str, *, found: bool = True) -> RunLog:
    """A remote run as a dead owner leaves it: begun, and perhaps with the task's name."""
    log = new_log(home, cwd, backend="remote_a2a", backend_config={"agent_url": url, "lost_contact_s": 1.0})
    await log.append("run_started", {"cwd": str(cwd), "native_session_id": CONTEXT})
    await log.append("message_added", {"role": "user", "text": "do it"})
    if found:
        ref = {"task_id": TASK, "context_id": CONTEXT, "agent_url": url}
        await log.append("status_changed", {"status": "running", "remote_ref": ref}, durable=True)
    return log


async def over(tools: Tools, run_id: str) -> JsonObject:
    digest = await tools.call("wait_runs", {"run_ids": [run_id]})
    assert digest["done"], digest
    return await tools.call("get_run", {"run_id": run_id})


def told(run_dir: RunDir, event_type: str, key: str) -> list[Any]:
    return [event.data.get(key) for event in events_of(run_dir) if event.type == event_type]


def sent(agent: FakeAgent) -> list[str]:
    return [r["params"]["message"]["messageId"] for r in agent.seen if r["method"] == "SendStreamingMessage"]


async def test_what_happened_meanwhile_is_told_and_nothing_twice(
    home: Home, tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    log = await begun(home, cwd, agent.base)
    await log.append("agent_message", {"text": "one", "message_id": "m1"})
    await log.append("artifact_added", {"artifact_id": "old", "name": "old", "text": "before"})
    log.close()

    async def get(reply: Reply) -> None:
        parts = [{"text": "before"}], [{"text": "after"}]
        artifacts = [{"artifactId": name, "parts": p} for name, p in zip(("old", "new"), parts, strict=True)]
        history = [said("one", "m1"), said("two", "m2")]
        await reply.result(task("COMPLETED", history=history, artifacts=artifacts))

    agent.on["GetTask"] = get
    run = await over(tools, log.run.run_id)
    assert run["status"] == "completed"
    assert run["result"]["final_response"] == "after"
    assert told(log.dir, "agent_message", "text") == ["one", "two"]
    assert told(log.dir, "artifact_added", "artifact_id") == ["old", "new"]
    assert "reattached" in told(log.dir, "status_changed", "detail")
    assert sent(agent) == []


async def test_a_task_that_still_works_is_followed(home: Home, tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    log = await begun(home, cwd, agent.base)
    await log.append("agent_message", {"text": "one", "message_id": "m1"})
    log.close()

    async def get(reply: Reply) -> None:
        await reply.result(task("WORKING", history=[said("one", "m1")]))

    async def subscribe(reply: Reply) -> None:
        snapshot = {"task": task("WORKING", history=[said("one", "m1")])}
        await reply.stream(snapshot, chunk("log", "all of it", last=True), update("COMPLETED", said("two", "m2")))

    agent.on |= {"GetTask": get, "SubscribeToTask": subscribe}
    run = await over(tools, log.run.run_id)
    assert run["status"] == "completed"
    assert told(log.dir, "agent_message", "text") == ["one", "two"]
    assert told(log.dir, "artifact_added", "text") == ["all of it"]


async def test_a_task_that_its_agent_forgot_is_told_as_that(
    home: Home, tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    log = await begun(home, cwd, agent.base)
    log.close()

    async def get(reply: Reply) -> None:
        await reply.error(-32001, "Task not found")

    agent.on["GetTask"] = get
    run = await over(tools, log.run.run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "agent_error")


async def test_a_prompt_of_which_nobody_knows_whether_it_arrived_is_not_sent_again(
    home: Home, tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    log = await begun(home, cwd, agent.base, found=False)
    log.close()

    async def tasks(reply: Reply) -> None:
        await reply.result({"tasks": []})

    agent.on["ListTasks"] = tasks
    run = await over(tools, log.run.run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "lost_contact")
    assert sent(agent) == []


async def test_a_prompt_that_arrived_is_found_by_its_task(
    home: Home, tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    log = await begun(home, cwd, agent.base, found=False)
    log.close()
    prompt = {"messageId": f"{log.run.run_id}:0", "role": "ROLE_USER", "parts": [{"text": "do it"}]}

    async def tasks(reply: Reply) -> None:
        await reply.result({"tasks": [task("COMPLETED")]})

    async def get(reply: Reply) -> None:
        await reply.result(task("COMPLETED", history=[prompt, said("done", "m1")]))

    agent.on |= {"ListTasks": tasks, "GetTask": get}
    run = await over(tools, log.run.run_id)
    assert run["result"]["final_response"] == "done"
    assert run["remote_ref"]["task_id"] == TASK


QUESTION = {"request": {"request_id": "q1", "kind": "input", "text": "which?"}}


async def answers_then_completes(agent: FakeAgent, *history: JsonObject) -> None:
    """The task waits for q1; whoever answers gets the end."""

    async def get(reply: Reply) -> None:
        await reply.result(task("INPUT_REQUIRED", message=said("which?", "q1"), history=list(history)))

    async def send(reply: Reply) -> None:
        await reply.stream(update("COMPLETED", said("thanks", "m9")))

    async def subscribe(reply: Reply) -> None:
        await reply.stream(update("COMPLETED", said("thanks", "m9")))

    agent.on |= {"GetTask": get, "SendStreamingMessage": send, "SubscribeToTask": subscribe}


async def test_a_question_that_was_pending_is_still_the_same_question(
    home: Home, tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    log = await begun(home, cwd, agent.base)
    await log.append("input_required", QUESTION, durable=True)
    log.close()
    await answers_then_completes(agent)
    run = await over(tools, log.run.run_id)
    assert [request["request_id"] for request in run["pending"]] == ["q1"]
    await tools.call("continue_run", {"run_id": log.run.run_id, "text": "this"})
    assert (await over(tools, log.run.run_id))["result"]["final_response"] == "thanks"
    assert told(log.dir, "input_required", "request")[1:] == []
    assert sent(agent) == [f"{log.run.run_id}:q1"]


@pytest.mark.parametrize("arrived", [True, False])
async def test_an_answer_that_was_given_reaches_the_agent_once(
    home: Home, tools: Tools, agent: FakeAgent, cwd: Path, arrived: bool
) -> None:
    log = await begun(home, cwd, agent.base)
    await log.append("input_required", QUESTION, durable=True)
    await log.append("message_added", {"role": "user", "text": "this", "request_id": "q1"})
    resolved = {"request_id": "q1", "outcome": "answered"}
    await log.append("status_changed", {"status": "running", "resolved": resolved}, durable=True)
    log.close()
    ours = {"messageId": f"{log.run.run_id}:q1", "role": "ROLE_USER", "parts": [{"text": "this"}]}
    await answers_then_completes(agent, *([ours] if arrived else []))
    assert (await over(tools, log.run.run_id))["result"]["final_response"] == "thanks"
    assert sent(agent) == ([] if arrived else [ours["messageId"]])
    assert len(told(log.dir, "input_required", "request")) == 1


async def test_a_question_that_is_no_longer_asked_is_withdrawn(
    home: Home, tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    log = await begun(home, cwd, agent.base)
    await log.append("input_required", QUESTION, durable=True)
    log.close()

    async def get(reply: Reply) -> None:
        await reply.result(task("WORKING"))

    async def subscribe(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")}, update("COMPLETED", said("went on", "m1")))

    agent.on |= {"GetTask": get, "SubscribeToTask": subscribe}
    await tools.call("poll_events", {"run_id": log.run.run_id, "types": ["run_completed"]})
    resolved = [data for data in told(log.dir, "status_changed", "resolved") if data]
    assert resolved == [{"request_id": "q1", "outcome": "withdrawn"}]


async def test_events_of_the_extension_are_told_once_each(
    home: Home, tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    log = await begun(home, cwd, agent.base)

    def envelope(seq: int) -> JsonObject:
        data = {"changes": [{"path": f"file-{seq}", "kind": "add"}]}
        return {"v": 1, "seq": seq, "type": "file_changed", "data": data}

    for seq in (1, 3):
        await log.append("file_changed", {**envelope(seq)["data"], "remote_seq": seq})
    log.close()

    async def get(reply: Reply) -> None:
        parts = [{"data": [envelope(seq) for seq in range(1, 5)]}]
        await reply.result(task("COMPLETED", artifacts=[{"artifactId": "orchestration-events", "parts": parts}]))

    agent.on["GetTask"] = get
    await over(tools, log.run.run_id)
    paths = [changes[0]["path"] for changes in told(log.dir, "file_changed", "changes")]
    assert paths == ["file-1", "file-3", "file-2", "file-4"]


async def test_a_token_that_is_named_by_its_variable_comes_from_the_next_client(home: Home, cwd: Path) -> None:
    async with serve(Scripted(), Settings(token="the-agents-own-token")) as url:
        config = {"agent_url": url, "auth_token_env": "AGENT_LOGIN"}
        log = new_log(home, cwd, backend="remote_a2a", backend_config=config)
        log.close()
        async with open_tools(cwd, OTHER="x") as tools:
            run = await tools.call("get_run", {"run_id": log.run.run_id})
            assert run["status"] == "queued"
            page = await tools.call("poll_events", {"run_id": log.run.run_id})
            assert page["events"][0]["data"]["detail"] == "waiting_for_client"
        log = new_log(home, cwd, backend="remote_a2a", backend_config=config)
        log.close()
        async with open_tools(cwd, AGENT_LOGIN="the-agents-own-token") as tools:
            assert (await over(tools, log.run.run_id))["status"] == "completed"


async def test_a_real_task_goes_on_while_nobody_follows_it(home: Home, cwd: Path) -> None:
    script = "say one\nartifact 200KB\nfile a.txt x\nask Which? | red | blue\ncommand ls -> a.txt\nsay two\nfinal done"
    async with serve(Scripted(), Settings()) as url:
        given = {"backend": "remote_a2a", "cwd": str(cwd), "prompt": script, "backend_config": {"agent_url": url}}
        async with open_tools(cwd) as tools:
            run_id = (await tools.call("spawn_run", given))["run_id"]
            await over(tools, run_id)
        async with open_tools(cwd) as tools:
            assert (await over(tools, run_id))["status"] == "input_required"
            await tools.call("continue_run", {"run_id": run_id, "decision": "red"})
        async with open_tools(cwd) as tools:
            run = await over(tools, run_id)
            page = await tools.call("poll_events", {"run_id": run_id, "limit": 1000, "max_chars": 200_000})
    assert run["result"]["final_response"] == "done"
    types = [event["type"] for event in page["events"]]
    assert types.count("artifact_added") == types.count("file_changed") == types.count("input_required") == 1
    texts = [event["data"]["text"] for event in page["events"] if event["type"] == "agent_message"]
    assert texts == ["one", "the answer is: red", "two"]
