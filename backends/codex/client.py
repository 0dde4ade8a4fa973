"""JSON-RPC over the lines of `codex app-server`: our requests, its notifications, and its requests to us.

Above: the conversation. Below: a `LineProcess`. The two sides number their requests independently, and both may leave
one open for hours. Codex leaves out the member `jsonrpc`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import orjson

from orchestrator import __version__
from orchestrator.errors import BackendError
from orchestrator.line_process import LineProcess
from orchestrator.model import JsonObject, as_object

ANSWER_S = 60.0
"""How long Codex may take for the answer to a request of ours; none of them waits for its model."""
UNSUPPORTED = -32601


class RpcError(Exception):
    """Codex refused a request of ours; the message is its own."""


class ProcessEnded(Exception):
    """Codex closed its output: nothing more will come."""


class Notification(NamedTuple):
    """What Codex tells."""

    method: str
    params: JsonObject


class Request(NamedTuple):
    """What Codex asks. To be answered by `answer` or `refuse`, however late."""

    request_id: Any
    method: str
    params: JsonObject


class Client:
    """One connection to one app-server. `messages` has to be read for anything to happen."""

    def __init__(self, process: LineProcess) -> None:
        self._process = process
        self._last_id = 0
        self._waiting: dict[int, asyncio.Future[JsonObject]] = {}
        self._over = False

    async def messages(self) -> AsyncIterator[Notification | Request]:
        """What Codex tells and asks, in order, to the end of its output.

        Raises:
            BackendError: what it says makes no sense (`agent_protocol`).
        """
        try:
            async for line in self._process.lines():
                if not line.endswith(b"\n"):
                    continue  # torn by the end
                message = _parsed(line)
                params = as_object(message.get("params")) or {}
                method = message.get("method")
                if isinstance(method, str):
                    yield Request(message["id"], method, params) if "id" in message else Notification(method, params)
                elif isinstance(number := message.get("id"), int):
                    self._answered(number, message)
        finally:
            self._over = True
            for waiter in self._waiting.values():
                if not waiter.done():
                    waiter.set_exception(ProcessEnded("Codex ended"))
                    waiter.exception()  # nobody may be waiting any more

    def _answered(self, number: int, message: JsonObject) -> None:
        waiter = self._waiting.pop(number, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(message)

    async def request(self, method: str, **params: Any) -> JsonObject:
        """Asks Codex for something, and returns its answer.

        Raises:
            RpcError: it was refused.
            ProcessEnded: Codex went away.
            BackendError: no answer came in time (`agent_protocol`).
        """
        if self._over:
            raise ProcessEnded("Codex ended")
        self._last_id += 1
        number = self._last_id
        waiter = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._send({"id": number, "method": method, "params": params})
        try:
            async with asyncio.timeout(ANSWER_S):
                message = await waiter
        except TimeoutError as error:
            raise BackendError("agent_protocol", f"Codex does not answer {method} within {ANSWER_S:g} s") from error
        finally:
            self._waiting.pop(number, None)
        if (error := as_object(message.get("error"))) is not None:
            raise RpcError(str(error.get("message", error)))
        return as_object(message.get("result")) or {}

    async def introduce(self) -> None:
        """The handshake, before anything else."""
        client = {"name": "orchestrator", "title": "Orchestrator", "version": __version__}
        await self.request("initialize", clientInfo=client, capabilities={"experimentalApi": True})
        await self._send({"method": "initialized"})

    async def answer(self, request: Request, result: JsonObject) -> None:
        """Answers a request of Codex."""
        await self._send({"id": request.request_id, "result": result})

    async def refuse(self, request: Request) -> None:
        """Says that a request is not supported: one that is never answered would hold the turn for ever."""
        error = {"code": UNSUPPORTED, "message": f"not supported: {request.method}"}
        await self._send({"id": request.request_id, "error": error})

    async def _send(self, message: JsonObject) -> None:
        await self._process.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))


def _parsed(line: bytes) -> JsonObject:
    try:
        message = as_object(orjson.loads(line))
    except orjson.JSONDecodeError as error:
        raise BackendError("agent_protocol", f"Codex said a line that is no JSON: {line[:200]!r}") from error
    if message is None:
        raise BackendError("agent_protocol", f"Codex said a line that is no object: {line[:200]!r}")
    return message
