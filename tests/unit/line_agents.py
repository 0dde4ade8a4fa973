"""Small processes that speak lines, for the tests of what drives agents."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import psutil

from orchestrator.config import Settings
from orchestrator.line_process import LineProcess, line_process
from orchestrator.model import Answer, InputRequest, Message, Usage, new_id
from orchestrator.process import MARKER
from orchestrator.updates import Update
from tests.conftest import wait_until

POLITE, HURRIED = 5.0, 0.25
"""Graces with and without the time to ask first."""


class Context:
    """As much of a run as a process needs."""

    def __init__(self) -> None:
        self.env: dict[str, str] = {}
        self.agent_tools = None
        self.settings = Settings()
        self.grace_s = POLITE
        self.leaving = False
        self.told: list[Update] = []
        self.fault: Exception | None = None

    async def emit(self, update: Update) -> None:
        """Keeps it."""
        self.told.append(update)
        if self.fault:
            raise self.fault

    metered = False

    async def spend(self, usage: Usage, *, more: bool) -> bool:
        """Nothing is counted here."""
        return True

    async def rest(self) -> None:
        """Nothing is held here."""

    async def ask(self, request: InputRequest) -> Answer:
        """Nothing asks here."""
        raise NotImplementedError(request)

    async def end_steering(self, over: Callable[[], bool]) -> bool:
        """Not called by a process."""
        return over()

    def steering(self) -> AsyncIterator[Message]:
        """Nobody steers here."""
        raise NotImplementedError


class Place:
    """Where processes of one run are started."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.ctx = Context()
        self.run_id = new_id("run")
        self._before = psutil.Process().num_fds()

    def start(self, *command: str, keep: tuple[int, ...] = ()) -> AbstractAsyncContextManager[LineProcess]:
        env = {"PATH": os.environ["PATH"]}
        return line_process(command, cwd=self.cwd, env=env, run_id=self.run_id, ctx=self.ctx, keep=keep)

    def python(self, script: str) -> AbstractAsyncContextManager[LineProcess]:
        return self.start(sys.executable, "-c", f"import os, signal, subprocess, sys, time\n{script}")

    def shell(self, script: str) -> AbstractAsyncContextManager[LineProcess]:
        return self.start("/bin/sh", "-c", script)

    @property
    def pipes(self) -> int:
        """How many more files are open here than before."""
        return max(0, psutil.Process().num_fds() - self._before)

    def marked(self) -> list[int]:
        """What carries the run's marker."""
        return [pid for pid in psutil.pids() if runs(pid) and _environment(pid).get(MARKER) == self.run_id]


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _environment(pid: int) -> dict[str, str]:
    try:
        return psutil.Process(pid).environ()
    except psutil.Error:
        return {}


@asynccontextmanager
async def place_at(cwd: Path) -> AsyncGenerator[Place]:
    """A place, at which in the end neither a process is left nor a pipe to one."""
    place = Place(cwd)
    yield place
    assert place.marked() == []
    await wait_until(lambda: place.pipes == 0, "no pipe is open", within_s=2)


async def said(process: LineProcess) -> list[bytes]:
    async with asyncio.timeout(20):
        return [line async for line in process.lines()]


async def first(process: LineProcess) -> bytes:
    async with asyncio.timeout(20):
        return await anext(process.lines())
