"""Serves an ASGI application on a port of its own inside this event loop, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any

import uvicorn


@contextlib.asynccontextmanager
async def listening(make_app: Callable[[str], Any], host: str, port: int) -> AsyncGenerator[str]:
    """Serves what `make_app` makes for the base URL, which is known only once the port is; yields that URL."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    base = f"http://{host}:{listener.getsockname()[1]}"
    server = _Server(uvicorn.Config(make_app(base), log_level="warning", timeout_graceful_shutdown=2, lifespan="on"))
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"serve {base}")
    try:
        await asyncio.wait({task, asyncio.ensure_future(server.ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield base
    finally:
        server.should_exit = True
        await task
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn without signal handlers, which belong to the process, and with a way to know that it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()
