"""The agent's face: what the agent of a live run may ask and say by tools of ours, and the pass that proves who it is.

Above: the tools of the set `agent`, called through a socket by a client that has the pass. Below: the run's requests
and log. A pass lives in memory and in the agent's environment, and is worth nothing once its run is over.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import orjson

from orchestrator.errors import BackendError, WrongState
from orchestrator.model import Answer, InputRequest, JsonObject, RunSpec, compact
from orchestrator.process import MARKER
from orchestrator.updates import Progress, Update

PASS, SOCKET = "ORCHESTRATOR_RUN_PASS", "ORCHESTRATOR_RUN_SOCKET"
"""Variables of an agent, beside the marker. No name by which an agent would take a value for a secret to be removed."""
COMMAND = (sys.executable, "-I", "-m", "orchestrator", "mcp", "--toolset", "agent")
"""The MCP server of an agent. Isolated: nothing that lies in its directory is imported."""


class Asking(Protocol):
    """The life of the run, as far as its agent's tools touch it."""

    async def ask(self, request: InputRequest) -> Answer:
        """See `RunContext.ask`."""
        ...

    async def emit(self, update: Update) -> None:
        """See `RunContext.emit`."""
        ...

    def pause(self) -> None:
        """The agent waits for its caller."""
        ...

    def go(self) -> None:
        """The agent works."""
        ...

    def give_up(self, why: str) -> None:
        """Ends the run: nobody answered."""
        ...


class Calls(Protocol):
    """Our tools as one agent elsewhere may call them."""

    def listed(self) -> list[JsonObject]:
        """See `AgentTools.listed`."""
        ...

    async def call(self, call_id: str, name: str, arguments: JsonObject) -> JsonObject:
        """See `AgentTools.call`."""
        ...


class Door(NamedTuple):
    """Where the agents of our runs are heard."""

    socket: str
    calls: Callable[[RunSpec], Calls]
    """For the agent of a run that is elsewhere, and reaches no socket."""


@dataclass(slots=True)
class _Question:
    task: asyncio.Task[Answer]
    waiters: int = 0
    """How many calls wait for the answer."""


class Face:
    """One run's. Also the backend's `AgentTools`."""

    def __init__(self, spec: RunSpec, door: Door, home: str, life: Asking) -> None:
        self.key = secrets.token_urlsafe(24)
        self.environment = {PASS: self.key, SOCKET: door.socket, MARKER: spec.run_id, "ORCHESTRATOR_HOME": home}
        self._calls = door.calls(spec)
        self._life = life
        self.has_fetched = False
        """The agent has looked for messages."""
        self._questions: dict[bytes, _Question] = {}
        self._count = 0

    @property
    def server(self) -> JsonObject:
        """The MCP server to be given to the agent, as `mcp_servers` of `backend_config` has it."""
        command, *args = COMMAND
        return {"command": command, "args": args, "env": self.environment}

    def listed(self) -> list[JsonObject]:
        """See `AgentTools.listed`."""
        return self._calls.listed()

    async def call(self, call_id: str, name: str, arguments: JsonObject) -> JsonObject:
        """See `AgentTools.call`."""
        return await self._calls.call(call_id, name, arguments)

    def knows(self, key: str) -> bool:
        """Whether that is the pass."""
        return secrets.compare_digest(key.encode(), self.key.encode())

    async def ask(self, question: str, options: Sequence[str]) -> Answer:
        """Asks the run's caller. Whoever gives up waiting withdraws nothing: asked again in the same words, the
        question is joined, and its answer is given when it is there."""
        name = hashlib.sha256(orjson.dumps([question, list(options)])).digest()
        if (asked := self._questions.get(name)) is None:
            self._count += 1
            request = InputRequest(
                request_id=f"ask_caller:{self._count}",
                kind="question",
                text=question,
                options=[{"id": option, "label": option} for option in options] or None,
            )
            asked = self._questions[name] = _Question(asyncio.create_task(self._asked(name, request)))
        elif not asked.waiters and not asked.task.done():
            self._life.pause()  # nobody waited for it, and now somebody does again
        asked.waiters += 1
        try:
            return await asyncio.shield(asked.task)
        except asyncio.CancelledError:
            if asked.task.cancelled():
                raise WrongState("your run is over") from None
            raise
        finally:
            asked.waiters -= 1
            if asked.task.done():
                self._questions.pop(name, None)  # it was heard: the next one in these words is another
            elif not asked.waiters:
                self._life.go()  # the agent works on, and its caller may still answer

    async def _asked(self, name: bytes, request: InputRequest) -> Answer:
        try:
            return await self._life.ask(request)
        except BackendError as unanswered:  # as with any other question of an agent, if it waits for the answer
            if self._questions[name].waiters:
                self._life.give_up(str(unanswered))
            raise

    async def report(self, text: str, percent: float | None) -> None:
        """The agent's word on how far it is."""
        await self._life.emit(Progress(detail=text, progress=compact({"text": text, "percent": percent})))

    async def close(self) -> None:
        """The run is over: nobody waits any more, and the pass is worth nothing."""
        self.key = secrets.token_urlsafe(24)
        if tasks := [asked.task for asked in self._questions.values()]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1.0)
