"""How many runs work at the same time, and who is next: a cap for each kind of agent, priorities, first come first.

A run that waits for its caller gives its slot back; once it is answered it goes on at once, over the cap if need be,
for its agent is there already and its caller too. A backend whose provider has had enough is held: none of its runs
begins until the provider takes requests again, and those of other backends pass by.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.model import now

Kind = Literal["local", "remote"]


@dataclass(order=True, slots=True, eq=True)
class _Waiting:
    """One who waits for a slot. Ordered by priority, then by age."""

    priority: int
    number: int
    run_id: str = field(compare=False)
    backend: str = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


@dataclass(slots=True)
class _Hold:
    """A backend that begins no run until then, in the loop's time."""

    until: float
    seconds: float
    over: bool = False


WAITING_FOR_SLOT = "waiting_for_slot"
"""Detail of a run that is queued because as many as may work are at work."""
LONGEST_HOLD_S = 900.0


class Slots:
    """The slots of one kind of agent. There are none before `set_cap`."""

    def __init__(self) -> None:
        self._cap = 0
        self._held = 0
        self._waiting: list[_Waiting] = []
        self._count = 0
        self._holds: dict[str, _Hold] = {}

    def set_cap(self, cap: int) -> None:
        """How many there are from now on; those that are held are left to their holders."""
        self._cap = cap
        self._move_up()

    def why_wait(self, backend: str) -> str | None:
        """Why the next run of a backend has to wait, as a detail; None if it need not."""
        if (until := self.held_until(backend)) is not None:
            return f"rate_limited until {until}"
        return WAITING_FOR_SLOT if self._held >= self._cap or any(self._may_go(w) for w in self._waiting) else None

    def _may_go(self, waiting: _Waiting) -> bool:
        return self._hold_of(waiting.backend) is None

    # ---- backends that are held

    def hold(self, backend: str, seconds: float | None, first_guess_s: float) -> str:
        """Begins no run of a backend for so long; one that is held longer already stays so. Returns until when.

        Args:
            seconds: None if nobody knows: then it is a guess, twice as long as the one before it. A long time is cut:
                the next run may find that it is over, or have another account.
        """
        loop = asyncio.get_running_loop()
        hold, past = self._hold_of(backend), self._holds.get(backend)
        if seconds is None:
            recent = past is not None and loop.time() < past.until + 2 * past.seconds
            guess = 2 * past.seconds if past and recent else first_guess_s
            seconds = past.until - loop.time() if past and hold else guess
        seconds = min(seconds, LONGEST_HOLD_S)
        until = loop.time() + seconds
        if hold is None:
            self._holds[backend] = hold = _Hold(until, seconds)
            loop.call_at(until, self._release, backend, hold)
        elif until > hold.until:
            hold.until, hold.seconds = until, seconds
        return self.held_until(backend) or now()

    def _release(self, backend: str, hold: _Hold) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < hold.until - 0.001:  # it was made longer meanwhile
            loop.call_at(hold.until, self._release, backend, hold)
            return
        hold.over = True
        self._move_up()

    def _hold_of(self, backend: str) -> _Hold | None:
        hold = self._holds.get(backend)
        return hold if hold and not hold.over else None

    def held_until(self, backend: str) -> str | None:
        """When runs of a backend begin again; None if they do now."""
        return now(max(self.held_for(backend), 0.0)) if self._hold_of(backend) else None

    def held_for(self, backend: str) -> float:
        """How many seconds it is until then."""
        hold = self._hold_of(backend)
        return hold.until - asyncio.get_running_loop().time() if hold else 0.0

    # ---- slots

    def place(self, run_id: str) -> int | None:
        """The place of a run among those who wait, 1 for the next; None if it does not wait."""
        return next((place for place, waiting in enumerate(self._waiting, 1) if waiting.run_id == run_id), None)

    @contextlib.asynccontextmanager
    async def slot(self, run_id: str, priority: int, backend: str) -> AsyncGenerator[Slot]:
        """Waits for a slot, and holds it for the block."""
        await self.take(run_id, priority, backend)
        slot = Slot(self)
        try:
            yield slot
        finally:
            slot.end()

    async def take(self, run_id: str, priority: int, backend: str) -> None:
        """Waits for a slot. Returns with one held."""
        if self.why_wait(backend) is None:
            self._held += 1
        else:
            await self._wait(run_id, priority, backend)

    async def _wait(self, run_id: str, priority: int, backend: str) -> None:
        self._count += 1
        waiting = _Waiting(priority, self._count, run_id, backend, asyncio.get_running_loop().create_future())
        bisect.insort(self._waiting, waiting)
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.turn.cancelled():  # it was given in the same moment
                self.changed(-1)
            raise

    def _move_up(self) -> None:
        """Gives free slots to those who wait."""
        for waiting in list(self._waiting):
            if self._held >= self._cap:
                return
            if self._may_go(waiting):
                self._waiting.remove(waiting)
                if not waiting.turn.done():  # a cancelled one has not yet heard of it
                    self._held += 1
                    waiting.turn.set_result(None)

    def changed(self, by: int) -> None:
        """A slot was taken (1) or given back (-1)."""
        self._held += by
        self._move_up()


FIRST = -1
"""Before every priority that a caller may give: of those who had begun."""


class Slot:
    """One held slot."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._held = True
        self._over = False

    def give_back(self) -> None:
        """The run waits for others. Harmless when it has been given back."""
        if self._held:
            self._held = False
            self._slots.changed(-1)

    def end(self) -> None:
        """The run is over: nobody takes it again."""
        self.give_back()
        self._over = True

    def take_again(self) -> None:
        """The run goes on, at once."""
        if not self._held and not self._over:
            self._held = True
            self._slots.changed(1)

    async def rest(self, run_id: str, backend: str, least_s: float = 0.0) -> None:
        """Gives it back until runs of the backend may go on, and then waits for one, before those not yet begun."""
        self.give_back()
        await asyncio.sleep(least_s)
        await self._slots.take(run_id, FIRST, backend)
        self._held = True
