"""MCP clients that survive the death of whoever they speak to.

A `Client` is one process with one bridge. A `Seat` is where a client sits: when the client or its bridge is killed,
the next one takes the seat, reads are asked again, and of a command nobody knows whether it was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.model import JsonObject
from tests.kill.ledger import Ledger, Promise

LINE_BYTES = 16 * 2**20
CALL_S = 90.0
ROOT = Path(__file__).parents[2]


class Gone(Exception):
    """The client or its bridge ended before there was an answer."""


class Refused(Exception):
    """A call was refused.

    Attributes:
        code: the first word of the sentence.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = sentence.partition(":")[0]


class Client:
    """One MCP client with its bridge. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.bridge = 0
        """The process of the bridge."""
        self._last_id = 0
        self._waiting: dict[int, asyncio.Future[JsonObject]] = {}
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, cwd: Path, env: Mapping[str, str], *arguments: str) -> Client:
        """Starts a client and opens its session.

        Raises:
            Gone: it ended meanwhile.
        """
        client = cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.kill.owner", "--scripted", *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                cwd=cwd,
                env={**env, "PYTHONPATH": str(ROOT)},
                limit=LINE_BYTES,
            )
        )
        try:
            await client._open()
        except BaseException:  # nobody else knows of the process
            await client.kill()
            raise
        return client

    async def _open(self) -> None:
        assert self.process.stdout is not None
        first = await self.process.stdout.readline()
        if not first.endswith(b"\n"):
            raise Gone
        self.bridge = int(json.loads(first)["bridge"])
        self._reading = asyncio.create_task(self._read())
        about = {"name": "kill", "version": "0"}
        await self.request("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=about)
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def kill(self) -> None:
        """Kills the client alone, and returns when nothing of it is left here."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.end()

    async def request(self, method: str, **params: Any) -> JsonObject:
        """The result of a request.

        Raises:
            Gone: nobody is there any more.
        """
        self._last_id += 1
        answer = self._waiting[self._last_id] = asyncio.get_running_loop().create_future()
        self._write({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})
        async with asyncio.timeout(CALL_S):
            message = await answer
        if not message:
            raise Gone
        return message["result"]

    async def call(self, tool: str, **arguments: Any) -> JsonObject:
        """The document of a tool call.

        Raises:
            Refused: with the sentence that the caller's model reads.
            Gone: nobody is there any more.
        """
        result = await self.request("tools/call", name=tool, arguments=arguments)
        if result.get("isError"):
            raise Refused(result["content"][0]["text"])
        return result["structuredContent"]

    async def end(self) -> None:
        """Closes the input, and returns when the client and its bridge are gone."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        await self.process.wait()
        if self._reading is not None:
            await self._reading

    def _write(self, message: JsonObject) -> None:
        assert self.process.stdin is not None
        if self.process.stdin.is_closing() or (self._reading is not None and self._reading.done()):
            raise Gone
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            while (line := await self.process.stdout.readline()).endswith(b"\n"):  # half a line is the last word
                message = json.loads(line)
                waiting = None if "method" in message else self._waiting.pop(message.get("id"), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result({})
        self._waiting.clear()


class Seat:
    """A place for one client at a time.

    Args:
        start: starts the next client.
    """

    def __init__(self, start: Callable[[], Awaitable[Client]], ledger: Ledger) -> None:
        self._start = start
        self._ledger = ledger
        self._changing = asyncio.Lock()
        self.client: Client | None = None

    async def occupant(self) -> Client:
        """The client that sits here now; a new one, if the last is gone."""
        async with self._changing:
            while self.client is None:
                with contextlib.suppress(Gone):
                    self.client = await self._start()
            return self.client

    async def read(self, tool: str, **arguments: Any) -> JsonObject:
        """What a tool that changes nothing says, through whichever client lives to tell.

        Raises:
            Refused: which no death of another process is a reason for.
        """
        while True:
            client = await self.occupant()
            try:
                document = await client.call(tool, **arguments)
            except Gone:
                await self._leave(client)
            except Refused as refused:
                self._ledger.check(Promise.READS, False, f"{tool} {arguments} was refused: {refused}")
                raise
            else:
                self._ledger.check(Promise.READS, True)
                return document

    async def command(self, tool: str, **arguments: Any) -> JsonObject | None:
        """What a tool that changes something says; None where nobody knows whether it was done.

        Raises:
            Refused: for any reason but the death of another process.
        """
        client = await self.occupant()
        try:
            return await client.call(tool, **arguments)
        except Gone:
            await self._leave(client)
            return None
        except Refused as refused:
            if refused.code == "host_restarted":
                return None
            raise

    async def _leave(self, client: Client) -> None:
        async with self._changing:
            if self.client is client:
                self.client = None
                await client.end()

    async def clear(self) -> None:
        """Ends the client that sits here."""
        if self.client is not None:
            await self._leave(self.client)
