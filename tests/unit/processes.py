"""Other processes for the tests of what must hold between processes.

Each prints `ready`, waits for a line on its stdin, does its work, prints one JSON line, and keeps what it holds until
its stdin is closed.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError, StoreError
from orchestrator.model import new_id
from orchestrator.store import sessions
from orchestrator.store.layout import Home, RunDir, Workspace
from orchestrator.store.log import RunLog
from orchestrator.store.masking import Mask
from tests.unit.runs import FAILED, NO_SECRETS, create, new_log, resume, spec_in

_ROOT = Path(__file__).parents[2]


class Racers:
    """Some processes at the starting line."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def go(self) -> list[Any]:
        """Starts all at once. Returns what each one prints."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in self._processes if process.stdout]

    def kill(self) -> None:
        """Ends all, as a crash would."""
        for process in self._processes:
            process.kill()
            process.wait()


@contextmanager
def racers(count: int, work: str, *arguments: str | Path) -> Generator[Racers]:
    """That many processes which are about to do the same work."""
    command = [sys.executable, "-m", __name__, work, *map(str, arguments)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(count)
        ]
        yield Racers(processes)


def _names(cwd: str, count: str) -> Any:
    """Reserves `agent-0`, `agent-1`, ...: the session id used and the names that were given."""
    workspace, session_id = Workspace(Path(cwd)), new_id("ses")
    return [session_id, [sessions.reserve_name(workspace, f"agent-{n}", session_id) for n in range(int(count))]]


def _keys(home: str, cwd: str, count: str) -> Any:
    """Creates a run under `key-0`, `key-1`, ...: the ids of the runs, and whether we made them."""
    made: list[Any] = []
    for n in range(int(count)):
        spec, log, existing = create(Home(Path(home)), Path(cwd), key=f"key-{n}")
        made.append([existing.run_id if existing else spec.run_id, log is not None])
        if log:
            log.close()
    return made


def _take_over(run: str) -> Any:
    """Takes a run over and keeps it."""
    try:
        _KEPT.append(RunLog.take_over(RunDir(Path(run)), NO_SECRETS))
    except OrchestratorError as error:
        return error.code
    return "owned"


def _session(cwd: str, session_id: str) -> Any:
    """Acquires a session and keeps it."""
    lock = sessions.SessionLock(Workspace(Path(cwd)), session_id)
    _KEPT.append(lock)
    return lock.acquire()


def _resume_or_retire(home: str, cwd: str, *known: str) -> Any:
    """Resumes each session or removes it, by chance: what became of it."""
    told: list[str] = []
    for session_id, agent_name in (one.split() for one in known):
        try:
            if random.random() < 0.5:
                spec = replace(spec_in(Path(cwd), agent_name=agent_name), session_id=session_id)
                told.append(resume(Home(Path(home)), spec).run_id)
            else:
                told.append("retired" if sessions.retire(Workspace(Path(cwd)), session_id) else "stays")
        except OrchestratorError as error:
            told.append(error.code)
    return told


def _open(cwd: str) -> Any:
    """Makes a store."""
    Workspace(Path(cwd)).open()
    return (Path(cwd) / ".orchestrator/VERSION").read_text(encoding="ascii")


def _fill(home: str, cwd: str, limit: str) -> Any:
    """Writes events until no more fit into a file, then ends the run: its path, and how many events were written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))

    async def fill() -> Any:
        log = new_log(Home(Path(home)), Path(cwd), mask=Mask({"a secret value"}))
        written = 0
        try:
            while True:
                await log.append("agent_message", {"text": f"message {written} " + "x" * 700}, durable=written % 5 == 0)
                written += 1
        except StoreError as error:
            await log.end("run_failed", {**FAILED, "code": "store_error", "message": str(error)})
        log.close()
        return [str(log.dir.path), written]

    return asyncio.run(fill())


_WORK: dict[str, Callable[..., Any]] = {
    "names": _names,
    "keys": _keys,
    "take_over": _take_over,
    "session": _session,
    "resume_or_retire": _resume_or_retire,
    "open": _open,
    "fill": _fill,
}
_KEPT: list[object] = []


def main() -> None:
    """Does the work that the command line names."""
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    print(json.dumps(_WORK[sys.argv[1]](*sys.argv[2:])), flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    main()
