"""A host that is killed while runs work in worktrees: while their place is made, while they work, while checks run,
while the patch is made, while the place goes. No change may be lost, and nothing of the repository be broken."""

from __future__ import annotations

import json
import random
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.model import JsonObject
from tests.system.hosts import until, wait_gone
from tests.system.shell import Shell

WINDOW_S = 0.6
"""After the spawn, within which the host is killed: everything that a run goes through takes about as long."""
RUN: JsonObject = {
    "backend": "scripted",
    "prompt": "file new.txt hello\nsay written\nsleep 0.1\nfinal done",
    "workspace": {"mode": "worktree"},
    "checks": ["sleep 0.1"],
}


@dataclass(slots=True)
class Kills:
    """What became of the runs whose host was killed.

    Attributes:
        struck: how far each run had come, in words, and how often that was.
        seconds: from the kill until the run was over.
        broken: what was lost, or broken in the repository.
    """

    struck: dict[str, int] = field(default_factory=dict[str, int])
    seconds: list[float] = field(default_factory=list[float])
    broken: list[str] = field(default_factory=list[str])

    @property
    def rows(self) -> str:
        """How often each was struck, as rows of a Markdown table."""
        return "\n".join(f"| {stage} | {number} |" for stage, number in sorted(self.struck.items()))

    @property
    def verdict(self) -> str | None:
        """What was broken, as a Markdown list; None if nothing was."""
        return "\n".join(f"- {what}" for what in self.broken) or None


def git(cwd: Path, *words: str) -> str:
    """A git command of the user's."""
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.invalid"]
    done = subprocess.run(["git", *who, *words], cwd=cwd, check=False, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def kill_in_places(person: Shell, count: int, seed: int) -> Kills:
    """Kills the host so many times, each while one run is at a random moment of its life."""
    found, draw = Kills(), random.Random(seed)
    person.ok("host", "start")
    for number in range(count):
        (host,) = person.ground.hosts()
        run_id = person.tool("spawn_run", **RUN, cwd=str(person.cwd))["run_id"]
        time.sleep(draw.uniform(0, WINDOW_S))
        host.kill()
        wait_gone(host)
        log = person.cwd / ".orchestrator" / "runs" / run_id / "events.jsonl"
        before = [json.loads(line) for line in log.read_text().splitlines()]
        killed = time.monotonic()
        person.ok("host", "start")
        person.settled(run_id)
        found.seconds.append(time.monotonic() - killed)
        stage = _stage(before)
        found.struck[stage] = found.struck.get(stage, 0) + 1
        found.broken += [f"kill {number} of seed {seed}, {stage}: {what}" for what in _checked(person, run_id)]
    return found


def _stage(events: list[JsonObject]) -> str:
    """How far a run had come, from what it had told."""
    types = [event["type"] for event in events]
    if "run_completed" in types:
        return "over, its place about to go"
    if any(event["data"].get("command_id", "").startswith("check:") for event in events):
        return "checks, patch and end"
    return "at work" if "run_started" in types else "its place being made"


def _checked(person: Shell, run_id: str) -> list[str]:
    """What is wrong with a run and with its repository, once it is over."""
    cwd, run = person.cwd, person.state(run_id)
    events = person.run("events", run_id, "--json").lines
    wrong: list[str] = []
    lost = run["status"] == "failed" and run["error"]["code"] == "host_lost"
    if run["status"] != "completed" and not lost:
        wrong.append(f"it is {run['status']}: {run.get('error')}")
    if any(event["type"] == "file_changed" for event in events) and "+hello" not in person.run("diff", run_id).out:
        wrong.append("the change is lost")
    if run.get("workspace", {}).get("kept"):
        if (done := person.run("discard", run_id)).code:
            wrong.append(f"it cannot be discarded: {done.err}")
    else:
        until(lambda: "\n" not in git(cwd, "worktree", "list"), f"{run_id} leaves no worktree")
    until(lambda: git(cwd, "branch", "--format=%(refname:short)") == "main", f"{run_id} leaves no branch")
    looks = (("worktree", "prune", "--dry-run"), ("fsck", "--no-dangling", "--no-progress"), ("status", "-s"))
    wrong += [f"git {command[0]}: {said}" for command in looks if (said := git(cwd, *command))]
    return wrong + [f"{lock} is left" for lock in (cwd / ".git").rglob("*.lock")]
