"""What an agent cannot do by the tools of ours that it has: see, command, spend or keep more than is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends import BACKENDS, SCRIPTED, Backends
from orchestrator.doors import resources
from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller, Engine
from orchestrator.engine.face import Face
from orchestrator.engine.life import Life
from orchestrator.errors import (
    AgentNotFound,
    InvalidArgument,
    LimitExceeded,
    OrchestratorError,
    PermissionCeiling,
    RunNotFound,
    SessionNotFound,
    Unsupported,
    WrongState,
)
from orchestrator.host.agents import agents_door
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home, Workspace
from tests.unit.test_config import user

SECRET = "sk-obviously-fake-4711"
ENV = {"OPENAI_API_KEY": SECRET, "PATH": "/usr/bin:/bin"}


class Place:
    """A caller of the scripted agent, and its agents' own tools."""

    def __init__(self, engine: Engine, cwd: Path) -> None:
        self.engine = engine
        self.cwd = cwd
        self.tools = Tools(engine, Caller(cwd=cwd, env=ENV, toolsets=frozenset({"team", "workspace"})))

    async def call(self, tool: str, **arguments: Any) -> JsonObject:
        return await self.tools.call(tool, arguments)

    async def spawn(self, *script: str, **more: Any) -> str:
        given = {"backend": "scripted", "cwd": str(self.cwd), "prompt": "\n".join(script), **more}
        return (await self.call("spawn_run", **given))["run_id"]

    async def settled(self, run_id: str) -> JsonObject:
        await self.call("wait_runs", run_ids=[run_id], until="all")
        return await self.call("get_run", run_id=run_id)

    async def waiting(self, **more: Any) -> str:
        """A run that waits until it is ended, which may delegate."""
        run_id = await self.spawn("ask Well?", "final done", **{"backend_config": {"delegate": True}, **more})
        await self.settled(run_id)
        return run_id

    def life(self, run_id: str) -> Life:
        life = self.engine.lives.get(run_id)
        assert life is not None
        return life

    def face(self, run_id: str) -> Face:
        face = self.life(run_id).face
        assert face is not None
        return face

    def agent(self, run_id: str, *, delegates: bool = True, env: Mapping[str, str] | None = None) -> Tools:
        """The tools of a run's agent."""
        more = {"toolsets": frozenset({"agent"}), "bound": True, "delegates": delegates, "parent_run_id": run_id}
        return Tools(self.engine, Caller(cwd=self.cwd, env=env or {}, **more))  # type: ignore[arg-type]


@pytest.fixture
async def place(cwd: Path) -> AsyncGenerator[Place]:
    """A place in a directory of the test's own."""
    async with opened(cwd) as here:
        yield here


@asynccontextmanager
async def opened(cwd: Path) -> AsyncGenerator[Place]:
    async with Engine(Home.default(), Backends({**BACKENDS, **SCRIPTED}).load) as engine, agents_door(engine):
        yield Place(engine, cwd)


def spawning(place: Place, **more: Any) -> JsonObject:
    return {"backend": "scripted", "cwd": str(place.cwd), "prompt": "final done", **more}


# ---- what it sees


async def test_the_sessions_of_other_trees_are_not_its_own(place: Place) -> None:
    stranger = await place.settled(await place.spawn("say secret"))
    agent = place.agent(await place.waiting())
    for mode in ("resume", "fork"):
        with pytest.raises(SessionNotFound):
            await agent.call("spawn_run", spawning(place, session_mode=mode, session_id=stranger["session_id"]))


async def test_the_names_of_other_trees_are_not_told(place: Place) -> None:
    await place.settled(await place.spawn("say secret", nickname="stranger"))
    agent = place.agent(await place.waiting())
    for given in ({"agent_name": "stranger"}, {"agent_name": "strangr"}):
        with pytest.raises(RunNotFound) as caught:
            await agent.call("get_run", given)
        assert caught.value.sentence == f"run_not_found: no run {given['agent_name']!r} in your tree; call list_agents"
    assert await resources.complete(agent, "run_id", "") == []
    assert await resources.complete(agent, "agent_name", "") == []


async def test_what_it_writes_into_the_file_of_its_tree_makes_nobody_a_member(place: Place) -> None:
    stranger = await place.spawn("say secret")
    await place.settled(stranger)
    run_id = await place.waiting()
    file = Path(Workspace(place.cwd).run(run_id).file("tree"))
    await asyncio.to_thread(file.write_text, f"{stranger}\n")
    with pytest.raises(RunNotFound):
        await place.agent(run_id).call("get_run", {"run_id": stranger})


# ---- what it may do


async def test_when_its_run_is_over_nothing_is_done_for_it(place: Place) -> None:
    run_id = await place.waiting()
    agent = place.agent(run_id)
    await place.call("cancel_run", run_id=run_id)
    for tool, given in (("spawn_run", spawning(place)), ("list_agents", {}), ("fetch_messages", {"wait_ms": 0})):
        with pytest.raises(WrongState, match="your run is over"):
            await agent.call(tool, given)


async def test_it_commands_only_what_it_spawned(place: Place) -> None:
    boss = await place.waiting()
    hand = (await place.agent(boss).call("spawn_run", spawning(place, prompt="ask Well?\nfinal done")))["run_id"]
    await place.settled(hand)
    for run_id in (boss, hand):
        with pytest.raises(PermissionCeiling, match="was not spawned by you"):
            await place.agent(hand).call("continue_run", {"run_id": run_id, "text": "yes"})
        with pytest.raises(PermissionCeiling, match="was not spawned by you"):
            await place.agent(hand).call("cancel_run", {"run_id": run_id})
    assert (await place.agent(hand).call("get_run", {"run_id": boss}))["status"] == "input_required"
    await place.agent(boss).call("continue_run", {"run_id": hand, "text": "yes"})
    assert (await place.settled(hand))["status"] == "completed"


@pytest.mark.parametrize("config", [{"agent_url": "http://127.0.0.1:9/"}, {"auth_token_env": "OPENAI_API_KEY"}])
async def test_what_it_knows_leaves_no_sandbox_by_a_child(place: Place, config: JsonObject) -> None:
    agent = place.agent(await place.waiting(permission="read_only"))
    with pytest.raises(PermissionCeiling, match="leads out of what"):
        await agent.call("spawn_run", spawning(place, backend="remote_a2a", backend_config=config))


async def test_many_children_at_once_stay_within_the_cap(place: Place, home: Home) -> None:
    await asyncio.to_thread(user, home, "max_runs_per_tree = 5")
    agent = place.agent(await place.waiting())
    spawns = [agent.call("spawn_run", spawning(place)) for _ in range(12)]
    answers = await asyncio.gather(*spawns, return_exceptions=True)
    assert sum(isinstance(answer, dict) for answer in answers) == 4
    assert {type(answer) for answer in answers if not isinstance(answer, dict)} == {LimitExceeded}


async def test_it_wakes_nobody_without_leave_to_delegate(place: Place) -> None:
    boss = await place.waiting()
    await place.settled((await place.agent(boss).call("spawn_run", spawning(place, nickname="hand")))["run_id"])
    with pytest.raises(Unsupported, match="delegate"):
        await place.agent(boss, delegates=False).call(
            "send_message", {"to": "hand", "text": "go on", "deliver": "wake"}
        )


async def test_nobody_is_called_as_the_caller_is(place: Place) -> None:
    with pytest.raises(InvalidArgument, match="choose another nickname"):
        await place.spawn("final done", nickname="caller")


async def test_without_its_pass_it_is_not_taken_for_the_caller(place: Place) -> None:
    run_id = await place.waiting(nickname="boss")
    team = frozenset({"team"})
    inside = Tools(place.engine, Caller(cwd=place.cwd, env={}, toolsets=team, parent_run_id=run_id))
    await inside.call("send_agent_message", {"to": "boss", "text": "to myself"})
    (letter,) = (await place.agent(run_id).call("fetch_messages", {"wait_ms": 0}))["messages"]
    assert letter["from"]["agent_name"] == "boss"


async def test_without_its_pass_it_commands_what_it_spawned_and_nothing_else(place: Place) -> None:
    above = await place.waiting()
    boss = (await place.agent(above).call("spawn_run", spawning(place, prompt="ask Well?\nfinal x")))["run_id"]
    other = await place.waiting()
    await place.settled(boss)
    shell = Tools(place.engine, Caller(cwd=place.cwd, env={}, parent_run_id=boss))
    for run_id in (above, boss, other):
        for tool, more in (("cancel_run", {}), ("continue_run", {"text": "x"})):
            with pytest.raises(PermissionCeiling, match="not spawned by you"):
                await shell.call(tool, {"run_id": run_id, **more})
    child = (await shell.call("spawn_run", spawning(place, prompt="ask Well?\nfinal x")))["run_id"]
    await place.settled(child)
    await shell.call("continue_run", {"run_id": child, "text": "yes"})
    assert (await place.settled(child))["status"] == "completed"


# ---- secrets


async def test_a_child_gets_its_parents_environment_and_hides_it_as_well(place: Place) -> None:
    for level in ("workspace_write", "full_access"):
        boss = await place.waiting(permission=level)
        script = "env OPENAI_API_KEY\nask Well?"
        child = (await place.agent(boss, env={"PATH": "/bin"}).call("spawn_run", spawning(place, prompt=script)))[
            "run_id"
        ]
        await place.settled(child)
        assert place.life(child).lent_env["OPENAI_API_KEY"] == SECRET
        assert SECRET.encode() not in await asyncio.to_thread(everything, place.cwd)


async def test_the_pass_is_in_no_file_whoever_writes_it_down(place: Place) -> None:
    boss = await place.waiting()
    key = place.face(boss).key
    await place.agent(boss).call("send_message", {"to": "caller", "text": f"my pass is {key}"})
    child = await place.agent(boss).call("spawn_run", spawning(place, prompt=f"say {key}"))
    await place.settled(child["run_id"])
    assert key.encode() not in await asyncio.to_thread(everything, place.cwd)


def everything(cwd: Path) -> bytes:
    """All that is in the store."""
    return b"".join(path.read_bytes() for path in (cwd / ".orchestrator").rglob("*") if path.is_file())


async def test_an_agent_lends_its_environment_to_nobody(place: Place) -> None:
    boss = await place.waiting()
    lent: list[object] = []
    place.life(boss).lend = lambda *given: lent.append(given)  # type: ignore[method-assign]
    with place.engine.lives.client(place.agent(boss).caller):
        assert lent == []
    with place.engine.lives.client(place.tools.caller):
        assert len(lent) == 1


# ---- questions


async def asking(place: Place, run_id: str, question: str) -> asyncio.Task[JsonObject]:
    """A question of an agent, once its caller can see it."""
    agent = place.agent(run_id)
    task = asyncio.create_task(agent.call("ask_caller", {"question": question}))
    while not any(request.text == question for request in place.life(run_id).log.run.pending):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return task


async def working(place: Place, **more: Any) -> str:
    """A run whose agent works for long."""
    run_id = await place.spawn("say begun", "sleep 30", "final done", **more)
    await place.call("poll_events", run_id=run_id, types=["agent_message"])
    return run_id


async def test_a_question_outlives_the_call_and_is_joined(place: Place) -> None:
    run_id = await working(place)
    first = await asking(place, run_id, "Which?")
    first.cancel()
    await asyncio.wait({first})
    again = asyncio.create_task(place.agent(run_id).call("ask_caller", {"question": "Which?"}))
    await asyncio.sleep(0)
    assert len(place.life(run_id).log.run.pending) == 1
    await place.call("continue_run", run_id=run_id, text="this one")
    assert await again == {"answer": "this one"}
    await place.call("cancel_run", run_id=run_id)


async def test_time_counts_again_when_nobody_waits_for_the_answer(place: Place) -> None:
    run_id = await working(place, limits={"timeout_s": 0.6})
    question = await asking(place, run_id, "Which?")
    question.cancel()
    page = await place.call("poll_events", run_id=run_id, types=["run_failed"])
    assert page["events"][0]["data"]["code"] == "timeout"


async def test_the_end_of_the_run_is_told_to_who_asks(place: Place) -> None:
    run_id = await working(place)
    question = await asking(place, run_id, "Which?")
    await place.call("cancel_run", run_id=run_id)
    with pytest.raises(OrchestratorError):
        await question


async def test_deny_is_an_option_like_others(place: Place) -> None:
    run_id = await working(place)
    agent = place.agent(run_id)
    given = {"question": "What to do?", "options": ["allow", "deny"]}
    asked = asyncio.create_task(agent.call("ask_caller", given))
    while not place.life(run_id).log.run.pending:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    await place.call("continue_run", run_id=run_id, decision="deny")
    assert await asked == {"answer": "deny"}
    await place.call("cancel_run", run_id=run_id)


# ---- messages


async def test_a_page_of_messages_fits_a_result(place: Place) -> None:
    await place.settled(await place.spawn("final done", nickname="tom"))
    boss = await place.waiting(nickname="boss")
    for number in range(8):
        await place.call("send_agent_message", to="boss", text=f"{number}" * 3_000)
    seen: list[str] = []
    after: JsonObject = {}
    while page := await place.agent(boss).call("fetch_messages", {"wait_ms": 0, **after}):
        seen += [letter["parts"][0]["text"][0] for letter in page["messages"]]
        assert len(str(page)) < 12_000
        after = {"after_seq": page["next_after_seq"]}
        if not page["has_more"]:
            break
    assert seen == list("01234567")
    with pytest.raises(LimitExceeded, match="large material into files"):
        await place.call("send_agent_message", to="boss", parts=[{"type": "data", "data": {"x": "y" * 9_000}}])


async def test_a_caller_hears_its_agents_wherever_they_work(place: Place, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    await asyncio.to_thread(elsewhere.mkdir)
    run_id = await place.waiting(cwd=str(elsewhere))
    await place.agent(run_id).call("send_message", {"to": "caller", "text": "from elsewhere"})
    (letter,) = (await place.call("fetch_agent_messages"))["messages"]
    assert letter["parts"][0]["text"] == "from elsewhere"
    assert (await place.call("send_agent_message", to=run_id, text="heard"))["delivered"] == "queued"


async def test_a_damaged_run_is_nobodys_agent_and_harms_no_other(place: Place) -> None:
    broken = await place.spawn("final done", nickname="broken")
    await place.settled(broken)
    await place.settled(await place.spawn("final done", nickname="tom"))
    for name in ("spec.json", "run.json"):
        await asyncio.to_thread(Path(Workspace(place.cwd).run(broken).file(name)).unlink)
    assert [row["agent_name"] for row in (await place.call("list_agents"))["agents"]] == ["tom"]
    assert (await place.call("send_agent_message", to="tom", text="hello"))["delivered"] == "queued"
    with pytest.raises(AgentNotFound):
        await place.call("send_agent_message", to="broken", text="hello")
