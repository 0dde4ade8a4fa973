"""A provider that takes no more requests holds the queue of its backend, and no run fails for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from backends.codex.ends import limit_words
from backends.codex.updates import limit_of
from orchestrator.doors.tools import Tools
from orchestrator.engine.slots import LONGEST_HOLD_S, Slots
from orchestrator.model import JsonObject
from orchestrator.rate_limits import LimitReached, retry_in, seconds_until
from tests.conftest import open_tools


@pytest.fixture
async def tools(cwd: Path) -> AsyncGenerator[Tools]:
    async with open_tools(cwd) as tools:
        yield tools


async def spawn(tools: Tools, *script: str, **more: object) -> str:
    arguments = {"backend": "scripted", "cwd": str(tools.caller.cwd), "prompt": "\n".join(script), **more}
    return (await tools.call("spawn_run", arguments))["run_id"]


async def over(tools: Tools, run_id: str) -> JsonObject:
    await tools.call("wait_runs", {"run_ids": [run_id]})
    return await tools.call("get_run", {"run_id": run_id})


async def test_a_run_waits_for_its_provider_and_those_behind_it_are_queued(tools: Tools) -> None:
    first = await spawn(tools, "limit 1", "final done", limits={"timeout_s": 0.9})
    await tools.call("poll_events", {"run_id": first, "types": ["status_changed"]})
    resting = await tools.call("get_run", {"run_id": first})
    assert (resting["status"], resting["detail"][:22]) == ("running", "rate_limited until 202")
    assert resting["detail"].endswith(": too much")
    second = await spawn(tools, "final done")
    queued = await tools.call("poll_events", {"run_id": second, "types": ["status_changed"]})
    assert queued["status"] == "queued"
    run = await tools.call("get_run", {"run_id": second})
    assert (run["detail"][:19], run["queue_place"]) == ("rate_limited until ", 1)
    ends = [await over(tools, run_id) for run_id in (first, second)]
    assert [run["status"] for run in ends] == ["completed", "completed"]
    assert ends[1]["started_at"] >= resting["detail"].split(" ")[2].rstrip(":")


async def test_who_rests_can_be_cancelled_and_its_queue_expires(tools: Tools) -> None:
    first = await spawn(tools, "limit 60")
    await tools.call("poll_events", {"run_id": first, "types": ["status_changed"]})
    second = await spawn(tools, "say x", limits={"queue_ttl_s": 0.1})
    assert (await over(tools, second))["error"]["code"] == "expired"
    assert (await tools.call("cancel_run", {"run_id": first}))["status"] == "cancelled"


async def test_a_wait_of_more_than_a_day_is_none(tools: Tools) -> None:
    run = await over(tools, await spawn(tools, "limit 90000"))
    assert (run["status"], run["error"]["code"]) == ("failed", "agent_error")
    assert "takes no requests" in run["error"]["message"]
    assert run["error"]["next_step"].startswith("wait, then call continue_run")


# ---- the queue


async def free(slots: Slots, backend: str) -> None:
    """Returns when runs of a backend begin again."""
    slots.set_cap(max(slots._cap, 1))  # pyright: ignore[reportPrivateUsage]
    async with slots.slot("x", 1, backend):
        pass


async def test_who_rested_goes_on_before_the_queue_and_within_the_cap() -> None:
    slots = Slots()
    slots.set_cap(2)
    at_work: set[str] = set()
    most: list[int] = []
    order: list[str] = []

    async def work(name: str, *, rests: bool) -> None:
        async with slots.slot(name, 1, "one") as slot:
            if rests:
                slots.hold("one", 0.05, 1)
                await slot.rest(name, "one")
            order.append(name)
            at_work.add(name)
            most.append(len(at_work))
            await asyncio.sleep(0)
            at_work.remove(name)

    names = [f"{number}" for number in range(8)]
    await asyncio.gather(*(work(name, rests=name in "0123") for name in names))
    assert set(order[:2]) == {"0", "1"}
    assert max(most) <= 2
    assert sorted(order) == names


async def test_other_backends_pass_by_one_that_is_held() -> None:
    slots = Slots()
    slots.set_cap(1)
    slots.hold("one", 60, 1)
    order: list[str] = []

    async def work(backend: str) -> None:
        async with slots.slot(backend, 1, backend):
            order.append(backend)

    waiting = asyncio.create_task(work("one"))
    await asyncio.sleep(0)
    assert slots.place("one") == 1
    await work("two")
    assert order == ["two"]
    waiting.cancel()


async def test_a_hold_is_made_longer_and_never_shorter() -> None:
    slots = Slots()
    slots.set_cap(1)
    slots.hold("one", 0.05, 1)
    slots.hold("one", 0.3, 1)
    slots.hold("one", 0.1, 1)
    began = time.monotonic()
    await free(slots, "one")
    assert time.monotonic() - began >= 0.25
    assert slots.why_wait("one") is None
    assert slots.held_until("one") is None


async def test_a_guess_is_doubled_and_bounded() -> None:
    slots = Slots()
    slots.hold("one", None, 0.01)
    assert slots.held_for("one") <= 0.01
    slots.hold("one", None, 0.01)
    assert slots.held_for("one") <= 0.01, "another who meets the same limit makes it no longer"
    await free(slots, "one")
    slots.hold("one", None, 0.01)
    assert 0.01 < slots.held_for("one") <= 0.02
    slots.hold("two", None, 10_000)
    assert slots.held_for("two") <= LONGEST_HOLD_S


# ---- what providers say


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Rate limit reached. Please try again in 20s.", 20),
        ("try again in 1.5 minutes", 90),
        ("Please retry after 2 hours", 7200),
        ("try again in 30ms", 1),
        ("try again later", None),
    ],
)
def test_the_wait_is_read_from_words(words: str, seconds: float | None) -> None:
    assert retry_in(words) == seconds
    assert LimitReached(words).retry_s == seconds
    assert LimitReached(words, 5.0).retry_s == 5.0


def test_a_time_that_is_past_or_none_is_no_wait() -> None:
    assert seconds_until(time.time() - 5) is None
    assert seconds_until("soon") is None
    assert seconds_until(True) is None
    assert 50 < (seconds_until(time.time() + 60) or 0) <= 60


def test_of_codex_an_account_without_credit_is_no_limit_that_passes() -> None:
    used_up: JsonObject = {"error": {"message": "no", "codexErrorInfo": "usageLimitExceeded"}}
    assert limit_words(used_up, None) is None
    assert limit_words(used_up, 1.0) == "no"
    many = {"responseTooManyFailedAttempts": {"httpStatusCode": 429}}
    assert limit_words({"error": {"message": "slow", "codexErrorInfo": many}}, None) == "slow"
    assert limit_words({"error": {"message": "x", "codexErrorInfo": "other"}}, 1.0) is None
    assert limit_words({"status": "completed"}, None) is None


def test_of_codex_the_latest_window_that_is_full_counts() -> None:
    full = {"primary": {"usedPercent": 100, "resetsAt": 10}, "secondary": {"usedPercent": 100.0, "resetsAt": 20}}
    assert limit_of(full) == 20
    assert limit_of({"primary": {"usedPercent": 99, "resetsAt": 10}, "secondary": None}) is None
    assert limit_of({"primary": {"usedPercent": 100}}) is None
