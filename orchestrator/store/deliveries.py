"""What became of telling others that a run is over: lines in a file of the home, for the run's own log ends before.

One line for each attempt, like an event of the log: `delivered`, `delivery_failed` or `delivery_given_up`. Whoever
holds the file's lock delivers; a run is owed to somebody as long as the home's `outbox` names it. Agents can write to
the run's own directory, so nothing of this lies there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import orjson

from orchestrator.errors import StoreError
from orchestrator.home import make_directory
from orchestrator.model import JsonObject, as_object, compact, now
from orchestrator.store.layout import Home, write_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How far one channel is.

    Attributes:
        attempts: how often it was tried.
        status: `pending`, `delivered` or `failed`, after which nobody tries again.
        last_at: when it was tried last.
    """

    attempts: int = 0
    status: str = "pending"
    last_at: str | None = None
    error: str | None = None


class Deliveries:
    """Those of one run. Blocks on the disk. To be opened by whoever delivers, and closed."""

    def __init__(self, home: Home, run_id: str) -> None:
        self._path = str(home.deliveries(run_id))
        self._fd = -1
        self._adding = threading.Lock()  # several channels are told at the same time

    def open(self) -> bool:
        """Takes the lock. False if somebody else delivers."""
        try:
            make_directory(Path(self._path).parent)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            return False
        except OSError as error:
            self.close()
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error
        return True

    def close(self) -> None:
        """Gives the lock back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def add(self, event_type: str, data: JsonObject) -> None:
        """Adds a line; it is durable when this returns.

        Raises:
            StoreError: it could not be written.
        """
        try:
            with self._adding:
                written = self._read()
                end = written.rfind(b"\n") + 1  # a torn line goes
                line = {"seq": written.count(b"\n") + 1, "ts": now(), "type": event_type, "data": compact(data)}
                write_from(self._fd, end, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error

    def _read(self) -> bytes:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(self._path, "rb") as file:  # noqa: PTH123
            return file.read()
        return b""

    def events(self) -> list[JsonObject]:
        """All lines, oldest first."""
        found: list[JsonObject] = []
        for line in self._read().split(b"\n")[:-1]:
            with contextlib.suppress(ValueError):  # somebody else wrote in it
                if (event := as_object(orjson.loads(line))) and as_object(event.get("data")) is not None:
                    found.append(event)
        return found

    def told(self) -> dict[str, Told]:
        """How far each channel is that was tried."""
        known: dict[str, Told] = {}
        for event in self.events():
            data, kind = event["data"], str(event.get("type"))
            before = known.get(str(data.get("channel")), Told())
            status = {"delivered": "delivered", "delivery_given_up": "failed"}.get(kind, "pending")
            known[str(data.get("channel"))] = Told(
                attempts=before.attempts + 1,
                status=status,
                last_at=str(event.get("ts")),
                error=str(data["error"]) if "error" in data else None,
            )
        return known
