"""Runs that spawn runs: caps on depth, number and permission, and who may approve."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from orchestrator.backend import RunContext
from orchestrator.doors.tools import Tools
from orchestrator.ends import Outcome
from orchestrator.engine.engine import Caller
from orchestrator.errors import LimitExceeded, PermissionCeiling
from orchestrator.host.client import call
from orchestrator.host.server import Server
from orchestrator.model import InputRequest, JsonObject
from orchestrator.process import MARKER
from orchestrator.store.layout import Home
from orchestrator.updates import AgentProcess, Started
from tests.unit.agents import Agent, Desk, desk, nothing
from tests.unit.test_config import user


def child_of(tools: Desk, run_id: str) -> Desk:
    """The tools as the agent of a run has them."""
    caller = Caller(cwd=tools.cwd, env={"A": "b"}, parent_run_id=run_id)
    return Desk(Tools(tools.engine, caller), tools.engine, tools.cwd)


async def opened(ctx: RunContext) -> Outcome:
    await ctx.emit(Started(native_session_id="n1"))
    return await nothing(ctx)


async def wait(ctx: RunContext) -> Outcome:
    await asyncio.sleep(60)
    return await nothing(ctx)


async def works(ctx: RunContext) -> Outcome:
    await ctx.emit(Started(agent="fake"))
    return await wait(ctx)


async def approve(ctx: RunContext) -> Outcome:
    await ctx.ask(InputRequest(request_id="r1", kind="approval", text="may I?"))
    return await nothing(ctx)


async def test_a_child_knows_its_parent_and_its_depth(cwd: Path) -> None:
    async with desk(cwd, Agent(nothing)) as tools:
        top = await tools.finished()
        child = await child_of(tools, top["run_id"]).finished()
        grandchild = await child_of(tools, child["run_id"]).finished()
    assert "parent_run_id" not in top
    assert (child["parent_run_id"], child["depth"]) == (top["run_id"], 1)
    assert (grandchild["parent_run_id"], grandchild["depth"]) == (child["run_id"], 2)


async def test_a_run_too_deep_is_refused(cwd: Path, home: Home) -> None:
    user(home, "max_depth = 1")
    async with desk(cwd, Agent(opened)) as tools:
        child = await child_of(tools, await tools.spawn()).spawn()
        with pytest.raises(LimitExceeded, match="max_depth is 1"):
            await child_of(tools, child).spawn()
        finished = await tools.settled(child)
        with pytest.raises(LimitExceeded, match="max_depth is 1"):  # resuming is spawning too
            await child_of(tools, child).call("continue_run", run_id=finished["run_id"], text="go on")


async def test_one_too_many_in_a_tree_is_refused_also_after_a_restart(cwd: Path, home: Home) -> None:
    user(home, "max_runs_per_tree = 3")
    async with desk(cwd, Agent(nothing)) as tools:
        top = await tools.spawn()
        child = await child_of(tools, top).spawn()
        await child_of(tools, child).finished()
    async with desk(cwd, Agent(nothing)) as tools:
        for parent in (top, child):
            with pytest.raises(LimitExceeded, match="has 3 runs"):
                await child_of(tools, parent).spawn()
        await tools.finished()


@pytest.mark.parametrize("by", ["parent", "setting"])
async def test_permission_has_a_ceiling(cwd: Path, home: Home, by: str) -> None:
    agent = Agent(nothing, abilities=frozenset({"permission", "resume"}))
    if by == "setting":
        user(home, 'max_permission = "read_only"\nmax_on_approval = "deny"\n')
    async with desk(cwd, agent) as tools:
        caller = tools
        if by == "parent":
            caller = child_of(tools, await tools.spawn(permission="read_only", on_approval="deny"))
        for more in ({"permission": "workspace_write"}, {"permission": "full_access"}, {"on_approval": "allow"}):
            with pytest.raises(PermissionCeiling, match="more than"):
                await caller.spawn(**more)
        run_id = await caller.spawn()
        await tools.settled(run_id)
    assert (agent.specs[-1].level, agent.specs[-1].on_approval) == ("read_only", "deny"), "the defaults are lowered"


async def test_a_child_writes_only_where_its_parent_may(cwd: Path) -> None:
    inside, outside = cwd / "sub", cwd.parent / "outside"
    for folder in (inside, outside):
        folder.mkdir()
    async with desk(cwd, Agent(nothing)) as tools:
        top = child_of(tools, (await tools.finished())["run_id"])
        for place, permission in ((inside, None), (inside, "workspace_write"), (outside, "read_only")):
            more = {"permission": permission} if permission else {}
            assert (await top.finished(cwd=str(place), **more))["status"] == "completed"
        for more in ({}, {"permission": "workspace_write"}):
            with pytest.raises(PermissionCeiling, match="choose a cwd in there"):
                await top.finished(cwd=str(outside), **more)
        full = child_of(tools, (await tools.finished(permission="full_access"))["run_id"])
        assert (await full.finished(cwd=str(outside)))["status"] == "completed"


@pytest.mark.parametrize(("permission", "whose"), [("workspace_write", "clients"), ("full_access", "own")])
async def test_an_agent_does_not_choose_its_childs_environment(cwd: Path, permission: str, whose: str) -> None:
    seen: list[str | None] = []

    async def act(ctx: RunContext) -> Outcome:
        seen.append(ctx.env.get("A"))
        return await (nothing(ctx) if len(seen) > 1 else wait(ctx))

    async with desk(cwd, Agent(act), A="clients") as tools:
        top = await tools.spawn(permission=permission)
        caller = Caller(cwd=cwd, env={"A": "own"}, parent_run_id=top)
        await Desk(Tools(tools.engine, caller), tools.engine, cwd).finished()
    assert seen == ["clients", whose]


async def test_a_resumed_run_stays_under_the_ceiling_of_who_resumes_it(cwd: Path) -> None:
    agent = Agent(opened, abilities=frozenset({"permission", "resume"}))
    async with desk(cwd, agent) as tools:
        weak = await tools.spawn(permission="read_only")
        strong = await tools.finished(permission="full_access")
        with pytest.raises(PermissionCeiling, match=f"its parent {weak} allows"):
            await child_of(tools, weak).call("continue_run", run_id=strong["run_id"], text="more")
        assert (await tools.call("continue_run", run_id=strong["run_id"], text="more"))["mode"] == "resume"


@pytest.mark.parametrize(
    ("given", "may"),
    [({}, False), ({"permission": "full_access"}, True), ({"on_approval": "allow"}, True), (None, True)],
)
async def test_an_agent_approves_only_what_it_need_not_ask_for(cwd: Path, given: JsonObject | None, may: bool) -> None:
    agent = Agent(wait, approve)
    async with desk(cwd, agent) as tools:
        parent = await tools.spawn(**(given or {}))
        child = await child_of(tools, parent).spawn()
        await tools.settled(child)
        caller = tools if given is None else child_of(tools, parent)
        if not may:
            with pytest.raises(PermissionCeiling, match=f"the caller who spawned {parent} can"):
                await caller.call("continue_run", run_id=child, decision="approve")
            await caller.call("continue_run", run_id=child, decision="deny")
        else:
            await caller.call("continue_run", run_id=child, decision="approve")
        assert (await tools.over(child))["status"] == "completed"


async def test_over_the_cap_a_run_is_queued_and_told_its_place(cwd: Path, home: Home) -> None:
    user(home, "[max_concurrent_runs]\nlocal = 1\n")
    async with desk(cwd, Agent(approve, wait, nothing, nothing)) as tools:
        first = await tools.spawn()
        await tools.settled(first)  # it waits for its caller and so gives its slot back
        second, third, urgent = await tools.spawn(), await tools.spawn(priority=2), await tools.spawn(priority=0)
        for run_id in (third, urgent):
            await tools.call("poll_events", run_id=run_id)
        places = [(await tools.call("get_run", run_id=run_id)).get("queue_place") for run_id in (urgent, third)]
        assert places == [1, 2]
        queued = await tools.call("get_run", run_id=third)
        assert (queued["status"], queued["detail"]) == ("queued", "waiting_for_slot")
        await tools.call("continue_run", run_id=first, decision="approve")
        assert (await tools.over(first))["status"] == "completed", "an answered run goes on at once"
        await tools.call("cancel_run", run_id=second)
        assert (await tools.over(urgent))["status"] == (await tools.over(third))["status"] == "completed"


@pytest.mark.parametrize("how", ["wait_runs", "poll_events", "spawn_run"])
async def test_an_agent_that_waits_for_its_child_gives_way_to_it(cwd: Path, home: Home, how: str) -> None:
    user(home, "[max_concurrent_runs]\nlocal = 1\n")
    async with desk(cwd, Agent(works, nothing, nothing)) as tools:
        parent = await tools.spawn()
        await tools.call("poll_events", run_id=parent, types=["run_started"])
        below = child_of(tools, parent)
        if how == "spawn_run":
            asked = {"backend": "scripted", "prompt": "x", "cwd": str(cwd), "wait": True}
            assert (await below.call("spawn_run", **asked))["status"] == "completed"
        else:
            child = await below.spawn()
            if how == "wait_runs":
                digest = await below.call("wait_runs", run_ids=[child])
                assert digest["runs"][0]["status"] == "completed"
            else:
                page = await below.call("poll_events", run_id=child, types=["run_completed"])
                assert len(page["events"]) == 1
        other = await tools.spawn()
        await tools.call("poll_events", run_id=other)
        assert (await tools.call("get_run", run_id=other))["queue_place"] == 1, "the parent works again in its slot"
        await tools.call("cancel_run", run_id=parent)
        assert (await tools.over(other))["status"] == "completed"


async def test_a_run_that_was_queued_for_too_long_expires(cwd: Path, home: Home) -> None:
    user(home, "[max_concurrent_runs]\nlocal = 1\n")
    async with desk(cwd, Agent(wait)) as tools:
        await tools.spawn()
        late = await tools.spawn(limits={"queue_ttl_s": 0.2})
        assert (await tools.over(late))["error"]["code"] == "expired"
        assert "run_started" not in [event.type for event in tools.events(late)]


async def test_an_agent_gets_its_callers_environment_without_what_would_confuse_it(cwd: Path, home: Home) -> None:
    user(home, 'env_deny = ["SECRET_*"]')
    env = {"PATH": "/bin", "CLAUDECODE": "1", "SECRET_X": "y", "ORCHESTRATOR_RUN_ID": "run_0", "ANTHROPIC_API_KEY": "k"}
    env["ORCHESTRATOR_DELIVERY_ID"] = "end_0"
    async with desk(cwd, Agent(nothing)) as tools:
        caller = Caller(cwd=cwd, env=env)
        caller = replace(caller, settings=tools.engine.settings_of(caller))
    assert caller.agent_env == {"PATH": "/bin", "ANTHROPIC_API_KEY": "k"}


@pytest.mark.parametrize("known_by", ["its process", "the marker", "nothing"])
async def test_the_agent_of_a_run_is_known_at_the_hosts_socket(cwd: Path, known_by: str) -> None:
    async def here(ctx: RunContext) -> Outcome:
        if known_by == "its process":  # this test's own, whose calls are then those of the agent
            await ctx.emit(AgentProcess(pid=os.getpid(), pgid=os.getpgid(0), start_time=0.0))
        await ctx.emit(Started())
        return await wait(ctx)

    async with desk(cwd, Agent(here, nothing)) as tools:
        parent = await tools.spawn()
        await tools.call("poll_events", run_id=parent)
        env = {"A": "b", **({MARKER: parent} if known_by == "the marker" else {})}
        with TemporaryDirectory(prefix="orc-") as folder:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{folder}/sock")
            listener.listen()
            server = Server(tools.engine, lambda _: frozenset({"scripted"}), {}, lambda _: None)
            serving = asyncio.create_task(server.serve(listener))
            caller = Caller(cwd=cwd, env=env)
            arguments = {"backend": "scripted", "cwd": str(cwd), "prompt": "x"}
            spawned = await call(f"{folder}/sock", caller, "spawn_run", arguments)
            serving.cancel()
            await asyncio.wait({serving})
        child = await tools.settled(spawned["run_id"])
    assert child.get("parent_run_id") == (None if known_by == "nothing" else parent)


@pytest.mark.parametrize("config", [{"mcp_servers": {"s": {"command": "sh"}}}, {"setting_sources": ["user"]}])
async def test_an_agent_starts_no_programs_by_its_child_that_it_may_not_start_itself(
    cwd: Path, config: JsonObject
) -> None:
    async with desk(cwd, Agent(opened)) as tools:
        bound = await tools.finished(permission="workspace_write")
        free = await tools.finished(permission="full_access")
        with pytest.raises(PermissionCeiling, match=next(iter(config))):
            await child_of(tools, bound["run_id"]).finished(backend_config=config)
        child = await child_of(tools, free["run_id"]).finished(backend_config=config)
        assert child["status"] == "completed"
        with pytest.raises(PermissionCeiling, match=next(iter(config))):
            await child_of(tools, bound["run_id"]).call("continue_run", run_id=child["run_id"], text="again")
        top = await tools.finished(backend_config=config)
    assert top["status"] == "completed"
