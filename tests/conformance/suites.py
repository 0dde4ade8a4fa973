"""Runs a conformance suite on our server, and says what was not as expected.

The suite's own baseline knows scenarios alone; here every check of every scenario counts, in both directions.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from orchestrator.doors.mcp import make_server
from test_agents.listening import listening
from tests.conformance.baseline import SUITES, Suite
from tests.conformance.fixtures import play_fixtures
from tests.conformance.node import installed, node, version_of
from tests.conftest import open_tools

MANIFEST = Path(__file__).with_name("package.json")
FOLDER = "conformance"
_RESULT = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a scenario found: how many of its checks passed, and which did not."""

    passed: int
    failed: tuple[str, ...]
    warned: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing failed or warned."""
        return not self.failed and not self.warned


@dataclass(frozen=True, slots=True)
class Report:
    """One run of a suite: its exit code with our baseline, what it printed, and its scenarios by name."""

    suite: Suite
    version: str
    code: int
    output: str
    scenarios: dict[str, Scenario]

    def surprises(self) -> Iterator[str]:
        """Everything that is not exactly as expected, stale expectations too."""
        if self.code != 0:
            yield f"the suite ended with {self.code}: {self.output[-600:]}"
        expected = {entry.scenario: entry for entry in self.suite.expected}
        for name in sorted(expected.keys() | self.scenarios.keys()):
            if (scenario := self.scenarios.get(name)) is None:
                yield f"{name} is expected to fail and was not run"
                continue
            entry = expected.get(name)
            wanted = (set(entry.failing), set(entry.warnings)) if entry else (set[str](), set[str]())
            if (set(scenario.failed), set(scenario.warned)) != wanted:
                yield f"{name}: failed {scenario.failed}, warned {scenario.warned}; expected {wanted}"


@asynccontextmanager
async def served(cwd: Path) -> AsyncGenerator[str]:
    """Our server over HTTP on loopback, for suites that speak nothing else, with their names. Yields its URL."""
    async with open_tools(cwd) as tools:
        with make_server(tools) as server:
            play_fixtures(server, tools)
            async with listening(lambda _base: server.streamable_http_app(), "127.0.0.1", 0) as base:
                yield base + "/mcp"


async def run_all(folder: Path) -> list[Report]:
    """Runs all suites, one after the other, on one server that works in this folder."""
    reports: list[Report] = []
    async with served(folder) as url:
        for suite in SUITES:
            results = folder / suite.package.replace("/", "-")
            results.mkdir()
            reports.append(await run(suite, url, results))
    return reports


async def run(suite: Suite, url: str, results: Path) -> Report:
    """Runs a suite on the server at a URL.

    Args:
        results: an empty directory for what the suite writes.
    """
    packages = installed(MANIFEST, FOLDER)
    main = packages / "node_modules" / suite.package / "dist" / "index.js"
    baseline = results / "baseline.json"  # JSON is YAML
    baseline.write_bytes(orjson.dumps({"server": [entry.scenario for entry in suite.expected if entry.scored]}))
    options = ["--url", url, *suite.arguments, "--expected-failures", baseline, "--output-dir", results / "checks"]
    code, output = await node(main, "server", *options, cwd=results)
    scenarios = dict(sorted(_scenarios(results / "checks")))
    return Report(suite, version_of(packages, suite.package), code, output, scenarios)


def _scenarios(folder: Path) -> Iterator[tuple[str, Scenario]]:
    for path in folder.iterdir():
        match = _RESULT.fullmatch(path.name)
        assert match is not None, path
        checks = orjson.loads((path / "checks.json").read_bytes())

        def of(status: str, checks: list[dict[str, str]] = checks) -> tuple[str, ...]:
            return tuple(sorted(check["id"] for check in checks if check["status"] == status))

        yield match[1], Scenario(passed=len(of("SUCCESS")), failed=of("FAILURE"), warned=of("WARNING"))
