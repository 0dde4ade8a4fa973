"""Budgets of runs and of their trees: counted as they go, reserved for children, given back, and kept."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import BACKENDS, SCRIPTED, Backends
from orchestrator.doors.tools import Tools
from orchestrator.engine.budget import Account, Asked, Budgets
from orchestrator.engine.engine import Caller, Engine
from orchestrator.errors import OrchestratorError
from orchestrator.host.agents import agents_door
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home
from orchestrator.store.reader import RunReader

DELEGATES: JsonObject = {"backend_config": {"delegate": True}}


@dataclass(frozen=True)
class Desk:
    """Tools over an engine whose agents have our own tools in their hands."""

    tools: Tools
    cwd: Path

    async def spawn(self, *script: str, **more: Any) -> str:
        run = await self.tools.call("spawn_run", self.arguments(*script) | more)
        return run["run_id"]

    def arguments(self, *script: str) -> JsonObject:
        return {"backend": "scripted", "cwd": str(self.cwd), "prompt": "\n".join(script)}

    def child(self, *script: str, **more: Any) -> str:
        """The line of a script by which an agent spawns a run."""
        return f"call spawn_run {json.dumps(self.arguments(*script) | more)}"

    async def over(self, run_id: str) -> JsonObject:
        ends = ["run_completed", "run_failed", "rejected"]
        await self.tools.call("poll_events", {"run_id": run_id, "types": ends})
        return await self.tools.call("get_run", {"run_id": run_id})

    async def settled(self, run_id: str) -> JsonObject:
        await self.tools.call("wait_runs", {"run_ids": [run_id]})
        return await self.tools.call("get_run", {"run_id": run_id})

    async def finished(self, *script: str, **more: Any) -> JsonObject:
        return await self.over(await self.spawn(*script, **more))

    async def said(self, run_id: str) -> list[str]:
        page = await self.tools.call("poll_events", {"run_id": run_id, "types": ["agent_message"], "wait_ms": 0})
        return [event["data"]["text"] for event in page["events"]]

    async def children(self, run_id: str) -> list[str]:
        """The runs that a run's agent spawned, oldest first."""
        rows = (await self.tools.call("list_runs", {}))["runs"]
        return sorted(row["run_id"] for row in rows if row.get("parent_run_id") == run_id)


@pytest.fixture
async def desk(cwd: Path) -> AsyncGenerator[Desk]:
    load = Backends({**BACKENDS, **SCRIPTED}).load
    async with Engine(Home.default(), load) as engine, agents_door(engine, scripted=True):
        yield Desk(Tools(engine, Caller(cwd=cwd, env={})), cwd)


# ---- one run


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_tokens": 100}, "limits.max_tokens = 100 is used up: 120"),
        ({"max_turns": 2}, "limits.max_turns = 2 is used up: 2"),
        ({"max_cost_usd": 0.5}, "limits.max_cost_usd = 0.5 is used up: 0.8"),
    ],
)
async def test_a_run_over_its_budget_is_ended_with_what_it_did_kept(desk: Desk, limits: JsonObject, words: str) -> None:
    (desk.cwd / "before").write_text("x")
    run = await desk.finished("file a.txt x", "spend 40 20 0.4", "spend 40 20 0.4", "say too much", limits=limits)
    assert (run["status"], run["error"]["code"], run["error"]["message"]) == ("failed", "budget_exceeded", words)
    assert run["error"]["resumable"]
    assert run["usage"] == {"input_tokens": 80, "output_tokens": 40, "cost_usd": 0.8, "turns": 2}
    assert (desk.cwd / "a.txt").read_text() == "x\n"
    assert await desk.said(run["run_id"]) == []


async def test_a_run_that_ends_with_its_last_step_is_completed(desk: Desk) -> None:
    run = await desk.finished("usage 500 500", "say done", limits={"max_tokens": 100})
    assert (run["status"], run["usage"]["input_tokens"]) == ("completed", 500)


async def test_a_run_with_too_many_events_is_ended(desk: Desk) -> None:
    run = await desk.finished("events 5000", limits={"max_events": 50})
    assert run["error"]["message"].startswith("limits.max_events = 50 is used up: 5")
    assert run["last_seq"] < 200


async def test_a_run_with_too_large_artifacts_is_ended(desk: Desk) -> None:
    run = await desk.finished(*["artifact 500KB"] * 20, limits={"max_artifact_mb": 1})
    assert run["error"]["message"].startswith("limits.max_artifact_mb = 1 is used up: 1.")


async def test_what_is_used_is_seen_while_the_run_works(desk: Desk) -> None:
    run_id = await desk.spawn("spend 10 5", "ask Well?", "spend 10 5", limits={"max_tokens": 1000})
    run = await desk.settled(run_id)
    assert (run["usage"]["output_tokens"], run["budget_left"]) == (5, {"max_tokens": 985})
    assert (await desk.tools.call("list_runs", {}))["runs"][0]["usage"] == run["usage"]
    await desk.tools.call("continue_run", {"run_id": run_id, "text": "on"})
    run = await desk.over(run_id)
    assert (run["usage"], "budget_left" in run) == (run["result"]["usage"], False)
    assert run["usage"]["turns"] == 2


async def test_a_session_that_goes_on_has_its_budget_anew(desk: Desk) -> None:
    run = await desk.finished("spend 100 0", limits={"max_tokens": 50})
    again = await desk.tools.call("continue_run", {"run_id": run["run_id"], "text": "spend 20 0"})
    assert (await desk.over(again["run_id"]))["status"] == "completed"
    again = await desk.tools.call("continue_run", {"run_id": run["run_id"], "text": "spend 60 0"})
    assert (await desk.over(again["run_id"]))["error"]["code"] == "budget_exceeded"


async def test_checks_are_mended_only_while_there_is_budget(desk: Desk) -> None:
    limits = {"max_turns": 2, "fix_attempts": 10}
    run = await desk.finished("spend 10 0", "say done", limits=limits, checks=["false"])
    assert (run["status"], run["usage"]["turns"]) == ("failed", 1), "a mended script says no more than that it heard"
    run = await desk.finished("usage 10 0", "say done", limits={"max_turns": 1, "fix_attempts": 10}, checks=["false"])
    assert (run["status"], run["error"]["code"], run["usage"]["turns"]) == ("failed", "budget_exceeded", 1)
    assert "no budget is left to mend" in run["error"]["message"]


async def test_a_run_whose_checks_fail_says_what_it_used(desk: Desk) -> None:
    run = await desk.finished("usage 10 5", "say done", checks=["false"])
    assert (run["error"]["code"], run["usage"]["output_tokens"]) == ("checks_failed", 5)


# ---- a tree


async def test_children_without_a_budget_share_their_parents(desk: Desk) -> None:
    spending = desk.child("spend 40 0", "ask Well?", "spend 40 0", "spend 40 0", "say too much")
    root = await desk.spawn("spend 10 0", spending, spending, "ask Ready?", limits={"max_tokens": 150}, **DELEGATES)
    await desk.settled(root)
    one, two = await desk.children(root)
    assert [(await desk.settled(run))["budget_left"]["max_tokens"] for run in (one, two)][1] == 60
    await desk.tools.call("continue_run", {"run_id": one, "text": "on"})
    first = await desk.over(one)
    words = f"limits.max_tokens = 150 of {root} is used up: 130, and 50 reserved for others of its tree"
    assert (first["error"]["code"], first["error"]["message"]) == ("budget_exceeded", words)
    await desk.tools.call("continue_run", {"run_id": two, "text": "on"})
    ends = [await desk.over(run) for run in (one, two, root)]
    assert [run["error"]["code"] for run in ends] == ["budget_exceeded"] * 3
    assert f"limits.max_tokens = 150 of {root} is used up: 170" in ends[1]["error"]["message"]
    tree = ends[2]["tree"]
    assert tree == {"runs": 3, "live": 0, "usage": {"input_tokens": 170, "output_tokens": 0, "turns": 5}}


async def test_a_childs_budget_is_reserved_and_what_it_leaves_is_given_back(desk: Desk) -> None:
    small = desk.child("spend 10 0", "ask Well?", limits={"max_tokens": 60})
    script = (small, "ask Ready?", small, "ask Now?", small, "final end")
    root = await desk.spawn(*script, limits={"max_tokens": 100}, **DELEGATES)
    run = await desk.settled(root)
    assert run["budget_left"] == {"max_tokens": 40}
    (child,) = await desk.children(root)
    await desk.settled(child)
    await desk.tools.call("continue_run", {"run_id": root, "text": "on"})
    await desk.settled(root)
    refused = [text for text in await desk.said(root) if "limit_exceeded" in text]
    assert refused == [
        f"limit_exceeded: {root} has 30 left of limits.max_tokens = 100 beside 10 for what is under way, and 60 would "
        "leave it nothing; give the new run less than 30"
    ]
    assert (await desk.settled(child))["budget_left"] == {"max_tokens": 50}
    await desk.tools.call("continue_run", {"run_id": child, "text": "on"})
    await desk.over(child)
    assert (await desk.tools.call("get_run", {"run_id": root}))["budget_left"] == {"max_tokens": 90}
    await desk.tools.call("continue_run", {"run_id": root, "text": "on"})
    await desk.over(root)
    assert len(await desk.children(root)) == 2


async def test_what_a_child_leaves_is_there_as_soon_as_its_end_is_told(desk: Desk) -> None:
    child = desk.child("final done", limits={"max_tokens": 60})
    script = [child, "ask Well?"] * 4
    root = await desk.spawn(*script, limits={"max_tokens": 100}, **DELEGATES)
    for _ in range(4):
        await desk.settled(root)
        await desk.over((await desk.children(root))[-1])
        await desk.tools.call("continue_run", {"run_id": root, "text": "on"})
    await desk.over(root)
    assert len(await desk.children(root)) == 4, await desk.said(root)


async def test_a_spawn_that_is_made_again_finds_its_run_whatever_is_left(desk: Desk) -> None:
    child = desk.child("ask Well?", limits={"max_tokens": 60}, idempotency_key="once")
    root = await desk.spawn(child, child, "final end", limits={"max_tokens": 100}, **DELEGATES)
    await desk.over(root)
    ids = [json.loads(text)["run_id"] for text in (await desk.said(root))[:2]]
    assert ids == [*(await desk.children(root))] * 2


async def test_what_is_reserved_for_a_child_is_not_used_by_its_parent(desk: Desk) -> None:
    kept = desk.child("spend 10 0", "ask Well?", "spend 10 0", limits={"max_tokens": 60})
    script = (kept, "ask Ready?", "spend 45 0", "say too much")
    root = await desk.spawn(*script, limits={"max_tokens": 100}, **DELEGATES)
    await desk.settled(root)
    (child,) = await desk.children(root)
    await desk.settled(child)
    await desk.tools.call("continue_run", {"run_id": root, "text": "on"})
    run = await desk.over(root)
    words = "limits.max_tokens = 100 is used up: 55, and 60 reserved for others of its tree"
    assert run["error"]["message"] == words, "50 of its own, and 10 by which it may be over"
    assert (await desk.settled(child))["status"] == "input_required"
    await desk.tools.call("continue_run", {"run_id": child, "text": "on"})
    assert (await desk.over(child))["status"] == "completed"


async def test_a_child_is_refused_where_what_is_left_is_under_way(desk: Desk) -> None:
    asking = desk.child("spend 40 0", "ask Well?")
    script = ("spend 10 0", asking, "ask Ready?", "spend 10 0", asking)
    root = await desk.spawn(*script, limits={"max_tokens": 110}, **DELEGATES)
    await desk.settled(root)
    await desk.settled((await desk.children(root))[0])
    await desk.tools.call("continue_run", {"run_id": root, "text": "on"})
    await desk.over(root)
    assert [text for text in await desk.said(root) if "limit_exceeded" in text] == [
        f"limit_exceeded: {root} has 0 left of limits.max_tokens = 110 beside 50 for what is under way; "
        "finish with what there is"
    ]


async def test_times_are_inherited_and_never_longer_than_the_parents(desk: Desk) -> None:
    lines = [desk.child("say x"), desk.child("say x", limits={"timeout_s": 900, "input_timeout_s": 5})]
    root = await desk.spawn(*lines, limits={"timeout_s": 300, "input_timeout_s": 60}, **DELEGATES)
    await desk.over(root)
    found = [json.loads((desk.cwd / f".orchestrator/runs/{run}/spec.json").read_text())["limits"]
             for run in await desk.children(root)]  # fmt: skip
    assert found == [{"timeout_s": 300, "input_timeout_s": 60}, {"timeout_s": 300, "input_timeout_s": 5}]


async def test_an_agent_that_does_not_say_what_it_uses_has_no_place_in_a_tree_with_such_a_budget(desk: Desk) -> None:
    line = desk.child("x", backend="codex")
    root = await desk.spawn(line, limits={"max_cost_usd": 5}, **DELEGATES)
    await desk.over(root)
    (text,) = [text for text in await desk.said(root) if ":" in text]
    assert text == (
        f"unsupported: backend 'codex' does not say what it uses of limits.max_cost_usd, which {root} has; "
        "use another backend"
    )


async def test_a_tree_is_counted_on_from_its_files(desk: Desk) -> None:
    root = await desk.spawn(desk.child("spend 70 0"), "ask Well?", limits={"max_tokens": 100}, **DELEGATES)
    await desk.settled(root)
    await desk.over((await desk.children(root))[0])
    run_dir = Home.default().find(root)
    assert run_dir is not None
    spec = RunReader(run_dir).spec()
    budgets = Budgets(Home.default())
    with pytest.raises(OrchestratorError, match=r"has 30 left of limits\.max_tokens = 100"):
        await budgets.check(spec, Asked({"max_tokens": 31}, "scripted", frozenset({"max_tokens"})))
    await budgets.check(spec, Asked({"max_tokens": 30}, "scripted", frozenset({"max_tokens"})))


# ---- the accounts themselves


class Ended:
    """Live accounts, and who of them was ended."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def account(self, name: str, parent: Account | None, **limits: float) -> Account:
        account = Account(name, limits, parent)
        account.begin(lambda _why: self.names.append(name))
        return account


def test_one_that_just_ends_is_spared_and_the_others_are_ended() -> None:
    ended = Ended()
    root = ended.account("root", None, max_turns=2)
    child, other = ended.account("child", root), ended.account("other", root)
    assert other.use({"max_turns": 1}, more=True)
    assert child.use({"max_turns": 1}, more=False)
    assert sorted(ended.names) == ["other", "root"]


def test_a_child_over_its_own_budget_ends_alone() -> None:
    ended = Ended()
    root = ended.account("root", None, max_turns=10)
    child = ended.account("child", root, max_turns=2)
    ended.account("below", child)
    assert not child.use({"max_turns": 2}, more=True)
    assert sorted(ended.names) == ["below", "child"]


def test_what_is_held_is_free_when_the_child_is_over() -> None:
    ended = Ended()
    root = ended.account("root", None, max_turns=10)
    child = ended.account("child", root, max_turns=6)
    below = ended.account("below", child, max_turns=3)
    assert (root.held("max_turns"), child.held("max_turns")) == (6, 3)
    below.use({"max_turns": 2}, more=True)
    assert (root.held("max_turns"), child.held("max_turns"), root.spent("max_turns")) == (6, 3, 2)
    below.close()
    assert (root.held("max_turns"), child.held("max_turns")) == (6, 2)
    child.close()
    assert (root.held("max_turns"), root.live, child.live) == (2, True, False)


def test_a_budget_of_another_kind_leaves_a_run_alone() -> None:
    root = Ended().account("root", None, max_turns=1)
    assert root.use({"max_tokens": 10**9, "max_cost_usd": 10**9}, more=True)
    assert root.left("max_tokens") is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), max_size=40))
def test_no_order_of_steps_goes_over_a_trees_budget_by_more_than_one(steps: list[tuple[int, int]]) -> None:
    ended = Ended()
    accounts = [ended.account("0", None, max_tokens=100)]
    accounts += [ended.account("1", accounts[0], max_tokens=40), ended.account("2", accounts[0])]
    accounts += [ended.account("3", accounts[1]), ended.account("4", accounts[2], max_tokens=20)]
    used = [0] * 5
    for number, tokens in steps:
        if str(number) in ended.names:
            continue
        used[number] += tokens
        before = sum(used) - tokens
        assert before < 100, "somebody went on after the budget was used up"
        went_on = accounts[number].use({"max_tokens": used[number]}, more=True)
        assert went_on == (str(number) not in ended.names)
    assert used[1] + used[3] < 40 + 30
    assert used[4] < 20 + 30


@given(st.lists(st.integers(0, 4), max_size=60), st.sampled_from([5, 9, 10, 13]))
def test_what_all_are_just_doing_fits_into_the_budget_and_one_step(order: list[int], step: int) -> None:
    """Each has always asked its model for something more, and hears of its end only with the answer."""
    ended = Ended()
    accounts = [ended.account("0", None, max_tokens=100)]
    accounts[0].use({"max_tokens": step}, more=True)
    accounts += [ended.account("1", accounts[0], max_tokens=40), ended.account("2", accounts[0])]
    accounts += [ended.account("3", accounts[1]), ended.account("4", accounts[0])]
    used = [step, 0, 0, 0, 0]
    left = set(range(5))
    for number in [*order, *range(5)]:
        if number not in left:
            continue
        told_of_its_end = str(number) in ended.names
        used[number] += step
        if not accounts[number].use({"max_tokens": used[number]}, more=True) or told_of_its_end:
            accounts[number].close()
            left.remove(number)
    assert sum(used) <= 100 + step
    assert used[1] + used[3] <= 40 + step


def test_the_last_run_uses_what_is_left() -> None:
    ended = Ended()
    root = ended.account("root", None, max_turns=10)
    children = [ended.account(str(number), root) for number in range(3)]
    for used in (1, 2):
        for child in children:
            assert child.use({"max_turns": used}, more=True)
    assert children[0].use({"max_turns": 3}, more=True), "7 are used, and 2 under way"
    assert not children[1].use({"max_turns": 3}, more=True), "8 are used, and 2 under way"
    children[1].close()
    assert not children[2].use({"max_turns": 3}, more=True), "9 are used, and 1 under way"
    children[2].close()
    assert not children[0].use({"max_turns": 4}, more=True)
    assert ended.names == ["1", "2", "root", "0"]


async def test_a_budget_that_makes_no_sense_is_refused(desk: Desk) -> None:
    for limits, words in (
        ({"max_tokens": 0.5}, "limits.max_tokens must be a whole number, not 0.5"),
        ({"max_events": -1}, "limits.max_events must be a positive number, not -1"),
        ({"max_artifact_mb": "1"}, "limits.max_artifact_mb must be a positive number, not '1'"),
    ):
        with pytest.raises(OrchestratorError, match=words):
            await desk.spawn("say x", limits=limits)
