"""What a process that lives long watches about itself: a loop that stands still, and children that nobody waits for."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import resource
import selectors
import sys
import threading
import traceback
from types import FrameType

logger = logging.getLogger(__name__)

LAG_S = 0.25
_BEAT_S = 0.1
_PR_SET_CHILD_SUBREAPER = 36


class LagWatch:
    """Logs the stack of a loop that has stood still for longer than LAG_S. A thread, for the loop cannot see itself.

    A loop that waits in its selector is not woken to ask, so that an idle process stays idle.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._done = threading.Event()
        self._beat = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lag", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops watching."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(_BEAT_S):
            if self._is_waiting():
                continue
            self._beat.clear()
            try:
                self._loop.call_soon_threadsafe(self._beat.set)
            except RuntimeError:  # the loop is closed
                return
            if not self._beat.wait(LAG_S - _BEAT_S):  # it may have stood still since the last look
                stack = "".join(traceback.format_stack(self._frame()))
                logger.warning("the loop has stood still for %d ms:\n%s", LAG_S * 1000, stack)
                while not self._beat.wait(1.0) and not self._done.is_set():
                    pass

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._thread_id)  # pyright: ignore[reportPrivateUsage]

    def _is_waiting(self) -> bool:
        frame = self._frame()
        return frame is not None and frame.f_code.co_filename == selectors.__file__


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant that loses its own, so that none escapes. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Zombies:
    """Waits for adopted children that ended; those that asyncio waits for are gone before they are seen twice."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def bury(self) -> None:
        """To be called every few seconds."""
        ended = set(_ended_children())
        for pid in ended & self._seen:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
        self._seen = ended


def _ended_children() -> list[int]:
    import psutil

    try:
        children = psutil.Process().children()
        return [child.pid for child in children if child.status() == psutil.STATUS_ZOMBIE]
    except psutil.Error:
        return []


def allow_many_files() -> None:
    """Raises the limit on open files as far as the system lets us: each live run needs a few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            logger.info("the limit on open files stays at %d: %s", soft, error)
