"""How long a run may work, and how long it may be queued."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

from orchestrator.errors import BackendError


class ActiveClock:
    """Counts the time in which a run works, and not that in which it waits for its caller."""

    def __init__(self, limit_s: float | None, used_s: float = 0.0) -> None:
        self._left = None if limit_s is None else limit_s - used_s
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expired: Callable[[], object] = lambda: None

    def on_expiry(self, callback: Callable[[], object]) -> None:
        """What to call when the limit is used up."""
        self._expired = callback

    def go(self) -> None:
        """Counts from now on."""
        if self._left is not None and self._timer is None:
            self._since = time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(self._left, 0), self._expired)

    def pause(self) -> None:
        """Counts no more."""
        if self._left is not None and self._timer is not None and self._since is not None:
            self._timer.cancel()
            self._timer = None
            self._left -= time.monotonic() - self._since


@contextlib.asynccontextmanager
async def patience_of(ttl_s: float | None) -> AsyncGenerator[asyncio.Timeout]:
    """How long a run may be queued; to be rescheduled once it is not.

    Raises:
        BackendError: it was queued for too long (`expired`).
    """
    patience = asyncio.timeout(ttl_s)
    try:
        async with patience:
            yield patience
    except TimeoutError:
        if not patience.expired():
            raise
        raise BackendError("expired", f"it was queued for longer than limits.queue_ttl_s = {ttl_s:g}") from None
