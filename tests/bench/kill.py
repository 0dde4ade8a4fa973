"""`scripts/bench kill`: the campaigns of `tests/kill` at scale, and how long a host is missed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from backends import BACKENDS, SCRIPTED, Backends
from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller, Engine
from orchestrator.model import JsonObject
from tests.bench.workbench import ROOT
from tests.kill.arena import Arena, open_arena
from tests.kill.campaign import Outcome, Victim, campaign
from tests.kill.cancels import AGENTS, Cancels, cancel_at_random
from tests.kill.ledger import Promise
from tests.kill.oracle import COMPLETED, LOST_HOST, Oracle

BATCH = 10
"""Kills in one arena."""
STORED, INTERRUPTED, CROWDED_KILLS = 1_000, 50, 5
PHASES = ("work", "recovery", "remote")


@dataclass(slots=True)
class Findings:
    """What all campaigns found.

    Attributes:
        seeds: of each campaign, in the order in which they ran.
        crowded: seconds until a command was answered, with many runs stored and many interrupted.
        steps: for each phase, how many steps there were, and those at which something was broken.
    """

    outcomes: dict[Victim, Outcome] = field(default_factory=lambda: {victim: Outcome() for victim in Victim})
    seeds: list[tuple[Victim, int]] = field(default_factory=list[tuple[Victim, int]])
    crowd: Outcome = field(default_factory=Outcome)
    cancels: dict[str, Cancels] = field(default_factory=dict[str, Cancels])
    """Of each real agent."""
    steps: dict[str, tuple[int, list[JsonObject]]] = field(default_factory=dict[str, tuple[int, list[JsonObject]]])

    @property
    def broken(self) -> int:
        """How many promises were found broken."""
        campaigns = [*self.outcomes.values(), self.crowd]
        lost = sum(len(outcome.ledger.broken) for outcome in campaigns)
        left = sum(len(cancels.left) for cancels in self.cancels.values())
        return lost + left + sum(len(broken) for _, broken in self.steps.values())


async def killing(findings: Findings, kills: int, seed: int) -> AsyncIterator[str]:
    """All campaigns. Yields a line about each."""
    async for line in _cancelling(findings, kills, seed):
        yield line
    async for line in _campaigns(findings, kills, seed):
        yield line


async def _cancelling(findings: Findings, count: int, seed: int) -> AsyncIterator[str]:
    """So many runs of each real agent, cancelled at random moments."""
    for backend in AGENTS:
        with tempfile.TemporaryDirectory(prefix="orchestrator-kill-") as folder:
            os.environ["ORCHESTRATOR_HOME"] = f"{folder}/home"
            found = findings.cancels[backend] = await cancel_at_random(backend, Path(folder), count, seed)
        yield f"{backend}, seed {seed}: {count} cancelled, {found.begun} had begun, {len(found.left)} left something"


async def _campaigns(findings: Findings, kills: int, seed: int) -> AsyncIterator[str]:
    """Kills, round-robin over the victims."""
    left = {victim: kills // len(Victim) for victim in Victim}
    while any(left.values()):
        for victim in Victim:
            batch = min(BATCH, left[victim])
            if not batch:
                continue
            left[victim] -= batch
            findings.seeds.append((victim, seed))
            with tempfile.TemporaryDirectory(prefix="orchestrator-kill-") as folder:
                outcome = await campaign(Path(folder), victim, batch, seed)
                _hide_place(outcome, folder)
            findings.outcomes[victim].add(outcome)
            yield f"{victim}, seed {seed}: {batch} kills, {outcome.runs} runs, {len(outcome.ledger.broken)} broken"
            seed += 1
    with tempfile.TemporaryDirectory(prefix="orchestrator-kill-") as folder:
        findings.crowd = await _crowd(Path(folder))
        _hide_place(findings.crowd, folder)
    shown = ", ".join(f"{seconds:.2f} s" for seconds in findings.crowd.recoveries)
    yield f"host, {STORED} runs stored and {INTERRUPTED} interrupted: {shown}"
    for phase in PHASES:
        with tempfile.TemporaryDirectory(prefix="orchestrator-kill-") as folder:
            steps = await asyncio.to_thread(_die_at_every_step, phase, folder)
        findings.steps[phase] = (len(steps), [step for step in steps if step["broken"]])
        yield f"every step of {phase}: {len(steps)}, {len(findings.steps[phase][1])} broken"


def _hide_place(outcome: Outcome, folder: str) -> None:
    ledger = outcome.ledger
    ledger.broken = [broken._replace(what=broken.what.replace(folder, "")) for broken in ledger.broken]


def _die_at_every_step(phase: str, folder: str) -> list[JsonObject]:
    command = [sys.executable, "-m", "tests.kill.steps", folder, phase]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return [json.loads(line.replace(folder, "")) for line in done.stdout.splitlines()]


# ---- a host that has much to recover


async def _crowd(root: Path) -> Outcome:
    async with open_arena(root) as arena:
        arena.home.path.mkdir()
        # so that all of them have begun
        (arena.home.path / "config.toml").write_text(f"max_concurrent_runs_local = {INTERRUPTED}\n")
        await _store(arena, STORED)
        await arena.start_agent()
        outcome = Outcome(ledger=arena.ledger)
        over = (await arena.seats[-1].read("list_runs", limit=1))["runs"][0]["run_id"]
        for _ in range(CROWDED_KILLS):
            runs = await _interruptible(arena)
            await arena.kill_host()
            outcome.recoveries.append(await arena.time_recovery(over))
            outcome.kills += 1
            outcome.runs += len(runs)
            for number, run_id in enumerate(runs):
                await _check_recovered(arena, run_id, remote=number % 2 == 1)
        await Oracle(arena, LOST_HOST, COMPLETED).judge_workspace([])
        return outcome


async def _store(arena: Arena, count: int) -> None:
    """Runs that are over, made by an engine in this process, which is quicker than by a host."""
    async with Engine(arena.home, Backends({**BACKENDS, **SCRIPTED}).load) as engine:
        tools = Tools(engine, Caller(cwd=arena.cwd, env=dict(arena.env)))
        for _ in range(count):
            spawned = await tools.call("spawn_run", {"backend": "scripted", "cwd": str(arena.cwd), "prompt": "say x"})
            while not (await tools.call("wait_runs", {"run_ids": [spawned["run_id"]]}))["done"]:
                pass


async def _interruptible(arena: Arena) -> list[str]:
    """Runs that all wait: every other one is remote, and is found again by the next host."""
    runs: list[str] = []
    for number in range(INTERRUPTED):
        backend: JsonObject = {"backend": "scripted"}
        if number % 2:
            backend = {"backend": "remote_a2a", "backend_config": {"agent_url": arena.agent_url}}
        document = await arena.seats[0].command(
            "spawn_run", **backend, prompt="say one\nask Which?\nsay two", cwd=str(arena.cwd)
        )
        assert document is not None
        runs.append(document["run_id"])
    while not (await arena.seats[0].read("wait_runs", run_ids=runs, until="all"))["done"]:
        pass
    return runs


async def _check_recovered(arena: Arena, run_id: str, *, remote: bool) -> None:
    """A remote run goes on and is answered; a local one says that its host was lost."""
    if remote:
        while not (await arena.seats[0].read("wait_runs", run_ids=[run_id]))["done"]:
            pass
        await arena.seats[0].command("continue_run", run_id=run_id, text="this")
    while not (await arena.seats[0].read("wait_runs", run_ids=[run_id]))["done"]:
        pass
    run = await arena.seats[0].read("get_run", run_id=run_id)
    ended = run["status"], run.get("error", {}).get("code")
    arena.ledger.check(Promise.TRUTH, ended == (("completed", None) if remote else ("failed", "host_lost")), f"{run}")
