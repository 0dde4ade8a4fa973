"""The packaged reviewer at work in a real repository, by each real agent: what it reads, mends, checks, commits and
reports, and when it must not commit."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.model import JsonObject
from tests.models.player import Player, agent_environment
from tests.system.codex_desk import call, escalated, patch
from tests.system.desk import Desk, desk
from tests.system.shell import shell

pytestmark = [pytest.mark.system]

REPORT = ".orchestrator/reports/reviewer/20260131T120000Z-review.md"
SECTIONS = ("Scope Reviewed", "Findings", "Fixes Applied", "Validation", "Unresolved Concerns", "Final Status")
COMMIT = "reviewer: simplify and harden totals"
GOOD = "def total(prices):\n    return sum(prices)\n"
BAD = "def total(prices):\n    result = 0\n    for price in prices[1:]:\n        result += price\n    return result\n"
TEST = "from totals import total\n\nassert total([1, 2, 3]) == 6, total([1, 2, 3])\n"


@dataclass(frozen=True, slots=True)
class Words:
    """The lines by which a model does the reviewer's work through one agent's tools."""

    backend: str

    def rewritten(self, path: str, old: str, new: str) -> str:
        """A file gets another text."""
        if self.backend == "claude_code":
            return call("Write", file_path=path, content=new)
        gone, there = (
            ("".join(f"{mark}{line}\n" for line in text.splitlines())) for mark, text in (("-", old), ("+", new))
        )
        return patch(f"*** Update File: {path}\n@@\n{gone}{there}")

    def written(self, path: str, text: str) -> str:
        """A new file."""
        if self.backend == "claude_code":
            return call("Write", file_path=path, content=text)
        return patch(f"*** Add File: {path}\n" + "".join(f"+{line}\n" for line in text.splitlines()))

    def committed(self, *files: str) -> str:
        """A commit, which the sandbox of Codex does not let through unasked."""
        command = f'git commit -q -m "{COMMIT}" -- {" ".join(files)}'
        return escalated(command) if self.backend == "codex" else f"run {command}"


@pytest.fixture(params=["claude_code", "codex"])
async def reviewer(
    request: pytest.FixtureRequest, models: Mapping[str, Player], cwd: Path, tmp_path: Path
) -> AsyncGenerator[Desk]:
    """A desk in a repository whose last commit has a planted defect."""
    await asyncio.to_thread(_plant, cwd)
    async with desk(request.param, cwd, agent_environment(models[request.param], tmp_path)) as place:
        yield place


def _plant(cwd: Path) -> None:
    git(cwd, "init", "-q", "-b", "main")
    git(cwd, "config", "user.name", "Somebody")
    git(cwd, "config", "user.email", "somebody@example.invalid")
    for text in (GOOD, BAD):
        (cwd / "totals.py").write_text(text)
        (cwd / "check.py").write_text(TEST)
        (cwd / "notes.txt").write_text("notes\n")
        git(cwd, "add", ".")
        git(cwd, "commit", "-q", "-m", "a change")


def git(cwd: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=cwd, check=True, capture_output=True, text=True).stdout


def report(status: str) -> str:
    return "# Review 20260131T120000Z\n" + "".join(f"\n## {section}\n\n{status}\n" for section in SECTIONS)


def result(status: str, commit: str | None) -> str:
    finding = {"severity": "high", "title": "the first price is left out", "files": ["totals.py:3"], "fixed": True}
    return "json " + json.dumps(
        {
            "scope": {"kind": "last_commit", "files": ["totals.py"]},
            "findings": [finding],
            "fixes": ["total adds up all prices"],
            "validation": [{"command": "python3 -B check.py", "passed": True}],
            "unresolved": [],
            "status": status,
            "commit": commit,
            "report": REPORT,
        }
    )


async def reviewed(reviewer: Desk, *script: str) -> tuple[JsonObject, list[str]]:
    """Has the script played by the packaged reviewer, and approves what it asks. Returns the run, and what it asked."""
    run = await reviewer.finished(*script, profile="reviewer-remediator")
    asked: list[str] = []
    while run["status"] == "input_required":
        request = run["pending"][0]
        asked.append(json.dumps(request["detail"]))
        run = await reviewer.answered(run["run_id"], request_id=request["request_id"], decision="approve")
    assert run["status"] == "completed", run
    return run, asked


async def test_it_mends_checks_reports_and_commits_its_own_fix(reviewer: Desk, tmp_path: Path) -> None:
    cwd, words = reviewer.cwd, Words(reviewer.backend)
    (cwd / "notes.txt").write_text("somebody writes here\n")
    run, asked = await reviewed(
        reviewer,
        "system reviewer: simplify and harden",
        "run git status --short",
        "run git show HEAD",
        "read totals.py",
        words.rewritten("totals.py", BAD, GOOD),
        "run python3 -B check.py",
        words.committed("totals.py"),
        words.written(REPORT, report("committed")),
        result("committed", "HEAD"),
    )
    events = await reviewer.events(run["run_id"])
    assert next(e for e in events if e["type"] == "agent_message")["data"]["text"].endswith(" is there")
    commands = [event["data"] for event in events if event["type"] == "command_finished"]
    assert all(command["exit_code"] == 0 for command in commands), commands
    assert any("check.py" in command["command"] for command in commands)
    changes = [change for event in events if event["type"] == "file_changed" for change in event["data"]["changes"]]
    assert "+    return sum(prices)" in next(c["diff"] for c in changes if c["path"] == "totals.py")
    assert any("git commit" in request for request in asked), "nothing is committed that nobody approved"

    assert git(cwd, "log", "-1", "--format=%s").strip() == COMMIT
    assert git(cwd, "show", "--name-only", "--format=", "HEAD").split() == ["totals.py"]
    assert (cwd / "totals.py").read_text() == GOOD
    assert git(cwd, "status", "--short") == " M notes.txt\n", "what somebody else changed stays theirs"

    assert run["result"]["structured_output"]["status"] == "committed"
    assert run["result"]["reports"] == [REPORT]
    written = (cwd / REPORT).read_text()
    assert [line[3:] for line in written.splitlines() if line.startswith("## ")] == list(SECTIONS)
    assert run["profile"]["name"] == "reviewer-remediator"
    with shell(tmp_path / "shell") as person:
        shown = await asyncio.to_thread(person.run, "show", run["run_id"], "-C", str(cwd))
    assert REPORT in shown.out, shown


async def test_it_leaves_the_commit_to_others_where_the_file_was_not_clean(reviewer: Desk) -> None:
    cwd, words = reviewer.cwd, Words(reviewer.backend)
    (cwd / "totals.py").write_text(BAD + "# somebody is at work here\n")
    before = git(cwd, "rev-parse", "HEAD")
    run, asked = await reviewed(
        reviewer,
        "run git diff",
        words.rewritten("totals.py", BAD, GOOD)
        if reviewer.backend == "codex"
        else "edit totals.py prices[1:] -> prices",
        "run python3 -B check.py",
        words.written(REPORT, report("report_only")),
        result("report_only", None),
    )
    assert git(cwd, "rev-parse", "HEAD") == before
    assert git(cwd, "diff", "--cached", "--name-only") == ""
    assert not any("git commit" in request for request in asked)
    assert "# somebody is at work here" in (cwd / "totals.py").read_text()
    assert run["result"]["structured_output"] | {"findings": []} == {
        "scope": {"kind": "last_commit", "files": ["totals.py"]},
        "findings": [],
        "fixes": ["total adds up all prices"],
        "validation": [{"command": "python3 -B check.py", "passed": True}],
        "unresolved": [],
        "status": "report_only",
        "commit": None,
        "report": REPORT,
    }
    assert run["result"]["reports"] == [REPORT]


async def test_a_commit_that_the_caller_denies_is_not_made(reviewer: Desk, models: Mapping[str, Player]) -> None:
    cwd, words = reviewer.cwd, Words(reviewer.backend)
    before = git(cwd, "rev-parse", "HEAD")
    run = await reviewer.finished(
        words.rewritten("totals.py", BAD, GOOD),
        words.committed("totals.py"),
        result("report_only", None),
        profile="reviewer-remediator",
    )
    while run["status"] == "input_required":
        request = run["pending"][0]
        decision = "deny" if "git commit" in json.dumps(request["detail"]) else "approve"
        run = await reviewer.answered(
            run["run_id"], request_id=request["request_id"], decision=decision, text="the author commits"
        )
    assert run["status"] == "completed", run
    assert git(cwd, "rev-parse", "HEAD") == before
    assert "the author commits" in json.dumps(models[reviewer.backend].requests), "the reason reaches the model"
