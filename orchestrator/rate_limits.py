"""A limit of the provider of an agent's model: found out by the agent's driver, waited out by the run."""

from __future__ import annotations

import re
import time
from typing import Any

from orchestrator.backend import RunContext
from orchestrator.errors import BackendError
from orchestrator.updates import RateLimited

GO_ON = "The provider takes requests again. Go on with the task."
"""What an agent is told that had begun when its provider took no more requests."""
LEAST_S, MOST_S = 1.0, 366 * 86_400.0
_TRY_AGAIN = re.compile(r"(?:try again|retry) (?:in|after) (\d+(?:\.\d+)?) ?(ms|s|m|h)\w*", re.IGNORECASE)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class LimitReached(BackendError):
    """The provider takes no more requests for now.

    Args:
        words: what it said.
        retry_s: seconds until it takes some again; None if it did not say.
    """

    def __init__(self, words: str, retry_s: float | None = None) -> None:
        super().__init__("agent_error", words)
        self.retry_s = retry_in(words) if retry_s is None else max(retry_s, LEAST_S)
        """Seconds until it takes requests again; None if that is not known."""


def retry_in(words: str) -> float | None:
    """The seconds that a provider's own words name, as in `Please try again in 20s`; None if they name none."""
    match = _TRY_AGAIN.search(words)
    return min(max(float(match[1]) * _UNITS[match[2].lower()], LEAST_S), MOST_S) if match else None


def seconds_until(timestamp: Any) -> float | None:
    """The seconds until a time in seconds since 1970; None if it is none, past, or farther away than makes sense."""
    if isinstance(timestamp, bool) or not isinstance(timestamp, (int, float)):
        return None
    return left if 0 < (left := timestamp - time.time()) < MOST_S else None


async def wait_out(ctx: RunContext, limit: LimitReached) -> None:
    """Tells of the limit, and returns when the provider takes requests again.

    Raises:
        BackendError: that is too far away.
    """
    await ctx.emit(RateLimited(words=str(limit), retry_s=limit.retry_s))
    await ctx.rest()
