"""The order of runs in their sessions: one at a time, in the order they came, across all processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from orchestrator.model import RunSpec
from orchestrator.store.layout import Workspace
from orchestrator.store.log import uninterrupted
from orchestrator.store.sessions import SessionLock

_SESSION_POLL_S = 0.2


@dataclass(slots=True)
class _Line:
    """Those of one session who wait in this process."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    members: int = 0


class SessionOrder:
    """The lines of all sessions in this process."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    @property
    def idle(self) -> bool:
        """Whether nobody waits or holds a turn."""
        return not self._lines

    @contextlib.asynccontextmanager
    async def turn(self, spec: RunSpec) -> AsyncGenerator[None]:
        """Waits until no other run of the session is live, here (in order) or in another process."""
        line = self._lines.setdefault(spec.session_id, _Line())
        line.members += 1
        lock = SessionLock(Workspace(spec.cwd), spec.session_id)
        try:
            async with line.lock:
                try:
                    # a cancellation waits for the thread, or the lock would be taken and never given back
                    while not await uninterrupted(asyncio.to_thread(lock.acquire)):  # noqa: ASYNC110  nobody can call us
                        await asyncio.sleep(_SESSION_POLL_S)
                    yield
                finally:
                    lock.release()
        finally:
            line.members -= 1
            if not line.members:
                del self._lines[spec.session_id]
