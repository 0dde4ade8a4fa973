"""What the parts below us cost alone: no figure of ours can be better than these."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson

from tests.bench.figures import Figure, millis, rate
from tests.bench.workbench import child, first_line

EVENTS = 20_000


def append_lines() -> Iterator[Figure]:
    """One `orjson.dumps` and one `write` per event of 200 bytes."""
    samples: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(5):
            descriptor = os.open(Path(folder, str(number)), os.O_WRONLY | os.O_CREAT)
            started = time.perf_counter()
            for seq in range(EVENTS):
                event = {
                    "seq": seq,
                    "ts": "2026-01-02T03:04:05.678Z",
                    "type": "agent_message",
                    "data": {"text": "x" * 200},
                }
                os.write(descriptor, orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))
            samples.append(EVENTS / (time.perf_counter() - started))
            os.close(descriptor)
    yield rate("limit: dump and append a line", samples)


async def sdk_alone(v03: bool) -> AsyncIterator[Figure]:
    """The A2A SDK's client and httpx alone, reading the stream that the run reads."""
    version = "0.3" if v03 else "1.0"
    count = 6000
    flags = ["--v03"] if v03 else []
    with child("tests.bench.replay", "--count", str(count), *flags) as server:
        base = first_line(server)
        yield rate(f"limit: SDK client alone, {version}", [await _sdk(base, count) for _ in range(3)])
        yield rate(f"limit: raw event stream by httpx, {version}", [await _raw(base, count, v03) for _ in range(3)])


async def _sdk(base: str, count: int) -> float:
    from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
    from a2a.types import Message, Part, Role, SendMessageRequest

    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        client = ClientFactory(ClientConfig(httpx_client=http)).create(
            await A2ACardResolver(http, base).get_agent_card()
        )
        message = Message(message_id="m", role=Role.ROLE_USER, parts=[Part(text="go")])
        seen = 0
        started = time.perf_counter()
        async for _ in client.send_message(SendMessageRequest(message=message)):
            seen += 1
        assert seen == count + 2
        return count / (time.perf_counter() - started)


async def _raw(base: str, count: int, v03: bool) -> float:
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "message/stream" if v03 else "SendStreamingMessage"}
    body["params"] = {"message": {"messageId": "m"}}
    seen = 0
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        started = time.perf_counter()
        async with http.stream("POST", f"{base}/rpc", json=body) as response:
            async for line in response.aiter_lines():
                seen += line.startswith("data: ")
        assert seen == count + 2
        return count / (time.perf_counter() - started)


def start_python() -> Iterator[Figure]:
    """An interpreter that does nothing."""
    samples: list[float] = []
    for _ in range(10):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        samples.append(time.perf_counter() - started)
    yield millis("limit: python -c pass", samples)
