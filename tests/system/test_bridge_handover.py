"""Bridges between hosts: which line goes to whom when one host ends and the next begins.

The hosts are fake ones, so that the order of things is what the test says.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from orchestrator.model import JsonObject
from tests.system.fake_host import BYE, fake_host, result
from tests.system.hosts import Ground, frozen, ground, stopped_by
from tests.system.lines import INITIALIZED, OLD_ERA, lines, listing, request, stuff, tool

pytestmark = pytest.mark.system

MOST_HELD = 12 * 2**20
"""What two buffers of 4 MiB, the pipes and what is on its way may hold."""


@pytest.fixture
def place(cwd: Path) -> Generator[Ground]:
    """A home where nothing runs yet."""
    with ground(Path(os.environ["ORCHESTRATOR_HOME"]), cwd) as place:
        yield place


def test_a_new_host_is_told_how_the_session_began_and_the_client_does_not_notice(place: Ground) -> None:
    first_words = request("begin", "initialize", **OLD_ERA)
    with fake_host(place.place) as host, place.having(WORD="ü").bridge() as bridge:
        first, hello = host.accept()
        assert (hello["cwd"], hello["env"]["WORD"], hello["scripted"]) == (str(place.cwd), "ü", True)
        first.send({"orchestrator": 1, "ok": True})
        bridge.send(first_words, INITIALIZED, request(1, "tools/list"))
        assert [first.message() for _ in range(3)] == [first_words, INITIALIZED, request(1, "tools/list")]
        first.send(result("begin"))
        first.end.close()
        second = host.welcome()
        replayed = second.message()
        assert {**replayed, "id": "begin"} == first_words
        assert [second.message() for _ in range(2)] == [INITIALIZED, request(1, "tools/list")]
        second.send(result(replayed["id"]), result(1))
        bridge.answer(1)
        assert bridge.ids() == ["begin", 1]


def test_a_session_that_had_only_begun_begins_again_at_a_new_host(place: Ground) -> None:
    with fake_host(place.place) as host, place.bridge() as bridge:
        first = host.welcome()
        bridge.send(request("begin", "initialize", **OLD_ERA))
        first.send(result(first.message()["id"]))
        bridge.answer("begin")
        first.end.close()
        second = host.welcome()
        bridge.send(INITIALIZED, request(1, "tools/list"))
        assert second.message()["method"] == "initialize"
        assert second.message() == INITIALIZED
        assert second.message() == request(1, "tools/list")


def test_half_an_answer_is_never_shown(place: Ground) -> None:
    with fake_host(place.place) as host, place.bridge() as bridge:
        first = host.welcome()
        bridge.send(listing(1), listing(2))
        assert [first.message()["id"] for _ in range(2)] == [1, 2]
        first.write(lines(result(1)) + lines(result(2))[:-5])
        first.end.close()
        second = host.welcome()
        assert second.message()["id"] == 2
        second.send(result(2, again=True))
        assert bridge.answer(2)["result"] == {"again": True}
        assert bridge.ids() == [1, 2]


def test_what_a_host_says_unasked_is_passed_on(place: Ground) -> None:
    told: list[JsonObject] = [
        {"jsonrpc": "2.0", "method": "notifications/message", "params": {}},
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        result(1),
        {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "no"}},
    ]
    with fake_host(place.place) as host, place.bridge() as bridge:
        connection = host.welcome()
        bridge.send(listing(1))
        connection.message()
        connection.send(*told)
        told[1] = {**told[1], "id": "host1:1"}  # no later host asks under this id again
        assert [bridge.message() for _ in told] == told
        bridge.send(result(1), {**result(1), "id": "host1:1"})
        assert connection.message() == result(1)


def test_a_host_that_makes_room_says_where_to_go(place: Ground) -> None:
    with fake_host(place.place) as host, fake_host(place.place, "other") as other, place.bridge() as bridge:
        first, _ = host.accept()
        first.send({"orchestrator": 1, "error": "another version takes over", "socket": place.place.file("other")})
        second = other.welcome()
        bridge.send(listing(1))
        second.send(result(second.message()["id"]))
        bridge.answer(1)


def test_a_command_goes_to_the_next_host_when_one_has_said_farewell(place: Ground) -> None:
    with fake_host(place.place) as host, place.bridge() as bridge:
        first = host.welcome()
        first.send(BYE)
        first.end.shutdown(socket.SHUT_WR)
        assert first.over()
        bridge.send(tool(1, "spawn_run"))
        second = host.welcome()
        second.send(result(second.message()["id"]))
        assert bridge.answer(1) == result(1)


def test_a_command_goes_to_the_next_host_when_it_meets_the_farewell(place: Ground) -> None:
    with fake_host(place.place) as host, place.bridge() as bridge:
        first = host.welcome()
        bridge.send(listing(0))
        first.message()
        with frozen(psutil.Process(bridge.process.pid)):
            first.send(result(0), BYE)
            first.end.close()
            bridge.send(tool(1, "spawn_run"))
        second = host.welcome()
        second.send(result(second.message()["id"]))
        assert bridge.answer(1) == result(1), "nobody can have heard the command but the second host"


def test_an_answer_that_has_come_counts_although_nothing_more_can_be_said(place: Ground) -> None:
    with fake_host(place.place) as host, place.bridge() as bridge, ThreadPoolExecutor(1) as pool:
        first = host.welcome()
        bridge.send(tool(1, "spawn_run"))
        first.message()
        pool.submit(bridge.send, tool(2, "get_run", run_id="x" * 3_000_000))
        first.end.recv(1)  # the bridge has begun to say it, and cannot go on
        with frozen(psutil.Process(bridge.process.pid)):
            first.send(result(1))
            first.end.close()
        second = host.welcome()
        second.send(result(second.message()["id"]))
        bridge.answer(2)
        assert bridge.answer(1) == result(1)


@pytest.mark.skipif(sys.platform != "linux", reason="how much memory a process has is measured differently elsewhere")
def test_who_does_not_read_makes_a_bridge_hold_no_more_than_its_buffers(place: Ground) -> None:
    with fake_host(place.place) as host, place.bridge() as bridge:
        connection = host.welcome()
        notice = lines({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x" * 50_000}})
        assert 2**20 < stuff(bridge.sink, notice) < MOST_HELD
        assert 2**20 < stuff(connection.sink, notice) < MOST_HELD
        assert psutil.Process(bridge.process.pid).memory_info().rss < 2 * MOST_HELD + 2**24
        assert stopped_by(bridge.process, signal.SIGTERM) == 0
