"""Whose a place is: of the runs of a session, the last one that moved in; and who is at work on it just now."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Generator
from pathlib import Path

from orchestrator.errors import GitError
from orchestrator.home import make_directory

ALONE_S = 60.0
"""How long somebody else may be at work on a place before that is told as a conflict."""


class Claim:
    """The file that names the run, and is locked by who makes the place, looks at it or removes it.

    Args:
        path: beside the place. No link is followed, for agents may write there.
        stop: ends the waiting when it is set.
    """

    def __init__(self, path: Path, stop: threading.Event | None) -> None:
        self._path = path
        self._stop = stop

    @property
    def holder(self) -> str:
        """The id of the run; empty if there is none."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return ""
        try:
            return os.read(descriptor, 64).decode("ascii", errors="replace")
        finally:
            os.close(descriptor)

    def take(self, run_id: str) -> None:
        """From now on the place is this run's. Only for who is alone with it."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, run_id.encode(), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def drop(self) -> None:
        """Nobody's any more."""
        self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Generator[int]:
        """Alone with the place. Gives the descriptor of the lock: whoever inherits it holds the lock if we die, and no
        longer than we do if we live.

        Raises:
            GitError: somebody else is at work there for too long.
        """
        make_directory(self._path.parent)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + ALONE_S
        try:
            while not _locked(descriptor):
                if time.monotonic() > deadline or (self._stop and self._stop.is_set()):
                    raise GitError(f"somebody else is at work on {self._path.stem}; try again later")
                time.sleep(0.02)
            yield descriptor
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # whatever git has started and left running may have it still
        finally:
            os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
