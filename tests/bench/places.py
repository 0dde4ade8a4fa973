"""Worktrees and patches in a large repository, over what git itself takes for the same."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.bench.figures import Figure, millis
from tests.bench.workbench import Bench, open_bench

FILES, CHANGED, RUNS = 10_000, 1_000, 20
ROUNDS = 5
SCRIPT = "say there\nask Well?\nfinal done"


def git(cwd: Path, *words: str) -> bytes:
    who = ["-c", "user.name=Bench", "-c", "user.email=bench@localhost"]
    return subprocess.run(["git", *who, *words], cwd=cwd, check=True, capture_output=True).stdout


def _plant(cwd: Path) -> None:
    """A repository of FILES files in a hundred directories."""
    git(cwd, "init", "-q")
    for number in range(FILES):
        path = cwd / f"d{number % 100:02d}" / f"f{number:05d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number}\n" * 20)
    git(cwd, "add", ".")
    git(cwd, "commit", "-q", "-m", "first")


def _git_adds(cwd: Path, where: Path) -> float:
    """Seconds that git takes for a worktree of its own."""
    started = time.perf_counter()
    git(cwd, "worktree", "add", "-q", "-b", where.name, str(where))
    took = time.perf_counter() - started
    git(cwd, "worktree", "remove", "--force", str(where))
    git(cwd, "branch", "-q", "-D", where.name)
    return took


def _git_looks(cwd: Path) -> float:
    """Seconds that git takes to add everything, diff it, and apply the patch to the base again, as a person would."""
    started = time.perf_counter()
    git(cwd, "add", "-A")
    patch = git(cwd, "diff", "--cached", "--binary")
    git(cwd, "reset", "-q", "--hard")
    subprocess.run(["git", "apply", "--cached"], cwd=cwd, input=patch, check=True)
    took = time.perf_counter() - started
    git(cwd, "reset", "-q", "--hard")
    return took


async def _begun(bench: Bench, prompt: str) -> tuple[str, Path, float]:
    """A run in a worktree once it waits, where it works, and the seconds until its agent's first word."""
    arguments = {"backend": "scripted", "cwd": str(bench.cwd), "prompt": prompt}
    place = {"mode": "worktree", "keep": "always"}
    started = time.perf_counter()
    run_id = (await bench.tools.call("spawn_run", {**arguments, "workspace": place}))["run_id"]
    await bench.tools.call("poll_events", {"run_id": run_id, "types": ["agent_message"], "wait_ms": 50_000})
    took = time.perf_counter() - started
    await bench.tools.call("wait_runs", {"run_ids": [run_id], "wait_ms": 50_000})
    run = await bench.tools.call("get_run", {"run_id": run_id})
    return run_id, Path(run["workspace"]["path"]), took


def _edit(cwd: Path) -> None:
    for number in range(CHANGED):
        path = cwd / f"d{number % 100:02d}" / f"f{number:05d}.txt"
        path.write_text("changed\n" + path.read_text())


async def places() -> AsyncIterator[Figure]:
    """Set-up, and patch and verification, over git's own time; twenty runs at once."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where 10,000 files cost no seconds of a disk
    async with open_bench(memory) as bench:
        cwd = bench.cwd
        await asyncio.to_thread(_plant, cwd)
        gits: list[float] = []
        ours: list[float] = []
        for number in range(ROUNDS):
            gits.append(await asyncio.to_thread(_git_adds, cwd, cwd.parent / f"plain{number}"))
            run_id, where, took = await _begun(bench, SCRIPT)
            ours.append(took)
            await bench.tools.call("cancel_run", {"run_id": run_id})
            git(cwd, "worktree", "remove", "--force", str(where))
        over = [mine - own for mine, own in zip(ours, gits, strict=True)]
        yield millis(f"git: worktree add, {FILES:,} files", gits)
        yield millis("worktree set-up over git's own time", over, goal=150, limit=f"git: worktree add, {FILES:,} files")
        gits, ours = [], []
        for _ in range(3):
            await asyncio.to_thread(_edit, cwd)
            gits.append(await asyncio.to_thread(_git_looks, cwd))
            run_id, where, _ = await _begun(bench, SCRIPT)
            await asyncio.to_thread(_edit, where)
            started = time.perf_counter()
            await bench.tools.call("continue_run", {"run_id": run_id, "text": "go"})
            await bench.finished(run_id)
            ours.append(time.perf_counter() - started)
            git(cwd, "worktree", "remove", "--force", str(where))
        over = [mine - own for mine, own in zip(ours, gits, strict=True)]
        yield millis(f"git: add, diff, apply, {CHANGED:,} changed files", gits)
        yield millis(
            "patch and verification over git's own time",
            over,
            goal=2_000,
            limit=f"git: add, diff, apply, {CHANGED:,} changed files",
        )
        started = time.perf_counter()
        base = {"backend": "scripted", "cwd": str(cwd), "workspace": {"mode": "worktree"}}
        many = [{**base, "prompt": f"file f{number}.txt x\nfinal done"} for number in range(RUNS)]
        ids = [(await bench.tools.call("spawn_run", arguments))["run_id"] for arguments in many]
        await bench.finished(*ids)
        yield millis(
            f"{RUNS} worktree runs at once, {FILES:,} files each, 8 at a time", [time.perf_counter() - started]
        )
