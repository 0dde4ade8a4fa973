"""The official MCP suites on our server: what passes, what is expected to fail, and the document that says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conformance.baseline import INITIALIZE_ERA, SUITES, Expected, Suite
from tests.conformance.document import DOCUMENT, document
from tests.conformance.lint import run_lint
from tests.conformance.suites import run, run_all, served

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]  # the first test waits until the suites are installed


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.package)
async def test_the_suite_finds_exactly_what_the_baseline_says(suite: Suite, cwd: Path, tmp_path: Path) -> None:
    async with served(cwd) as url:
        report = await run(suite, url, tmp_path)
    assert list(report.surprises()) == []
    assert report.code == 0


async def test_a_stale_expectation_fails_the_suite(cwd: Path, tmp_path: Path) -> None:
    stale = replace(INITIALIZE_ERA, expected=(*INITIALIZE_ERA.expected, Expected("ping", "it was broken once")))
    async with served(cwd) as url:
        report = await run(stale, url, tmp_path)
    assert report.code == 1
    assert any(surprise.startswith("ping: ") for surprise in report.surprises())


async def test_a_failure_that_nobody_expects_fails_the_suite(cwd: Path, tmp_path: Path) -> None:
    async with served(cwd) as url:
        report = await run(replace(INITIALIZE_ERA, expected=INITIALIZE_ERA.expected[1:]), url, tmp_path)
    assert report.code == 1
    assert any(surprise.startswith("elicitation-sep1034-defaults: ") for surprise in report.surprises())


async def test_the_document_says_what_a_run_finds(cwd: Path) -> None:
    assert document(await run_all(cwd), await run_lint(cwd)) == DOCUMENT.read_text(), "run scripts/conformance"
