"""How a command reaches runs: reading goes to the files, commanding to the host, which is started when needed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import HostUnavailable, Internal, InvalidArgument
from orchestrator.host.launch import START_S, connect
from orchestrator.host.place import API, HostDefect, HostError, Place, hello
from orchestrator.model import JsonObject, Run
from orchestrator.queries import Queries
from orchestrator.store.layout import RUN_ID, Home, RunDir
from orchestrator.store.owner import is_owned
from orchestrator.store.reader import RunReader, State

if TYPE_CHECKING:
    from orchestrator.store.log import RunLog

ANSWER_S = 5.0

logger = logging.getLogger(__name__)


class Files:
    """The runs as the files tell them. A run whose owner is gone is recovered by the host, which is started for it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._seen: tuple[RunDir, State] | None = None
        """The run that was looked at last, which may be followed."""

    def log_of(self, run_id: str) -> RunLog | None:
        """No run lives in a command."""
        return None

    def place(self, run_id: str) -> int | None:
        """The files do not know it."""
        return None

    def left(self, run_id: str) -> JsonObject | None:
        """Nor this."""
        return None

    async def state(self, run_dir: RunDir) -> Run:
        """The run now."""
        run = await asyncio.to_thread(self._read, run_dir)
        if run.terminal or await asyncio.to_thread(is_owned, run_dir):
            return run
        await command(
            "get_run", {"run_id": run.run_id}, run_dir.workspace.cwd
        )  # the host recovers what it is asked for
        return await asyncio.to_thread(self._read, run_dir)

    def _read(self, run_dir: RunDir) -> Run:
        known = self._seen[1] if self._seen and self._seen[0] == run_dir else None
        self._seen = run_dir, RunReader(run_dir).state(known)
        return self._seen[1].run


class Reach:
    """What the commands need: queries, and a way to the host.

    Args:
        cwd: the directory to work for.
    """

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.home = Home.default()
        self.queries = Queries(Files(self.home))

    def find(self, run: str) -> RunDir:
        """The run that a person names, by its id or by its agent's name.

        Raises:
            RunNotFound, AgentNotFound: there is none.
        """
        if RUN_ID.fullmatch(run):
            return self.queries.find(run, None, self.cwd)
        return self.queries.find(None, run, self.cwd)

    async def command(self, tool: str, **arguments: object) -> JsonObject:
        """Calls a tool of the host; arguments that are None are left out."""
        return await command(tool, {key: value for key, value in arguments.items() if value is not None}, self.cwd)


async def command(tool: str, arguments: JsonObject, cwd: Path, toolsets: Sequence[str] = ()) -> JsonObject:
    """Calls a tool of the host.

    Args:
        toolsets: those that the tool is in, if it is none of the usual ones.

    Raises:
        OrchestratorError: it was refused, or there is no host and none can be started.
    """
    from orchestrator.host.client import exchange

    try:
        json.dumps(arguments, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument("what was given is not valid UTF-8") from error
    first = {**hello(scripted=True, toolsets=list(toolsets)), "cwd": str(cwd)}
    place, begun = Place.own(), time.monotonic()
    before = place.about().get("pid")
    try:
        connection, _ = await asyncio.to_thread(connect, place, first, START_S)
    except HostDefect as error:
        raise Internal(str(error)) from error
    except HostError as error:
        raise HostUnavailable(str(error)) from error
    now = place.about().get("pid")
    logger.debug("the host is process %s at %s%s", now, place.socket, "" if now == before else ", just started")
    connected = time.monotonic()
    try:
        return await exchange(connection, tool, arguments)
    finally:
        spans = (connected - begun) * 1000, (time.monotonic() - connected) * 1000
        logger.debug("%s: %.0f ms to connect, %.0f ms until the answer", tool, *spans)


def ask_host(control: str, **more: str) -> JsonObject | None:
    """What the host answers about itself; None when none is running."""
    from orchestrator.host.launch import find, greet

    place = Place.own()
    connection = find(place) if os.path.isdir(place.directory) else None  # noqa: PTH112  a plain path
    if connection is None:
        return None
    with connection:
        answer, _ = greet(connection, {"orchestrator": API, "control": control, **more}, time.monotonic() + ANSWER_S)
    return answer or {"error": f"the host does not answer; see {place.log}"}
