"""`orchestrator host start|stop|logs` for a person, and for a program."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import TextIO

from orchestrator.cli.output import print_json
from orchestrator.cli.reach import host_status
from orchestrator.host import commands
from orchestrator.host.launch import connect
from orchestrator.host.place import API, Place


def start(*, as_json: bool) -> int:
    """Starts the host if there is none. Prints what it says of itself."""
    if not as_json:
        return commands.start()
    connection, _ = connect(Place.own(), {"orchestrator": API, "control": "status"})
    connection.close()
    return commands.status(as_json=True)


def stop(*, cancel: bool, wait: bool, as_json: bool) -> int:
    """Ends the host. As JSON: whether one ran, and whether it still does; the words go beside it."""
    if not as_json:
        return commands.stop(cancel=cancel, wait=wait)
    before = host_status()
    with contextlib.redirect_stdout(sys.stderr):
        code = commands.stop(cancel=cancel, wait=wait)
    now = host_status() if before else None
    gone = now is None or now.get("pid") != (before or {}).get("pid")
    print_json({"was_running": before is not None, "running": not gone})
    return code


def logs(*, follow: bool, lines: int, as_json: bool) -> int:
    """Prints the end of the host's log. As JSON: a document a line, also at a terminal."""
    if not as_json:
        return commands.logs(follow=follow, lines=lines)
    with contextlib.redirect_stdout(_Documents(sys.stdout)):
        return commands.logs(follow=follow, lines=lines)


class _Documents(io.TextIOBase):
    """Where lines become documents: those of the log are, and what Python itself wrote there becomes one."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out

    def write(self, text: str, /) -> int:
        """See `TextIOBase.write`."""
        for line in text.splitlines():
            try:
                document = json.loads(line)
            except ValueError:
                document = None
            self._out.write(json.dumps(document if isinstance(document, dict) else {"message": line}) + "\n")
        return len(text)

    def flush(self) -> None:
        """See `TextIOBase.flush`."""
        self._out.flush()
