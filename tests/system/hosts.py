"""A home with everything that works in it: a host, bridges to it as clients start them, `orchestrator host`.

All are real processes. Everything that was started with a home is gone when the block of its ground ends, also what a
test did not know of.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from orchestrator import __version__
from orchestrator.host.place import API, Place, dial, hello
from orchestrator.model import JsonObject
from tests.conftest import wait_until
from tests.system.lines import DEADLINE_S, Bridge, Connection, unread

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ground:
    """One home, one directory to work in, and what every process there has in its environment besides."""

    home: Path
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process that is started here."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
        return {**others, "ORCHESTRATOR_HOME": str(self.home), **self.env}

    @property
    def place(self) -> Place:
        """Where the host of this version is."""
        return Place(str(self.home / "hosts" / Place.own().key))

    def having(self, **env: str) -> Ground:
        """The same for processes with more in their environment."""
        return Ground(self.home, self.cwd, {**self.env, **env})

    # ---- processes ----

    def start(
        self,
        *words: str,
        cwd: Path | None = None,
        stdin: IO[bytes] | int = subprocess.PIPE,
        stdout: IO[bytes] | int = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Starts `orchestrator` with these words, and with a pipe for each standard stream that is not given."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *words],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=cwd or self.cwd,
            env=self.environment,
        )

    @contextmanager
    def bridge(self, cwd: Path | None = None) -> Generator[Bridge]:
        """A client with a bridge of its own."""
        with ending(self.start("mcp", "--scripted", cwd=cwd)) as process:
            yield Bridge(process)

    def command(self, *words: str, within_s: float = DEADLINE_S) -> subprocess.CompletedProcess[str]:
        """Runs `orchestrator host` with these words to its end."""
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", "host", *words],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.cwd,
            timeout=within_s,
        )

    def processes(self) -> list[psutil.Process]:
        """All processes that were started with this home."""
        home, own = str(self.home), os.getpid()
        return [
            process
            for process in psutil.process_iter()
            if process.pid != own and _runs(process) and _environment(process).get("ORCHESTRATOR_HOME") == home
        ]

    def hosts(self) -> list[psutil.Process]:
        """All hosts of this home, of whatever version."""
        return [process for process in self.processes() if "serve" in _command(process)]

    def host(self) -> psutil.Process:
        """The one host."""
        (host,) = self.hosts()
        return host

    def kill_host(self) -> None:
        """Kills the host, as a crash would."""
        host = self.host()
        host.kill()
        wait_gone(host)

    # ---- the host's socket and files ----

    def connect(self) -> Connection:
        """A connection to the host, at which nothing was said yet."""
        end = dial(self.place.socket, DEADLINE_S)
        assert end is not None, "nobody listens"
        return Connection(end)

    def session(self) -> Connection:
        """A connection to the host, at which it has welcomed us."""
        connection = self.connect()
        connection.send({**hello(scripted=True), "cwd": str(self.cwd)})
        assert json.loads(connection.line())["ok"]
        return connection

    def control(self, question: str, **more: Any) -> JsonObject:
        """What the host answers to a question about itself."""
        with self.connect() as connection:
            connection.send({"orchestrator": API, "control": question, **more})
            return json.loads(connection.line())

    def file(self, name: str) -> Path:
        """A file of the host."""
        return Path(self.place.file(name))

    def log(self) -> str:
        """What the host has logged."""
        return self.file("log").read_text(encoding="utf-8")


@contextmanager
def ground(home: Path, cwd: Path, **env: str) -> Generator[Ground]:
    """A home where nothing runs yet, and nothing any more at the end of the block."""
    cwd.mkdir(exist_ok=True, parents=True)
    place = Ground(home, cwd, env)
    try:
        yield place
    finally:
        while left := place.processes():  # one that is killed may have been about to start another
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            wait_gone(*left)


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Generator[subprocess.Popen[bytes]]:
    """A process that is gone at the end of the block."""
    with process:
        try:
            yield process
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                if process.stdin and not process.stdin.closed:
                    process.stdin.close()


@contextmanager
def frozen(process: psutil.Process) -> Generator[None]:
    """A process that does nothing inside of the block, and goes on behind it if it is still there."""
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def taken_in(bridge: Bridge) -> None:
    """Waits until a bridge has read all that was written to it."""
    until(lambda: unread(bridge.sink) == 0, "the bridge reads what its client said")


def until(condition: Callable[[], bool], description: str) -> None:
    """Waits for a condition that nothing can signal, in a test without a loop."""
    asyncio.run(wait_until(condition, description))


def wait_gone(*processes: psutil.Process) -> None:
    """Waits until none of the processes runs. They are not our children: nobody need have buried them."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if sys.platform == "linux":
                descriptor = os.pidfd_open(process.pid)
                with os.fdopen(descriptor):
                    assert select.select([descriptor], [], [], DEADLINE_S)[0], f"{process} is still there"
            else:
                process.wait(DEADLINE_S)


def code(target: Path, *, version: str | None = None, api: int | None = None) -> Path:
    """A copy of our code that says of itself that it is another version; for PYTHONPATH."""
    for package in ("orchestrator", "backends", "test_agents"):
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    if version:
        renumber(target, __version__, version)
    if api:
        _replace(target / "orchestrator" / "host" / "place.py", f"\nAPI = {API}\n", f"\nAPI = {api}\n")
    return target


def renumber(target: Path, old: str, new: str) -> None:
    """Installs a new version over the old one in a copy."""
    _replace(target / "orchestrator" / "__init__.py", old, new)


def stopped_by(process: subprocess.Popen[bytes], how: signal.Signals | None) -> int:
    """Ends a process by a signal or, with None, by the end of its input. Returns its exit code."""
    assert process.stdin is not None
    if how is None:
        process.stdin.close()
    else:
        process.send_signal(how)
    return process.wait(DEADLINE_S)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}
