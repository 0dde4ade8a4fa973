"""Real agents under one budget: five runs of both kinds together never use more than it, but for one turn."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from orchestrator.model import JsonObject
from tests.models.player import Player
from tests.system.desk import Desk

pytestmark = [pytest.mark.system]

TURN = 1_100
"""Tokens of each answer of the models: 1,000 in and 100 out."""
STEPS = ["usage 1000 100", *(f"run echo {number}" for number in range(40)), "final never"]
THOUGHT = [line for step in STEPS for line in ((step, "sleep 0.4") if step.startswith("run") else (step,))]
"""The same by a model that takes a while: an agent that was ended does not hear in that time what it asked for last."""


def spawning(both: Desk, backend: str, **more: object) -> str:
    call = {"backend": backend, "prompt": "\n".join(THOUGHT), "cwd": str(both.cwd), "on_approval": "allow", **more}
    return f"call mcp__orchestrator__spawn_run {json.dumps(call)}"


async def members(both: Desk, root: str) -> list[JsonObject]:
    """All runs of a tree, once they are over."""
    await both.settled(root)
    rows = (await both.call("list_runs"))["runs"]
    await both.call("wait_runs", run_ids=[row["run_id"] for row in rows], until="all", wait_ms=50_000)
    return [await both.call("get_run", run_id=row["run_id"]) for row in rows]


async def test_five_runs_never_use_more_than_their_budget_and_one_turn(
    both: Desk, models: Mapping[str, Player]
) -> None:
    budget = 25 * TURN
    before = {name: len(model.requests) for name, model in models.items()}
    hands = [spawning(both, name) for name in ("codex", "claude_code", "codex", "claude_code")]
    root = await both.spawn(
        "usage 1000 100", *hands, *THOUGHT[1:],
        limits={"max_tokens": budget}, backend_config={"delegate": True}, on_approval="allow",
    )  # fmt: skip
    runs = [run for run in await members(both, root) if run["run_id"] != root]
    assert len(runs) == 4
    top = await both.settled(root)
    assert {run["error"]["code"] for run in [top, *runs]} == {"budget_exceeded"}, [top, *runs]
    assert {run["status"] for run in [top, *runs]} == {"failed"}
    used = top["tree"]["usage"]
    told = used["input_tokens"] + used["output_tokens"]
    assert budget - 4 * TURN <= told <= budget + TURN, (top["tree"], [run["error"]["message"] for run in [top, *runs]])
    assert top["tree"]["runs"] == 5
    each = [run.get("usage", {}) for run in [top, *runs]]  # the last ones may not have come to use anything
    assert told == sum(usage.get(name, 0) for usage in each for name in ("input_tokens", "output_tokens"))
    # what was under way when it was used up was not heard to its end, and at most that much was asked for besides
    served = sum(len(model.requests) - before[name] for name, model in models.items())
    assert served * TURN <= told + 5 * TURN


async def test_a_childs_dollars_are_reserved_and_the_rest_comes_back(both: Desk) -> None:
    child = spawning(
        both, "claude_code", limits={"max_cost_usd": 0.02}, prompt="usage 1000 100\nrun echo x\nfinal done"
    )
    root = await both.spawn(
        "usage 1000 100", child, child, "run echo x", "final end",
        limits={"max_cost_usd": 0.08}, backend_config={"delegate": True}, on_approval="allow",
    )  # fmt: skip
    runs = await members(both, root)
    assert [run["status"] for run in runs] == ["completed"] * 3, runs
    top = await both.settled(root)
    costs = [run["usage"]["cost_usd"] for run in runs]
    assert top["tree"]["usage"]["cost_usd"] == pytest.approx(sum(costs))
    assert all(0.005 < cost < 0.02 for cost in costs)


@pytest.mark.parametrize(
    ("backend", "limits"),
    [
        ("claude_code", {"max_tokens": 5 * TURN}),
        ("claude_code", {"max_cost_usd": 0.02}),
        ("claude_code", {"max_turns": 5}),
        ("codex", {"max_tokens": 5 * TURN}),
        ("codex", {"max_turns": 5}),
    ],
)
async def test_a_run_ends_with_the_turn_that_uses_its_budget_up(both: Desk, backend: str, limits: JsonObject) -> None:
    run = await both.finished("file kept.txt x", *STEPS, backend=backend, limits=limits, on_approval="allow")
    assert (run["status"], run["error"]["code"], run["error"]["resumable"]) == ("failed", "budget_exceeded", True)
    assert run["usage"]["turns"] in (5, 6), run
    assert (both.cwd / "kept.txt").read_text() == "x\n"
    again = await both.call("continue_run", run_id=run["run_id"], text="say again")
    assert (await both.settled(again["run_id"]))["status"] == "completed"
