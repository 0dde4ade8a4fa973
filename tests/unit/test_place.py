"""The place of a host: its directory, its lock, its socket, and what is not ours."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.host.place import HostError, Place, dial, hello, peer_uid, within_reach
from orchestrator.store.layout import Home


@pytest.fixture
def place(home: Home) -> Place:
    """A place that is made."""
    place = Place.own()
    place.make()
    return place


@contextmanager
def listening(path: str) -> Generator[socket.socket]:
    """Somebody who listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with within_reach(path) as short:
            listener.bind(short)
        listener.listen()
        yield listener


@pytest.fixture
def long_path(tmp_path: Path) -> str:
    """A path that no socket may have."""
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    return str(directory / "sock")


def test_each_version_api_and_environment_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [Place.own()]
    for name, value in (
        ("orchestrator.host.place.API", 2),
        ("orchestrator.host.place.__version__", "9.9.9"),
        ("sys.prefix", "/elsewhere"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            places.append(Place.own())
    assert len({place.key for place in places}) == 4
    assert len({os.path.dirname(place.directory) for place in places}) == 1
    assert Place.own() == places[0]


def test_a_home_that_is_given_relative_is_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCHESTRATOR_HOME", "state/../mine")
    assert Path(Place.own().directory).is_relative_to(tmp_path / "mine")


def test_the_directory_is_its_users_alone_whatever_the_umask(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    before = os.umask(0)
    try:
        Place.own().make()
        Place.own().make()  # as the next one does
    finally:
        os.umask(before)
    for path in (Path(Place.own().directory), Path(Place.own().directory).parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_directory_that_is_open_to_others_is_not_used(place: Place) -> None:
    os.chmod(place.directory, 0o750)
    with pytest.raises(HostError, match="chmod 700"):
        place.make()


def test_a_home_that_cannot_be_written_is_named(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("ORCHESTRATOR_HOME", str(path))
        with pytest.raises(HostError, match="ORCHESTRATOR_HOME"):
            Place.own().make()


# ---- the lock ----


def test_the_lock_is_had_by_one_and_goes_with_its_last_copy(place: Place) -> None:
    first = place.take()
    assert first is not None
    assert place.take() is None
    inherited = os.dup(first)
    os.close(first)
    assert place.take() is None
    os.close(inherited)
    again = place.take()
    assert again is not None
    assert fcntl.fcntl(again, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(again)


def test_asking_for_the_lock_in_vain_keeps_nothing_open(place: Place) -> None:
    lock = place.take()
    assert lock is not None
    free = os.dup(lock)
    os.close(free)
    assert [place.take() for _ in range(50)] == [None] * 50
    assert os.dup(lock) == free
    os.close(free)
    os.close(lock)


def test_a_lock_that_is_no_file_of_ours_is_left_alone(place: Place, tmp_path: Path) -> None:
    lock = Path(place.file("lock"))
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="lock"):
        place.take()
    assert lock.is_symlink()
    assert not (tmp_path / "elsewhere").exists()
    lock.unlink()
    lock.mkdir()
    with pytest.raises(HostError, match="lock"):
        place.take()
    assert lock.is_dir()


# ---- what it says of itself ----


def test_a_description_is_replaced_whole_and_private(place: Place) -> None:
    for pid in (1, 2):
        place.describe({"pid": pid, "socket": "ü"})
        assert place.about() == {"pid": pid, "socket": "ü"}
    assert stat.S_IMODE(os.stat(place.file("json")).st_mode) == 0o600
    assert os.listdir(place.directory) == ["json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe\0", b"[" * 100_000, b"1" * 5000])
def test_a_description_that_is_none_says_nothing(place: Place, content: bytes) -> None:
    Path(place.file("json")).write_bytes(content)
    assert place.about() == {}


# ---- the socket ----


def test_nobody_is_reached_where_nobody_listens(place: Place) -> None:
    assert dial(place.socket, 1) is None
    with listening(place.socket):
        connection = dial(place.socket, 1)
        assert connection is not None
        assert peer_uid(connection) == os.getuid()
        connection.close()
    assert dial(place.socket, 1) is None  # a socket that nobody serves any more
    os.unlink(place.socket)
    Path(place.socket).write_text("a file")
    assert dial(place.socket, 1) is None


def test_a_socket_with_a_long_path_is_reached_and_no_link_is_left(
    long_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="orc-test-", dir="/tmp") as folder:
        for temporary in (folder, str(Path(long_path).parent)):  # the second is too long itself
            monkeypatch.setattr(tempfile, "tempdir", temporary)
            with listening(long_path):
                connection = dial(long_path, 1)
                assert connection is not None
                connection.close()
            os.unlink(long_path)
            assert os.listdir(temporary) == []


def test_a_short_path_is_taken_as_it_is() -> None:
    with within_reach("/run/sock") as path:
        assert path == "/run/sock"


def test_a_socket_of_another_user_is_not_used(long_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(long_path):
        monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
        with pytest.raises(HostError, match="another user"):
            dial(long_path, 1)


def test_the_first_line_survives_its_way_whatever_the_environment_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = b"\xff\xfe\n\x01"
    monkeypatch.setenv("ODD", os.fsdecode(odd))
    directory = tmp_path / "ü\n"
    directory.mkdir()
    monkeypatch.chdir(directory)
    line = json.dumps(hello(scripted=True)).encode()
    assert b"\n" not in line
    heard = json.loads(line)
    assert os.fsencode(heard["env"]["ODD"]) == odd
    assert (heard["cwd"], heard["scripted"]) == (str(directory), True)
    assert sys.getsizeof(line) < 2**20
