"""What all tests share: no environment of the developer's, a home of their own, and ways to wait for a condition."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends import BACKENDS, SCRIPTED, Backends
from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller, Engine
from orchestrator.store.layout import Home

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell starts jobs in the background with Ctrl-C ignored, and every process of a test would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """The only event loop that we run on."""
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Takes the developer's own settings away and gives each test a home of its own."""
    for name in list(os.environ):
        if name.startswith(("ORCHESTRATOR_", "CLAUDE", "CODEX", "ANTHROPIC", "OPENAI")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def home() -> Home:
    """The home of this test."""
    return Home.default()


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    """A directory for runs to work in."""
    path = tmp_path / "project"
    path.mkdir()
    return path


@asynccontextmanager
async def open_tools(cwd: Path, **env: str) -> AsyncGenerator[Tools]:
    """An engine with all backends, the scripted one too, and its tools for one caller."""
    caller = Caller(cwd=cwd, env=env)
    async with Engine(Home.default(), Backends({**BACKENDS, **SCRIPTED}).load) as engine:
        with engine.lives.client(caller):
            yield Tools(engine, caller)


async def wait_until(condition: Callable[[], bool], description: str, within_s: float = 20.0) -> None:
    """Waits for a condition that nothing can signal."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110  other processes change it
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"waited {within_s} s in vain for: {description}")
