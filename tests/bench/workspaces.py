"""`scripts/bench kill-workspaces`: many kills of hosts whose runs work in worktrees, and the document about them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.bench.workbench import ROOT
from tests.kill.places import Kills, git, kill_in_places
from tests.system.shell import shell

DOCUMENT = ROOT / "docs" / "reliability.workspaces.md"
BATCH = 25
"""Kills in one repository."""


def kill(count: int, seed: int) -> int:
    """Kills so many hosts, and writes what was found. Returns 1 if anything was lost or broken."""
    found = Kills()
    for start in range(0, count, BATCH):
        with tempfile.TemporaryDirectory(prefix="orchestrator-kill-") as folder, shell(Path(folder)) as person:
            person.cwd.mkdir(parents=True, exist_ok=True)
            git(person.cwd, "init", "-q", "-b", "main")
            (person.cwd / "a.txt").write_text("a\n")
            git(person.cwd, "add", ".")
            git(person.cwd, "commit", "-q", "-m", "first")
            batch = kill_in_places(person, min(BATCH, count - start), seed + start)
        for stage, number in batch.struck.items():
            found.struck[stage] = found.struck.get(stage, 0) + number
        found.seconds += batch.seconds
        found.broken += batch.broken
        sys.stderr.write(f"{start + BATCH} kills, {len(found.broken)} broken\n")
    DOCUMENT.write_text(_document(found, count, seed), encoding="utf-8")
    sys.stderr.write("\n".join(found.broken) + "\n" if found.broken else "nothing was lost\n")
    return 1 if found.broken else 0


def _document(found: Kills, count: int, seed: int) -> str:
    verdict = found.verdict or "Nothing was lost, and nothing broken."
    return f"""# Reliability of workspaces

Made by `scripts/bench kill-workspaces --n {count} --seed {seed}`: the host was killed by SIGKILL {count} times, each
while one run in a worktree was at a random moment of its life. Afterwards the next host took over; the run had to be
over, what its agent had told of to be in its patch, the worktree to go by `discard` or by itself, and the repository to
be whole: no worktree, branch or lock left, `git fsck` and `git status` silent.

| when it struck | kills |
|---|--:|
{found.rows}

Until the run was over: median {median(found.seconds):.1f} s, at most {max(found.seconds):.1f} s, of which the start of
the next host is most.

{verdict}
"""
