"""Bridges whose host dies or cannot be had, and clients that say what none should."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.model import JsonObject
from tests.system.hosts import Ground, ending, frozen, ground, stopped_by, taken_in, until
from tests.system.lines import (
    DEADLINE_S,
    Bridge,
    document,
    listing,
    sentence,
    tool,
)

pytestmark = pytest.mark.system


@pytest.fixture
def place(cwd: Path) -> Generator[Ground]:
    """A home where nothing runs yet."""
    with ground(Path(os.environ["ORCHESTRATOR_HOME"]), cwd) as place:
        yield place


# ---- a host that dies ----


@dataclass(frozen=True)
class Aftermath:
    """What a client was told after its host was killed: by what was under way."""

    reads: dict[str, JsonObject]
    commands: dict[str, JsonObject]
    cancelled: list[int]
    told: list[Any]
    runs: list[JsonObject]


@pytest.fixture(scope="module", params=["old era", "new era"])
def aftermath(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Aftermath]:
    """A host is killed while one request of each kind is under way."""
    root = tmp_path_factory.mktemp("dies")
    with ground(root / "home", root / "project") as place, place.bridge() as bridge:
        if request.param == "old era":
            bridge.begin()
        run_id = bridge.waiting("ask Which?", place.cwd)
        spawn = {"backend": "scripted", "cwd": str(place.cwd), "prompt": "say x"}
        before = len(bridge.heard)
        with frozen(place.host()):
            commands = {
                "spawn_run": bridge.ask_tool("spawn_run", **spawn),
                "continue_run": bridge.ask_tool("continue_run", run_id=run_id, text="this"),
                "cancel_run": bridge.ask_tool("cancel_run", run_id=run_id),
            }
            reads = {
                "get_run": bridge.ask_tool("get_run", run_id=run_id),
                "list_runs": bridge.ask_tool("list_runs"),
                "poll_events": bridge.ask_tool("poll_events", run_id=run_id, after_seq=2),
                "wait_runs": bridge.ask_tool("wait_runs", run_ids=[run_id]),
                "get_event_artifact": bridge.ask_tool("get_event_artifact", run_id=run_id, seq=2, field_path=""),
                "tools/list": bridge.ask("tools/list"),
            }
            cancelled = [bridge.ask_tool("list_runs"), bridge.ask_tool("spawn_run", **spawn), bridge.ask("tools/list")]
            for request_id in cancelled:
                bridge.cancel(request_id)
            taken_in(bridge)
            place.kill_host()
        for request_id in [*commands.values(), *reads.values()]:
            bridge.answer(request_id)
        runs = bridge.call("list_runs")["runs"]  # what was to come has come before this
        yield Aftermath(
            {name: bridge.answer(request_id) for name, request_id in reads.items()},
            {name: bridge.answer(request_id) for name, request_id in commands.items()},
            cancelled,
            bridge.ids()[before:],
            runs,
        )


def test_reads_under_way_are_asked_again_when_the_host_dies(aftermath: Aftermath) -> None:
    reads = aftermath.reads
    assert document(reads["get_run"])["status"] == "failed"
    assert document(reads["list_runs"])["runs"][0]["status"] == "failed"
    assert document(reads["poll_events"])["events"][-1]["data"]["code"] == "host_lost"
    assert document(reads["wait_runs"])["done"]
    assert document(reads["get_event_artifact"])["content"]
    assert len(reads["tools/list"]["result"]["tools"]) == 8


def test_commands_under_way_are_refused_and_not_given_again_when_the_host_dies(aftermath: Aftermath) -> None:
    for name, answer in aftermath.commands.items():
        assert sentence(answer).startswith(f"host_restarted: the host went away while {name} was under way")
    assert len(aftermath.runs) == 1


def test_every_request_is_answered_once_but_cancelled_ones_when_the_host_dies(aftermath: Aftermath) -> None:
    assert len(aftermath.told) == len(set(aftermath.told)) == len(aftermath.reads) + len(aftermath.commands) + 1
    assert not set(aftermath.told) & set(aftermath.cancelled)


def test_a_session_goes_on_however_often_the_host_dies(place: Ground) -> None:
    with place.bridge() as bridge, place.bridge() as other:
        bridge.begin()
        for _ in range(3):
            asked = bridge.ask_tool("wait_runs", run_ids=[bridge.waiting("ask Which?", place.cwd)])
            bridge.answer(asked)
            asked = bridge.ask_tool("list_runs")
            place.kill_host()
            document(bridge.answer(asked))
        assert len(other.call("list_runs")["runs"]) == 3
        assert len(place.hosts()) == 1
        assert psutil.Process(bridge.process.pid).num_fds() <= 5
        assert psutil.Process(bridge.process.pid).children() == []
        assert bridge.close() == 0
        assert bridge.said() == ""


def test_a_command_that_was_never_sent_is_given_to_the_next_host(place: Ground) -> None:
    with place.bridge() as bridge:
        bridge.call("list_runs")
        with frozen(psutil.Process(bridge.process.pid)):  # it hears of the death and of the command at the same time
            place.kill_host()
            asked = bridge.ask_tool("spawn_run", backend="scripted", cwd=str(place.cwd), prompt="say x")
        run_id = document(bridge.answer(asked))["run_id"]
        assert [run["run_id"] for run in bridge.call("list_runs")["runs"]] == [run_id]


def test_no_line_that_answers_what_nobody_asked_harms_the_bridge(place: Ground) -> None:
    with place.bridge() as client:
        client.begin()
        for request_id in ("host1:x", "host1:1", "host99:1", 1, "x", ""):
            client.send({"jsonrpc": "2.0", "id": request_id, "result": {"action": "accept"}})
        assert client.call("list_runs")["runs"] == []


def test_reads_under_way_are_asked_again_when_the_host_is_told_to_end(place: Ground) -> None:
    with place.bridge() as bridge:
        run_id = bridge.waiting("ask Which?", place.cwd)
        asked = bridge.ask_tool("poll_events", run_id=run_id, after_seq=4)
        bridge.call("list_runs")  # the host has begun with what came before
        place.host().send_signal(signal.SIGTERM)
        assert document(bridge.answer(asked))["status"] == "failed"


# ---- no host at all ----

OBSTACLES: dict[str, Callable[[Path], object]] = {
    "a home that is a file": lambda home: home.write_text(""),
    "a home below a file": lambda home: home.parent.write_text(""),
    "a lock that is a directory": lambda home: (host_directory(home) / "lock").mkdir(),
    "a lock that leads elsewhere": lambda home: (host_directory(home) / "lock").symlink_to(home.parent / "elsewhere"),
    "a socket that is a file": lambda home: (host_directory(home) / "sock").write_text("mine"),
    "a directory open to others": lambda home: host_directory(home).chmod(0o755),
}


def host_directory(home: Path) -> Path:
    """The host's directory in a home, made as the host would make it."""
    directory = home / "hosts" / Ground(home, home).place.key
    directory.mkdir(parents=True, mode=0o700)
    return directory


def test_where_no_host_can_be_started_the_server_says_so_and_works_in_process(tmp_path: Path) -> None:
    with ExitStack() as stack:
        bridges: dict[str, Bridge] = {}
        for number, (name, make) in enumerate(OBSTACLES.items()):
            root = tmp_path / str(number)
            root.mkdir()
            home = root / "up" / "home"
            if name != "a home below a file":
                home.parent.mkdir()
            make(home)
            alone = stack.enter_context(ground(home, root / "project"))
            bridges[name] = stack.enter_context(alone.bridge())
        for name, bridge in bridges.items():
            cwd = tmp_path / str(list(bridges).index(name)) / "project"
            assert len(bridge.request("tools/list")["tools"]) == 8, name
            run_id = bridge.waiting("ask Which?", cwd)
            bridge.call("continue_run", run_id=run_id, text="this")
            assert bridge.call("wait_runs", run_ids=[run_id])["runs"][0]["status"] == "completed", name
            assert bridge.call("get_run", run_id=run_id)["result"]["final_response"], name
            assert bridge.close() == 0, name
            said = bridge.said()
            assert said.startswith("orchestrator: no host "), (name, said)
            assert "runs live in this process and end with it\n" in said, (name, said)
    assert not (tmp_path / "2" / "elsewhere").exists()
    assert (next(tmp_path.glob("4/up/home/hosts/*/sock"))).read_text() == "mine"


DENY_CONNECT = (
    "import ctypes, struct; c = ctypes.CDLL(None); "
    "f = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *i) for i in "
    "((0x20, 0, 0, 0), (0x15, 0, 1, 42), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)))); "
    "p = ctypes.create_string_buffer(struct.pack('HxxxxxxP', 4, ctypes.addressof(f))); "
    "assert c.prctl(38, 1, 0, 0, 0) == 0 and c.prctl(22, 2, p) == 0"
)
"""Python by which a process may not connect to anything any more: a seccomp filter, as sandboxes of agents have it."""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter names a system call by its number there")
def test_where_no_connection_is_permitted_the_server_works_in_process_and_starts_no_host(place: Ground) -> None:
    assert place.command("start").returncode == 0
    begin = "sys.argv[1:] = ['mcp', '--scripted']; runpy.run_module('orchestrator', run_name='__main__')"
    code = f"import runpy, sys; {DENY_CONNECT}; {begin}"
    with ending(
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, cwd=place.cwd, env=place.environment
        )
    ) as process:
        bridge = Bridge(process)
        run_id = bridge.waiting("ask Which?", place.cwd)
        bridge.call("continue_run", run_id=run_id, text="this")
        assert bridge.call("wait_runs", run_ids=[run_id])["runs"][0]["status"] == "completed"
        assert len(place.hosts()) == 1
        assert bridge.close() == 0
        assert "is permitted here" in bridge.said()


def test_while_no_host_can_be_had_nothing_stays_unanswered_and_the_next_line_tries_again(place: Ground) -> None:
    away = place.home.with_name("away")
    with place.bridge() as bridge:
        bridge.begin()
        place.kill_host()
        place.home.rename(away)
        place.home.write_text("")
        assert bridge.refusal("list_runs").startswith("host_unavailable: ")
        assert bridge.refusal("spawn_run", prompt="x").startswith("host_unavailable: ")
        other = bridge.answer(bridge.ask("tools/list"))
        place.home.unlink()
        away.rename(place.home)
        until(lambda: "structuredContent" in bridge.request("tools/call", name="list_runs"), "there is a host again")
        assert bridge.close() == 0
        assert "orchestrator: no host: " in bridge.said()
    assert "error" in other, "a list of tools has no place for a tool's error"
    assert "host_unavailable" in other["error"]["message"]


def test_a_home_given_relative_to_the_clients_directory_is_that_of_its_host(tmp_path: Path) -> None:
    # the host works in the root directory, so there the same words lead to the other of the two
    words = str(tmp_path / "home").lstrip("/")
    mine = tmp_path / "project" / words
    with ground(mine, tmp_path / "project") as place, ground(tmp_path / "home", tmp_path / "elsewhere"):
        with place.having(ORCHESTRATOR_HOME=words).bridge() as bridge:
            try:
                assert len(bridge.request("tools/list")["tools"]) == 8
            finally:
                bridge.process.kill()
                for process in Ground(Path(words), mine).processes():
                    process.kill()
            assert bridge.said() == ""
        assert (mine / "hosts").is_dir()
    assert not (tmp_path / "home").exists()


# ---- clients ----


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ground]:
    """A home whose host runs, for tests that do it no harm."""
    root = tmp_path_factory.mktemp("clients")
    with ground(root / "home", root / "project") as place:
        assert place.command("start").returncode == 0
        yield place


@pytest.mark.parametrize(
    "junk", [b"[" * 200_000, b'{"a":' * 100_000, b'{"id":' + b"1" * 200_000], ids=["[[[", "{{{", "111"]
)
def test_no_line_ends_a_bridge(shared: Ground, junk: bytes) -> None:
    with shared.bridge() as bridge:
        bridge.write(junk + b"\n")
        bridge.send(listing(1))
        assert len(bridge.answer(1)["result"]["tools"]) == 8
        assert bridge.close() == 0
        assert bridge.said() == ""


UNANSWERED: dict[str, Callable[[int], JsonObject]] = {
    "an id that is no integer": lambda n: listing(n + 0.5),
    "an id that is true": lambda _: listing(True),
    "an id that is a list": lambda n: listing([n]),
    "no version": lambda n: {"id": n, "method": "tools/list"},
    "a method that is a number": lambda n: {"jsonrpc": "2.0", "id": n, "method": n},
    "half a character": lambda n: tool(n, "list_runs", cwd="/\udcff"),
}
"""What the SDK drops without an answer, as a message for each number."""


@pytest.mark.parametrize("kind", UNANSWERED)
def test_however_many_requests_are_never_answered_the_next_one_is(shared: Ground, kind: str) -> None:
    with shared.bridge() as bridge:
        bridge.send(*(UNANSWERED[kind](n) for n in range(300)))
        bridge.send(listing("x"))
        assert len(bridge.answer("x", within_s=3)["result"]["tools"]) == 8


@pytest.mark.parametrize("named", [int, str])  # the SDK takes either for the other
def test_however_many_requests_are_cancelled_the_next_one_is_answered(
    shared: Ground, named: Callable[[int], Any]
) -> None:
    with shared.bridge() as bridge:
        run_id = bridge.waiting("ask Which?", shared.cwd)
        for number in range(300):
            bridge.send(tool(number, "poll_events", run_id=run_id, after_seq=100))
            bridge.cancel(named(number))
        bridge.send(listing("x"))
        assert len(bridge.answer("x", within_s=3)["result"]["tools"]) == 8


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_client_that_gives_no_pipes_gets_no_traceback(shared: Ground, closed: str) -> None:
    shell = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-m", "orchestrator", "mcp"]
    ended = subprocess.run(
        shell, stdin=subprocess.DEVNULL, env=shared.environment, cwd=shared.cwd, capture_output=True, timeout=DEADLINE_S
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_a_bridge_ends_with_its_client_while_it_waits_for_a_host(place: Ground) -> None:
    assert place.command("start").returncode == 0
    with frozen(place.host()), ending(place.start("mcp")) as waiting:
        until(lambda: bool(psutil.Process(waiting.pid).net_connections("unix")), "the bridge speaks to the host")
        assert stopped_by(waiting, None) == 0
        assert place.host().status() == psutil.STATUS_STOPPED, "it had not answered"


def test_a_client_that_ends_while_its_host_starts_leaves_one_that_serves_others(place: Ground) -> None:
    with ending(place.start("mcp")) as process:
        until(lambda: bool(place.hosts()), "a host starts")
        assert stopped_by(process, signal.SIGTERM) == 0
    with place.bridge() as bridge:
        bridge.begin()
        assert len(place.hosts()) == 1
