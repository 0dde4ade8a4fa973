"""The host's life: how it starts, what it is, when it ends, and how one makes room for the next."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import venv
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from orchestrator import __version__
from orchestrator.model import JsonObject
from orchestrator.process import start_of
from tests.system.hosts import Ground, code, ending, ground, renumber, stopped_by, until, wait_gone
from tests.system.lines import DEADLINE_S, Bridge, Client, document

pytestmark = pytest.mark.system

STARTERS = 20
LOG_BYTES = 1_000_000


@pytest.fixture
def place(cwd: Path) -> Generator[Ground]:
    """A home where nothing runs yet."""
    with ground(Path(os.environ["ORCHESTRATOR_HOME"]), cwd) as place:
        yield place


def state_of(place: Ground, run_id: str) -> JsonObject:
    """The last event of a run, as it is on disk."""
    log = place.cwd / ".orchestrator" / "runs" / run_id / "events.jsonl"
    return json.loads(log.read_bytes().splitlines()[-1])


# ---- one process ----


@dataclass(frozen=True)
class Crowd:
    """Clients that have come all at once, where no host was."""

    place: Ground
    bridges: list[Bridge]
    host: psutil.Process
    status: JsonObject


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Generator[Crowd]:
    """Twenty clients at once in a home with a long path and a log that is full."""
    root = tmp_path_factory.mktemp("crowd")
    with ground(root / ("long" * 50) / "home", root / "project", SECRET_WORD="secret") as place, ExitStack() as stack:
        assert not place.home.exists()
        place.file("log").parent.mkdir(parents=True, mode=0o700)
        place.file("log").write_text("x" * (LOG_BYTES - 10) + "\n")
        processes = [stack.enter_context(ending(place.start("mcp", "--scripted"))) for _ in range(STARTERS)]
        bridges = [Bridge(process) for process in processes]
        asked = [bridge.ask("tools/list") for bridge in bridges]
        for bridge, request_id in zip(bridges, asked, strict=True):
            assert len(bridge.answer(request_id)["result"]["tools"]) == 8
        yield Crowd(place, bridges, place.host(), place.control("status"))


def test_of_twenty_clients_at_once_one_starts_the_host_and_all_are_served_by_it(crowd: Crowd) -> None:
    assert len(crowd.place.hosts()) == 1
    assert crowd.status["clients"] == STARTERS
    assert crowd.place.log().count("listens") == 1
    assert all(psutil.Process(bridge.process.pid).children() == [] for bridge in crowd.bridges)


def test_the_host_is_nobodys_child_and_holds_nothing_of_its_starters(crowd: Crowd) -> None:
    host = crowd.host
    started = {bridge.process.pid for bridge in crowd.bridges} | {os.getpid()}
    assert host.ppid() not in started
    assert os.getsid(host.pid) != os.getsid(0)
    assert os.getpgid(host.pid) == os.getsid(host.pid)
    assert host.cwd() == "/"
    assert host.terminal() is None
    if sys.platform == "linux":
        assert [os.readlink(f"/proc/{host.pid}/fd/{number}") for number in range(3)] == ["/dev/null"] * 3
        assert not [fd for fd in Path(f"/proc/{host.pid}/fd").iterdir() if os.readlink(fd).startswith("pipe:")]
    assert "SECRET_WORD" not in host.environ()
    assert host.environ()["PATH"] == os.environ["PATH"]


def test_the_host_says_who_it_is_to_its_user_alone(crowd: Crowd) -> None:
    about = json.loads(crowd.place.file("json").read_text())
    assert about["pid"] == crowd.host.pid
    assert about["start_time"] == pytest.approx(start_of(crowd.host.pid), abs=0.05)
    assert (about["api"], about["build"], about["prefix"]) == (1, __version__, sys.prefix)
    assert about["socket"] == crowd.place.place.socket
    assert {name: crowd.status[name] for name in about} == about
    directory = crowd.place.file("sock").parent
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in directory.iterdir()}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {name: modes[name] for name in ("sock", "lock", "json")} == dict.fromkeys(("sock", "lock", "json"), 0o600)
    assert set(modes) == {"sock", "lock", "json", "log", "log.1"}


def test_the_log_does_not_grow_for_ever(crowd: Crowd) -> None:
    assert crowd.place.file("log").stat().st_size < LOG_BYTES / 2
    assert crowd.place.file("log.1").stat().st_size < LOG_BYTES


def test_start_status_and_logs_tell_about_the_host(crowd: Crowd) -> None:
    start, status, text, log = (
        crowd.place.command(*words.split()) for words in ("start", "status --json", "status", "logs -n 1")
    )
    assert [ended.returncode for ended in (start, status, text, log)] == [0] * 4
    assert [ended.stderr for ended in (start, status, text, log)] == [""] * 4
    assert f"process {crowd.host.pid}" in start.stdout
    said = json.loads(status.stdout)
    assert (said["running"], said["pid"], said["clients"], said["draining"]) == (True, crowd.host.pid, STARTERS, False)
    assert f"clients {STARTERS}" in text.stdout
    assert log.stdout == crowd.place.log().splitlines(keepends=True)[-1]


def test_where_no_host_is_the_commands_say_so_and_make_nothing(place: Ground) -> None:
    home = place.home / "none"
    alone = Ground(home, place.cwd)
    status, text, stop, logs = (alone.command(*words.split()) for words in ("status --json", "status", "stop", "logs"))
    assert [ended.returncode for ended in (status, text, stop, logs)] == [6, 6, 0, 4]
    assert json.loads(status.stdout) == {"running": False}
    assert not home.exists()


# ---- its log, as it is read ----


def written(place: Ground, text: str) -> None:
    """Makes a log without a host."""
    place.file("log").parent.mkdir(parents=True, exist_ok=True)
    place.file("log").write_text(text)


@pytest.mark.parametrize(("count", "shown"), [(0, ""), (1, "three\n"), (2, "two\nthree\n"), (9, "one\ntwo\nthree\n")])
def test_logs_shows_as_many_lines_as_are_asked_for(place: Ground, count: int, shown: str) -> None:
    written(place, "one\ntwo\nthree\n")
    assert place.command("logs", "-n", str(count)).stdout == shown


def test_logs_follows_the_log_also_into_the_next_file(place: Ground) -> None:
    written(place, "one\n")
    with ending(place.start("host", "logs", "-f")) as process:
        assert process.stdout is not None
        shown = Client(process.stdout.fileno(), -1)
        assert shown.line() == b"one"
        with place.file("log").open("a") as log:
            log.write("two\n")
        assert shown.line() == b"two"
        place.file("log").rename(place.file("log.1"))
        written(place, "three\n")
        assert shown.line(within_s=3) == b"three"


# ---- its end ----


def test_a_host_ends_by_itself_when_nobody_needs_it_or_its_home_is_gone(place: Ground, tmp_path: Path) -> None:
    # all that stays has looked whether it is needed before the last of the others has, which started later
    with (
        ground(tmp_path / "live", place.cwd, ORCHESTRATOR_HOST_IDLE_S="0.1") as live,
        ground(tmp_path / "held", place.cwd, ORCHESTRATOR_HOST_IDLE_S="0.1") as held,
        ground(tmp_path / "gone", place.cwd) as gone,
        ground(tmp_path / "idle", place.cwd, ORCHESTRATOR_HOST_IDLE_S="0.1") as idle,
        held.bridge() as holder,
        live.bridge() as spawner,
    ):
        holder.begin()
        run_id = spawner.waiting("ask Which?", place.cwd)
        assert spawner.close() == 0
        with gone.bridge() as bridge:
            bridge.begin()
        assert idle.command("start").returncode == 0
        ends = [*gone.hosts(), *idle.hosts()]
        assert len(ends) == 2
        gone.home.rename(tmp_path / "moved")
        wait_gone(*ends)
        assert not idle.file("sock").exists()
        assert not gone.home.exists()
        assert len(live.hosts()) == len(held.hosts()) == 1
        assert state_of(live, run_id)["type"] == "input_required"


def test_a_host_that_is_told_to_end_ends_its_runs_truly(place: Ground) -> None:
    with place.bridge() as bridge:
        runs = [bridge.waiting("ask Which?", place.cwd), bridge.spawn("say x\nsleep 100", place.cwd)]
        bridge.call("poll_events", run_id=runs[1], types=["agent_message"])
    host = place.host()
    host.send_signal(signal.SIGTERM)
    wait_gone(host)
    assert [state_of(place, run_id)["data"]["code"] for run_id in runs] == ["host_lost"] * 2
    assert not place.file("sock").exists()
    assert not list((place.home / "live").iterdir())


def test_stop_waits_for_live_runs_and_takes_no_new_ones(place: Ground) -> None:
    with place.bridge() as bridge:
        bridge.begin()
        run_id = bridge.waiting("ask Which?", place.cwd)
        with ending(place.start("host", "stop")) as first, ending(place.start("host", "stop")) as second:
            for stop in (first, second):
                assert stop.stdout is not None
                assert stop.stdout.readline().startswith(b"waiting for 1 live runs")
            assert stopped_by(first, signal.SIGINT) == 130
            refused = bridge.refusal("spawn_run", backend="scripted", cwd=str(place.cwd), prompt="x")
            assert refused.startswith("host_unavailable: ")
            assert place.control("status")["draining"]
            bridge.call("continue_run", run_id=run_id, text="this")
            assert second.wait(DEADLINE_S) == 0
            assert second.stdout is not None
            assert second.stdout.read() == b"the host is gone\n"
        assert state_of(place, run_id)["type"] == "run_completed"
        assert place.hosts() == []
        assert bridge.spawn("x", place.cwd)  # by the next host, which is started for it


def test_stop_can_cancel_the_live_runs_also_after_it_began_to_wait(place: Ground) -> None:
    with place.bridge() as bridge:
        runs = [bridge.waiting("ask Which?", place.cwd), bridge.spawn("say x\nsleep 100", place.cwd)]
        bridge.call("poll_events", run_id=runs[1], types=["agent_message"])
        at_once = place.command("stop", "--no-wait")
        assert (at_once.returncode, at_once.stdout) == (0, "the host ends when its live runs are over\n")
        stop = place.command("stop", "--cancel")
        assert (stop.returncode, stop.stdout) == (0, "the host is gone\n")
        assert [state_of(place, run_id)["data"]["status"] for run_id in runs] == ["cancelled"] * 2


def test_stop_ends_although_a_client_that_goes_on_asking_starts_the_next_host(place: Ground) -> None:
    with place.bridge() as bridge:
        bridge.begin()
        first = place.host()
        with ending(place.start("host", "stop")) as stop:
            until(lambda: bool(bridge.call("list_runs")) and not first.is_running(), "the host has ended")
            until(lambda: bool(bridge.call("list_runs")) and stop.poll() is not None, "stop has ended")
            assert stop.returncode == 0


# ---- one version after another ----


def test_a_host_makes_room_for_a_new_version_and_its_clients_move_on(place: Ground, tmp_path: Path) -> None:
    new = place.having(PYTHONPATH=str(code(tmp_path / "new", version="9.9.9")))
    with place.bridge() as bridge:
        bridge.begin()
        run_id = bridge.waiting("ask Which?", place.cwd)
        old = place.host()
        asked = bridge.ask_tool("poll_events", run_id=run_id, after_seq=2)
        assert new.command("start").returncode == 0
        document(bridge.answer(asked))
        until(lambda: place.control("status")["draining"], "the older host makes room")
        later = bridge.spawn("ask Where?", place.cwd)
        (other,) = [host for host in place.hosts() if host != old]
        assert json.loads(new.command("status", "--json").stdout)["pid"] == other.pid
        owner = json.loads((place.cwd / ".orchestrator" / "runs" / later / "owner.json").read_bytes())
        assert owner["pid"] == other.pid
        listed = {run["run_id"]: run["status"] for run in bridge.call("list_runs")["runs"]}
        assert listed[run_id] == "input_required"
        assert later in listed


def test_the_live_runs_of_a_host_that_makes_room_can_be_commanded_and_it_ends_with_them(
    place: Ground, tmp_path: Path
) -> None:
    new = place.having(PYTHONPATH=str(code(tmp_path / "new", version="9.9.9")))
    with place.bridge() as bridge, ExitStack() as stack:
        runs = [bridge.waiting("ask Which?", place.cwd) for _ in range(3)]
        old = place.host()
        newer = stack.enter_context(new.bridge())
        newer.begin()
        until(lambda: place.control("status")["draining"], "the older host makes room")
        assert newer.call("continue_run", run_id=runs[0], text="this")["mode"] == "answer"
        assert bridge.call("continue_run", run_id=runs[1], text="this")["mode"] == "answer"
        assert newer.call("cancel_run", run_id=runs[2])["status"] == "cancelled"
        newer.call("wait_runs", run_ids=runs, until="all")
        statuses = [newer.call("get_run", run_id=run_id)["status"] for run_id in runs]
        assert statuses == ["completed", "completed", "cancelled"]
        wait_gone(old)
        assert len(place.hosts()) == 1


def test_a_host_makes_room_for_a_new_api(place: Ground, tmp_path: Path) -> None:
    new = place.having(PYTHONPATH=str(code(tmp_path / "new", api=2)))
    with place.bridge() as bridge:
        bridge.waiting("ask Which?", place.cwd)
        assert new.command("start").returncode == 0
        assert len(place.hosts()) == 2
        until(lambda: place.control("status")["draining"], "the host of the older API makes room")


def test_a_version_that_is_replaced_on_disk_is_found_by_the_clients_of_the_old_one(
    place: Ground, tmp_path: Path
) -> None:
    target = code(tmp_path / "code", version="8.8.8")
    installed = place.having(PYTHONPATH=str(target))
    with installed.bridge() as old, installed.bridge() as other:
        old.begin()
        renumber(target, "8.8.8", "9.9.9")
        asked = old.ask_tool("list_runs")
        place.kill_host()
        document(old.answer(asked))
        assert other.call("list_runs")["runs"] == []
        with installed.bridge() as new:
            new.begin()
            (host,) = place.hosts()
            status = json.loads(installed.command("status", "--json").stdout)
            assert (status["pid"], status["build"], status["clients"]) == (host.pid, "9.9.9", 3)


def test_a_host_leaves_those_of_another_python_environment_alone(place: Ground, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True, with_pip=False)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    foreign = place.having(PYTHONPATH=os.pathsep.join([str(code(tmp_path / "new", version="9.9.9")), packages]))
    python = str(tmp_path / "venv" / "bin" / "python")
    with place.bridge() as bridge:
        bridge.begin()
        start = [python, "-m", "orchestrator", "host", "start"]
        subprocess.run(start, env=foreign.environment, cwd=place.cwd, check=True, capture_output=True)
        (other,) = [host for host in place.hosts() if python in host.cmdline()]
        until(lambda: "recovered" in logs_of(place, other.pid), "the other host serves")
        assert not place.control("status")["draining"]


def logs_of(place: Ground, pid: int) -> str:
    """The log of one of several hosts."""
    return next(
        (path / "log").read_text()
        for path in (place.home / "hosts").iterdir()
        if json.loads((path / "json").read_text())["pid"] == pid
    )
