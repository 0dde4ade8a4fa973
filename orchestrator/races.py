"""Some work, and what makes it pointless: whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def unless(over: Coroutine[Any, Any, None], work: Coroutine[Any, Any, T]) -> T | None:
    """What some work gives; None, and the work given up, if the other returns before. Nothing of either is left."""
    working, ending = asyncio.ensure_future(work), asyncio.ensure_future(over)
    try:
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, ending):
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
