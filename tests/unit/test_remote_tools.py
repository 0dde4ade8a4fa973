"""Our tools in the hands of agents elsewhere: offered to those that declare the extension, called by a paused task,
and called once more for the next owner of a run, where that does no harm."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends import BACKENDS, SCRIPTED, Backends
from backends.remote_a2a import drive
from backends.remote_a2a.extension import URI, ToolCall, call_of, envelope, update_of
from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller, Engine
from orchestrator.host.agents import agents_door
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home
from orchestrator.updates import Progress
from test_agents.a2a_agent import Settings, serve
from test_agents.scripted import Scripted
from tests.fake_agent import FakeAgent, Reply, said, task, update
from tests.unit.test_reattach import begun, over


@pytest.fixture
async def tools(cwd: Path) -> AsyncGenerator[Tools]:
    """The tools of a caller whose runs' agents are heard."""
    caller = Caller(cwd=cwd, env={"PATH": "/bin"}, toolsets=frozenset({"team"}))
    backends = Backends({**BACKENDS, **SCRIPTED})
    async with Engine(Home.default(), backends.load) as engine, agents_door(engine, scripted=True):
        with engine.lives.client(caller):
            yield Tools(engine, caller)


def calling(name: str, arguments: JsonObject, call_id: str = "c1") -> JsonObject:
    """The message of a task that is paused for a tool."""
    call = {"id": call_id, "name": name, "arguments": arguments}
    return {**said(f"calls {name}", f"m-{call_id}"), "metadata": {URI: envelope(1, "tool_call", {"call": call})}}


def extended(agent: FakeAgent) -> FakeAgent:
    agent.card["capabilities"]["extensions"] = [{"uri": URI}]
    return agent


def messages(agent: FakeAgent) -> list[JsonObject]:
    return [seen["params"]["message"] for seen in agent.seen if seen["method"] == "SendStreamingMessage"]


async def calls_then_ends(agent: FakeAgent, name: str, arguments: JsonObject, *history: JsonObject) -> None:
    """The task pauses for one call; whatever is said to it then completes it."""
    paused = calling(name, arguments)

    async def send(reply: Reply) -> None:
        first = "taskId" not in reply.request["params"]["message"]
        end = update("INPUT_REQUIRED", paused) if first else update("COMPLETED", said("thanks", "m9"))
        await reply.stream({"task": task("WORKING")}, end)

    async def get(reply: Reply) -> None:
        await reply.result(task("INPUT_REQUIRED", message=paused, history=list(history)))

    async def subscribe(reply: Reply) -> None:
        await reply.stream(update("COMPLETED", said("thanks", "m9")))

    agent.on |= {"SendStreamingMessage": send, "GetTask": get, "SubscribeToTask": subscribe}


async def spawned(tools: Tools, agent: FakeAgent, **more: Any) -> JsonObject:
    return await over(tools, await begin(tools, agent, backend_config=more))


async def begin(tools: Tools, agent: FakeAgent, **more: Any) -> str:
    config = {"agent_url": agent.base, **more.pop("backend_config", {})}
    arguments = {"backend": "remote_a2a", "cwd": str(tools.caller.cwd), "prompt": "do it", "backend_config": config}
    return (await tools.call("spawn_run", arguments | more))["run_id"]


async def test_a_card_with_the_extension_is_offered_tools_and_their_results(tools: Tools, agent: FakeAgent) -> None:
    await calls_then_ends(extended(agent), "list_agents", {})
    run = await spawned(tools, agent)
    assert run["status"] == "completed"
    first, answer = messages(agent)
    offered = first["metadata"][URI]["tools"]
    assert {"send_message", "fetch_messages", "list_agents"} <= {tool["name"] for tool in offered}
    assert all(tool["inputSchema"]["type"] == "object" and tool["description"] for tool in offered)
    assert "spawn_run" not in {tool["name"] for tool in offered}
    assert '"you":true' in answer["parts"][0]["text"]
    assert answer["metadata"][URI]["answer"] == {"requestId": "c1", "isError": False}
    assert answer["messageId"] == f"{run['run_id']}:call:c1"


async def test_a_card_without_it_is_offered_none(tools: Tools, agent: FakeAgent) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("COMPLETED")})

    agent.on["SendStreamingMessage"] = send
    await spawned(tools, agent)
    (first,) = messages(agent)
    assert "metadata" not in first


async def test_tools_that_were_switched_off_are_refused(tools: Tools, agent: FakeAgent) -> None:
    await calls_then_ends(extended(agent), "list_agents", {})
    await spawned(tools, agent, agent_tools=False)
    first, answer = messages(agent)
    assert "tools" not in first["metadata"][URI]
    assert answer["metadata"][URI]["answer"]["isError"] is True
    assert "go on without" in answer["parts"][0]["text"]


@pytest.mark.parametrize(("name", "arguments"), [("spawn_run", {}), ("no_such", {}), ("send_message", {"to": 1})])
async def test_what_it_may_not_call_is_told_as_an_error(
    tools: Tools, agent: FakeAgent, name: str, arguments: JsonObject
) -> None:
    await calls_then_ends(extended(agent), name, arguments)
    assert (await spawned(tools, agent))["status"] == "completed"
    assert messages(agent)[1]["metadata"][URI]["answer"]["isError"] is True


async def test_a_call_whose_result_was_not_heard_is_made_for_the_next_owner(
    home: Home, tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    log = await begun(home, cwd, extended(agent).base)
    log.close()
    await calls_then_ends(agent, "send_message", {"to": "caller", "text": "hello"})
    assert (await over(tools, log.run.run_id))["status"] == "completed"
    assert [message["messageId"] for message in messages(agent)] == [f"{log.run.run_id}:call:c1"]
    (letter,) = (await tools.call("fetch_agent_messages", {}))["messages"]
    assert letter["parts"] == [{"type": "text", "text": "hello"}]


async def test_a_call_whose_result_was_heard_is_not_made_again(
    home: Home, tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    log = await begun(home, cwd, extended(agent).base)
    log.close()
    heard = {"messageId": f"{log.run.run_id}:call:c1", "role": "ROLE_USER", "parts": [{"text": "{}"}]}
    await calls_then_ends(agent, "send_message", {"to": "caller", "text": "hello"}, heard)
    assert (await over(tools, log.run.run_id))["status"] == "completed"
    assert messages(agent) == []
    assert (await tools.call("fetch_agent_messages", {}))["messages"] == []


async def test_a_spawn_that_is_called_again_spawns_once(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    child = {"backend": "scripted", "cwd": str(cwd), "prompt": "final done"}
    paused = [calling("spawn_run", child), {**calling("spawn_run", child), "messageId": "again"}]

    async def send(reply: Reply) -> None:
        await reply.stream(update("INPUT_REQUIRED", paused.pop(0)) if paused else update("COMPLETED"))

    extended(agent).on["SendStreamingMessage"] = send
    run = await spawned(tools, agent, delegate=True)
    assert run["status"] == "completed"
    one, other = (message["parts"][0]["text"] for message in messages(agent)[1:])
    assert one.split('"status"')[0] == other.split('"status"')[0]
    assert len((await tools.call("list_runs", {}))["runs"]) == 2


@pytest.mark.parametrize(
    "received",
    [
        None,
        "tool_call",
        envelope(1, "input_required", {"call": {"id": "c", "name": "n"}}),
        envelope(1, "tool_call", {}),
        envelope(1, "tool_call", {"call": {"id": "", "name": "n"}}),
        envelope(1, "tool_call", {"call": {"id": "c" * 101, "name": "n"}}),
        envelope(1, "tool_call", {"call": {"id": 1, "name": "n"}}),
        envelope(1, "tool_call", {"call": {"id": "c", "name": None}}),
        envelope(1, "tool_call", {"call": {"id": "c", "name": "n", "arguments": []}}),
    ],
)
def test_what_is_no_call_is_none(received: Any) -> None:
    assert call_of(received) is None


def test_a_call_without_arguments_is_one() -> None:
    assert call_of(envelope(1, "tool_call", {"call": {"id": "c", "name": "n"}})) == ToolCall("c", "n", {})


@pytest.mark.parametrize(
    ("progress", "kept"),
    [
        ({"text": "half", "percent": 50}, {"text": "half", "percent": 50}),
        ({"text": "half", "percent": 101}, {"text": "half"}),
        ({"text": "half", "percent": True}, {"text": "half"}),
        ({"text": "x" * 900}, {"text": "x" * 200}),
        ({"percent": 50}, None),
        ("half", None),
    ],
)
def test_progress_is_taken_as_far_as_it_makes_sense(progress: Any, kept: JsonObject | None) -> None:
    told = update_of(envelope(1, "status_changed", {"detail": "d", "progress": progress}))
    assert isinstance(told, Progress)
    assert told.progress == kept


async def test_a_question_by_a_tool_call_is_asked_once_whoever_owns_the_run(
    home: Home, tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    asking = {"question": "Which colour?", "options": ["red", "blue"], "context": "for the door"}
    text = "Which colour?\n\nfor the door"
    options = [{"id": word, "label": word} for word in ("red", "blue")]
    request = {"request_id": "c1", "kind": "question", "text": text, "options": options}
    log = await begun(home, cwd, extended(agent).base)
    await log.append("input_required", {"request": request})
    log.close()
    await calls_then_ends(agent, "ask_caller", asking)
    digest = await tools.call("wait_runs", {"run_ids": [log.run.run_id]})
    (pending,) = digest["runs"][0]["pending"]
    assert (pending["request_id"], pending["text"]) == ("c1", text)
    assert [option["id"] for option in pending["options"]] == ["red", "blue"]
    await tools.call("continue_run", {"run_id": log.run.run_id, "decision": "blue"})
    assert (await over(tools, log.run.run_id))["status"] == "completed"
    (answer,) = messages(agent)
    assert answer["parts"][0]["text"] == "blue"
    assert answer["metadata"][URI]["answer"] == {"requestId": "c1", "decision": "blue"}
    page = await tools.call("poll_events", {"run_id": log.run.run_id, "types": ["input_required"], "wait_ms": 0})
    assert len(page["events"]) == 1


async def test_a_task_that_ends_while_its_call_waits_is_noticed(
    tools: Tools, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive, "WATCHDOG_S", 0.1)
    await calls_then_ends(extended(agent), "fetch_messages", {"wait_ms": 50_000})

    async def get(reply: Reply) -> None:
        await reply.result(task("CANCELED"))

    agent.on["GetTask"] = get
    async with asyncio.timeout(20):
        assert (await spawned(tools, agent))["status"] == "cancelled"


async def test_calls_are_bounded_like_everything_that_an_agent_does(tools: Tools, agent: FakeAgent) -> None:
    count = itertools.count()

    async def send(reply: Reply) -> None:
        number = next(count)
        paused = {**calling("report_progress", {"text": "on"}, f"c{number}"), "messageId": f"m{number}"}
        await reply.stream(update("INPUT_REQUIRED", paused))

    extended(agent).on["SendStreamingMessage"] = send
    run = await over(tools, await begin(tools, agent, limits={"max_events": 30}))
    assert run["error"]["code"] == "budget_exceeded"
    assert next(count) < 40
    page = await tools.call("poll_events", {"run_id": run["run_id"], "types": ["status_changed"], "wait_ms": 0})
    assert any(event["data"].get("detail") == "calls report_progress" for event in page["events"])


async def test_a_pass_is_worth_nothing_with_the_next_owner_of_its_run(home: Home, agent: FakeAgent, cwd: Path) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")}, update("INPUT_REQUIRED", said("Which?", "m1")))

    async def get(reply: Reply) -> None:
        await reply.result(task("INPUT_REQUIRED", message=said("Which?", "m1")))

    extended(agent).on |= {"SendStreamingMessage": send, "GetTask": get}
    caller = Caller(cwd=cwd, env={"PATH": "/bin"})
    keys: list[str] = []
    run_id = ""
    for _ in range(2):
        async with Engine(home, Backends(BACKENDS).load) as engine, agents_door(engine):
            with engine.lives.client(caller):
                run_id = run_id or await begin(Tools(engine, caller), agent)
                digest = await Tools(engine, caller).call("wait_runs", {"run_ids": [run_id]})
                assert digest["runs"][0]["status"] == "input_required"
                life = engine.lives.get(run_id)
                assert life is not None
                assert life.face is not None
                assert not any(life.face.knows(key) for key in keys)
                keys.append(life.face.key)
    assert len(keys) == 2


@pytest.mark.parametrize("name", ["A2A-Extensions", "X-A2A-Extensions"])
async def test_an_agent_says_that_it_goes_by_the_extension_in_the_header_of_its_client(name: str) -> None:
    async with serve(Scripted(), Settings()) as url, httpx.AsyncClient() as client:
        card = f"{url}/.well-known/agent-card.json"
        assert name not in (await client.get(card)).headers
        answer = await client.get(card, headers={name: f"urn:other, {URI}"})
        assert answer.headers[name] == URI
        other = {"A2A-Extensions", "X-A2A-Extensions"} - {name}
        assert not other & {header.title() for header in answer.headers}
