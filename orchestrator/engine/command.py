"""One command that the host runs for a caller, outside of any sandbox: how it went, and what it said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

HEAD_BYTES, TAIL_BYTES = 256 * 1024, 768 * 1024
"""Of a command's output, what is kept of its beginning and of its end."""
_EOF_S = 0.5


class Ran(NamedTuple):
    """How one command went: its exit code, None if it was ended for its time, and what it said."""

    exit_code: int | None
    output: str
    duration_ms: int
    started: bool = True


async def run_command(
    argv: Sequence[str], cwd: Path, env: Mapping[str, str], timeout_s: float, given: bytes = b""
) -> Ran:
    """Runs one command in a process group of its own, of which nothing is left.

    Args:
        env: PATH is ours where it has none.
        given: what it reads on stdin.
    """
    began = time.monotonic()
    stdin = await asyncio.to_thread(_file_of, given) if given else None
    ours, theirs = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, cwd=cwd, env={"PATH": os.environ.get("PATH", os.defpath), **env}, start_new_session=True,
            stdin=stdin or asyncio.subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        os.close(ours)
        return Ran(127, f"it cannot be started: {error}", 0, started=False)
    finally:
        os.close(theirs)
        if stdin:
            stdin.close()
    output = _Output()
    reading = asyncio.create_task(output.read(ours))
    exit_code: int | None = None
    try:
        async with asyncio.timeout(timeout_s):
            exit_code = await process.wait()
    except TimeoutError:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.wait({reading}, timeout=_EOF_S)  # whoever left the group may hold the pipe open
        reading.cancel()
        await asyncio.wait({reading})
        await process.wait()
    return Ran(exit_code, output.text, int((time.monotonic() - began) * 1000))


def _file_of(text: bytes) -> IO[bytes]:
    """A file without a name that holds the text."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  closed by who reads it
    file.write(text)
    file.seek(0)
    return file


class _Output:
    """The beginning and the end of what a command says."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._cut = 0

    async def read(self, pipe: int) -> None:
        """Takes in everything, and closes the pipe."""
        stream = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        file = os.fdopen(pipe, "rb", 0)  # closed by the transport
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), file)
        try:
            await self._take(stream)
        finally:
            transport.close()

    async def _take(self, stream: asyncio.StreamReader) -> None:
        while piece := await stream.read(64 * 1024):
            room = HEAD_BYTES - len(self._head)
            self._head += piece[:room]
            self._tail += piece[room:]
            if (over := len(self._tail) - TAIL_BYTES) > 0:
                self._cut += over
                del self._tail[:over]

    @property
    def text(self) -> str:
        """What is kept of it."""
        cut = f"\n[{self._cut:,} bytes are left out]\n".encode() if self._cut else b""
        return bytes(self._head + cut + self._tail).decode(errors="replace")
