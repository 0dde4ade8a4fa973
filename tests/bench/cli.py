"""The command line as processes: how soon it answers, and what following a run costs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import orjson
import psutil

from orchestrator.model import Message, RunSpec, new_id, now
from orchestrator.store.create import create_run
from orchestrator.store.layout import Home
from orchestrator.store.masking import Mask
from tests.bench.figures import Figure, millis
from tests.bench.workbench import child

TIMES = 10


@contextmanager
def _place() -> Generator[tuple[Path, Path]]:
    """A home and a project; the home's host is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="orc-bench-") as folder:
        project = Path(folder, "project")
        project.mkdir()
        try:
            yield Path(folder), project
        finally:
            with child("orchestrator", "host", "stop", "--cancel", ORCHESTRATOR_HOME=folder) as stopping:
                stopping.wait(30)


def _took(home: Path, cwd: Path, *arguments: str) -> list[float]:
    samples: list[float] = []
    for _ in range(TIMES):
        started = time.perf_counter()
        with child("orchestrator", *arguments, cwd=cwd, ORCHESTRATOR_HOME=str(home)) as process:
            process.communicate()
            samples.append(time.perf_counter() - started)
    return samples


def _bare() -> list[float]:
    samples: list[float] = []
    for _ in range(TIMES):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import typer"], check=True)
        samples.append(time.perf_counter() - started)
    return samples


async def answering() -> AsyncIterator[Figure]:
    """Help and lists, with few runs stored and with many."""
    with _place() as (home, cwd):
        yield millis("limit: python -c 'import typer'", _bare())
        yield millis("orchestrator --help", _took(home, cwd, "--help"), goal=150)
        await _store(home, cwd, 10)
        yield millis("orchestrator ls, 10 runs stored", _took(home, cwd, "ls"), goal=150)
        await _store(home, cwd, 4_990)
        yield millis("orchestrator ls, 5,000 runs stored", _took(home, cwd, "ls"), goal=300)


async def _store(home: Path, cwd: Path, count: int) -> None:
    """Runs that are over."""
    for _ in range(count):
        spec = RunSpec(
            run_id=new_id("run"),
            session_id=new_id("ses"),
            agent_name="",
            backend="scripted",
            role="worker",
            cwd=cwd,
            message=Message.of_text("x"),
            created_at=now(),
        )
        log = create_run(Home(home), spec, Mask(()), nickname=None, idempotency_key=None).log
        assert log is not None
        await log.end("run_completed", {"final_response": "done"}, durable=False)
        log.close()
        Home(home).settle(spec.run_id)


def following() -> Iterator[Figure]:
    """From an event's own time to its line on stdout, and the CPU of `run` while an agent says 100 things a second."""
    pause = "\n".join(f"sleep 0.05\nsay {number}" for number in range(100))
    with _place() as (home, cwd):
        env = {"ORCHESTRATOR_HOME": str(home)}
        with child("orchestrator", "run", "-d", "-b", "scripted", pause, cwd=cwd, **env) as spawning:
            run_id = spawning.communicate()[0].decode().strip()
        late: list[float] = []
        with child("orchestrator", "events", "-f", "--json", run_id, cwd=cwd, **env) as process:
            assert process.stdout is not None
            for line in process.stdout:
                seen, event = time.time(), orjson.loads(line)
                if event["type"] == "agent_message":
                    late.append(seen - datetime.fromisoformat(event["ts"]).timestamp())
        yield millis("event to line of events -f", late[20:], goal=50)
        busy = "\n".join(f"sleep 0.01\nsay {number}" for number in range(800))
        with child("orchestrator", "run", "-b", "scripted", busy, cwd=cwd, **env) as process:
            assert process.stdout is not None
            process.stdout.readline()
            watched, started = psutil.Process(process.pid), time.perf_counter()
            begun = sum(watched.cpu_times()[:2])
            for line in process.stdout:
                if line.strip() == b"600":
                    break
            share = (sum(watched.cpu_times()[:2]) - begun) / (time.perf_counter() - started) * 100
        yield Figure(name="CPU of run at 100 events/s", unit="%", samples=[share], goal=5)
