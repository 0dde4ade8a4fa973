"""The processes of a campaign, all of them real: a host, clients with their bridges, an A2A agent. And killing them.

Only what belongs to the arena is ever signalled: each process is looked at before, whether its environment names the
arena's home.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from orchestrator.model import JsonObject
from orchestrator.store.layout import Home
from tests.kill.client import ROOT, Client, Refused, Seat
from tests.kill.ledger import Ledger, Promise

LEAVE_S = 20.0
LOST_CONTACT_S = 1.5
"""After which a run gives up an agent that does not answer; small, so that its end is seen."""


class Arena:
    """One home, one workspace, and everybody in it. Made by `open_arena`."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root / "home")
        self.cwd = root / "project"
        self.cwd.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
        self.env = {**kept, "ORCHESTRATOR_HOME": str(self.home.path)}
        self.ledger = Ledger()
        self.seats = [Seat(self.client, self.ledger) for _ in range(3)]
        """Two that work, and one that looks on."""
        self.agent_url = ""
        self._agent: asyncio.subprocess.Process | None = None

    @property
    def runs(self) -> Path:
        """Where the runs lie."""
        return self.cwd / ".orchestrator" / "runs"

    async def client(self, *arguments: str, cwd: Path | None = None) -> Client:
        """One more client."""
        return await Client.start(cwd or self.cwd, self.env, *arguments)

    # ---- the agent ----

    async def start_agent(self, port: int = 0) -> None:
        """Starts an A2A agent, on a port of its choice or on a given one."""
        self._agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "test_agents", "scripted", "--port", str(port)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # the SDK logs every client that goes away
            cwd=self.cwd,
            env={**self.env, "PYTHONPATH": str(ROOT)},
        )
        assert self._agent.stdout is not None
        self.agent_url = json.loads(await self._agent.stdout.readline())["agent_url"]

    async def kill_agent(self) -> int:
        """Kills the agent. Returns the port that is free now."""
        if self._agent is not None:
            with contextlib.suppress(ProcessLookupError):
                self._agent.kill()
            await self._agent.communicate()
        self._agent = None
        return int(self.agent_url.rpartition(":")[2] or 0)

    # ---- the host ----

    def host(self) -> psutil.Process | None:
        """The host, if one is alive."""
        for path in (self.home.path / "hosts").glob("*/json"):
            with contextlib.suppress(psutil.Error, OSError, ValueError, KeyError):
                process = psutil.Process(json.loads(path.read_bytes())["pid"])
                if self._is_ours(process):
                    return process
        return None

    async def kill_host(self) -> None:
        """Kills the host; waits for one, if it is just being started."""
        async with asyncio.timeout(LEAVE_S):
            while (host := self.host()) is None:  # noqa: ASYNC110  another process starts it
                await asyncio.sleep(0.01)
        host.kill()

    async def orphan(self) -> None:
        """Kills the host when no client is left who would start the next one."""
        for seat in self.seats:
            await seat.clear()
        await self.kill_host()

    async def stop_host(self, *how: str) -> int:
        """`orchestrator host stop`. Returns its exit code when it says that the host is gone."""
        command = (sys.executable, "-m", "orchestrator", "host", "stop", *(how or ("--cancel",)))
        stopping = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, cwd=ROOT, env=self.env
        )
        return await stopping.wait()

    # ---- all of them ----

    def processes(self) -> list[psutil.Process]:
        """All living processes that were given the arena's home."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            mine = process.environ().get("ORCHESTRATOR_HOME") == str(self.home.path)
            return mine and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    async def kill_client(self, seat: Seat) -> None:
        """Kills the client on a seat. Its bridge must notice and end."""
        client = await seat.occupant()
        bridge = psutil.Process(client.bridge)
        with contextlib.suppress(ProcessLookupError):
            client.process.kill()
        ended = await asyncio.to_thread(_ends, bridge)
        self.ledger.check(Promise.PROCESSES, ended, f"bridge {bridge.pid} outlived its killed client")

    async def kill_bridge(self, seat: Seat) -> None:
        """Kills the bridge of the client on a seat."""
        with contextlib.suppress(ProcessLookupError):
            os.kill((await seat.occupant()).bridge, signal.SIGKILL)

    async def time_recovery(self, run_id: str) -> float:
        """Seconds until a command is answered: one that leaves a run as it is which is over."""
        started = time.perf_counter()
        while True:
            try:
                if await self.seats[-1].command("cancel_run", run_id=run_id):
                    return time.perf_counter() - started
            except Refused as refused:
                self.ledger.check(Promise.READS, False, f"after a kill cancel_run was refused: {refused}")
                return time.perf_counter() - started

    async def all_runs(self) -> list[JsonObject]:
        """All rows of list_runs, over all its pages."""
        rows: list[JsonObject] = []
        more: JsonObject = {}
        while True:
            page = await self.seats[-1].read("list_runs", limit=100, **more)
            rows += page["runs"]
            if "next_cursor" not in page:
                return rows
            more = {"cursor": page["next_cursor"]}

    async def close(self) -> None:
        """Ends everybody in an orderly way. What then is left is a broken promise, and is killed."""
        for seat in self.seats:
            await seat.clear()
        code = await self.stop_host()
        self.ledger.check(Promise.PROCESSES, code == 0, f"host stop --cancel returned {code}")
        await self.kill_agent()
        left = self.processes()
        told = [f"{process.pid} {' '.join(_command(process))}" for process in left]
        self.ledger.check(Promise.PROCESSES, not left, f"left: {told}")
        for process in left:
            process.kill()
        async with asyncio.timeout(LEAVE_S):
            while self.processes():  # noqa: ASYNC110  nobody else can tell
                await asyncio.sleep(0.01)


def _ends(process: psutil.Process) -> bool:
    """Whether a process ends in time. One that nobody waits for stays a zombie, which is an end."""
    deadline = time.monotonic() + LEAVE_S
    while time.monotonic() < deadline:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            process.wait(0.05)
        except psutil.TimeoutExpired:
            continue
        except psutil.Error:
            return True
        return True
    return False


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


@asynccontextmanager
async def open_arena(root: Path) -> AsyncGenerator[Arena]:
    """An arena in which nobody is yet; nobody of it is left behind."""
    arena = Arena(root)
    try:
        yield arena
    finally:
        await arena.close()
