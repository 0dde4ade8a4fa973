"""An A2A server made of raw bytes, for what no decent SDK would ever send: broken streams, lies and floods.

A test gives it a card and, for each JSON-RPC method, what to do with a request. It listens on a real port.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from orchestrator.model import JsonObject

CONTEXT = "ctx-1"
TASK = "task-1"


class Reply:
    """One HTTP response, written as the test likes."""

    def __init__(self, writer: asyncio.StreamWriter, request: JsonObject) -> None:
        self._writer = writer
        self.request = request

    async def raw(self, data: bytes) -> None:
        """Any bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def body(self, status: str, content: bytes, *headers: str, kind: str = "application/json") -> None:
        """A whole response."""
        lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(content)}", *headers]
        await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + content)

    async def result(self, result: Any) -> None:
        """A JSON-RPC result."""
        answer = {"jsonrpc": "2.0", "id": self.request.get("id"), "result": result}
        await self.body("200 OK", json.dumps(answer).encode())

    async def error(self, code: int, message: str) -> None:
        """A JSON-RPC error."""
        answer = {"jsonrpc": "2.0", "id": self.request.get("id"), "error": {"code": code, "message": message}}
        await self.body("200 OK", json.dumps(answer).encode())

    async def begin_stream(self) -> None:
        """The head of an event stream that ends with the connection."""
        await self.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")

    async def event(self, result: Any) -> None:
        """One event of a stream."""
        answer = {"jsonrpc": "2.0", "id": self.request.get("id"), "result": result}
        await self.raw(b"data: " + json.dumps(answer).encode() + b"\r\n\r\n")

    async def stream(self, *results: Any) -> None:
        """A stream of these events, which then ends cleanly."""
        await self.begin_stream()
        for result in results:
            await self.event(result)


Behaviour = Callable[[Reply], Awaitable[None]]


class FakeAgent:
    """The server. `on` maps a method, or GET, to its behaviour; `seen` keeps the requests in order."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.seen: list[JsonObject] = []
        self.card: Any = {
            "name": "fake",
            "description": "fake",
            "version": "1",
            "supportedInterfaces": [{"url": f"{base}/rpc", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
            "capabilities": {"streaming": True},
            "defaultInputModes": ["text/plain"],
            "defaultOutputModes": ["text/plain"],
            "skills": [],
        }
        self.on: dict[str, Behaviour] = {"GET": self._serve_card}

    async def _serve_card(self, reply: Reply) -> None:
        await reply.body("200 OK", json.dumps(self.card).encode())

    def methods(self) -> list[str]:
        """The methods called so far."""
        return [request["method"] for request in self.seen if request["method"] != "GET"]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request: what follows would be the client's next connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            start, *lines = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request: JsonObject = json.loads(body) if body else {"method": "GET"}
            self.seen.append({**request, "headers": headers, "path": start.split()[1]})
            behaviour = self.on.get(request["method"])
            reply = Reply(writer, request)
            if behaviour is None:
                await reply.error(-32601, f"no {request['method']} here")
            else:
                await behaviour(reply)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def fake_agent() -> AsyncGenerator[FakeAgent]:
    """A listening fake agent."""
    agents: list[FakeAgent] = []
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await agents[0].handle(reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    agents.append(FakeAgent(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    try:
        yield agents[0]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def task(state: str, **more: Any) -> JsonObject:
    """A task in a state: `WORKING`, `COMPLETED` and so on."""
    return {"id": TASK, "contextId": CONTEXT, "status": status(state, more.pop("message", None)), **more}


def update(state: str, message: JsonObject | None = None) -> JsonObject:
    """A status update."""
    return {"statusUpdate": {"taskId": TASK, "contextId": CONTEXT, "status": status(state, message)}}


def status(state: str, message: JsonObject | None = None) -> JsonObject:
    """A status."""
    return {"state": f"TASK_STATE_{state}"} | ({"message": message} if message else {})


def said(text: str, message_id: str) -> JsonObject:
    """A message of the agent."""
    return {"messageId": message_id, "role": "ROLE_AGENT", "parts": [{"text": text}]}


def chunk(artifact_id: str, text: str, *, append: bool = False, last: bool = False) -> JsonObject:
    """A piece of an artifact."""
    artifact = {"artifactId": artifact_id, "parts": [{"text": text}]}
    return {
        "artifactUpdate": {
            "taskId": TASK,
            "contextId": CONTEXT,
            "artifact": artifact,
            "append": append,
            "lastChunk": last,
        }
    }
