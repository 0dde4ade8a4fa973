"""How many work at the same time, and who is next."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.slots import Slot, Slots


def slots_of(cap: int) -> Slots:
    slots = Slots()
    slots.set_cap(cap)
    return slots


class Queue:
    """Runs that ask for slots, and the order in which they got them."""

    def __init__(self, cap: int) -> None:
        self.slots = slots_of(cap)
        self.order: list[str] = []
        self.held: dict[str, Slot] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._done: dict[str, asyncio.Event] = {}

    async def ask(self, run_id: str, priority: int = 1) -> None:
        """A run asks for a slot; returns when it has it, or waits."""
        self._done[run_id] = asyncio.Event()
        self._tasks[run_id] = asyncio.create_task(self._hold(run_id, priority))
        await asyncio.sleep(0)

    async def _hold(self, run_id: str, priority: int) -> None:
        async with self.slots.slot(run_id, priority, run_id.partition("@")[2]) as slot:
            self.order.append(run_id)
            self.held[run_id] = slot
            await self._done[run_id].wait()
        del self.held[run_id]

    async def end(self, run_id: str) -> None:
        """The run is over."""
        self._done[run_id].set()
        await self._tasks[run_id]
        await asyncio.sleep(0)

    async def cancel(self, run_id: str) -> None:
        """The run is cancelled."""
        self._tasks[run_id].cancel()
        await asyncio.wait({self._tasks[run_id]})
        self.held.pop(run_id, None)
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Ends all."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def test_over_the_cap_one_waits_and_has_a_place() -> None:
    queue = Queue(2)
    for name in "abcd":
        await queue.ask(name)
    assert queue.order == ["a", "b"]
    assert [queue.slots.place(name) for name in "abcd"] == [None, None, 1, 2]
    await queue.end("a")
    assert queue.order == ["a", "b", "c"]
    assert queue.slots.place("d") == 1
    await queue.close()


async def test_the_lowest_number_goes_first_and_then_the_oldest() -> None:
    queue = Queue(1)
    await queue.ask("first")
    for name, priority in (("low", 3), ("normal", 1), ("also normal", 1), ("high", 0)):
        await queue.ask(name, priority)
    for name in ("first", "high", "normal", "also normal", "low"):
        assert queue.order[-1] == name
        await queue.end(name)


async def test_who_waits_for_its_caller_gives_its_slot_back_and_goes_on_at_once() -> None:
    queue = Queue(1)
    await queue.ask("asking")
    await queue.ask("next")
    queue.held["asking"].give_back()
    queue.held["asking"].give_back()
    await asyncio.sleep(0)
    assert queue.order == ["asking", "next"]
    queue.held["asking"].take_again()
    await queue.ask("third")
    await queue.end("next")
    assert queue.order == ["asking", "next"], "two worked with one slot, so one ends before another begins"
    await queue.end("asking")
    assert queue.order == ["asking", "next", "third"]
    await queue.close()


@pytest.mark.parametrize("when", ["waiting", "given"])
async def test_a_cancelled_one_takes_no_slot_with_it(when: str) -> None:
    queue = Queue(1)
    for name in "abc":
        await queue.ask(name)
    if when == "waiting":
        await queue.cancel("b")
        await queue.end("a")
    else:
        queue.held["a"].give_back()  # in this moment b is given the slot
        await queue.cancel("b")
    assert queue.order[-1] == "c"
    await queue.close()


async def test_many_that_are_cancelled_at_once_leave_their_slots_to_the_rest() -> None:
    queue = Queue(1)
    for name in "abcd":
        await queue.ask(name)
    tasks = [queue._tasks[name] for name in "abc"]  # pyright: ignore[reportPrivateUsage]
    for task in tasks:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in done), done
    await asyncio.sleep(0)
    assert queue.order == ["a", "d"]
    await queue.close()


async def test_more_slots_let_more_in() -> None:
    queue = Queue(0)
    for name in "abc":
        await queue.ask(name)
    assert queue.order == []
    queue.slots.set_cap(2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert queue.order == ["a", "b"]
    await queue.close()


@given(st.lists(st.tuples(st.sampled_from(["ask", "end", "cancel", "pause", "go on"]), st.integers(0, 9)), max_size=60))
async def test_never_more_than_the_cap_begin_and_nobody_is_forgotten(steps: list[tuple[str, int]]) -> None:
    cap, paused, number = 2, set[str](), 0
    queue = Queue(cap)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(queue.close)
        for step, pick in steps:
            holders = sorted(queue.held)
            name = holders[pick % len(holders)] if holders else ""
            working = len(queue.held) - len(paused)
            if step == "ask":
                number += 1
                await queue.ask(str(number), pick % 4)
                assert len(queue.held) - len(paused) <= max(working, cap)
            elif not name:
                continue
            elif step == "pause":
                queue.held[name].give_back()
                paused.add(name)
            elif step == "go on":
                queue.held[name].take_again()
                paused.discard(name)
            else:
                await (queue.end(name) if step == "end" else queue.cancel(name))
                paused.discard(name)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiting = number - len(queue.order)
            assert waiting == 0 or len(queue.held) - len(paused) >= cap, "a free slot and somebody who waits"
