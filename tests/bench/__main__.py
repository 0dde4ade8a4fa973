"""`scripts/bench`: all measurements in one run, so that they can be compared with each other and with their limits."""

from __future__ import annotations

import argparse
import asyncio
import compileall
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

from tests.bench import (
    agents,
    cli,
    deliveries,
    host,
    kill,
    limits,
    local,
    places,
    reliability,
    remote,
    server,
    workspaces,
)
from tests.bench.figures import Figure, Report, compare, machine, versions
from tests.bench.workbench import ROOT

Measurement = Callable[[], Iterator[Figure] | AsyncIterator[Figure]]

MEASUREMENTS: dict[str, Measurement] = {
    "limits": limits.append_lines,
    "limits-1.0": partial(limits.sdk_alone, False),
    "limits-0.3": partial(limits.sdk_alone, True),
    "python": limits.start_python,
    "events": local.events,
    "remote-1.0": partial(remote.events, False),
    "remote-0.3": partial(remote.events, True),
    "artifact-1.0": partial(remote.artifact, False),
    "artifact-0.3": partial(remote.artifact, True),
    "spawns": local.spawns,
    "waking": local.waking,
    "tails": partial(local.tails, 50_000),
    "reading": local.reading,
    "starting": server.starting,
    "ending": server.ending,
    "reaching": host.reaching,
    "calling": host.calling,
    "waiting": host.waiting,
    "claude_code": partial(agents.runs, "claude_code"),
    "codex": partial(agents.runs, "codex"),
    "places": places.places,
    "answering": cli.answering,
    "following": cli.following,
}
HEAVY: dict[str, Measurement] = {"tails-1M": partial(local.tails, 1_000_000)}

DOCUMENT = ROOT / "docs" / "benchmarks.md"
NOTES = ROOT / "docs" / "benchmarks.notes.md"


def main() -> int:
    options = _parser().parse_args()
    if options.command == "compare":
        print(compare(options.old, options.new))
        return 0
    if options.command == "kill":
        return asyncio.run(_kill(options.n, options.seed))
    if options.command == "kill-workspaces":
        return workspaces.kill(options.n, options.seed)
    if options.command == "kill-deliveries":
        return deliveries.kill(options.n, options.seed)
    logging.disable(logging.WARNING)  # runs that a measurement ends on purpose
    for folder in ("orchestrator", "backends", "test_agents"):  # as an installation does, whatever the environment says
        compileall.compile_dir(ROOT / folder, quiet=1)
    known = MEASUREMENTS | HEAVY
    names = options.only or (known if options.heavy else MEASUREMENTS)
    chosen = {name: known[name] for name in names}
    report, started = Report(), time.perf_counter()
    for name, measurement in chosen.items():
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        report.figures += asyncio.run(_collect(measurement))
    took = time.perf_counter() - started
    print(report.table())
    print(f"\n{took:.0f} s", file=sys.stderr)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_bytes(report.to_json())
    if not options.only:
        DOCUMENT.write_text(_document(report, heavy=options.heavy), encoding="utf-8")
    missed = [figure.name for figure in report.figures if figure.reached is False]
    print(f"missed: {', '.join(missed)}" if missed else "every goal is reached", file=sys.stderr)
    return 1 if missed else 0


async def _kill(count: int, seed: int) -> int:
    logging.disable(logging.WARNING)
    findings = kill.Findings()
    async for line in kill.killing(findings, count, seed):
        print(line, file=sys.stderr, flush=True)
    report = ROOT / "build" / "kill.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_bytes(reliability.figures(findings).to_json())
    report.with_suffix(".broken").write_text("\n".join(reliability.everything_broken(findings)), encoding="utf-8")
    document = reliability.document(findings, f"scripts/bench kill --n {count} --seed {seed}")
    reliability.DOCUMENT.write_text(document, encoding="utf-8")
    missed = reliability.missed(findings)
    print(f"missed: {', '.join(missed)}" if missed else "nothing was lost", file=sys.stderr)
    return 1 if missed else 0


async def _collect(measurement: Measurement) -> list[Figure]:
    found = measurement()
    return list(found) if isinstance(found, Iterator) else [figure async for figure in found]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures what the README claims; exits with 1 when a goal is missed.",
        epilog="scripts/bench compare A.json B.json shows two reports side by side; kill writes docs/reliability.md.",
    )
    parser.add_argument("--heavy", action="store_true", help="also what takes minutes: a log of 1,000,000 events")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json", help="where the figures go")
    parser.add_argument(
        "--only", action="append", choices=sorted(MEASUREMENTS | HEAVY), help="one measurement; repeatable"
    )
    commands = parser.add_subparsers(dest="command")
    comparing = commands.add_parser("compare", help="ratios of two reports")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    killing = commands.add_parser("kill", help="kills real processes, and writes docs/reliability.md")
    killing.add_argument("--n", type=int, default=200, help="how many, round-robin over four kinds of victims (200)")
    killing.add_argument("--seed", type=int, default=1, help="of the first campaign; the others count from there (1)")
    for name, what in (
        ("kill-workspaces", "kills hosts of runs in worktrees, and writes docs/reliability.workspaces.md"),
        ("kill-deliveries", "kills hosts that have somebody to tell, and writes docs/reliability.completion.md"),
    ):
        further = commands.add_parser(name, help=what)
        further.add_argument("--n", type=int, default=100, help="how many (100)")
        further.add_argument("--seed", type=int, default=1, help="of the moments (1)")
    return parser


def _document(report: Report, *, heavy: bool) -> str:
    on = ", ".join(f"{name} {value}" for name, value in machine().items())
    using = ", ".join(f"{name} {value}" for name, value in versions().items())
    notes = NOTES.read_text(encoding="utf-8") if NOTES.exists() else ""
    command = "scripts/bench --heavy" if heavy else "scripts/bench"
    return f"""# Benchmarks

Written by `{command}`; run it to get your own. Medians, with the smallest and largest sample. Rows that begin with
`limit:` are what the parts below cost alone, measured in the same run.

Measured on: {on}.
With: {using}.

{report.table()}

{notes}"""


if __name__ == "__main__":
    raise SystemExit(main())
