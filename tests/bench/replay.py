"""An A2A server that sends canned status messages as fast as the socket takes them: `python -m tests.bench.replay`.

Real servers make a few hundred events a second, which would measure them and not us.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from typing import Any


def card(base: str, *, v03: bool) -> dict[str, Any]:
    """The agent's card."""
    common: dict[str, Any] = {"name": "replay", "description": "replay", "version": "1", "skills": []}
    common |= {"capabilities": {"streaming": True}, "defaultInputModes": ["text"], "defaultOutputModes": ["text"]}
    if v03:
        return {**common, "url": f"{base}/rpc", "preferredTransport": "JSONRPC", "protocolVersion": "0.3.0"}
    interface = {"url": f"{base}/rpc", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    return {**common, "supportedInterfaces": [interface]}


def results(task: str, context: str, count: int, size: int, *, v03: bool) -> list[Any]:
    """A task, `count` messages of `size` bytes of text, completion."""
    at = {"timestamp": "2026-01-02T03:04:05.678Z"}
    text = "x" * size
    if v03:
        ids = {"taskId": task, "contextId": context}
        status = {"kind": "status-update", "final": False, **ids}
        said = {"kind": "message", "role": "agent", "parts": [{"kind": "text", "text": text}], **ids}
        return [
            {"kind": "task", "id": task, "contextId": context, "status": {"state": "submitted"}},
            *(
                {**status, "status": {"state": "working", **at, "message": {**said, "messageId": f"m{n}"}}}
                for n in range(count)
            ),
            {**status, "final": True, "status": {"state": "completed"}},
        ]
    ids = {"taskId": task, "contextId": context}
    said = {"role": "ROLE_AGENT", "parts": [{"text": text}], **ids}
    return [
        {"task": {"id": task, "contextId": context, "status": {"state": "TASK_STATE_SUBMITTED"}}},
        *(
            {
                "statusUpdate": {
                    **ids,
                    "status": {"state": "TASK_STATE_WORKING", **at, "message": {**said, "messageId": f"m{n}"}},
                }
            }
            for n in range(count)
        ),
        {"statusUpdate": {**ids, "status": {"state": "TASK_STATE_COMPLETED"}}},
    ]


async def serve(*, v03: bool, count: int, size: int) -> None:
    """Serves until killed. The first line of output is the base URL."""
    base = ""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lengths = [
                    line.split(":")[1] for line in head.lower().split("\r\n") if line.startswith("content-length:")
                ]
                body = await reader.readexactly(int(lengths[0])) if lengths else b""
                if not body:
                    content = json.dumps(card(base, v03=v03)).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                    writer.write(b"content-length: %d\r\n\r\n" % len(content) + content)
                    continue
                request = json.loads(body)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                context = request["params"]["message"].get("contextId") or "context"
                for number, result in enumerate(results(f"task-{context}", context, count, size, v03=v03)):
                    answer = {"result": result, "id": request["id"], "jsonrpc": "2.0"}
                    event = b"data: " + json.dumps(answer).encode() + b"\r\n\r\n"
                    writer.write(b"%x\r\n" % len(event) + event + b"\r\n")
                    if number % 50 == 0:
                        await writer.drain()
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(base, flush=True)  # noqa: T201  the ready line
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--v03", action="store_true")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=int, default=120)
    options = parser.parse_args()
    asyncio.run(serve(v03=options.v03, count=options.count, size=options.size))
