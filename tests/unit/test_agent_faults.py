"""What an agent may put into its directory, or do at an odd moment, and what it cannot reach or break by that."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from orchestrator.doors import resources
from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller
from orchestrator.errors import AgentNotFound, HostUnavailable, OrchestratorError, RunNotFound, StoreError, WrongState
from orchestrator.model import JsonObject, new_id
from orchestrator.store.inbox import MAX_BYTES, Inbox
from orchestrator.store.layout import Workspace
from tests.unit import test_agent_bounds
from tests.unit.test_agent_bounds import Place, asking, spawning, working

place = test_agent_bounds.place


# ---- what lies in the place of a file


def inbox_path(cwd: Path, name: str = "caller") -> Path:
    return cwd / ".orchestrator/sessions" / f"{name}.inbox.jsonl"


async def test_through_a_link_nothing_is_written_and_nothing_read(place: Place, tmp_path: Path) -> None:
    run_id = await place.waiting()
    agent = place.agent(run_id)
    target = tmp_path / "bashrc"
    await asyncio.to_thread(target.write_text, "alias x=y\nunfinished")
    for name in ("caller", place.life(run_id).spec.session_id):
        await asyncio.to_thread(inbox_path(place.cwd, name).symlink_to, target)
    with pytest.raises(StoreError, match="cannot write"):
        await agent.call("send_message", {"to": "caller", "text": "$(touch x)"})
    with pytest.raises(StoreError, match="cannot read"):
        await agent.call("fetch_messages", {"wait_ms": 0})
    assert await asyncio.to_thread(target.read_text) == "alias x=y\nunfinished"


async def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(place: Place) -> None:
    stuck, tom = await place.spawn("final done", nickname="stuck"), await place.spawn("final done", nickname="tom")
    await place.settled(stuck)
    await place.settled(tom)
    run_id = await place.waiting()
    own = inbox_path(place.cwd, place.life(run_id).spec.session_id)
    for path in (own, *(Path(Workspace(place.cwd).run(stuck).file(name)) for name in ("run.json", "events.jsonl"))):
        await asyncio.to_thread(path.unlink, missing_ok=True)
        await asyncio.to_thread(os.mkfifo, path)
    agent = place.agent(run_id)
    async with asyncio.timeout(10):
        calls = [agent.call("fetch_messages", {"wait_ms": 0}) for _ in range(40)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreError}
        names = {row["agent_name"] for row in (await place.call("list_agents"))["agents"]}
        assert "tom" in names
        await place.settled(await place.spawn("final done"))


@pytest.mark.parametrize("first", [b'{"base":x}', b'{"base":null}', b'{"base":1e400}', b'{"base":-3}', b"\xff", b"[]"])
def test_a_first_line_that_makes_no_sense_is_a_line_like_others(cwd: Path, first: bytes) -> None:
    workspace = Workspace(cwd)
    workspace.open()
    inbox_path(cwd).write_bytes(first + b"\n")
    box = Inbox(workspace, None)
    assert box.append({"from": {}, "parts": []}) == 2
    assert [letter["seq"] for letter in box.after(0)] == [2]


def test_an_inbox_of_any_size_is_not_read_whole(cwd: Path) -> None:
    workspace = Workspace(cwd)
    workspace.open()
    with inbox_path(cwd).open("wb") as file:
        file.truncate(3 * MAX_BYTES)
    with pytest.raises(StoreError, match="it has over"):
        Inbox(workspace, None).after(0)


async def test_a_run_that_an_agent_made_up_is_none_of_its_tree(place: Place) -> None:
    stranger = await place.spawn("say secret")
    await place.settled(stranger)
    own = await place.waiting()
    store = Workspace(place.cwd)
    made_up = store.run(new_id("run"))

    def forge() -> None:
        made_up.path.mkdir()
        spec = json.loads(Path(store.run(stranger).file("spec.json")).read_bytes())
        spec |= {"run_id": made_up.run_id, "root_run_id": own, "parent_run_id": own}
        Path(made_up.file("spec.json")).write_text(json.dumps(spec))
        for name in ("events.jsonl", "run.json"):
            Path(made_up.file(name)).symlink_to(store.run(stranger).file(name))
        Path(store.run(own).file("tree")).write_text(f"{made_up.run_id}\n")

    await asyncio.to_thread(forge)
    await place.call("list_runs", cwd="*")  # which enters what it finds into the index
    for tool in ("get_run", "poll_events"):
        with pytest.raises(RunNotFound):
            await place.agent(own).call(tool, {"run_id": made_up.run_id})
    names = {row["run_id"] for row in (await place.agent(own).call("list_agents", {}))["agents"]}
    assert names == {own}


async def test_git_is_that_of_the_agents_own_environment_not_of_its_client(place: Place, tmp_path: Path) -> None:
    boss = await place.waiting()
    child = (await place.agent(boss).call("spawn_run", spawning(place)))["run_id"]
    await place.settled(child)
    evil, mark = tmp_path / "evil", tmp_path / "run"

    def plant() -> None:
        evil.mkdir()
        (evil / "git").write_text(f"#!/bin/sh\ntouch {mark}\n")
        (evil / "git").chmod(0o700)

    await asyncio.to_thread(plant)
    caller = Caller(
        cwd=place.cwd, env={"PATH": str(evil)}, toolsets=frozenset({"agent", "workspace"}),
        bound=True, delegates=True, parent_run_id=boss,
    )  # fmt: skip
    with pytest.raises(OrchestratorError):
        await Tools(place.engine, caller).call("apply_run", {"run_id": child, "check_only": True})
    assert not await asyncio.to_thread(mark.exists)


# ---- odd moments


async def test_what_is_sent_to_a_queued_run_is_not_lost_to_the_one_before(place: Place) -> None:
    first = await place.settled(await place.waiting(nickname="boss"))
    resume = {"session_mode": "resume", "session_id": first["session_id"]}
    second = await place.spawn("ask Well?", **resume)
    await place.call("send_agent_message", to=second, text="for the second")
    await place.call("send_agent_message", to="boss", text="for whoever works")
    page = await place.agent(first["run_id"]).call("fetch_messages", {"wait_ms": 0})
    assert [letter["parts"][0]["text"] for letter in page["messages"]] == ["for whoever works"]
    await place.agent(first["run_id"]).call("fetch_messages", {"after_seq": page["next_after_seq"], "wait_ms": 0})
    await place.call("continue_run", run_id=first["run_id"], text="yes")
    await place.settled(second)
    agent = place.agent(second)
    page = await agent.call("fetch_messages", {"wait_ms": 0})
    assert [letter["parts"][0]["text"] for letter in page["messages"]] == ["for the second"]
    again = await agent.call("fetch_messages", {"after_seq": page["next_after_seq"], "wait_ms": 0})
    assert again["messages"] == []
    assert (await agent.call("fetch_messages", {"wait_ms": 0}))["messages"] == []


async def test_an_answer_that_came_while_nobody_waited_stops_no_clock(place: Place) -> None:
    run_id = await working(place, limits={"timeout_s": 3})
    question = await asking(place, run_id, "Which?")
    question.cancel()
    await asyncio.wait({question})
    await place.call("continue_run", run_id=run_id, text="this one")
    assert await place.agent(run_id).call("ask_caller", {"question": "Which?"}) == {"answer": "this one"}
    page = await place.call("poll_events", run_id=run_id, types=["run_failed", "run_completed"])
    assert page["events"][0]["data"]["code"] == "timeout"


async def test_a_call_ends_with_the_run_of_its_agent(place: Place) -> None:
    run_id = await place.waiting(nickname="boss")
    fetching = asyncio.create_task(place.agent(run_id).call("fetch_messages", {"wait_ms": 40_000}))
    await asyncio.sleep(0)
    await place.call("cancel_run", run_id=run_id)
    async with asyncio.timeout(10):
        with pytest.raises(WrongState, match="your run is over"):
            await fetching


async def test_nothing_is_read_for_an_agent_whose_run_is_over(place: Place) -> None:
    run_id = await place.waiting()
    agent = place.agent(run_id)
    assert (await resources.read(agent, "profiles://")).text
    await place.call("cancel_run", run_id=run_id)
    for uri in ("profiles://", "profile://reviewer", "runs://", f"run://{run_id}"):
        with pytest.raises(WrongState):
            await resources.read(agent, uri)
    with pytest.raises(WrongState):
        await resources.complete(agent, "profile", "")


# ---- many, and large


async def test_a_long_list_of_agents_fits_a_result_and_old_ones_are_found(place: Place) -> None:
    await place.settled(await place.spawn("final done", nickname="first-one"))
    words = "word " * 100
    runs = await asyncio.gather(*(place.spawn(f"final {words}") for _ in range(60)))
    await place.call("wait_runs", run_ids=list(runs[:50]), until="all")
    listed = await place.call("list_agents")
    assert len(json.dumps(listed)) < 10_000
    assert len(listed["agents"]) + listed["more"] == 61
    assert (await place.call("send_agent_message", to="first-one", text="hello"))["delivered"] == "queued"
    with pytest.raises(AgentNotFound):
        await place.call("send_agent_message", to="nobody", text="hello")


@pytest.mark.parametrize("given", [{"to": "x" * 8_000_000}, {"to": "caller", "reply_to": "x" * 8_000_000}])
async def test_long_names_take_no_time(place: Place, given: JsonObject) -> None:
    agent = place.agent(await place.waiting())
    before = time.process_time()
    for call in (agent.call("send_message", {"text": "x", **given}), agent.call("x" * 3_000_000, {})):
        with pytest.raises(OrchestratorError) as refused:
            await call
        assert len(refused.value.sentence) < 1_000
    assert time.process_time() - before < 1


# ---- a host that makes room for another one


async def test_an_agent_spawns_on_while_its_host_hands_over_and_its_caller_goes_to_the_next(place: Place) -> None:
    agent = place.agent(await place.waiting())
    place.engine.lives.draining = "another version takes over"
    with pytest.raises(HostUnavailable):
        await agent.call("spawn_run", spawning(place))
    place.engine.lives.handing_over = True
    assert (await agent.call("spawn_run", spawning(place)))["run_id"]
    with pytest.raises(HostUnavailable):
        await place.spawn("final done")
