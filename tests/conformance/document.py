"""What docs/conformance.md says of a run: nothing in it depends on when, where or how fast that was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from tests.conformance.baseline import Expected
from tests.conformance.lint import Lint
from tests.conformance.suites import Report

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "conformance.md"
NOTES = ROOT / "docs" / "conformance.notes.md"


def document(reports: Sequence[Report], lint: Lint) -> str:
    """The whole document."""
    notes = NOTES.read_text(encoding="utf-8") if NOTES.exists() else ""
    suites = "\n".join("\n".join(_suite(report)) for report in reports)
    return f"""# Conformance

Written by `scripts/conformance`; two runs write the same. `tests/system/test_conformance.py` runs the part on MCP with
the other tests, and fails when anything in it is no longer true, for the worse or for the better. The part on A2A is
copied from `docs/conformance.notes.md`.

## MCP

The official suites speak HTTP only, so the tests mount the very server object that users get on stdio with the SDK's
own HTTP application. The suites bring tests for a server made for them, with tools, prompts and resources of fixed
names. Where the product has what such a name is for, a layer of the tests (`tests/conformance/fixtures.py`) turns the
request into one of the product's own, about a real run of the scripted agent, and the product's handlers answer it:
`slow_compute` is `spawn_run` with `wait: true`, which they answer with a task. What the product does not have is not
played: such a scenario fails, and is listed. With: mcp {version("mcp")}.

{suites}
### Schema lint

`inspector --cli --transport stdio --method tools/list --strict`, version {lint.version}: {_lint(lint)}

{notes}"""


def _lint(lint: Lint) -> str:
    if lint.code == 0:
        return f"{lint.tools} tools, no finding."
    return f"exit code {lint.code}.\n\n```\n{lint.output}\n```"


def _suite(report: Report) -> Iterator[str]:
    suite, scenarios = report.suite, report.scenarios
    expected = {entry.scenario: entry for entry in suite.expected}
    clean = [name for name, scenario in scenarios.items() if scenario.clean]
    passed = sum(scenario.passed for scenario in scenarios.values())
    failed = sum(len(scenario.failed) for scenario in scenarios.values())
    warned = sum(len(scenario.warned) for scenario in scenarios.values())
    yield f"### {suite.title}"
    yield ""
    yield f"`conformance server {' '.join(suite.arguments)}`, version {report.version}."
    yield ""
    yield "| | passed | not passed |"
    yield "|---|---|---|"
    yield f"| scenarios | {len(clean)} | {len(scenarios) - len(clean)}, all expected |"
    yield f"| checks | {passed} | {failed} failed, {warned} warned |"
    yield ""
    yield "Passing, with the number of checks: " + ", ".join(f"{name} {scenarios[name].passed}" for name in clean) + "."
    yield ""
    if suite.hollow:
        yield "Of these, some prove little here:"
        yield ""
        yield from (f"- {name}: {why}" for name, why in suite.hollow.items())
        yield ""
    yield from _table("Expected not to pass:", report, [entry for entry in expected.values() if entry.scored])
    yield from _table(
        "Run by the suite and not counted by it, expected not to pass:",
        report,
        [entry for entry in expected.values() if not entry.scored],
    )


def _table(heading: str, report: Report, entries: Sequence[Expected]) -> Iterator[str]:
    if not entries:
        return
    yield heading
    yield ""
    yield "| scenario | checks that fail, of all | why |"
    yield "|---|---|---|"
    for entry in entries:
        scenario = report.scenarios[entry.scenario]
        names = [*scenario.failed, *(f"{name} (warning)" for name in scenario.warned)]
        total = scenario.passed + len(names)
        which = "" if names == [entry.scenario] else ": " + ", ".join(names)
        yield f"| {entry.scenario} | {len(names)} of {total}{which} | {entry.why} |"
    yield ""
