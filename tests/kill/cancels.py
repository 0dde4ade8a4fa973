"""Runs of real agents that are cancelled at random moments: how long it takes, and whether anything is left.

Each run starts commands that try to outlive it, in all the ways that a shell offers. The moment is anywhere between the
spawn and some seconds of work; it is drawn from the seed.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.models.claude_player import ClaudePlayer
from tests.models.codex_player import CodexPlayer
from tests.models.player import Player, agent_environment
from tests.system.desk import Desk, desk

AGENTS: dict[str, type[Player]] = {"claude_code": ClaudePlayer, "codex": CodexPlayer}
LATEST_S = 4.0
"""The last moment at which a run is cancelled, counted from its spawn."""
_STAY = 'python3 -c "import time; time.sleep(1000)"'
SCRIPT = (
    "say begun",
    f"run nohup {_STAY} > /dev/null 2>&1 &",
    "file a.txt one",
    f"run setsid {_STAY} > /dev/null 2>&1 &",
    "run echo working",
    f"run (trap '' TERM HUP INT; {_STAY} & wait)",
    "sleep 1000",
)
"""Commands that ignore the end of their session, leave it, and ignore signals."""


@dataclass(slots=True)
class Cancels:
    """What became of cancelled runs.

    Attributes:
        seconds: how long `cancel_run` took, for each.
        begun: how many had begun when they were cancelled.
        left: what was left of each run that left something.
    """

    seconds: list[float] = field(default_factory=list[float])
    begun: int = 0
    left: list[str] = field(default_factory=list[str])


async def cancel_at_random(backend: str, folder: Path, count: int, seed: int) -> Cancels:
    """Cancels so many runs, one after the other."""
    found, draw = Cancels(), random.Random(seed)
    cwd = folder / "project"
    cwd.mkdir(parents=True)
    with AGENTS[backend]() as model:
        async with desk(backend, cwd, agent_environment(model, folder)) as place:
            for _ in range(count):
                await _cancelled(place, draw.uniform(0, LATEST_S), found)
    return found


async def _cancelled(place: Desk, after_s: float, found: Cancels) -> None:
    permission = "full_access" if place.backend == "codex" else "workspace_write"
    run_id = await place.spawn(*SCRIPT, permission=permission, on_approval="allow")
    await asyncio.sleep(after_s)
    begun = await place.events(run_id, "run_started")
    started = time.monotonic()
    answer = await place.call("cancel_run", run_id=run_id)
    found.seconds.append(time.monotonic() - started)
    found.begun += bool(begun)
    left = [f"{process.name()} {process.pid}" for process in place.processes()]
    if left or answer["status"] != "cancelled":
        found.left.append(f"{answer['status']} after {after_s:.2f} s, left: {left}")
