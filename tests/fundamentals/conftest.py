"""The tutorial's one fixture: tools, as an MCP client sees them, over an agent that plays a script."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.model import JsonObject
from tests.conftest import open_tools

Call = Callable[..., Awaitable[JsonObject]]


@pytest.fixture
async def call(cwd: Path) -> AsyncGenerator[Call]:
    """Calls a tool: `await call("get_run", run_id=...)`. Refusals are raised."""
    async with open_tools(cwd) as tools:

        async def call(tool: str, **arguments: Any) -> JsonObject:
            return await tools.call(tool, arguments)

        yield call


@pytest.fixture
def spawn(call: Call, cwd: Path) -> Callable[..., Awaitable[str]]:
    """Spawns a run of the scripted agent and returns its id. The prompt is the script, a line each."""

    async def spawn(*script: str, **more: Any) -> str:
        run = await call("spawn_run", backend="scripted", cwd=str(cwd), prompt="\n".join(script), **more)
        return run["run_id"]

    return spawn
