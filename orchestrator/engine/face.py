"""The agent's face: what the agent of a live run may ask and say by tools of ours, and the pass that proves who it is.

Above: the tools of the set `agent`, called through a socket by a client that has the pass. Below: the run's requests
and log. A pass lives in memory and in the agent's environment, and is worth nothing once its run is over.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sys
from collections.abc import Sequence
from typing import Protocol

import orjson

from orchestrator.errors import BackendError
from orchestrator.events import Progress, Update
from orchestrator.model import Answer, InputRequest, JsonObject, compact
from orchestrator.process import MARKER

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

    def give_up(self, why: str) -> None:
        """Ends the run: nobody answered."""
        ...


class Face:
    """One run's."""

    def __init__(self, run_id: str, socket: str, home: str, life: Asking) -> None:
        self.key = secrets.token_urlsafe(24)
        self.environment = {PASS: self.key, SOCKET: socket, MARKER: run_id, "ORCHESTRATOR_HOME": home}
        self._life = life
        self._questions: dict[bytes, asyncio.Task[Answer]] = {}
        self._count = 0

    @property
    def server(self) -> JsonObject:
        """The MCP server to be given to the agent, as `mcp_servers` of `backend_config` has it."""
        command, *args = COMMAND
        return {"command": command, "args": args, "env": self.environment}

    def knows(self, key: str) -> bool:
        """Whether that is the pass."""
        return secrets.compare_digest(key.encode(), self.key.encode())

    async def ask(self, question: str, options: Sequence[str]) -> Answer:
        """Asks the run's caller. Whoever gives up waiting withdraws nothing: asked again in the same words, the
        question is joined, and its answer is given when it is there."""
        name = hashlib.sha256(orjson.dumps([question, list(options)])).digest()
        if (asking := self._questions.get(name)) is None:
            self._count += 1
            request = InputRequest(
                request_id=f"ask_caller:{self._count}",
                kind="question",
                text=question,
                options=[{"id": option, "label": option} for option in options] or None,
            )
            asking = self._questions[name] = asyncio.create_task(self._asked(request))
        answer = await asyncio.shield(asking)
        self._questions.pop(name, None)  # it was heard: the next one in these words is another
        return answer

    async def _asked(self, request: InputRequest) -> Answer:
        try:
            return await self._life.ask(request)
        except BackendError as unanswered:  # as with any other question of an agent
            self._life.give_up(str(unanswered))
            raise

    async def report(self, text: str, percent: float | None) -> None:
        """The agent's word on how far it is."""
        await self._life.emit(Progress(detail=text, progress=compact({"text": text, "percent": percent})))

    async def close(self) -> None:
        """The run is over: nobody waits any more, and the pass is worth nothing."""
        self.key = secrets.token_urlsafe(24)
        for asking in self._questions.values():
            asking.cancel()
        if self._questions:
            await asyncio.wait(self._questions.values(), timeout=1.0)
