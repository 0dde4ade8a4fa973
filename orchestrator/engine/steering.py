"""What a caller says to a run whose agent works: accepted for as long as somebody will hear it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from orchestrator.errors import LimitExceeded, WrongState
from orchestrator.events import message_added
from orchestrator.model import Message
from orchestrator.store.log import RunLog

LIMIT = 100


class Steering:
    """The messages of one run on their way to its agent."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._messages: asyncio.Queue[Message] = asyncio.Queue(LIMIT)
        self._speaking = asyncio.Lock()
        self._over = False

    async def say(self, message: Message) -> None:
        """Accepts a message, once it is on disk.

        Raises:
            WrongState: nobody would hear it.
            LimitExceeded: the agent has not read what was said before.
        """
        async with self._speaking:
            if self._over:
                raise WrongState("the run is just ending; call wait_runs, then continue_run to go on in its session")
            if self._messages.full():
                raise LimitExceeded(f"{LIMIT} messages are waiting already; let the agent read them first")
            await self._log.append("message_added", message_added(message))
            self._messages.put_nowait(message)

    async def messages(self) -> AsyncIterator[Message]:
        """See `RunContext.steering`."""
        while True:
            yield await self._messages.get()
            self._messages.task_done()

    async def end(self, over: Callable[[], bool]) -> bool:
        """See `RunContext.end_steering`."""
        async with self._speaking:
            await self._messages.join()
            self._over = over()
            return self._over
