"""How many runs work at the same time, and who is next: a cap for each kind of agent, priorities, first come first.

A run that waits for its caller gives its slot back; once it is answered it goes on at once, over the cap if need be,
for its agent is there already and its caller too.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["local", "remote"]


@dataclass(order=True, slots=True, eq=True)
class _Waiting:
    """One who waits for a slot. Ordered by priority, then by age."""

    priority: int
    number: int
    run_id: str = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


class Slots:
    """The slots of one kind of agent. There are none before `set_cap`."""

    def __init__(self) -> None:
        self._cap = 0
        self._held = 0
        self._waiting: list[_Waiting] = []
        self._count = 0

    def set_cap(self, cap: int) -> None:
        """How many there are from now on; those that are held are left to their holders."""
        self._cap = cap
        self._move_up()

    @property
    def free(self) -> bool:
        """Whether the next one need not wait."""
        return self._held < self._cap and not self._waiting

    def place(self, run_id: str) -> int | None:
        """The place of a run among those who wait, 1 for the next; None if it does not wait."""
        line = sorted(self._waiting)
        return next((place for place, waiting in enumerate(line, 1) if waiting.run_id == run_id), None)

    @contextlib.asynccontextmanager
    async def slot(self, run_id: str, priority: int) -> AsyncGenerator[Slot]:
        """Waits for a slot, and holds it for the block."""
        if self.free:
            self._held += 1
        else:
            await self._wait(run_id, priority)
        slot = Slot(self)
        try:
            yield slot
        finally:
            slot.give_back()

    async def _wait(self, run_id: str, priority: int) -> None:
        """Returns with a slot held."""
        self._count += 1
        waiting = _Waiting(priority, self._count, run_id, asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, waiting)
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                heapq.heapify(self._waiting)
            elif not waiting.turn.cancelled():  # it was given in the same moment
                self.changed(-1)
            raise

    def _move_up(self) -> None:
        """Gives free slots to those who wait."""
        while self._waiting and self._held < self._cap:
            turn = heapq.heappop(self._waiting).turn
            if not turn.done():  # a cancelled one has not yet heard of it
                self._held += 1
                turn.set_result(None)

    def changed(self, by: int) -> None:
        """A slot was taken (1) or given back (-1)."""
        self._held += by
        self._move_up()


class Slot:
    """One held slot."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._held = True

    def give_back(self) -> None:
        """The run waits for its caller, or is over. Harmless when it has been given back."""
        if self._held:
            self._held = False
            self._slots.changed(-1)

    def take_again(self) -> None:
        """The run goes on, at once."""
        if not self._held:
            self._held = True
            self._slots.changed(1)
