"""Where agents are heard whose runs live in a process that is no host: a socket for them alone."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from backends import BACKENDS, SCRIPTED
from orchestrator.engine.engine import Engine
from orchestrator.host.server import Server


@asynccontextmanager
async def agents_door(engine: Engine, *, scripted: bool = False) -> AsyncGenerator[None]:
    """Gives the agents of an engine's runs their tools for as long as the block lasts.

    Args:
        scripted: they may spawn on the scripted backend too, if they may spawn at all.
    """
    offered = frozenset({**BACKENDS, **(SCRIPTED if scripted else {})})
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="orc-")  # for the user alone
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path := f"{folder.name}/sock")
    listener.listen()
    server = Server(engine, lambda _: offered, {}, lambda _: None, agents_only=True)
    serving = asyncio.create_task(server.serve(listener))
    server.hear_agents(path)
    try:
        yield
    finally:
        engine.lives.door = None
        serving.cancel()
        await asyncio.wait({serving}, timeout=1.0)
        await asyncio.to_thread(folder.cleanup)
