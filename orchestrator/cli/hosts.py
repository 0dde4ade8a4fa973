"""`orchestrator host`: the process that owns the live runs, started, looked at, read and stopped by hand."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from orchestrator.cli.output import DONE, INTERRUPTED, duration, harmless, print_json, say, tell
from orchestrator.cli.reach import ask_host
from orchestrator.host.launch import connect
from orchestrator.host.place import API, HostError, Place
from orchestrator.model import JsonObject, as_object

NO_LOG, NO_HOST = 4, 6
_PAUSE_S = 0.05


def start(*, as_json: bool) -> int:
    """Starts the host if there is none. Prints what it says of itself."""
    connection, _ = connect(Place.own(), {"orchestrator": API, "control": "status"})
    connection.close()
    return status(as_json=as_json)


def status(*, as_json: bool) -> int:
    """Prints what the host says of itself. Returns 6 when there is none."""
    answer = _ask("status")
    if answer is None:
        if as_json:
            print_json({"running": False})
        else:
            tell("no host is running; clients start one on demand")
        return NO_HOST
    answer.pop("ok", None)
    if as_json:
        print_json({"running": True, **answer})
        return DONE
    tell(f"host {answer['build']}, process {answer['pid']}, up {duration(answer['up_s'])}")
    tell(f"live runs {answer['live']}, clients {answer['clients']}{', draining' if answer['draining'] else ''}")
    tell(f"socket {answer['socket']}")
    return DONE


def stop(*, cancel: bool, wait: bool, as_json: bool) -> int:
    """Ends the host: after its live runs are over, or by cancelling them. Returns once it is gone, if asked to.

    As JSON: whether one ran, and whether it still does; the words go beside it.
    """
    words = say if as_json else tell
    answer = _ask("stop", how="cancel" if cancel else "drain")
    code = _await_end(answer, cancel=cancel, wait=wait, words=words)
    if as_json:
        print_json({"was_running": answer is not None, "running": answer is not None and _is_there(answer["pid"])})
    return code


def _await_end(answer: JsonObject | None, *, cancel: bool, wait: bool, words: Callable[[str], None]) -> int:
    if answer is None:
        words("no host is running")
        return DONE
    if not wait:
        words("the host ends when its live runs are over" if answer["live"] else "the host ends")
        return DONE
    if answer["live"] and not cancel:
        words(f"waiting for {answer['live']} live runs (--cancel ends them, Ctrl-C leaves the host draining)")
    try:
        while _is_there(answer["pid"]):
            time.sleep(_PAUSE_S)
    except KeyboardInterrupt:
        say("the host goes on draining")
        return INTERRUPTED
    words("the host is gone")
    return DONE


def _is_there(pid: int) -> bool:
    """Whether that host still is the one that holds the lock; a client may have started the next at once."""
    place = Place.own()
    lock = place.take()
    if lock is not None:
        os.close(lock)
        return False
    return place.about().get("pid") == pid


def _ask(control: str, **more: str) -> JsonObject | None:
    """The host's answer; None when no host is there.

    Raises:
        HostError: it does not answer, or refuses.
    """
    answer = ask_host(control, **more)
    if answer is not None and not answer.get("ok"):
        raise HostError(str(answer.get("error")))
    return answer


def logs(*, follow: bool, lines: int, as_json: bool) -> int:
    """Prints the end of the host's log, and with `follow` what is added to it: as it is, or readable on a terminal.

    As JSON: a document a line, also at a terminal.
    """
    place = Place.own()
    try:
        file = _open(place)
    except OSError:
        say(f"there is no log at {place.log} yet")
        return NO_LOG
    try:
        for line in file.readlines()[-lines:] if lines else ():
            _print_line(line, as_json=as_json)
        while follow:
            where = file.tell()
            line = file.readline()
            if line.endswith("\n"):
                _print_line(line, as_json=as_json)
                continue
            file.seek(where)  # nothing, or half a line
            time.sleep(_PAUSE_S)
            with contextlib.suppress(FileNotFoundError):  # in the moment of its rotation
                if not line and os.stat(place.log).st_ino != os.fstat(file.fileno()).st_ino:
                    file.close()
                    file = _open(place)
    finally:
        file.close()
    return DONE


def _open(place: Place) -> TextIO:
    return open(place.log, encoding="utf-8", errors="replace")


def _print_line(line: str, *, as_json: bool) -> None:
    try:
        said = as_object(json.loads(line))
    except ValueError:
        said = None  # what Python itself wrote before there was a log
    if as_json:
        print_json(said or {"message": line.rstrip("\n")})
    elif said and sys.stdout.isatty():
        run = f" [{said['run_id']}]" if "run_id" in said else ""
        tell(f"{str(said.get('ts'))[11:19]} {said.get('level', ''):7} {said.get('message')}{run}")
        if "error" in said:
            print(harmless(str(said["error"])), flush=True)
    else:
        print(line, end="", flush=True)
