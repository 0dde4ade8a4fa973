"""Finding a host or starting one: with listeners that say what they should not, and starters that do not start."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.cli.reach import command
from orchestrator.errors import Internal
from orchestrator.host import launch
from orchestrator.host.place import API, HostDefect, HostError, Place, within_reach
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home

HELLO: JsonObject = {"orchestrator": API, "cwd": "/", "env": {}}
OK = b'{"orchestrator": 1, "ok": true}\n'


@pytest.fixture
def place(home: Home) -> Place:
    """A place that is made."""
    place = Place.own()
    place.make()
    return place


@contextmanager
def saying(path: str, *answers: bytes) -> Generator[list[bytes]]:
    """A listener that gives each client in turn one answer to its first line, and leaves it."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with within_reach(path) as short:
            listener.bind(short)
        listener.listen()

        def serve() -> None:
            for answer in answers:
                client, _ = listener.accept()
                with client, client.makefile("rb") as file:
                    heard.append(file.readline())
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield heard
        thread.join()
    os.unlink(path)


@contextmanager
def held(place: Place) -> Generator[None]:
    """The lock is somebody else's, so that nobody starts a host."""
    lock = place.take()
    assert lock is not None
    yield
    os.close(lock)


def deadline(within_s: float = 10.0) -> float:
    """A moment to come."""
    return time.monotonic() + within_s


# ---- what is said first ----


def test_what_comes_behind_the_yes_is_not_lost(place: Place) -> None:
    with held(place), saying(place.socket, OK + b'{"half'):
        connection, rest = launch.connect(place, HELLO)
        assert rest == b'{"half'
        assert connection.gettimeout() is None
        connection.close()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400\n", b"[]\n", b'{"ok": true}\n', b'{"orchestrator": 2, "ok": true}\n', b"[" * 100_000 + b"\n"],
    ids=["http", "list", "nobody", "later", "deep"],
)
def test_what_is_no_host_of_ours_is_not_spoken_to(place: Place, answer: bytes) -> None:
    with held(place), saying(place.socket, answer), pytest.raises(HostError):
        launch.connect(place, HELLO)


def test_a_refusal_is_passed_on(place: Place) -> None:
    with (
        held(place),
        saying(place.socket, b'{"orchestrator": 1, "error": "not you"}\n'),
        pytest.raises(HostError, match="not you"),
    ):
        launch.connect(place, HELLO)


def test_a_host_that_meets_a_defect_is_not_taken_for_one_that_hangs(place: Place) -> None:
    answer = b'{"orchestrator": 1, "error": "see the log", "code": "internal"}\n'
    with held(place), saying(place.socket, answer, answer):
        with pytest.raises(HostDefect, match="see the log"):
            launch.connect(place, HELLO)
        with pytest.raises(Internal, match="see the log"):
            asyncio.run(command("list_runs", {}, Path("/")))


def test_who_goes_away_before_it_answers_is_asked_again(place: Place) -> None:
    with held(place), saying(place.socket, b"", b'{"orchestrator": 1', OK) as heard:
        connection, _ = launch.connect(place, HELLO)
        connection.close()
    assert [json.loads(line) for line in heard] == [HELLO] * 3


def test_who_makes_room_is_followed_to_where_it_points(place: Place) -> None:
    other = place.file("other")
    away = json.dumps({"orchestrator": 1, "error": "another takes over", "socket": other}).encode() + b"\n"
    with held(place), saying(place.socket, away) as first, saying(other, OK) as second:
        launch.connect(place, HELLO)[0].close()
    assert first == second


def test_who_points_to_nowhere_does_not_make_anybody_wait_for_ever(place: Place) -> None:
    away = json.dumps({"orchestrator": 1, "error": "another takes over", "socket": "/nowhere"}).encode() + b"\n"
    with held(place), saying(place.socket, away, OK):
        launch.connect(place, HELLO)[0].close()


def test_a_host_is_found_by_what_is_written_of_it(place: Place) -> None:
    other = place.file("other")
    place.describe({"socket": other})
    assert launch.find(place) is None
    with saying(other, b"") as heard:
        connection = launch.find(place)
        assert connection is not None
        assert launch.greet(connection, HELLO, deadline()) == ({}, b"")
        connection.close()
    assert len(heard) == 1


def test_a_host_that_is_silent_is_waited_for_and_then_named(place: Place) -> None:
    place.describe({"pid": 4711})
    with held(place), socket.socket(socket.AF_UNIX) as listener, within_reach(place.socket) as short:
        listener.bind(short)
        listener.listen()
        begun = time.monotonic()
        with pytest.raises(HostError, match="4711"):
            launch.connect(place, HELLO, within_s=0.5)
        assert 0.4 < time.monotonic() - begun < 5


# ---- starting ----


def starter(path: Path, script: str) -> str:
    """A program to be started instead of Python. `$status` is the descriptor to say something on."""
    path.write_text('#!/bin/sh\nfor word; do status=$word; done\nsay() { printf %s "$1" >/dev/fd/$status; }\n' + script)
    path.chmod(0o700)
    return str(path)


FAILURES: dict[str, tuple[Callable[[Path], str], str]] = {
    "it is not there": (lambda path: str(path), "cannot start the host"),
    "it ends at once": (lambda path: starter(path, "exit 3\n"), "log"),
    "it says why not": (lambda path: starter(path, "say 'the disk is full'\n"), "the disk is full"),
    "it says yes and ends": (lambda path: starter(path, "say listening\n"), "as soon as it has started"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_host_that_does_not_start_is_told_of_and_leaves_nothing_open(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    make, said = FAILURES[failure]
    monkeypatch.setattr(sys, "executable", make(tmp_path / "python"))
    free = os.dup(0)
    os.close(free)
    with pytest.raises(HostError, match=said):
        launch.connect(place, HELLO, within_s=10)
    assert os.dup(0) == free
    os.close(free)
    lock = place.take()
    assert lock is not None
    os.close(lock)


def test_who_waits_for_a_host_that_another_starts_does_not_start_one(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(place):
        monkeypatch.setattr(sys, "executable", starter(tmp_path / "python", f"echo >{tmp_path}/started\n"))

        def come_late() -> None:
            looked.wait()
            with saying(place.socket, OK):
                pass

        def look(_seconds: float) -> None:
            looked.set()

        looked = threading.Event()
        monkeypatch.setattr(time, "sleep", look)
        thread = threading.Thread(target=come_late)
        thread.start()
        launch.connect(place, HELLO)[0].close()
        thread.join()
        assert not (tmp_path / "started").exists()


def test_a_host_keeps_of_its_starters_environment_what_it_needs_itself() -> None:
    given = {"PATH": "/bin", "LC_ALL": "C", "PYTHONPATH": "/p", "MY_API_KEY": "secret", "CLAUDE_X": "1", "HOMES": "no"}
    kept = launch.host_environment(given)
    assert {name: kept.get(name) for name in given} == {
        **{"PATH": "/bin", "LC_ALL": "C", "PYTHONPATH": "/p"},
        **dict.fromkeys(("MY_API_KEY", "CLAUDE_X", "HOMES")),
    }
