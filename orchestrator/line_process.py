"""An agent as a process that speaks lines: in a session of its own, marked as its run's, its stdin held by us alone.

Above: the drivers of local agents, which know what the lines mean. Below: the operating system. While the block lasts
the process may run; whatever ends the block, nothing of it is left, whoever started what and in whichever session: the
marker in the environment is inherited by all descendants. If we are killed the end of its stdin tells the agent to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from orchestrator.backend import RunContext
from orchestrator.errors import BackendError
from orchestrator.events import AgentProcess
from orchestrator.process import FILES_LIMIT, MARKER, reap

logger = logging.getLogger(__name__)

LINE_BYTES = 64 * 2**20
"""A longer line ends the run."""
HURRY_S = 1.0
"""With less time than this to clean up there is none for being polite."""
POLITE_S = 2.0
"""How long the process may take to end by itself once its stdin is closed, and again once it was told to."""
STDERR_LINES = 50


class LineProcess:
    """A running agent. Made by `line_process`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.start_time = 0.0
        """In seconds since 1970: with the pid it names the process for as long as the machine runs."""
        self._writing = asyncio.Lock()
        self.errors: deque[str] = deque(maxlen=STDERR_LINES)
        """The last lines of its stderr; complete when `lines` has ended."""
        self.tasks = (
            asyncio.create_task(self._drain_stderr(), name=f"stderr of {process.pid}"),
            asyncio.create_task(self._watch(), name=f"exit of {process.pid}"),
        )

    @property
    def pid(self) -> int:
        """The process, which leads a session and a group of the same number."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.returncode

    async def write(self, line: bytes) -> None:
        """Says a line. A process that does not read is waited for; one that is gone is told of by `lines`."""
        stdin = self._process.stdin
        assert stdin is not None
        async with self._writing:
            with contextlib.suppress(ConnectionError):
                stdin.write(line)
                await stdin.drain()

    def close_stdin(self) -> None:
        """Nothing more will be said: an agent ends upon that."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def lines(self) -> AsyncIterator[bytes]:
        """What it says, to its end. The exit code is known then.

        Raises:
            BackendError: a line is longer than LINE_BYTES.
        """
        stdout = self._process.stdout
        assert stdout is not None
        while True:
            try:
                line = await stdout.readline()
            except ValueError as error:
                raise BackendError("agent_protocol", f"the agent said a line of over {LINE_BYTES:,} bytes") from error
            if not line:
                break
            yield line
        await self._ended(POLITE_S)
        await asyncio.wait(self.tasks[:1], timeout=HURRY_S)

    async def _watch(self) -> None:
        """Ends `lines` once the process has ended: who inherited its stdout may keep it open for ever."""
        while self.exit_code is None:  # noqa: ASYNC110  Python says it only together with the pipes
            await asyncio.sleep(HURRY_S / 4)
        await asyncio.sleep(HURRY_S)
        assert self._process.stdout is not None
        self._process.stdout.feed_eof()

    async def _drain_stderr(self) -> None:
        """Keeps the last lines of stderr, so that the process never waits for a reader."""
        stderr = self._process.stderr
        assert stderr is not None
        rest = b""
        while piece := await stderr.read(65536):
            *whole, rest = (rest + piece).split(b"\n")
            self.errors.extend(line.decode(errors="replace")[:2000] for line in whole if line.strip())
            rest = rest[-2000:]
        if rest.strip():
            self.errors.append(rest.decode(errors="replace"))

    async def end(self, run_id: str, grace_s: float) -> None:
        """Ends the process and all that came of it. Returns when nothing is left, or the time is over."""
        if grace_s > HURRY_S:
            self.close_stdin()
            if not await self._ended(POLITE_S):
                self._signal(signal.SIGTERM)
                await self._ended(POLITE_S)
        self._signal(signal.SIGKILL)
        leader = {"pid": self.pid, "pgid": self.pid, "start_time": self.start_time}
        await asyncio.to_thread(reap, {run_id: leader}, at_once=grace_s <= HURRY_S)
        await self._ended(HURRY_S)

    async def _ended(self, within_s: float) -> bool:
        """Whether it ends in time. Python's own `wait` would also wait for who inherited its pipes."""
        deadline = asyncio.get_running_loop().time() + within_s
        while self.exit_code is None and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return self.exit_code is not None

    def _signal(self, number: signal.Signals) -> None:
        """To its group, for as long as the leader is our child the number cannot be another's."""
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
    keep: int | None = None,
) -> AsyncGenerator[LineProcess]:
    """Starts an agent, which is gone when the block ends.

    Args:
        env: its whole environment, but for the marker.
        keep: a descriptor that it inherits besides the three.
        ctx: is told of the process, so that the next owner of the run can end it if we cannot.

    Raises:
        BackendError: it cannot be started (`backend_unavailable`).
    """
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd,
            env={**env, MARKER: run_id},
            start_new_session=True,
            limit=LINE_BYTES,
            pass_fds=() if keep is None else (keep,),
        )
    except OSError as error:
        raise BackendError("backend_unavailable", f"cannot start {command[0]}: {error.strerror or error}") from error
    process = LineProcess(child)
    try:
        process.start_time = await asyncio.to_thread(_start_of, child.pid)
        if sys.platform == "linux":  # our own limit may have been raised for the sake of many runs
            with contextlib.suppress(OSError, ValueError):
                resource.prlimit(child.pid, resource.RLIMIT_NOFILE, FILES_LIMIT)
        await ctx.emit(AgentProcess(pid=child.pid, pgid=child.pid, start_time=process.start_time))
        yield process
    finally:
        await process.end(run_id, ctx.grace_s)
        for task in process.tasks:
            task.cancel()
        await asyncio.wait(process.tasks, timeout=HURRY_S)


def _start_of(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:  # it has ended already
        return 0.0
