"""An agent as a process that speaks lines: in a session of its own, marked as its run's, its stdin held by us alone.

Above: the drivers of local agents, which know what the lines mean. Below: the operating system. While the block lasts
the process may run; whatever ends the block, nothing of it is left, whoever started what and in whichever session. On
Linux the process is the parent of all its descendants that lose their own, so that none of them can leave its tree; the
marker in the environment, which they inherit, tells them from others after our own death. If we are killed the end of
its stdin tells the agent to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import psutil

from orchestrator.backend import RunContext
from orchestrator.errors import BackendError
from orchestrator.process import FILES_LIMIT, MARKER, reap, start_of
from orchestrator.updates import AgentProcess

LINE_BYTES = 64 * 2**20
"""A longer line ends the run."""
HURRY_S = 1.0
"""With less time than this to clean up there is none for being polite."""
POLITE_S = 3.0
"""How long the process may take to end by itself once its stdin is closed: it may have a conversation to write."""
TERM_S = 2.0
"""How long it may take to end once it was told to."""
PIPE_BYTES = 2**20
"""What a pipe may still hold of what was said before its writer's end, at most."""
STDERR_LINES = 50
_STDERR_CHARS = 2000
_LINUX = sys.platform == "linux"

_ADOPTING = (
    "import ctypes, os, sys, _signal as s; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); "
    "s.signal(s.SIGPIPE, s.SIG_DFL); s.signal(s.SIGXFSZ, s.SIG_DFL); "
    "sys.argv[1] or os.environ.pop('LC_CTYPE', None); os.execv(sys.argv[2], sys.argv[2:])"
)
"""PR_SET_CHILD_SUBREAPER (prctl(2)), which stays over an exec and is not inherited. Between fork and exec in our own
process, which has threads, nothing may be done; so a small Python does it, and becomes the agent. What Python sets for
itself is taken back: two ignored signals, and a locale where there is none (PEP 538)."""


class _Pipes(asyncio.SubprocessProtocol):
    """What comes out of the process, and how much may go in."""

    def __init__(self) -> None:
        self.stdout = asyncio.StreamReader(limit=LINE_BYTES)
        self.errors: deque[str] = deque(maxlen=STDERR_LINES)
        self.exited = asyncio.Event()
        self.errors_told = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self.said_at_most = sys.maxsize
        """How much the process can have said, in bytes: known when it has ended."""
        self._heard = 0
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        out = cast(asyncio.SubprocessTransport, transport).get_pipe_transport(1)
        assert out is not None
        self.stdout.set_transport(out)  # which is paused while nobody reads what is there

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self._heard += len(data)
            self.stdout.feed_data(data)
            return
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._tell(*whole)
        self._rest = self._rest[-_STDERR_CHARS:]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        match fd:
            case 0:
                self.writable.set()
            case 1:
                self.stdout.feed_eof()
            case _:
                self._tell(self._rest)
                self.errors_told.set()

    def process_exited(self) -> None:
        self.said_at_most = self._heard + PIPE_BYTES
        self.exited.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def _tell(self, *lines: bytes) -> None:
        self.errors.extend(line.decode(errors="replace")[:_STDERR_CHARS] for line in lines if line.strip())


class LineProcess:
    """A running agent. Made by `line_process`."""

    def __init__(self, transport: asyncio.SubprocessTransport, pipes: _Pipes) -> None:
        self._transport = transport
        self._pipes = pipes
        self.start_time = 0.0
        """In seconds since 1970: with the pid it names the process for as long as the machine runs."""

    @property
    def pid(self) -> int:
        """The process, which leads a session and a group of the same number."""
        return self._transport.get_pid()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._transport.get_returncode()

    @property
    def errors(self) -> Sequence[str]:
        """The last lines of its stderr; complete when `lines` has ended."""
        return self._pipes.errors

    async def write(self, line: bytes) -> None:
        """Says a line. A process that does not read is waited for; one that is gone is told of by `lines`."""
        stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        if not stdin.is_closing():
            stdin.write(line)
            await self._pipes.writable.wait()

    def close_stdin(self) -> None:
        """Nothing more will be said: an agent ends upon that."""
        if (stdin := self._transport.get_pipe_transport(0)) is not None:
            stdin.close()

    async def lines(self) -> AsyncIterator[bytes]:
        """What it says, to its end; the exit code is known then. The last line may lack its end.

        Whoever inherited its stdout may keep that open, and talk: once the process has ended, only what it can have
        said itself is told, and what comes within HURRY_S of waiting.

        Raises:
            BackendError: a line is longer than LINE_BYTES.
        """
        exiting = asyncio.ensure_future(self._pipes.exited.wait())
        loop, patience, told = asyncio.get_running_loop(), HURRY_S, 0
        try:
            while True:
                reading = asyncio.ensure_future(self._pipes.stdout.readline())
                try:
                    await asyncio.wait({reading, exiting}, return_when=asyncio.FIRST_COMPLETED)
                    if not reading.done():
                        since = loop.time()
                        await asyncio.wait({reading}, timeout=patience)
                        patience -= loop.time() - since
                    if not reading.done() or not (line := reading.result()):
                        break
                except ValueError as error:
                    words = f"the agent said a line of over {LINE_BYTES:,} bytes"
                    raise BackendError("agent_protocol", words) from error
                finally:
                    reading.cancel()
                yield line
                told += len(line)
                if told > self._pipes.said_at_most:  # another's
                    break
            await self._ended(POLITE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HURRY_S):
                    await self._pipes.errors_told.wait()
        finally:
            exiting.cancel()

    async def end(self, run_id: str, grace_s: float) -> None:
        """Ends the process and all that came of it. Returns when nothing is left, or the time is over."""
        family = await asyncio.to_thread(self._descendants)
        deaf = True
        if grace_s > HURRY_S:
            self.close_stdin()
            deaf = not await self._ended(POLITE_S)
            if deaf:
                family |= await asyncio.to_thread(self._descendants)
                self._signal(signal.SIGTERM)
                await asyncio.to_thread(_terminate, family)
                await self._ended(TERM_S)
        self._signal(signal.SIGKILL)
        leader = {"pid": self.pid, "pgid": self.pid, "start_time": self.start_time}
        await asyncio.to_thread(reap, {run_id: leader}, family, at_once=deaf)
        await self._ended(HURRY_S)
        self._transport.close()

    def _descendants(self) -> set[psutil.Process]:
        try:
            return set(psutil.Process(self.pid).children(recursive=True)) if self.exit_code is None else set()
        except psutil.Error:
            return set()

    async def _ended(self, within_s: float) -> bool:
        """Whether it ends in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._pipes.exited.wait()
        return self.exit_code is not None

    def _signal(self, number: signal.Signals) -> None:
        """To its group; for as long as the leader is our child the number cannot be another's."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


@asynccontextmanager
async def line_process(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    run_id: str,
    ctx: RunContext,
    keep: Sequence[int] = (),
) -> AsyncGenerator[LineProcess]:
    """Starts an agent, which is gone when the block ends, also if its end is cancelled.

    Args:
        command: the program's path and its arguments.
        env: its whole environment, but for the marker.
        ctx: is told of the process, so that the next owner of the run can end it if we cannot.
        keep: descriptors that it inherits besides the three.

    Raises:
        BackendError: it cannot be started (`backend_unavailable`).
    """
    problem = await asyncio.to_thread(_problem_of, command[0], cwd)
    if problem:
        raise BackendError("backend_unavailable", f"cannot start {command[0]} in {cwd}: {problem}")
    adopting = (sys.executable, "-I", "-S", "-c", _ADOPTING, env.get("LC_CTYPE", "")) if _LINUX else ()
    try:
        transport, pipes = await asyncio.get_running_loop().subprocess_exec(
            _Pipes,
            *adopting,
            *command,
            cwd=cwd,
            env={**env, MARKER: run_id},
            start_new_session=True,
            pass_fds=keep,
        )
    except OSError as error:
        raise BackendError("backend_unavailable", f"cannot start {command[0]} in {cwd}: {error.strerror}") from error
    process = LineProcess(transport, pipes)
    try:
        process.start_time = await asyncio.to_thread(_start_of, process.pid)
        if _LINUX:  # our own limit may have been raised for the sake of many runs
            with contextlib.suppress(OSError, ValueError):
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, FILES_LIMIT)
        await ctx.emit(AgentProcess(pid=process.pid, pgid=process.pid, start_time=process.start_time))
        yield process
    finally:
        await _whatever_comes(process.end(run_id, ctx.grace_s))


def _terminate(processes: set[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()


async def _whatever_comes(work: Coroutine[Any, Any, None]) -> None:
    """Finishes some work, and passes on afterwards that it was cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled
    task.result()


def _problem_of(program: str, cwd: Path) -> str | None:
    """Why a program cannot be started there, as far as that can be seen; None if nothing is."""
    if not cwd.is_dir():
        return "the directory does not exist"
    if not (cwd / program).is_file():
        return "No such file or directory"
    return None if os.access(cwd / program, os.X_OK) else "Permission denied"


def _start_of(pid: int) -> float:
    try:
        return start_of(pid)
    except psutil.Error:  # it has ended already
        return 0.0
