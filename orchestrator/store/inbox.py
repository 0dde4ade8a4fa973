"""Inboxes: the messages to a session, or to the callers of a directory, in a file beside the sessions.

Append-only lines, numbered 1, 2, 3 under a lock, for any process may write to any inbox. A line is durable before its
sender hears of it, and a torn one is cut off by the next writer. A cursor in a file of its own says what was
acknowledged: until then a message is given again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re

import orjson

from orchestrator.errors import LimitExceeded, StoreError
from orchestrator.files import open_file, read_file
from orchestrator.model import JsonObject, as_object, now
from orchestrator.store.layout import Workspace, replace_file, write_from

MAX_BYTES = 16 * 2**20
_MOST = 2 * MAX_BYTES
"""Of a file to which more than we did was written."""
_BASE = re.compile(rb'\{"base":(\d{1,15})\}')


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
            descriptor = open_file(self._path, os.O_RDWR | os.O_CREAT)
            with os.fdopen(descriptor, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                written = file.read(_MOST)
                base, lines = _parsed(written)
                seq = base + len(lines) + 1
                end = written.rfind(b"\n") + 1  # a torn line was acknowledged to nobody
                if end > MAX_BYTES:
                    if self.acknowledged < seq - 1:
                        raise LimitExceeded("the inbox is full; let its owner fetch its messages first")
                    write, end = orjson.dumps({"base": seq - 1}, option=orjson.OPT_APPEND_NEWLINE), 0
                else:
                    write = b""
                write += orjson.dumps({"seq": seq, "ts": now(), **message}, option=orjson.OPT_APPEND_NEWLINE)
                write_from(descriptor, end, write)
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error
        return seq

    def after(self, seq: int) -> list[JsonObject]:
        """The messages behind a number, oldest first."""
        base, lines = _parsed(self._read())
        found: list[JsonObject] = []
        for number, line in enumerate(lines, base + 1):
            with contextlib.suppress(ValueError):  # somebody else wrote in it
                letter = as_object(orjson.loads(line))
                if number > seq and letter and {"from", "parts"} <= letter.keys():
                    found.append({**letter, "seq": number})
        return found

    @property
    def last(self) -> int:
        """The number of the last message."""
        base, lines = _parsed(self._read())
        return base + len(lines)

    def _read(self) -> bytes:
        try:
            return read_file(self._path, _MOST)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StoreError(f"cannot read {self._path}: {error.strerror}") from error

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
            return max(0, int(read_file(self._cursor, 100)))
        return 0

    def acknowledge(self, seq: int) -> None:
        """Its owner has all up to this number, as far as there are any."""
        if (seq := min(seq, self.last)) > self.acknowledged:
            try:
                replace_file(str(self._cursor), str(seq).encode())
            except OSError as error:
                raise StoreError(f"cannot write {self._cursor}: {error.strerror}") from error


def _parsed(written: bytes) -> tuple[int, list[bytes]]:
    """The number before the first message, and the whole lines: those before were acknowledged and are gone."""
    lines = written.split(b"\n")[:-1]
    if lines and (match := _BASE.fullmatch(lines[0])):
        return int(match[1]), lines[1:]
    return 0, lines
