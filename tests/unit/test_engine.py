"""Lives of runs, seen from an agent that uses the whole seam, and from callers that come at every moment."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchestrator.backend import RunContext
from orchestrator.ends import Completed, Outcome
from orchestrator.engine.engine import Caller
from orchestrator.errors import (
    HostUnavailable,
    InvalidArgument,
    LimitExceeded,
    NotOwner,
    SessionNotFound,
    StoreError,
    Unsupported,
    WrongState,
)
from orchestrator.model import InputRequest, JsonObject
from orchestrator.store import sessions
from orchestrator.store.layout import Home, Workspace
from orchestrator.store.log import RunLog
from orchestrator.updates import AgentMessage, AgentProcess, Progress, RemoteRef, SessionBound, Started
from tests.unit.agents import Agent, desk, nothing
from tests.unit.runs import events_of, new_log

ASKED: JsonObject = {"request": {"request_id": "r1", "kind": "question", "text": "is it hunter-2-hunter-2?"}}


async def opened(ctx: RunContext) -> Outcome:
    await ctx.emit(Started(native_session_id="n1"))
    return Completed(final_response="open")


async def working(ctx: RunContext) -> Outcome:
    await ctx.emit(Started())
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_start_that_the_agent_leaves_out_is_told_before_anything_else(cwd: Path) -> None:
    async def act(ctx: RunContext) -> Outcome:
        await ctx.emit(AgentMessage(text="hello"))
        return Completed(final_response="bye")

    async with desk(cwd, Agent(act)) as tools:
        run = await tools.finished()
        events = tools.events(run["run_id"])
    assert [event.type for event in events] == ["run_started", "message_added", "agent_message", "run_completed"]
    assert events[0].data == {"cwd": str(cwd)}
    assert events[1].data == {"role": "user", "text": "do it"}


async def test_what_the_agent_tells_while_it_waits_leaves_the_run_waiting(cwd: Path) -> None:
    async def act(ctx: RunContext) -> Outcome:
        await ctx.emit(Started())
        asking = asyncio.ensure_future(ctx.ask(InputRequest(request_id="r1", kind="question", text="?")))
        await waiting.wait()
        await ctx.emit(Progress(detail="still here"))
        await ctx.emit(RemoteRef(ref={"task": "t1"}))
        await ctx.emit(AgentMessage(text="told"))
        return Completed(final_response=(await asking).text)

    waiting = asyncio.Event()
    async with desk(cwd, Agent(act)) as tools:
        run_id = await tools.spawn()
        await tools.settled(run_id)
        waiting.set()
        await tools.call("poll_events", run_id=run_id, types=["agent_message"])
        told = tools.events(run_id, "status_changed")
        assert [(event.data["status"], event.data.get("detail")) for event in told] == [
            ("input_required", "still here"),
            ("input_required", None),
        ]
        await tools.call("continue_run", run_id=run_id, text="now")
        assert (await tools.over(run_id))["result"]["final_response"] == "now"


async def test_an_agents_session_and_process_are_on_disk_when_emit_returns(cwd: Path) -> None:
    seen: JsonObject = {}

    async def act(ctx: RunContext) -> Outcome:
        await ctx.emit(Started())
        await ctx.emit(SessionBound(native_session_id="late"))
        (session,) = (cwd / ".orchestrator" / "sessions").glob("*.json")
        seen["session"] = orjson.loads(session.read_bytes())
        await ctx.emit(AgentProcess(pid=7, pgid=8, start_time=9.5))
        (owner,) = (cwd / ".orchestrator" / "runs").glob("*/owner.json")
        seen["agent"] = orjson.loads(owner.read_bytes())["agent"]
        return Completed(final_response="")

    async with desk(cwd, Agent(act)) as tools:
        run = await tools.finished()
    names = {name: run[name] for name in ("session_id", "agent_name", "backend")}
    assert seen["session"] == {**names, "native_session_id": "late"}
    assert seen["agent"] == {"pid": 7, "pgid": 8, "start_time": 9.5}


async def test_a_resumed_run_gets_the_agents_own_session_and_what_is_left_of_the_configuration(cwd: Path) -> None:
    agent = Agent(opened)
    async with desk(cwd, agent) as tools:
        given = {"auth_token": "t0p-s3cr3t-t0ken", "color": "red", "size": 1}
        first = await tools.finished(backend_config=given, metadata={"ticket": 7}, limits={"timeout_s": 60})
        answer = await tools.call(
            "continue_run", run_id=first["run_id"], text="more", backend_config={"size": 2, "auth_token": "n3w-s3cr3t"}
        )
        await tools.settled(answer["run_id"])
        bare = await tools.call("continue_run", run_id=first["run_id"], text="and more")
        await tools.settled(bare["run_id"])
    one, two, three = agent.specs
    assert (two.session_mode, two.native_session_id, two.session_id) == ("resume", "n1", one.session_id)
    assert (two.message.text, two.agent_name, two.resumed_from_run_id) == ("more", one.agent_name, one.run_id)
    assert (two.metadata, two.limits) == ({"ticket": 7}, {"timeout_s": 60})
    assert two.backend_config == {"auth_token": "n3w-s3cr3t", "color": "red", "size": 2}
    assert three.backend_config == {"color": "red", "size": 1}
    assert two.created_at >= one.created_at
    assert len({one.run_id, two.run_id, three.run_id}) == 3


async def test_a_run_whose_permission_was_changed_on_disk_is_not_gone_on_with(cwd: Path) -> None:
    """Agents can write to the workspace, and so to what their own runs were asked for."""
    agent = Agent(opened)
    async with desk(cwd, agent) as tools:
        first = await tools.finished(permission="read_only")
        path = Path(Workspace(cwd).run(first["run_id"]).file("spec.json"))
        path.write_text(path.read_text().replace("read_only", "full_access"))
        with pytest.raises(StoreError, match="was changed since the run was spawned"):
            await tools.call("continue_run", run_id=first["run_id"], text="more")
        path.write_text(path.read_text().replace("full_access", "read_only"))
        await tools.call("continue_run", run_id=first["run_id"], text="more")
    assert [spec.permission for spec in agent.specs] == ["read_only"] * len(agent.specs)


async def test_a_fork_begins_a_session_of_its_own_from_the_agents_session(cwd: Path) -> None:
    agent = Agent(opened)
    async with desk(cwd, agent) as tools:
        first = await tools.finished()
        fork = await tools.finished(session_mode="fork", session_id=first["session_id"], nickname="twin")
    assert fork["session_id"] != first["session_id"]
    assert (fork["agent_name"], agent.specs[1].session_mode) == ("twin", "fork")


@pytest.mark.parametrize("mode", ["resume", "fork"])
async def test_a_session_that_cannot_go_on_is_refused_before_anything_is_written(cwd: Path, mode: str) -> None:
    agent = Agent()
    async with desk(cwd, agent) as tools:
        run = await tools.finished()
        given = {"session_mode": mode, "session_id": run["session_id"]}
        if mode == "fork":
            with pytest.raises(SessionNotFound, match="was not opened by its agent yet"):
                await tools.spawn(**given)
        else:
            with pytest.raises(InvalidArgument, match="keeps its agent's name"):
                await tools.spawn(**given, nickname="other")
            agent.abilities = agent.abilities - {"resume"}
            with pytest.raises(Unsupported, match="cannot resume"):
                await tools.spawn(**given)
        with pytest.raises(SessionNotFound, match="before its agent opened a session"):
            await tools.call("continue_run", run_id=run["run_id"], text="more")
        assert len((await tools.call("list_runs"))["runs"]) == 1


async def test_a_run_in_a_session_that_was_never_opened_fails_without_a_way_back(cwd: Path) -> None:
    async with desk(cwd, Agent()) as tools:
        first = await tools.finished()
        run = await tools.finished(session_mode="resume", session_id=first["session_id"])
    error = run["error"]
    assert (error["code"], error["resumable"]) == ("agent_error", False)
    assert "spawn a new run" in error["next_step"]


async def test_an_agent_that_cannot_resume_is_not_asked_to(cwd: Path) -> None:
    async with desk(cwd, Agent(opened, abilities=frozenset())) as tools:
        run = await tools.finished()
        with pytest.raises(Unsupported, match="cannot resume sessions"):
            await tools.call("continue_run", run_id=run["run_id"], text="more")


async def test_a_run_that_is_over_takes_words_alone(cwd: Path) -> None:
    async with desk(cwd, Agent(opened)) as tools:
        run = await tools.finished()
        for given in ({"decision": "approve"}, {"request_id": "r1", "text": "x"}):
            with pytest.raises(WrongState, match="waits for no answer"):
                await tools.call("continue_run", run_id=run["run_id"], **given)
        with pytest.raises(InvalidArgument, match="to resume its session"):
            await tools.call("continue_run", run_id=run["run_id"])


async def test_steering_reaches_the_agent_in_order_and_has_an_end(cwd: Path) -> None:
    listen = asyncio.Event()

    async def act(ctx: RunContext) -> Outcome:
        await ctx.emit(Started())
        await listen.wait()
        heard: list[str] = []
        async for message in ctx.steering():
            heard.append(message.text)
            if len(heard) == 100:
                break
        return Completed(final_response=" ".join(heard))

    async with desk(cwd, Agent(act)) as tools:
        run_id = await tools.spawn()
        await tools.call("poll_events", run_id=run_id, types=["message_added"])
        with pytest.raises(InvalidArgument, match="nothing to say"):
            await tools.call("continue_run", run_id=run_id)
        for number in range(100):
            assert (await tools.call("continue_run", run_id=run_id, text=str(number)))["mode"] == "steer"
        with pytest.raises(LimitExceeded, match="100 messages"):
            await tools.call("continue_run", run_id=run_id, text="too much")
        told = tools.events(run_id, "message_added")
        assert [event.data["text"] for event in told[1:]] == [str(number) for number in range(100)]
        listen.set()
        assert (await tools.settled(run_id))["result"]["final_response"] == " ".join(map(str, range(100)))


async def test_a_queued_run_takes_nothing_yet(cwd: Path) -> None:
    go = asyncio.Event()

    async def act(_ctx: RunContext) -> Outcome:
        await go.wait()
        return Completed(final_response="")

    async with desk(cwd, Agent(act)) as tools:
        run_id = await tools.spawn()
        with pytest.raises(WrongState, match="is queued"):
            await tools.call("continue_run", run_id=run_id, text="hurry")
        go.set()
        assert (await tools.settled(run_id))["status"] == "completed"


async def test_an_agent_that_cancels_itself_has_a_defect(cwd: Path) -> None:
    async def act(_ctx: RunContext) -> Outcome:
        raise asyncio.CancelledError

    async with desk(cwd, Agent(act)) as tools:
        error = (await tools.finished())["error"]
    assert (error["code"], error["message"]) == ("internal", "RuntimeError: the backend cancelled itself")


async def test_a_server_that_ends_takes_no_new_run_and_ends_the_others_with_what_they_waited_for(cwd: Path) -> None:
    async def act(ctx: RunContext) -> Outcome:
        await ctx.ask(InputRequest(request_id="r1", kind="question", text="Which colour?"))
        raise AssertionError

    async with desk(cwd, Agent(act, working)) as tools:
        waiting = await tools.spawn()
        await tools.settled(waiting)
        other = await tools.spawn()
        await tools.call("poll_events", run_id=other, types=["message_added"])
        await tools.engine.lives.close()
        with pytest.raises(HostUnavailable, match="shutting down"):
            await tools.spawn()
    last = {run_id: events_of(Workspace(cwd).run(run_id))[-1].data for run_id in (waiting, other)}
    assert [data["code"] for data in last.values()] == ["host_lost"] * 2
    assert last[waiting]["message"] == "the process that owned this run was shut down; pending was 'r1': Which colour?"
    assert last[other]["message"] == "the process that owned this run was shut down"


async def test_a_server_that_ends_does_not_wait_for_a_disk_that_takes_nothing(cwd: Path) -> None:
    async with desk(cwd, Agent(working)) as tools:
        run_id = await tools.spawn()
        await tools.call("poll_events", run_id=run_id, types=["message_added"])
        run_dir = Workspace(cwd).run(run_id).path
        shutil.rmtree(run_dir)
        await tools.engine.lives.close()
    assert not run_dir.exists()


@pytest.mark.parametrize("bound", [True, False])
async def test_who_looks_first_at_a_run_whose_owner_is_gone_ends_it(
    cwd: Path, home: Home, monkeypatch: pytest.MonkeyPatch, bound: bool
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hunter-2-hunter-2")
    log = new_log(home, cwd)
    await log.append("run_started", {})
    await log.append("input_required", ASKED)
    log.close()
    session = sessions.load(log.dir.workspace, log.run.session_id)
    if bound:
        opened = sessions.Session.from_json({**session.to_json(), "native_session_id": "n1"})
        sessions.save(log.dir.workspace, opened, durable=False)
    assert (home.live / log.run.run_id).exists()
    async with desk(cwd, Agent()) as tools:
        runs: list[JsonObject] = [await tools.call("get_run", run_id=log.run.run_id) for _ in range(2)]
    assert runs[0] == runs[1]
    error = runs[0]["error"]
    assert (runs[0]["status"], error["code"], error["resumable"]) == ("failed", "host_lost", bound)
    assert error["message"] == "the process that owned this run is gone; pending was 'r1': is it ***?"
    assert ("continue_run" in error["next_step"]) is bound
    assert [event.type for event in events_of(log.dir)] == ["run_started", "input_required", "run_failed"]
    assert not (home.live / log.run.run_id).exists()
    assert (home.runs / log.run.run_id).exists()


async def test_a_run_of_a_live_owner_is_read_and_left_alone(cwd: Path, home: Home) -> None:
    log: RunLog = new_log(home, cwd)
    await log.append("run_started", {})
    async with desk(cwd, Agent()) as tools:
        assert (await tools.call("get_run", run_id=log.run.run_id))["status"] == "running"
        for tool, given in (("cancel_run", {}), ("continue_run", {"text": "x"})):
            with pytest.raises(NotOwner, match=r"belongs to process [0-9]+ on "):
                await tools.call(tool, run_id=log.run.run_id, **given)
    assert [event.type for event in events_of(log.dir)] == ["run_started"]
    log.close()


async def test_the_environment_of_a_caller_reaches_its_agent_and_no_file(cwd: Path) -> None:
    async def act(ctx: RunContext) -> Outcome:
        return Completed(final_response=f"{ctx.env['PLAIN']} {ctx.env['SOME_TOKEN']}")

    async with desk(cwd, Agent(act), PLAIN="seen", SOME_TOKEN="s3cr3t-s3cr3t") as tools:
        assert (await tools.finished())["result"]["final_response"] == "seen ***"
    assert "s3cr3t" not in repr(Caller(cwd=cwd, env={"A": "s3cr3t"}))


PARTS: list[JsonObject] = [
    {"type": "text", "text": "look"},
    {"type": "data", "data": {"n": [1]}},
    {"type": "file", "uri": "file:///x", "mime_type": "text/plain", "name": "x"},
    {"type": "file", "bytes_base64": "eA=="},
]


async def test_a_structured_message_reaches_the_agent_as_it_was_given(cwd: Path) -> None:
    agent = Agent()
    given: JsonObject = {"role": "system", "parts": PARTS, "metadata": {"k": 1}}
    async with desk(cwd, agent) as tools:
        await tools.finished(input_message=given)
        await tools.finished(input_message={"parts": PARTS[:1]})
    assert agent.specs[0].message.to_json() == given
    assert agent.specs[1].message.to_json() == {"role": "user", "parts": PARTS[:1]}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"parts": PARTS, "metadata": [1]}, "metadata must be an object"),
        ({"parts": "text"}, "at least one part"),
        ({"parts": [{"type": "text", "text": 1}]}, r"parts\[0\].text must be a string"),
        ({"parts": [PARTS[0], {"type": "text", "text": "x", "uri": "y"}]}, r"parts\[1\] of type text takes text"),
        ({"parts": [{"type": "file", "uri": "x", "bytes_base64": "eA=="}]}, "one of them"),
        ({"parts": [{"type": "file", "uri": "x", "size": 1}]}, "takes bytes_base64, mime_type, name, uri"),
    ],
)
async def test_a_wrong_part_is_named(cwd: Path, given: dict[str, Any], words: str) -> None:
    async with desk(cwd, Agent(nothing)) as tools:
        with pytest.raises(InvalidArgument, match=words):
            await tools.spawn(input_message=given)
