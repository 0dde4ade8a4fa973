"""The bench measures, reports and compares; what it measured is for `scripts/bench` to tell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.bench.figures import Figure, Report

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]


def bench(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "tests.bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=50).stdout


def test_a_report_of_one_measurement_can_be_compared_with_itself(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    table = bench("--only", "reading", "--json", report)
    assert "| a typical run by poll_events |" in table
    figures = orjson.loads(report.read_bytes())["figures"]
    assert [figure["goal"] for figure in figures] == [30_000, 3_000]
    ratios = bench("compare", report, report)
    assert ratios.count("| 1.00 |") == len(figures)


def test_a_goal_is_reached_from_the_right_side() -> None:
    fast = Figure(name="rate", unit="/s", samples=[90, 110, 100], goal=100, higher_is_better=True)
    slow = Figure(name="time", unit="ms", samples=[11], goal=10, limit="rate")
    assert fast.reached
    assert slow.reached is False
    assert "**missed**" in Report([fast, slow]).table()
