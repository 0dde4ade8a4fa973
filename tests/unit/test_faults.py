"""Callers that go away in the middle, answers that meet in the same moment, and schemas that bite."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchestrator.backend import RunContext
from orchestrator.doors.tools import Tools
from orchestrator.ends import Completed, Outcome
from orchestrator.errors import OrchestratorError
from orchestrator.model import InputRequest, JsonObject, RequestKind
from orchestrator.updates import AgentMessage
from tests.conftest import open_tools
from tests.fake_agent import FakeAgent, Reply, said, task, update
from tests.unit.agents import Agent, desk


class SlowSync:
    """Every fsync waits until the test lets it go on."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, descriptor: int) -> None:
        self.entered.release()
        assert self.go.wait(10)

    async def reached(self) -> None:
        """Returns when a thread is inside of an fsync."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


@pytest.fixture
def slow_sync(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[], SlowSync]]:
    """Makes fsync wait from the moment it is called."""
    made: list[SlowSync] = []

    def begin() -> SlowSync:
        made.append(SlowSync())
        monkeypatch.setattr(os, "fsync", made[-1])
        return made[-1]

    yield begin
    for slow in made:
        slow.go.set()


async def spawn(tools: Tools, cwd: Path, *script: str, **more: Any) -> str:
    arguments = {"backend": "scripted", "cwd": str(cwd), "prompt": "\n".join(script), **more}
    return (await tools.call("spawn_run", arguments))["run_id"]


async def settled(tools: Tools, run_id: str) -> JsonObject:
    digest = await tools.call("wait_runs", {"run_ids": [run_id]})
    assert digest["done"], digest
    return await tools.call("get_run", {"run_id": run_id})


async def cancelled(call: asyncio.Task[JsonObject], slow: SlowSync) -> None:
    """Cancels a call while it is inside of an fsync, and lets the disk go on."""
    await slow.reached()
    call.cancel()
    slow.go.set()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_an_answer_whose_caller_went_away_reaches_the_agent(
    tools: Tools, cwd: Path, slow_sync: Callable[[], SlowSync]
) -> None:
    run_id = await spawn(tools, cwd, "ask Which?")
    await settled(tools, run_id)
    slow = slow_sync()
    answer = {"run_id": run_id, "text": "this"}
    await cancelled(asyncio.ensure_future(tools.call("continue_run", answer)), slow)
    run = await settled(tools, run_id)
    assert run["result"]["final_response"] == "the answer is: this"


async def test_a_spawn_whose_caller_went_away_is_a_live_run(
    tools: Tools, cwd: Path, slow_sync: Callable[[], SlowSync]
) -> None:
    slow = slow_sync()
    arguments = {"backend": "scripted", "cwd": str(cwd), "prompt": "say hello", "idempotency_key": "k"}
    await cancelled(asyncio.ensure_future(tools.call("spawn_run", arguments)), slow)
    again = await tools.call("spawn_run", arguments)
    assert (await settled(tools, again["run_id"]))["status"] == "completed"
    assert len((await tools.call("list_runs", {}))["runs"]) == 1


async def test_two_answers_at_once_leave_a_run_that_waits_for_nothing_running(tools: Tools, cwd: Path) -> None:
    run_id = await spawn(tools, cwd, "asks First? | Second?", "sleep 100")
    page: JsonObject = {"pending": []}
    while len(page.get("pending", [])) < 2:
        page = await tools.call("poll_events", {"run_id": run_id, "types": ["input_required"], "limit": 2})
    ids = [request["request_id"] for request in page["pending"]]
    calls = [tools.call("continue_run", {"run_id": run_id, "request_id": name, "text": "x"}) for name in ids]
    await asyncio.gather(*calls)
    run = await tools.call("get_run", {"run_id": run_id})
    assert run["status"] == "running"
    await tools.call("cancel_run", {"run_id": run_id})


async def test_an_answer_that_meets_a_cancellation_is_told_in_words(
    tools: Tools, cwd: Path, slow_sync: Callable[[], SlowSync]
) -> None:
    run_id = await spawn(tools, cwd, "ask Which?")
    await settled(tools, run_id)
    slow = slow_sync()
    answering = asyncio.ensure_future(tools.call("continue_run", {"run_id": run_id, "text": "this"}))
    await slow.reached()
    cancelling = asyncio.ensure_future(tools.call("cancel_run", {"run_id": run_id}))
    await asyncio.sleep(0)
    slow.go.set()
    assert (await cancelling)["status"] in ("cancelled", "completed")
    answered = (await asyncio.gather(answering, return_exceptions=True))[0]
    assert isinstance(answered, (dict, OrchestratorError))


async def test_waiting_for_a_lost_run_and_a_finished_one_leaves_no_lock(tools: Tools, cwd: Path) -> None:
    finished = await spawn(tools, cwd, "say x")
    await settled(tools, finished)
    lost: list[str] = []
    for number in range(3):
        run_id = await spawn(tools, cwd, f"say {number}")
        await settled(tools, run_id)
        lost.append(run_id)
        directory = cwd / ".orchestrator/runs" / run_id
        log = directory / "events.jsonl"
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))  # as if its owner had been killed
        (directory / "run.json").unlink()
    async with open_tools(cwd) as others:
        await others.call("wait_runs", {"run_ids": [*lost, finished], "wait_ms": 0})
        await others.call("wait_runs", {"run_ids": lost, "until": "all"})
        for run_id in lost:
            assert (await others.call("get_run", {"run_id": run_id}))["error"]["code"] == "host_lost"
        listed = await others.call("list_runs", {"status": "failed"})
        assert {row["run_id"] for row in listed["runs"]} == set(lost)


async def test_a_schema_that_bites_ends_the_run_as_what_it_is(tools: Tools, cwd: Path) -> None:
    run_id = await spawn(tools, cwd, 'json {"n": 1}', output_schema={"$ref": "#"})
    run = await settled(tools, run_id)
    assert run["error"]["code"] == "invalid_output"
    assert "cannot be applied" in run["error"]["message"]


async def test_the_digest_of_many_runs_keeps_every_run(tools: Tools, cwd: Path) -> None:
    runs = [await spawn(tools, cwd, "say " + "long words " * 40) for _ in range(50)]
    digest = await tools.call("wait_runs", {"run_ids": runs, "until": "all"})
    assert [run["run_id"] for run in digest["runs"]] == runs
    assert len(orjson.dumps(digest)) < 10_000


async def remote(tools: Tools, agent: FakeAgent, cwd: Path, **config: Any) -> str:
    arguments = {"backend": "remote_a2a", "cwd": str(cwd), "prompt": "go"}
    spawned = await tools.call("spawn_run", {**arguments, "backend_config": {"agent_url": agent.base, **config}})
    return spawned["run_id"]


async def test_a_pause_that_was_answered_is_not_asked_again(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    question = said("which?", "q1")

    async def send(reply: Reply) -> None:
        if "taskId" not in reply.request["params"]["message"]:
            await reply.stream({"task": task("WORKING")}, update("INPUT_REQUIRED", question))
        else:  # the snapshot is from before the answer
            await reply.stream(
                {"task": task("INPUT_REQUIRED", message=question)}, update("COMPLETED", said("ok", "m2"))
            )

    agent.on["SendStreamingMessage"] = send
    run_id = await remote(tools, agent, cwd)
    assert (await settled(tools, run_id))["status"] == "input_required"
    await tools.call("continue_run", {"run_id": run_id, "text": "this"})
    assert (await settled(tools, run_id))["result"]["final_response"] == "ok"
    asked = await tools.call("poll_events", {"run_id": run_id, "types": ["input_required"], "wait_ms": 0})
    assert len(asked["events"]) == 1


async def test_the_token_that_a_variable_holds_is_masked_whatever_its_name(agent: FakeAgent, cwd: Path) -> None:
    async def echo(reply: Reply) -> None:
        await reply.stream({"message": said(agent.seen[-1]["headers"]["authorization"], "m1")})

    agent.on["SendStreamingMessage"] = echo
    async with open_tools(cwd, MY_LOGIN="hushhush") as tools:
        run_id = await remote(tools, agent, cwd, auth_token_env="MY_LOGIN")
        assert (await settled(tools, run_id))["result"]["final_response"] == "Bearer ***"
    written = b"".join(path.read_bytes() for path in (cwd / ".orchestrator").rglob("*") if path.is_file())
    assert b"hushhush" not in written


async def test_credentials_given_with_an_answer_are_checked_before_it_counts(
    tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")}, update("AUTH_REQUIRED", said("log in", "m1")))

    agent.on["SendStreamingMessage"] = send
    run_id = await remote(tools, agent, cwd)
    await settled(tools, run_id)
    for wrong in ({"auth_tokn": "x"}, {"headers": ["x"]}, {"auth_token_env": "NOT_THERE"}):
        with pytest.raises(OrchestratorError, match=r"credentials|headers|environment"):
            await tools.call("continue_run", {"run_id": run_id, "backend_config": wrong})
    assert (await tools.call("get_run", {"run_id": run_id}))["status"] == "auth_required"
    await tools.call("cancel_run", {"run_id": run_id})


async def test_a_task_that_the_agent_does_not_know_any_more_is_no_silence(
    tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"task": task("WORKING")})

    async def gone(reply: Reply) -> None:
        await reply.error(-32001, "Task not found")

    agent.on |= {"SendStreamingMessage": send, "GetTask": gone}
    run = await settled(tools, await remote(tools, agent, cwd))
    assert run["error"]["code"] == "agent_error"


async def test_a_context_that_the_agent_chose_is_gone_on_with(tools: Tools, agent: FakeAgent, cwd: Path) -> None:
    async def send(reply: Reply) -> None:
        await reply.stream({"message": {**said("hi", "m1"), "contextId": "the-agents-own"}})

    agent.on["SendStreamingMessage"] = send
    run_id = await remote(tools, agent, cwd)
    await settled(tools, run_id)
    resumed = await tools.call("continue_run", {"run_id": run_id, "text": "more"})
    await settled(tools, resumed["run_id"])
    assert agent.seen[-1]["params"]["message"]["contextId"] == "the-agents-own"


async def test_read_only_is_refused_where_the_agent_is_not_to_be_told(
    tools: Tools, agent: FakeAgent, cwd: Path
) -> None:
    extension = {"uri": "urn:orchestrator-mcp:a2a:orchestration:v1"}
    agent.card["capabilities"] = {"streaming": True, "extensions": [extension]}
    arguments = {"backend": "remote_a2a", "cwd": str(cwd), "prompt": "go", "permission": "read_only"}
    config = {"agent_url": agent.base, "metadata_mode": "off"}
    spawned = await tools.call("spawn_run", {**arguments, "backend_config": config})
    assert (await settled(tools, spawned["run_id"]))["error"]["code"] == "unsupported"
    assert agent.methods() == []


async def test_an_agent_that_begins_in_two_places_at_once_starts_once(cwd: Path) -> None:
    async def begin(ctx: RunContext) -> Outcome:
        await asyncio.gather(*(ctx.emit(AgentMessage(text=str(number))) for number in range(5)))
        return Completed(final_response="done")

    async with desk(cwd, Agent(begin)) as tools:
        run = await tools.over(await tools.spawn())
        page = await tools.call("poll_events", run_id=run["run_id"])
    types = [event["type"] for event in page["events"]]
    assert types[0] == "run_started"
    assert types.count("run_started") == 1


@pytest.mark.parametrize("kind", ["approval", "question"])
async def test_all_who_wait_for_one_answer_are_told_when_it_expires(cwd: Path, kind: RequestKind) -> None:
    async def begin(ctx: RunContext) -> Outcome:
        request = InputRequest(request_id="one", kind=kind, text="Well?")
        told = await asyncio.gather(ctx.ask(request), ctx.ask(request), return_exceptions=True)
        return Completed(final_response=",".join(type(answer).__name__ for answer in told))

    async with desk(cwd, Agent(begin)) as tools:
        run = await tools.over(await tools.spawn(limits={"input_timeout_s": 0.1}))
    assert run["result"]["final_response"] in ("Answer,Answer", "BackendError,BackendError")
