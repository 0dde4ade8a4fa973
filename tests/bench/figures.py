"""What a measurement yields, and how it is shown and compared. Pure but for reading and printing."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured quantity.

    Attributes:
        name: unique and stable: what `compare` goes by.
        samples: one value per repetition.
        goal: what it must reach; for a rate at least, otherwise at most.
        limit: name of the figure that is the physical limit of this one, measured in the same run.
    """

    name: str
    unit: str
    samples: Sequence[float]
    goal: float | None = None
    higher_is_better: bool = False
    limit: str | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest sample."""
        return min(self.samples), max(self.samples)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.higher_is_better else self.value <= self.goal


def rate(name: str, samples: Sequence[float], **more: Any) -> Figure:
    """Events per second."""
    return Figure(name=name, unit="/s", samples=samples, higher_is_better=True, **more)


def millis(name: str, seconds: Sequence[float], **more: Any) -> Figure:
    """A duration, from seconds."""
    return Figure(name=name, unit="ms", samples=[1000 * s for s in seconds], **more)


def percentiles(name: str, seconds: Sequence[float], *, goal_p50: float | None = None) -> list[Figure]:
    """Median and 95th percentile of many short durations, each as a figure of its own."""
    ordered = sorted(1000 * s for s in seconds)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return [
        Figure(name=f"{name}, p50", unit="ms", samples=[median(ordered)], goal=goal_p50),
        Figure(name=f"{name}, p95", unit="ms", samples=[p95]),
    ]


def shown(value: float) -> str:
    """A number with three significant digits, or whole and grouped when it is large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(slots=True)
class Report:
    """The figures of one run of the bench."""

    figures: list[Figure] = field(default_factory=list[Figure])

    def by_name(self) -> dict[str, Figure]:
        """The figures by name."""
        return {figure.name: figure for figure in self.figures}

    def to_json(self) -> bytes:
        """The report as a file, with what it was measured on."""
        rows = [
            {
                "name": f.name,
                "unit": f.unit,
                "median": f.value,
                "min": f.spread[0],
                "max": f.spread[1],
                "samples": len(f.samples),
                "goal": f.goal,
                "higher_is_better": f.higher_is_better,
                "limit": f.limit,
            }
            for f in self.figures
        ]
        return orjson.dumps({"machine": machine(), "versions": versions(), "figures": rows}, option=orjson.OPT_INDENT_2)

    def table(self) -> str:
        """Markdown: measured, spread, goal, and the share of the limit that is used."""
        known = self.by_name()
        lines = ["| what | median | spread | goal | |", "|---|--:|--:|--:|---|"]
        for figure in self.figures:
            low, high = figure.spread
            spread = f"{shown(low)} to {shown(high)}" if len(figure.samples) > 1 else ""
            sign = "≥" if figure.higher_is_better else "≤"
            goal = f"{sign} {shown(figure.goal)}" if figure.goal is not None else ""
            remarks = [figure.note] if figure.note else []
            if figure.reached is not None:
                remarks.insert(0, "reached" if figure.reached else "**missed**")
            if figure.limit and (limit := known.get(figure.limit)):
                ratio = figure.value / limit.value if figure.higher_is_better else limit.value / figure.value
                remarks.append(f"{ratio:.0%} of the limit")
            unit = figure.unit
            lines.append(f"| {figure.name} | {shown(figure.value)} {unit} | {spread} | {goal} | {', '.join(remarks)} |")
        return "\n".join(lines)


def machine() -> Mapping[str, Any]:
    """What the figures were measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def versions() -> Mapping[str, str]:
    """What was measured."""
    names = ("orchestrator-mcp", "mcp", "a2a-sdk", "httpx", "orjson")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def compare(old: Path, new: Path) -> str:
    """Two reports side by side. Ratios above 1 are better, whichever way the unit goes.

    On a noisy machine the `limit:` rows tell how much of a change is the machine's.
    """
    before, after = (orjson.loads(path.read_bytes())["figures"] for path in (old, new))
    known = {row["name"]: row for row in before}
    lines = ["| what | before | after | better by |", "|---|--:|--:|--:|"]
    for row in after:
        if (was := known.get(row["name"])) is None or not was["median"] or not row["median"]:
            continue
        ratio = row["median"] / was["median"]
        ratio = ratio if row["higher_is_better"] else 1 / ratio
        unit = row["unit"]
        lines.append(f"| {row['name']} | {shown(was['median'])} {unit} | {shown(row['median'])} {unit} | {ratio:.2f} |")
    return "\n".join(lines)
