"""Inboxes: the messages to a session, or to the callers of a directory, in a file beside the sessions.

Append-only lines, numbered 1, 2, 3 under a lock, for any process may write to any inbox. A line is durable before its
sender hears of it, and a torn one is cut off by the next writer. A cursor in a file of its own says what was
acknowledged: until then a message is given again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

import orjson

from orchestrator.errors import LimitExceeded, StoreError
from orchestrator.model import JsonObject, now
from orchestrator.store.layout import Workspace, replace_file, write_all

MAX_BYTES = 16 * 2**20


class Inbox:
    """One inbox. Blocks on the disk.

    Args:
        session_id: whose; None for the callers of the directory.
    """

    def __init__(self, workspace: Workspace, session_id: str | None) -> None:
        sessions = workspace.root / "sessions"
        name = workspace.session(session_id).stem if session_id else "caller"
        self._path = sessions / f"{name}.inbox.jsonl"
        self._cursor = sessions / f"{name}.inbox.seq"

    def append(self, message: JsonObject) -> int:
        """Adds a message. Returns its number.

        Raises:
            LimitExceeded: nobody has emptied this for long.
            StoreError: it cannot be written.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                written = file.read()
                if len(written) > MAX_BYTES:
                    raise LimitExceeded("the inbox is full; let its owner fetch its messages first")
                whole = written[: written.rfind(b"\n") + 1]  # a torn line was acknowledged to nobody
                seq = whole.count(b"\n") + 1
                line = orjson.dumps({"seq": seq, "ts": now(), **message}, option=orjson.OPT_APPEND_NEWLINE)
                os.ftruncate(descriptor, len(whole))
                os.lseek(descriptor, len(whole), os.SEEK_SET)
                write_all(descriptor, line)
                os.fsync(descriptor)
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error
        return seq

    def after(self, seq: int) -> list[JsonObject]:
        """The messages behind a number, oldest first."""
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot read {self._path}: {error.strerror}") from error
        found: list[JsonObject] = []
        for line in lines[seq:]:
            with contextlib.suppress(ValueError):  # somebody else wrote in it
                found.append(orjson.loads(line))
        return found

    @property
    def size(self) -> int:
        """Grows with each message."""
        with contextlib.suppress(OSError):
            return self._path.stat().st_size
        return 0

    @property
    def acknowledged(self) -> int:
        """The number of the last message that its owner said it has."""
        with contextlib.suppress(OSError, ValueError):
            return max(0, int(self._cursor.read_bytes()))
        return 0

    def acknowledge(self, seq: int) -> None:
        """Its owner has all up to this number."""
        if seq > self.acknowledged:
            try:
                replace_file(str(self._cursor), str(seq).encode())
            except OSError as error:
                raise StoreError(f"cannot write {self._cursor}: {error.strerror}") from error
