"""`orchestrator host start|status|stop|logs`. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any, TextIO

from orchestrator.host.launch import connect, find, greet
from orchestrator.host.place import API, HostError, Place

ANSWER_S = 5.0
_PAUSE_S = 0.05


def start() -> int:
    """Starts the host if there is none. Prints what it says of itself."""
    connection, _ = connect(Place.own(), {"orchestrator": API, "control": "status"})
    connection.close()
    return status(as_json=False)


def status(*, as_json: bool) -> int:
    """Prints what the host says of itself. Returns 6 when there is none."""
    answer = _ask({"control": "status"})
    if answer is None:
        print(json.dumps({"running": False}) if as_json else "no host is running; clients start one on demand")
        return 6
    answer.pop("ok", None)
    if as_json:
        print(json.dumps({"running": True, **answer}))
        return 0
    print(f"host {answer['build']}, process {answer['pid']}, up {_duration(answer['up_s'])}")
    print(f"live runs {answer['live']}, clients {answer['clients']}{', draining' if answer['draining'] else ''}")
    print(f"socket {answer['socket']}")
    return 0


def stop(*, cancel: bool, wait: bool) -> int:
    """Ends the host: after its live runs are over, or by cancelling them. Returns once it is gone, if asked to."""
    answer = _ask({"control": "stop", "how": "cancel" if cancel else "drain"})
    if answer is None:
        print("no host is running")
        return 0
    if not wait:
        print("the host ends when its live runs are over" if answer["live"] else "the host ends")
        return 0
    if answer["live"] and not cancel:
        how = "--cancel ends them, Ctrl-C leaves the host draining"
        print(f"waiting for {answer['live']} live runs ({how})", flush=True)
    try:
        while _is_there(Place.own(), answer["pid"]):
            time.sleep(_PAUSE_S)
    except KeyboardInterrupt:
        print("the host goes on draining", file=sys.stderr)
        return 130
    print("the host is gone")
    return 0


def logs(*, follow: bool, lines: int) -> int:
    """Prints the end of the host's log, and with `follow` what is added to it: as it is, or readable on a terminal."""
    place = Place.own()
    try:
        file = _open(place)
    except OSError:
        print(f"there is no log at {place.log} yet", file=sys.stderr)
        return 4
    for line in file.readlines()[-lines:] if lines else ():
        _print_line(line)
    try:
        while follow:
            where = file.tell()
            line = file.readline()
            if line.endswith("\n"):
                _print_line(line)
                continue
            file.seek(where)  # nothing, or half a line
            time.sleep(_PAUSE_S)
            with contextlib.suppress(FileNotFoundError):  # in the moment of its rotation
                if not line and os.stat(place.log).st_ino != os.fstat(file.fileno()).st_ino:
                    file.close()
                    file = _open(place)
    except KeyboardInterrupt:
        return 130
    finally:
        file.close()
    return 0


def _open(place: Place) -> TextIO:
    return open(place.log, encoding="utf-8", errors="replace")


def _print_line(line: str) -> None:
    if sys.stdout.isatty():
        try:
            said = json.loads(line)
            run = f" [{said['run_id']}]" if "run_id" in said else ""
            error = f"\n{said['error']}" if "error" in said else ""
            line = f"{said['ts'][11:19]} {said['level']:7} {said['message']}{run}{error}\n"
        except (ValueError, KeyError, TypeError):
            pass  # what Python itself wrote before there was a log
    print(line, end="", flush=True)


def _ask(question: dict[str, Any]) -> dict[str, Any] | None:
    """The host's answer; None when no host is there.

    Raises:
        HostError: it does not answer, or refuses.
    """
    place = Place.own()
    connection = find(place) if os.path.isdir(place.directory) else None
    if connection is None:
        return None
    with connection:
        answer, _ = greet(connection, {"orchestrator": API, **question}, time.monotonic() + ANSWER_S)
    if not answer.get("ok"):
        raise HostError(str(answer.get("error") or f"the host does not answer; see {place.log}"))
    return answer


def _is_there(place: Place, pid: int) -> bool:
    """Whether that host still is the one that holds the lock; a client may have started the next at once."""
    lock = place.take()
    if lock is not None:
        os.close(lock)
        return False
    return place.about().get("pid") == pid


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
