"""Hosts, bridges, clients and agents are killed in the midst of work, and nothing that was acknowledged is lost.

`scripts/bench kill` does the same more often, and writes docs/reliability.md.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from tests.kill.campaign import Victim, campaign

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

KILLS = 10


def new_seed() -> int:
    """A seed, shown so that what failed can be tried again: KILL_SEED sets it."""
    seed = int(os.environ.get("KILL_SEED") or random.randrange(2**32))
    sys.stdout.write(f"KILL_SEED={seed}\n")
    return seed


@pytest.mark.parametrize("victim", list(Victim))
async def test_nothing_acknowledged_is_lost_by_kills_of_the(victim: Victim, tmp_path: Path) -> None:
    seed = new_seed()
    outcome = await campaign(tmp_path, victim, KILLS, seed)
    assert outcome.kills == KILLS
    found = [f"{broken.promise.name}: {broken.what}" for broken in outcome.ledger.broken]
    assert not found, "\n".join([f"KILL_SEED={seed}", *found])
