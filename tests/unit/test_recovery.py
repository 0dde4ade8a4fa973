"""The next owner of a run: what had not begun is started, what runs elsewhere is found again, the rest is ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backend import RunContext
from orchestrator.ends import Completed, Outcome
from orchestrator.engine.engine import Caller
from orchestrator.errors import NotOwner
from orchestrator.model import InputRequest, JsonObject, RunSpec
from orchestrator.process import MARKER, start_of
from orchestrator.store.layout import Home, Workspace
from orchestrator.store.log import RunLog
from orchestrator.store.reader import seal_of
from orchestrator.updates import Started
from tests.conftest import wait_until
from tests.unit.agents import Agent, Desk, desk, nothing
from tests.unit.runs import events_of, new_log

CLIENT = {"WHO": "the next client"}


class Attaching(Agent):
    """An agent that runs elsewhere and can be found again. It needs no environment."""

    def __init__(self, *acts: object) -> None:
        super().__init__(*acts, abilities=frozenset({"attach", "resume"}))  # type: ignore[arg-type]

    def ready(self, spec: RunSpec, env: Mapping[str, str]) -> bool:
        """See `Backend.ready`."""
        return True


async def say_who(ctx: RunContext) -> Outcome:
    await ctx.emit(Started())
    return Completed(final_response=f"done for {ctx.env.get('WHO')}")


def queued(home: Home, cwd: Path, **more: Any) -> str:
    """A run that its owner did not get to before it died."""
    log = new_log(home, cwd, **more)
    log.close()
    return log.run.run_id


async def begun(home: Home, cwd: Path, **more: Any) -> RunLog:
    """A run that was under way when its owner died."""
    log = new_log(home, cwd, **more)
    await log.append("run_started", {"cwd": str(cwd)})
    return log


async def detail(tools: Desk, run_id: str, wanted: str) -> JsonObject:
    """What get_run says once the run has that detail."""
    run: JsonObject = {}

    async def there() -> bool:
        run.update(await tools.call("get_run", run_id=run_id))
        return run.get("detail") == wanted

    async with asyncio.timeout(10):
        while not await there():
            await tools.call("poll_events", run_id=run_id, after_seq=run["last_seq"], wait_ms=100)
    return run


# ---- what had not begun


async def test_what_had_not_begun_waits_for_a_client_at_the_same_place_and_is_done(home: Home, cwd: Path) -> None:
    run_id = queued(home, cwd)
    async with desk(cwd, Agent(say_who)) as tools:
        assert await tools.engine.recovery.recover() == 1
        run = await detail(tools, run_id, "waiting_for_client")
        assert run["status"] == "queued"
        with tools.engine.lives.client(Caller(cwd=cwd.parent, env=CLIENT)):
            assert (await tools.call("get_run", run_id=run_id))["status"] == "queued", "another place"
        with tools.engine.lives.client(Caller(cwd=cwd, env={})):
            assert (await tools.call("get_run", run_id=run_id))["status"] == "queued", "nothing to lend"
        with tools.engine.lives.client(Caller(cwd=cwd, env=CLIENT)):
            run = await tools.over(run_id)
    assert run["result"]["final_response"] == "done for the next client"
    assert "detail" not in run
    assert [e.type for e in tools.events(run_id)] == ["status_changed", "run_started", "message_added", "run_completed"]


async def test_a_client_where_the_first_one_was_lends_its_environment(home: Home, cwd: Path) -> None:
    elsewhere = cwd.parent / "elsewhere"
    run_id = queued(home, cwd, client_cwd=elsewhere)
    async with desk(cwd, Agent(say_who)) as tools:
        with tools.engine.lives.client(Caller(cwd=elsewhere, env=CLIENT)):
            await tools.engine.recovery.recover()  # also one that was there before
            assert (await tools.over(run_id))["result"]["final_response"] == "done for the next client"


async def test_what_needs_no_environment_begins_at_once(home: Home, cwd: Path) -> None:
    run_id = queued(home, cwd)
    async with desk(cwd, Attaching(nothing)) as tools:
        assert (await tools.over(run_id))["status"] == "completed", "whoever looks first recovers it"


async def test_what_had_not_begun_and_was_changed_meanwhile_is_not_done(home: Home, cwd: Path) -> None:
    """Agents can write to the workspace, and so to the specs of runs that are to begin."""
    run_id = queued(home, cwd, permission="read_only")
    path = Path(Workspace(cwd).run(run_id).file("spec.json"))
    path.write_text(path.read_text().replace("read_only", "full_access"))
    agent = Attaching(nothing)
    async with desk(cwd, agent) as tools:
        run = await tools.over(run_id)
    assert (run["status"], run["error"]["code"], agent.specs) == ("failed", "host_lost", [])
    assert "was changed" in run["error"]["message"]


async def test_a_run_that_waits_for_a_client_can_be_cancelled(home: Home, cwd: Path) -> None:
    run_id = queued(home, cwd)
    async with desk(cwd, Agent(nothing)) as tools:
        await tools.engine.recovery.recover()
        await detail(tools, run_id, "waiting_for_client")
        assert (await tools.call("cancel_run", run_id=run_id))["status"] == "cancelled"


async def test_what_has_not_begun_is_left_by_one_host_to_the_next(home: Home, cwd: Path) -> None:
    run_id = queued(home, cwd)
    log = Workspace(cwd).run(run_id)
    for _ in range(3):
        async with desk(cwd, Agent(nothing), socket="/nowhere") as tools:
            await tools.engine.recovery.recover()
            await detail(tools, run_id, "waiting_for_client")
    assert [event.type for event in events_of(log)] == ["status_changed"]
    async with desk(cwd, Agent(nothing)) as tools:  # a server whose runs end with it
        await tools.engine.recovery.recover()
    assert [event.type for event in events_of(log)] == ["status_changed", "run_failed"]


async def test_runs_of_a_session_go_on_in_their_order(home: Home, cwd: Path) -> None:
    order: list[str] = []

    async def act(ctx: RunContext) -> Outcome:
        order.append("attached" if agent.specs[-1].attach else agent.specs[-1].run_id)
        return Completed(final_response="done")

    agent = Attaching(act)
    first = await begun(home, cwd)
    first.close()
    spec = {"session_id": first.run.session_id, "agent_name": first.run.agent_name}
    second, third = (new_log(home, cwd) for _ in range(2))
    for log in (second, third):  # as runs that resume the first one's session stand on disk
        path = Path(log.dir.file("spec.json"))
        path.write_text(path.read_text().replace(log.run.session_id, spec["session_id"]))
        home.add(log.dir, live=True, seal=seal_of(Path(log.dir.file("spec.json")).read_bytes()))
        log.close()
    async with desk(cwd, agent) as tools:
        assert await tools.engine.recovery.recover() == 3
        await tools.call("wait_runs", run_ids=[first.run.run_id, second.run.run_id, third.run.run_id], until="all")
    assert order == ["attached", second.run.run_id, third.run.run_id]


# ---- what had begun


async def test_what_runs_elsewhere_is_found_again_with_all_that_was_told(home: Home, cwd: Path) -> None:
    agent = Attaching(nothing)
    log = await begun(home, cwd)
    ref = {"task_id": "t1"}
    await log.append("status_changed", {"status": "running", "remote_ref": ref})
    await log.append("agent_message", {"text": "one", "message_id": "m1"})
    await log.append("agent_message", {"text": "x" * 20_000, "message_id": "m2"})
    await log.append("artifact_added", {"artifact_id": "a1", "text": "y"})
    await log.append("file_changed", {"changes": [], "remote_seq": 7})
    await log.append("input_required", {"request": {"request_id": "r1", "kind": "question", "text": "?"}})
    await log.append("message_added", {"role": "user", "text": "z" * 5_000, "request_id": "r1"})
    resolved = {"request_id": "r1", "outcome": "denied", "decision": "deny"}
    await log.append("status_changed", {"status": "running", "resolved": resolved})
    await log.append("input_required", {"request": {"request_id": "r2", "kind": "input", "text": "!"}})
    log.close()
    async with desk(cwd, agent) as tools:
        assert (await tools.over(log.run.run_id))["status"] == "completed"
    attach = agent.specs[0].attach
    assert attach is not None
    assert attach.remote_ref == ref
    assert [request.request_id for request in attach.pending] == ["r2"]
    assert attach.message_ids == {"m1", "m2"}
    assert attach.last_message == "x" * 20_000
    assert attach.artifact_ids == {"a1"}
    assert attach.remote_seqs == {7}
    answer = attach.answers["r1"]
    assert (answer.decision, answer.text) == ("deny", "z" * 5_000)
    assert [event.type for event in events_of(log.dir)].count("run_started") == 1


async def test_a_request_of_the_owner_before_is_joined_and_not_asked_anew(home: Home, cwd: Path) -> None:
    asking = InputRequest(request_id="r1", kind="question", text="which?")

    async def act(ctx: RunContext) -> Outcome:
        return Completed(final_response=(await ctx.ask(asking)).text)

    log = await begun(home, cwd)
    await log.append("input_required", {"request": asking.to_json()}, durable=True)
    log.close()
    async with desk(cwd, Attaching(act)) as tools:
        assert (await tools.settled(log.run.run_id))["status"] == "input_required"
        await tools.call("continue_run", run_id=log.run.run_id, text="this")
        run = await tools.over(log.run.run_id)
    assert run["result"]["final_response"] == "this"
    assert [event.type for event in events_of(log.dir)].count("input_required") == 1


async def test_a_request_can_be_answered_before_its_agent_is_found_again(home: Home, cwd: Path) -> None:
    asking = InputRequest(request_id="r1", kind="question", text="which?")
    found = asyncio.Event()

    async def act(ctx: RunContext) -> Outcome:
        await found.wait()
        return Completed(final_response=(await ctx.ask(asking)).text)

    log = await begun(home, cwd)
    await log.append("input_required", {"request": asking.to_json()}, durable=True)
    log.close()
    async with desk(cwd, Attaching(act)) as tools:
        await tools.call("continue_run", run_id=log.run.run_id, text="early")
        found.set()
        assert (await tools.over(log.run.run_id))["result"]["final_response"] == "early"
    assert tools.resolved(log.run.run_id) == [{"request_id": "r1", "outcome": "answered"}]


async def test_a_request_that_expired_while_nobody_was_there_expires(home: Home, cwd: Path) -> None:
    asking = InputRequest(request_id="r1", kind="approval", text="may I?", expires_at="2020-01-02T03:04:05.678Z")

    async def act(ctx: RunContext) -> Outcome:
        return Completed(final_response=(await ctx.ask(asking)).decision or "")

    log = await begun(home, cwd)
    await log.append("input_required", {"request": asking.to_json()}, durable=True)
    log.close()
    async with desk(cwd, Attaching(act)) as tools:
        assert (await tools.over(log.run.run_id))["result"]["final_response"] == "deny"


async def test_credentials_that_were_lost_are_asked_for(home: Home, cwd: Path) -> None:
    async def act(ctx: RunContext) -> Outcome:
        return Completed(final_response=f"logged in with {agent.specs[0].backend_config}")

    agent = Attaching(act)
    log = await begun(home, cwd, backend_config={"auth_token": "first-secret-token", "mode": "x"})
    log.close()
    async with desk(cwd, agent) as tools:
        waiting = await tools.settled(log.run.run_id)
        assert waiting["status"] == "auth_required"
        assert "auth_token" in waiting["pending"][0]["text"]
        await tools.call("continue_run", run_id=log.run.run_id, decision="approve")
        again = await tools.settled(log.run.run_id)
        assert again["status"] == "auth_required", "a yes is no token"
        given = {"auth_token": "second-secret-token"}
        await tools.call("continue_run", run_id=log.run.run_id, request_id="credentials", backend_config=given)
        run = await tools.over(log.run.run_id)
    assert agent.specs[0].backend_config == {"mode": "x", "auth_token": "second-secret-token"}
    assert run["result"]["final_response"] == "logged in with {'mode': 'x', 'auth_token': '***'}"


async def test_credentials_that_are_refused_end_the_run(home: Home, cwd: Path) -> None:
    run_id = queued(home, cwd, backend_config={"headers": {"X-Key": "secret-header"}})
    async with desk(cwd, Attaching(nothing)) as tools:
        await tools.settled(run_id)
        await tools.call("continue_run", run_id=run_id, decision="deny")
        assert (await tools.over(run_id))["error"]["code"] == "auth_failed"
    assert "run_started" not in [event.type for event in tools.events(run_id)]


async def test_time_that_was_worked_before_counts(home: Home, cwd: Path) -> None:
    async def act(_ctx: RunContext) -> Outcome:
        await asyncio.sleep(30)
        return await nothing(_ctx)

    log = await begun(home, cwd, limits={"timeout_s": 5.0})
    await log.append("agent_message", {"text": "hard at work"})
    log.close()
    path = Path(log.dir.file("events.jsonl"))
    first, second = path.read_text().splitlines()
    year = int(first.split('"ts":"')[1][:4])
    later = second.replace(f'"ts":"{year}', f'"ts":"{year + 1}')
    path.write_text(f"{first}\n{later}\n")
    async with desk(cwd, Attaching(act)) as tools:
        assert (await tools.over(log.run.run_id))["error"]["code"] == "timeout"


# ---- leaving


async def test_what_runs_elsewhere_is_left_to_the_next_owner(home: Home, cwd: Path) -> None:
    left: list[bool] = []

    async def act(ctx: RunContext) -> Outcome:
        try:
            await ctx.ask(InputRequest(request_id="r1", kind="question", text="which?"))
        finally:
            left.append(ctx.leaving)
        return await nothing(ctx)

    agent = Attaching(act, nothing)
    async with desk(cwd, agent) as tools:
        run_id = await tools.spawn()
        await tools.settled(run_id)
        await tools.engine.lives.close()
    assert left == [True]
    assert [e.type for e in tools.events(run_id)] == ["run_started", "message_added", "input_required"]
    assert (home.live / run_id).exists()
    async with desk(cwd, agent) as tools:
        assert (await tools.over(run_id))["status"] == "completed"
    assert not (home.live / run_id).exists()


async def test_a_server_for_one_directory_leaves_other_places_alone(home: Home, cwd: Path) -> None:
    inside, outside = cwd / "inside", cwd.parent / "outside"
    for path in (inside, outside):
        path.mkdir()
    mine, others = (queued(home, path) for path in (inside, outside))
    async with desk(cwd, Attaching(nothing), scope=cwd) as tools:
        assert await tools.engine.recovery.recover() == 1
        assert (await tools.over(mine))["status"] == "completed"
        assert (await tools.call("get_run", run_id=others))["status"] == "queued"
        with pytest.raises(NotOwner):
            await tools.call("cancel_run", run_id=others)


# ---- processes


def stray(**env: str) -> subprocess.Popen[bytes]:
    """A process in a group of its own that goes on until it is ended."""
    script = "import time; print(flush=True); time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True, env={**os.environ, **env}
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.parametrize("by", ["group", "marker"])
async def test_what_a_dead_owner_left_of_an_agent_is_ended(home: Home, cwd: Path, by: str) -> None:
    log = await begun(home, cwd)
    with stray(**({MARKER: log.run.run_id} if by == "marker" else {})) as process, stray() as bystander:
        try:
            if by == "group":
                start = start_of(process.pid)
                log.write_owner({"pid": process.pid, "pgid": process.pid, "start_time": start})
            log.close()
            async with desk(cwd, Agent(nothing)) as tools:
                assert (await tools.call("get_run", run_id=log.run.run_id))["error"]["code"] == "host_lost"
            assert process.wait(10) == -signal.SIGTERM
            assert bystander.poll() is None
        finally:
            process.kill()
            bystander.kill()


@pytest.mark.parametrize("why", ["reused", "rebooted", "elsewhere"])
async def test_a_process_that_only_has_the_number_is_never_signalled(home: Home, cwd: Path, why: str) -> None:
    log = await begun(home, cwd)
    with stray() as process:
        try:
            start = start_of(process.pid)
            known = start - 1000 if why == "reused" else start
            log.write_owner({"pid": process.pid, "pgid": process.pid, "start_time": known})
            log.close()
            owner = Path(log.dir.file("owner.json"))
            if why != "reused":
                key = "boot_id" if why == "rebooted" else "host"
                owner.write_text(owner.read_text().replace(f'"{key}":"', f'"{key}":"another-'))
            async with desk(cwd, Agent(nothing)) as tools:
                assert (await tools.call("get_run", run_id=log.run.run_id))["error"]["code"] == "host_lost"
            await wait_until(lambda: owner.exists(), "the owner's file")
            assert process.poll() is None
        finally:
            process.kill()
