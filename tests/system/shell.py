"""The command line as people and programs meet it: a process with pipes, or at a pseudo-terminal of a given width.

Whatever a command does, no traceback may be seen: each result is checked for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.cells import cell_len

from orchestrator.model import JsonObject
from tests.system.hosts import Ground, ground, until
from tests.system.lines import DEADLINE_S

_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What rich itself writes: colours, cursor, erasing."""

OURS = (sys.executable, "-m", "orchestrator")


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> JsonObject:
        """The one document that it printed."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[JsonObject]:
        """The documents that it printed, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Shell:
    """A person's shell in a directory: `orchestrator` with a home, and a HOME, of its own."""

    ground: Ground
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def environment(self) -> dict[str, str]:
        """What commands have in their environment."""
        own = {"TERM": "xterm-256color", "HOME": str(self.home)}
        inherited = {k: v for k, v in self.ground.environment.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        return {**inherited, **own, **self.env}

    @property
    def home(self) -> Path:
        """The person's own HOME, in which no agent is known."""
        return self.ground.home / "person"

    def having(self, **env: str) -> Shell:
        """The same with more in the environment."""
        return Shell(self.ground, self.cwd, {**self.env, **env})

    def at(self, cwd: Path) -> Shell:
        """The same in another directory."""
        cwd.mkdir(parents=True, exist_ok=True)
        return Shell(self.ground, cwd, self.env)

    def bytes(self, *words: str | bytes, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Runs a command to its end, with bytes on its stdin; nothing is there by default."""
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            stdin=subprocess.DEVNULL if given is None else None,
            input=given,
            capture_output=True,
            cwd=self.cwd,
            env=self.environment,
            timeout=DEADLINE_S,
        )
        for output in (done.stdout, done.stderr):
            assert b"Traceback" not in output, output.decode(errors="replace")
        return done

    def run(self, *words: str, given: str | None = None) -> Done:
        """Runs a command to its end."""
        done = self.bytes(*words, given=None if given is None else given.encode())
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *words: str, given: str | None = None) -> str:
        """What a command that must succeed prints."""
        done = self.run(*words, given=given)
        assert done.code == 0, (words, done)
        return done.out

    def json(self, *words: str) -> JsonObject:
        """The document that a command with --json prints, which must succeed."""
        return json.loads(self.ok(*words, "--json"))

    def all(self, commands: Sequence[Sequence[str]]) -> list[Done]:
        """Runs commands at the same time, two by two."""
        with ThreadPoolExecutor(2) as pool:
            return [done.result() for done in [pool.submit(self.run, *words) for words in commands]]

    def piped(self, line: str) -> Done:
        """Runs a line of sh, in which `orchestrator` is ours."""
        name = f"{sys.executable} -m orchestrator"
        done = subprocess.run(
            ["sh", "-c", f'orchestrator() {{ {name} "$@"; }}; {line}'],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.cwd,
            env=self.environment,
            timeout=DEADLINE_S,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    # ---- what a test needs beside the command that it is about: asked of the host, in a tenth of the time

    def tool(self, name: str, **arguments: Any) -> JsonObject:
        """What the host answers to a tool call."""
        with self.ground.session() as session:
            return session.call(name, **arguments)

    def detached(self, prompt: str, *options: str) -> str:
        """Starts a run of the scripted agent and leaves it. Returns its id."""
        if options or not self.ground.file("sock").exists():
            return self.ok("run", "-b", "scripted", "--detach", *options, prompt).strip()
        return self.tool("spawn_run", backend="scripted", prompt=prompt, cwd=str(self.cwd))["run_id"]

    def settled(self, *run_ids: str) -> None:
        """Waits until runs are over or need their caller."""
        assert self.tool("wait_runs", run_ids=list(run_ids), until="all")["done"]

    def waiting(self, prompt: str) -> str:
        """Starts a run and waits until it needs its caller. Returns its id."""
        run_id = self.detached(prompt)
        self.settled(run_id)
        return run_id

    def over(self, prompt: str, *options: str) -> str:
        """Starts a run and waits until it is over. Returns its id."""
        run_id = self.detached(prompt, *options)
        self.settled(run_id)
        return run_id

    def state(self, run_id: str) -> JsonObject:
        """A run as it is now."""
        return self.tool("get_run", run_id=run_id)

    @contextmanager
    def terminal(self, *words: str, columns: int = 80, program: Sequence[str] = OURS) -> Generator[Terminal]:
        """A command at a terminal, which is hung up at the end of the block."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

        def take() -> None:  # Ctrl-C reaches only those whose terminal it is
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        process = subprocess.Popen(
            [*program, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=self.cwd,
            env=self.environment,
            start_new_session=True,
            preexec_fn=take,
        )
        os.close(theirs)
        try:
            yield Terminal(ours, process, columns)
        finally:
            os.close(ours)
            process.kill()
            process.wait(DEADLINE_S)


class Terminal:
    """What a command shows, and what is typed."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes], columns: int) -> None:
        self._descriptor = descriptor
        self.process = process
        self.columns = columns
        self._raw = b""
        self._seen = 0

    @property
    def raw(self) -> str:
        """All that was written, with the terminal's own sequences."""
        return self._raw.decode(errors="replace")

    @property
    def text(self) -> str:
        """All that was written, without them."""
        return _SEQUENCE.sub("", self.raw)

    def expect(self, words: str) -> str:
        """Reads until the words are there, behind those that were expected before. Returns what stood before them."""
        deadline = time.monotonic() + DEADLINE_S
        while (place := self.text.find(words, self._seen)) < 0:
            assert self._read(deadline), f"{words!r} is not shown:\n{self.text[self._seen :]}"
        before = self.text[self._seen : place]
        self._seen = place + len(words)
        return before

    def type(self, line: str) -> None:
        """Types a line."""
        self.press(f"{line}\n")

    def press(self, keys: str) -> None:
        """Presses keys; \\x03 is Ctrl-C, \\x04 is Ctrl-D."""
        os.write(self._descriptor, keys.encode())

    def interrupt(self) -> None:
        """Presses Ctrl-C once the command waits: Python's own `input` misses one that comes just before."""
        until(lambda: psutil.Process(self.process.pid).status() == psutil.STATUS_SLEEPING, "it waits")
        self.press("\x03")

    def ended(self) -> int:
        """Reads to the end, and checks what must hold of every output. Returns the exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(deadline):
            pass
        code = self.process.wait(DEADLINE_S)
        assert "Traceback" not in self.text, self.text
        return code

    def fits(self) -> None:
        """Nothing was wider than the terminal, and nothing stood in it that moves it but what rich writes."""
        for line in re.split(r"[\r\n]+", self.text):
            assert cell_len(line) <= self.columns or " " not in line.strip(), line  # a path is whole, to be copied
        assert not re.search(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f\x80-\x9f]", self.text), self.raw

    def _read(self, deadline: float) -> bool:
        """Reads what there is, waiting for it. False at the end."""
        assert select.select([self._descriptor], [], [], max(deadline - time.monotonic(), 0))[0], (
            f"nothing more is shown:\n{self.text[self._seen :]}"
        )
        try:
            piece = os.read(self._descriptor, 65536)
        except OSError:  # Linux says it so when nobody has the other end any more
            return False
        self._raw += piece
        return bool(piece)


@contextmanager
def shell(folder: Path, **env: str) -> Generator[Shell]:
    """A home with a directory to work in. Its host is stopped at the end of the block."""
    with ground(folder / "home", folder / "project", **env) as place:
        person = Shell(place, place.cwd)
        person.home.mkdir(parents=True, mode=0o700)
        place.home.chmod(0o700)
        try:
            yield person
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                place.command("stop", "--cancel")


def interrupted(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process after SIGINT."""
    process.send_signal(signal.SIGINT)
    return process.wait(DEADLINE_S)
