"""Checks: commands of the caller that the host itself runs where an agent worked, so that "done" is not only its word.

They run outside of any sandbox, in the environment of the run's client, and see what the agent left. Each is told as a
command of the run, with its output.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from orchestrator.events import CommandFinished, CommandStarted, Update
from orchestrator.model import JsonObject, compact
from orchestrator.process import MARKER, reap

HEAD_BYTES, TAIL_BYTES = 256 * 1024, 768 * 1024
"""Of a check's output, what is kept of its beginning and of its end."""
TOLD_CHARS = 4_000
"""Of the output of each failed check, what its agent is told."""
REMEMBERED = 1_000
_EOF_S = 0.5


class Passed:
    """What passed already, by the tree that was looked at. In memory, where no agent can write."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, JsonObject] = OrderedDict()

    def find(self, key: bytes) -> JsonObject | None:
        """What is known of this check on this tree."""
        return self._known.get(key)

    def add(self, key: bytes, result: JsonObject) -> None:
        """Remembers it; the oldest goes."""
        self._known[key] = result
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


class Ran(NamedTuple):
    """How one command went: its exit code, None if it was ended for its time, and what it said."""

    exit_code: int | None
    output: str
    duration_ms: int


class Checks:
    """The checks of one run.

    Args:
        wanted: as `workspaces.asked` reads them.
        emit: tells an update of the run.
        last_seq: the number of the newest event.
    """

    def __init__(
        self,
        run_id: str,
        wanted: Sequence[JsonObject],
        passed: Passed,
        emit: Callable[[Update], Awaitable[None]],
        last_seq: Callable[[], int],
    ) -> None:
        self._run_id = run_id
        self._wanted = wanted
        self._passed = passed
        self._emit = emit
        self._last_seq = last_seq
        self._round = 0
        self._said: dict[str, str] = {}
        self._failed: dict[bytes, JsonObject] = {}
        """What did not pass, by the tree that was looked at: the agent may have changed nothing since."""

    async def run(self, cwd: Path, env: Mapping[str, str], tree: str | None) -> list[JsonObject]:
        """Runs them one after the other. Returns how each went.

        Args:
            tree: what the directory holds; what passed on the same tree, in the same environment, is not run again.
        """
        self._round += 1
        own = {**({"PATH": os.environ["PATH"]} if "PATH" in os.environ else {}), **env, MARKER: self._run_id}
        try:
            return [await self._one(check, cwd, own, tree) for check in self._wanted]
        finally:
            await asyncio.to_thread(reap, {self._run_id: None}, at_once=True)

    async def _one(self, check: JsonObject, cwd: Path, env: Mapping[str, str], tree: str | None) -> JsonObject:
        key = _key(check, env, tree, str(cwd)) if tree else b""
        if key and (known := self._passed.find(key) or self._failed.get(key)):
            return {**known, "name": check["name"], "required": check["required"], "memoised": True}
        name, command = f"check:{self._round}:{check['name']}", check["run"]
        await self._emit(CommandStarted(command_id=name, command=command, cwd=str(cwd)))
        ran = await _run(command, cwd, env, check["timeout_s"])
        passed = ran.exit_code == 0
        output = ran.output if ran.exit_code is not None else f"{ran.output}\n[ended after {check['timeout_s']:g} s]"
        finished = CommandFinished(
            command_id=name, command=command, output=output,
            exit_code=ran.exit_code, status="completed" if passed else "failed",
        )  # fmt: skip
        await self._emit(finished)
        self._said[check["name"]] = output
        status = "passed" if passed else "failed" if ran.exit_code is not None else "timed_out"
        facts = {"exit_code": ran.exit_code, "duration_ms": ran.duration_ms, "seq": self._last_seq()}
        result = compact({"name": check["name"], "status": status, **facts, "required": check["required"]})
        if key and passed:
            self._passed.add(key, {name: value for name, value in result.items() if name != "seq"})
        elif key:
            self._failed[key] = result
        return result

    def mending(self, results: Sequence[JsonObject]) -> str:
        """What the agent is told of the required checks that failed."""
        parts = ["What you did does not pass the checks of this task. Mend it, and say when it is done."]
        for result in results:
            if result["required"] and result["status"] != "passed":
                output = self._said.get(result["name"], "")[-TOLD_CHARS:].strip()
                code = f"exit code {result['exit_code']}" if "exit_code" in result else "it took too long"
                command = next(check["run"] for check in self._wanted if check["name"] == result["name"])
                parts.append(f"## {result['name']}: {code}\n\n`{command}`\n\n```\n{output}\n```")
        return "\n\n".join(parts)


def failed(results: Sequence[JsonObject]) -> list[str]:
    """The names of the required checks that did not pass."""
    return [result["name"] for result in results if result["required"] and result["status"] != "passed"]


def verification_of(results: Sequence[JsonObject]) -> JsonObject:
    """What callers hear of the checks of a run."""
    status = "none" if not results else "failed" if failed(results) else "passed"
    return {"status": status, "checks": list(results)}


def _key(check: JsonObject, env: Mapping[str, str], tree: str, cwd: str) -> bytes:
    known: Any = [tree, check["run"], sorted((k, v) for k, v in env.items() if k != MARKER), Path(cwd).name]
    return hashlib.sha256(orjson.dumps(known, default=str)).digest()


async def _run(command: str, cwd: Path, env: Mapping[str, str], timeout_s: float) -> Ran:
    """Runs one command by the shell, in a process group of its own, of which nothing is left."""
    began = time.monotonic()
    ours, theirs = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", command, cwd=cwd, env=dict(env), start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        )  # fmt: skip
    except OSError as error:
        os.close(ours)
        return Ran(127, f"it cannot be started: {error}", 0)
    finally:
        os.close(theirs)
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
