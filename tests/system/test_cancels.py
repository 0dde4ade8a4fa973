"""Runs of real agents that are cancelled at random moments leave nothing, whatever they started."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.kill.cancels import AGENTS, cancel_at_random

CANCELS = 10


@pytest.mark.system
@pytest.mark.timeout(180)
@pytest.mark.parametrize("backend", list(AGENTS))
async def test_nothing_is_left_of_a_run_that_is_cancelled_at_a_random_moment(backend: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", random.randrange(1000)))
    found = await cancel_at_random(backend, tmp_path, CANCELS, seed)
    assert found.left == [], f"KILL_SEED={seed}"
    assert len(found.seconds) == CANCELS
