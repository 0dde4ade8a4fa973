"""What docs/reliability.md says of the campaigns. Pure but for the facts about the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from textwrap import fill

from tests.bench.figures import Figure, Report, machine, millis, versions
from tests.bench.kill import INTERRUPTED, STORED, Findings
from tests.bench.workbench import ROOT
from tests.kill.campaign import Victim
from tests.kill.cancels import LATEST_S
from tests.kill.ledger import Ledger, Promise

DOCUMENT = ROOT / "docs" / "reliability.md"
NOTES = ROOT / "docs" / "reliability.notes.md"
RECOVERY_MS = 3_000
SHOWN = 20
"""Broken promises that are told one by one."""

WHO = {
    Victim.HOST: "the host",
    Victim.BRIDGE: "a bridge",
    Victim.CLIENT: "an MCP client that owns a bridge",
    Victim.AGENT: "the A2A agent",
}
PHASES = {
    "work": "a local run, from its spawn to its end",
    "recovery": "the next owner of a run that had begun and of one that had not",
    "remote": "the log of a run of an A2A agent",
}


def figures(findings: Findings) -> Report:
    """How long a host is missed, as figures that can be compared."""
    plain, crowd = findings.outcomes[Victim.HOST].recoveries, findings.crowd.recoveries
    report = Report()
    if plain:
        report.figures.append(millis(_PLAIN, plain, goal=RECOVERY_MS))
    if crowd:
        report.figures.append(millis(_CROWDED, crowd, goal=RECOVERY_MS))
    return report


_PLAIN = "host killed to first answered command, 8 runs at work"
_CROWDED = f"host killed to first answered command, {STORED:,} runs stored and {INTERRUPTED} interrupted"


def missed(findings: Findings) -> list[str]:
    """What a run of the bench has to complain about."""
    slow = [figure.name for figure in figures(findings).figures if max(figure.samples) > RECOVERY_MS]
    return [*slow, *([f"{findings.broken} broken promises"] if findings.broken else [])]


def document(findings: Findings, command: str) -> str:
    """The whole document."""
    notes = NOTES.read_text(encoding="utf-8") if NOTES.exists() else ""
    facts, using = machine(), versions()
    on = f"{facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system'].split()[0]}"
    return f"""# Reliability

Written by `{command}`; run it to get your own. Real processes were killed by SIGKILL at
random moments, in the midst of work, and an oracle looked for what was lost; what it looks at, and what is not
promised, stands below.

Measured on: {on}.
With: {", ".join(f"{name} {value}" for name, value in using.items())}.

## What was killed

| who | kills | runs | events that clients saw | runs that it ended | runs that the next host went on with |
|---|--:|--:|--:|--:|--:|
{chr(10).join(_killed(findings))}

Besides, a process was killed at every step of its work: before each change to a file, and in the middle of each write.

| whose steps | steps | with a loss |
|---|--:|--:|
{chr(10).join(f"| {PHASES[name]} | {count} | {len(bad)} |" for name, (count, bad) in findings.steps.items())}

## What was cancelled

Runs of real agents, whose commands try to outlive them by `nohup`, `setsid` and by ignoring signals, were cancelled at
random moments of their first {LATEST_S:g} seconds.

| agent | cancelled | of which had begun | that left a process | seconds until `cancel_run` answered, median | max |
|---|--:|--:|--:|--:|--:|
{chr(10).join(_cancelled(findings))}

## What was lost

| promise | looked at | broken |
|---|--:|--:|
{chr(10).join(_promises(findings))}
{_told(findings)}
## How long the host was missed

From SIGKILL to the first answered command, in milliseconds, by a client that was connected. The next host is started by
whichever bridge is first.

| with | kills | median | p95 | max | limit |
|---|--:|--:|--:|--:|--:|
{chr(10).join(_recoveries(figures(findings).figures))}

{fill(f"Seeds: {_seeds(findings)}.", 120)}

{notes}"""


def _killed(findings: Findings) -> Iterator[str]:
    for victim, found in findings.outcomes.items():
        events, ended = f"{found.events:,}", found.interrupted
        yield f"| {WHO[victim]} | {found.kills} | {found.runs:,} | {events} | {ended} | {found.reattached} |"


def _cancelled(findings: Findings) -> Iterator[str]:
    for backend, found in findings.cancels.items():
        took = f"{median(found.seconds):.2f} | {max(found.seconds):.2f}"
        yield f"| {backend} | {len(found.seconds)} | {found.begun} | {len(found.left)} | {took} |"


def _promises(findings: Findings) -> Iterator[str]:
    ledger = _all(findings)
    for promise in Promise:
        broken = sum(each.promise is promise for each in ledger.broken)
        yield f"| {promise} | {ledger.checked[promise]:,} | {broken} |"


def _all(findings: Findings) -> Ledger:
    ledger = Ledger()
    for outcome in (*findings.outcomes.values(), findings.crowd):
        ledger.add(outcome.ledger)
    return ledger


def everything_broken(findings: Findings) -> list[str]:
    """Each broken promise in a line; steps that broke the same are one line."""
    lines = [f"{each.promise.name}: {each.what}" for each in _all(findings).broken]
    lines += [f"{backend}: {what}" for backend, found in findings.cancels.items() for what in found.left]
    for phase, (_, bad) in findings.steps.items():
        found: dict[str, list[str]] = {}
        for step in bad:
            for what in step["broken"]:
                found.setdefault(what, []).append(str(step["step"]))
        lines += [f"{phase}: {what} (steps {', '.join(steps)})" for what, steps in found.items()]
    return lines


def _told(findings: Findings) -> str:
    lines = everything_broken(findings)
    more = [f"- and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n" + "\n".join([*(f"- `{line[:300]}`" for line in lines[:SHOWN]), *more]) + "\n" if lines else ""


def _recoveries(found: Sequence[Figure]) -> Iterator[str]:
    for figure in found:
        ordered = sorted(figure.samples)
        p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
        row = f"{median(ordered):,.0f} | {p95:,.0f} | {ordered[-1]:,.0f} | {figure.goal:,.0f}"
        yield f"| {figure.name.partition(', ')[2]} | {len(ordered)} | {row} |"


def _seeds(findings: Findings) -> str:
    return ", ".join(f"{victim} {seed}" for victim, seed in findings.seeds)
