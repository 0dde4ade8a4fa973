"""A process dies at each step of a run, one after the other: the next one finds everything that was acknowledged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kill.client import ROOT

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

STEPS = {"work": 60, "recovery": 30, "remote": 10}
"""How many steps each phase has at the least, or the fuse does not burn."""


@pytest.mark.parametrize("phase", list(STEPS))
def test_death_at_any_step_loses_nothing_that_was_acknowledged(phase: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.kill.steps", str(tmp_path), phase]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(steps) >= STEPS[phase]
    assert [step for step in steps if step["broken"]] == []
