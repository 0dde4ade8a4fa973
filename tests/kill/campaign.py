"""Kills one after the other in one arena, each in the midst of a new load, and what came of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random

from tests.kill.arena import Arena, open_arena
from tests.kill.client import Refused
from tests.kill.drive import REST_S, Caller, Heard, Told
from tests.kill.ledger import Ledger, Promise
from tests.kill.oracle import COMPLETED, LOST_AGENT, LOST_HOST, Oracle
from tests.kill.plans import Plan, make_plans


class Victim(StrEnum):
    """Who is killed."""

    HOST = "host"
    BRIDGE = "bridge"
    CLIENT = "client"
    AGENT = "agent"


RUNS = 6
"""Runs of one load, besides the two that queue."""


@dataclass(slots=True)
class Outcome:
    """What a campaign found.

    Attributes:
        interrupted: runs that the kills ended.
        reattached: runs whose log says that another host went on with them.
        recoveries: for each kill of the host, the seconds until a command was answered.
    """

    ledger: Ledger = field(default_factory=Ledger)
    kills: int = 0
    runs: int = 0
    events: int = 0
    interrupted: int = 0
    reattached: int = 0
    recoveries: list[float] = field(default_factory=list[float])

    def add(self, other: Outcome) -> None:
        """Takes the findings of another campaign in."""
        self.ledger.add(other.ledger)
        self.kills += other.kills
        self.runs += other.runs
        self.events += other.events
        self.interrupted += other.interrupted
        self.reattached += other.reattached
        self.recoveries += other.recoveries


class Campaign:
    """A series of kills of one kind of victim."""

    def __init__(self, arena: Arena, victim: Victim, rng: Random) -> None:
        self._arena = arena
        self._victim = victim
        self._rng = rng
        self._told: list[Told] = []
        self._recoveries: list[float] = []
        self._oracle = Oracle(
            arena,
            local=LOST_HOST if victim is Victim.HOST else COMPLETED,
            remote=LOST_AGENT if victim is Victim.AGENT else COMPLETED,
        )

    async def run(self, kills: int) -> Outcome:
        """All kills, and the judgement of all runs together at the end."""
        await self._arena.start_agent()
        await self._play([Plan("first", remote=False)], kill=False)
        for number in range(kills):
            # whoever speaks to a living host through another bridge may look before the first spawn is done
            keyed = self._victim in (Victim.BRIDGE, Victim.CLIENT)
            await self._play(make_plans(self._rng, f"{self._victim}-{number}", RUNS, keyed=keyed), kill=True)
        await self._oracle.judge_workspace(self._told)
        logs = [list(told.events.values()) for told in self._told]
        details = [[event["data"].get("detail") for event in log] for log in logs]
        return Outcome(
            ledger=self._arena.ledger,
            kills=kills,
            runs=len(self._told),
            events=sum(map(len, logs)),
            interrupted=sum(told.status == "failed" for told in self._told),
            reattached=sum("reattached" in each for each in details),
            recoveries=self._recoveries,
        )

    async def _play(self, plans: Sequence[Plan], *, kill: bool) -> None:
        """One load, with a kill in the midst of it; then what was interrupted is resumed, and all is judged."""
        told, heard = [Told(plan) for plan in plans], Heard()
        runs = play(self._arena, told, heard, self._rng)
        if kill:
            await self._moment(heard, plans, runs)
            await self._kill()
        for run in runs:
            await run
        if kill:
            told += await self._resume(told, heard)
        for one in told:
            await self._oracle.judge(one)
        self._told += told

    async def _moment(self, heard: Heard, plans: Sequence[Plan], runs: Sequence[asyncio.Task[None]]) -> None:
        """A moment somewhere in the work, and every third time among the first spawns."""
        told_of_one = 4 + sum(len(plan.script) for plan in plans) // len(plans)
        most = len(plans) if self._rng.random() < 0.33 else len(plans) * told_of_one
        reached = asyncio.ensure_future(heard.reach(self._rng.randrange(most)))
        await asyncio.wait({reached, asyncio.gather(*runs)}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        # waits for nothing: which instruction of the victim is its last one is what is varied
        await asyncio.sleep(self._rng.uniform(0, 0.02))

    async def _kill(self) -> None:
        arena, seat = self._arena, self._arena.seats[self._rng.randrange(2)]
        match self._victim:
            case Victim.HOST:
                await arena.kill_host()
                self._recoveries.append(await arena.time_recovery(self._told[0].run_id))
            case Victim.BRIDGE:
                await arena.kill_bridge(seat)
            case Victim.CLIENT:
                await arena.kill_client(seat)
            case Victim.AGENT:
                port = await arena.kill_agent()
                # the next one knows nothing of the tasks; half of the time it is not even where they were
                await arena.start_agent(port if self._rng.random() < 0.5 else 0)

    async def _resume(self, told: Sequence[Told], heard: Heard) -> list[Told]:
        """Resumes one of the runs that were interrupted, if its agent can be reached."""
        interrupted = [
            one
            for one in told
            if one.status == "failed" and one.events and (not one.plan.remote or one.agent_url == self._arena.agent_url)
        ]
        begun = [one for one in interrupted if any(event["type"] == "run_started" for event in one.events.values())]
        if not begun:
            return []
        old = self._rng.choice(begun)
        new = Told(Plan(f"{old.plan.label}-resumed", old.plan.remote))
        new.plan.say()
        caller = Caller(self._arena, self._arena.seats[0], heard, self._rng)
        try:
            async with asyncio.timeout(REST_S):
                document = await self._arena.seats[0].command("continue_run", run_id=old.run_id, text=new.plan.prompt)
                if document is not None:
                    caller.note_spawn(new, document)
                    await caller.follow(new)
        except (Refused, TimeoutError) as error:
            self._arena.ledger.check(Promise.RESUMED, False, f"{old.run_id}: {error!r}")
            return []
        holds = new.status == "completed"
        self._arena.ledger.check(Promise.RESUMED, holds, f"{new.run_id}, resumed from {old.run_id}, is {new.status}")
        return [new]


def play(arena: Arena, told: Sequence[Told], heard: Heard, rng: Random) -> list[asyncio.Task[None]]:
    """Plays all plans at once, on two seats; each task ends when its run is over."""
    sessions = {one.plan.label: asyncio.get_running_loop().create_future() for one in told}
    tasks: list[asyncio.Task[None]] = []
    for number, one in enumerate(told):
        caller = Caller(arena, arena.seats[number % 2], heard, rng)
        after = sessions[one.plan.after.label] if one.plan.after else None
        tasks.append(asyncio.create_task(caller.play(one, after, sessions[one.plan.label])))
    return tasks


async def campaign(root: Path, victim: Victim, kills: int, seed: int) -> Outcome:
    """Kills a victim so many times, from a fresh arena on."""
    async with open_arena(root) as arena:  # what closing it finds is in the ledger too
        return await Campaign(arena, victim, Random(seed)).run(kills)
