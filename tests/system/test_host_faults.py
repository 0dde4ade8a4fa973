"""What clients do to a host that they should not, and what they leave alone: the other clients."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends import BACKENDS, SCRIPTED, Backends
from orchestrator.engine.engine import Engine
from orchestrator.host import server
from orchestrator.host.place import API, hello
from orchestrator.model import JsonObject
from orchestrator.store.layout import Home
from tests.conftest import wait_until
from tests.system.hosts import Ground, ground, until
from tests.system.lines import Connection, document, lines, listing, tool

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ground]:
    """A home whose host runs, for tests that do it no harm."""
    root = tmp_path_factory.mktemp("faults")
    with ground(root / "home", root / "project") as place:
        assert place.command("start").returncode == 0
        yield place


@pytest.fixture(scope="module")
def other(shared: Ground) -> Generator[Connection]:
    """A client that behaves well, and is connected all the time."""
    with shared.session() as other:
        other.waiting("ask Which?", shared.cwd)
        yield other


@pytest.fixture
def steady(other: Connection) -> Generator[Callable[[], None]]:
    """That the other client is served and its run goes on: to be called, and called at the end."""

    def check() -> None:
        assert [run["status"] for run in other.call("list_runs", status="input_required")["runs"]]
        assert len(other.request("tools/list")["tools"]) == 8

    check()
    yield check
    check()


# ---- first lines ----

WELL: JsonObject = {"orchestrator": API, "cwd": "/", "env": {}}
FIRST_LINES: dict[str, bytes] = {
    "junk": os.urandom(10_000).replace(b"\n", b" ") + b"\n",
    "half a line": b'{"orchestrator": 1, "cwd\n',
    "an empty line": b"\n",
    "a list": b"[1]\n",
    "a number": b"1\n",
    "a deep list": b"[" * 100_000 + b"\n",
    "a long number": b"1" * 100_000 + b"\n",
    "a request": lines(listing(1)),
    "another API": lines({**WELL, "orchestrator": 2}),
    "an API in words": lines({**WELL, "orchestrator": "1"}),
    "a relative cwd": lines({**WELL, "cwd": "project"}),
    "no cwd": lines({"orchestrator": API}),
    "a cwd that is a number": lines({**WELL, "cwd": 1}),
    "an env with numbers": lines({**WELL, "env": {"A": 1}}),
    "an env that is a list": lines({**WELL, "env": ["A"]}),
    "toolsets that are lists": lines({**WELL, "toolsets": [[]]}),
    "toolsets of another kind": lines({**WELL, "toolsets": {"team": True}}),
    "an unknown question": lines({"orchestrator": API, "control": "dance"}),
    "a question that is a list": lines({"orchestrator": API, "control": [1]}),
    "a stop that does not say how": lines({"orchestrator": API, "control": "stop"}),
    "a stop that says it wrongly": lines({"orchestrator": API, "control": "stop", "how": ["cancel"]}),
}


@pytest.mark.parametrize("first", FIRST_LINES)
def test_who_begins_wrongly_is_told_why_and_dropped(shared: Ground, steady: object, first: str) -> None:
    with shared.connect() as client:
        client.write(FIRST_LINES[first])
        said = json.loads(client.line())
        assert said["orchestrator"] == API
        assert 0 < len(said["error"]) < 200
        assert client.over()


@pytest.mark.parametrize(
    "sent", [b"", b"x" * 10_000, b'{"orchestrator": 1, "cwd', lines(WELL), lines(WELL, listing(1))[:-9]]
)
def test_who_goes_away_in_the_middle_leaves_nothing_behind(shared: Ground, steady: object, sent: bytes) -> None:
    host, logged_before = shared.host(), len(shared.log())
    before = host.num_fds()
    for _ in range(50):
        with shared.connect() as client:
            client.write(sent)
    until(lambda: host.num_fds() <= before, "the host has closed what the clients left")
    until(lambda: shared.control("status")["clients"] == 1, "the host has forgotten them")
    assert "Traceback" not in shared.log()[logged_before:]


def test_the_host_says_its_status(shared: Ground, steady: object) -> None:
    said = shared.control("status")
    assert said["ok"]
    assert said["pid"] == shared.host().pid
    assert (said["live"] >= 1, said["clients"], said["draining"]) == (True, 1, False)


# ---- sessions ----


def test_a_thousand_requests_at_once_are_each_answered_once_and_hold_up_nobody(
    shared: Ground, steady: Callable[[], None]
) -> None:
    with shared.session() as client, ThreadPoolExecutor(1) as pool:
        pool.submit(client.send, *(listing(n) if n % 2 else tool(n, "list_runs") for n in range(1000)))
        for _ in range(10):
            steady()
        for _ in range(1000):
            client.message()
        assert sorted(client.ids()) == list(range(1000))


def test_who_spawns_disturbs_nobody_who_lists(shared: Ground, steady: object) -> None:
    def work(_number: int) -> None:
        with shared.session() as client:
            for _ in range(30):
                client.spawn("x", shared.cwd)
                assert client.call("list_runs")["runs"]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_who_disconnects_with_requests_under_way_holds_up_nobody(shared: Ground, steady: Callable[[], None]) -> None:
    host = shared.host()
    before = host.num_fds()
    for _ in range(5):
        with shared.session() as client:
            run_id = client.waiting("ask Which?", shared.cwd)
            for number in range(100):
                client.send(tool(number, "poll_events", run_id=run_id, after_seq=100))
            client.call("cancel_run", run_id=run_id)
            steady()
    until(lambda: host.num_fds() <= before, "the host has closed what the clients left")


def test_a_line_of_junk_costs_a_session_nothing(shared: Ground, steady: object) -> None:
    with shared.session() as client:
        for junk in (b"\xff\xfe\0", b"[" * 100_000, b"1" * 5000, b"{}", b'{"jsonrpc": "2.0", "id": 1}', b"null"):
            client.write(junk + b"\n")
            client.send(listing("x"))
            assert client.message(within_s=5)["id"] == "x", junk


def test_what_is_never_answered_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with ground(tmp_path / "home", tmp_path / "project") as place, place.bridge() as bridge:
        bridge.send({**tool(1.5, "spawn_run"), "id": 1.5})
        bridge.call("list_runs")
        assert place.command("stop", within_s=8).stdout == "the host is gone\n"


def test_an_environment_and_a_directory_need_not_be_text(shared: Ground, steady: object) -> None:
    odd = os.fsdecode(b"\xff\xfe")
    with shared.connect() as client:
        client.send({**hello(scripted=True), "cwd": f"/{odd}", "env": {odd: odd, "WORD": "a\0b"}})
        assert json.loads(client.line())["ok"]
        run_id = client.spawn("env WORD", shared.cwd)
        client.call("wait_runs", run_ids=[run_id])
        assert client.call("get_run", run_id=run_id)["status"] == "completed"
        assert client.call("list_runs")["runs"] == []


# ---- a server in this process, whose patience is short ----

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Coroutine[None, None, Streams]]


@asynccontextmanager
async def served(path: Path, offered: Callable[[bool], frozenset[str]] | None = None) -> AsyncGenerator[Connect]:
    """A server at a socket, which offers clients all backends or what is given. Yields how to connect to it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(128)
    backends = Backends({**BACKENDS, **SCRIPTED})
    async with Engine(Home.default(), backends.load) as engine:
        host = server.Server(engine, offered or (lambda _: frozenset(backends.known)), {}, lambda _: None)
        serving = asyncio.create_task(host.serve(listener))
        try:
            yield lambda: asyncio.open_unix_connection(str(path))
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@pytest.fixture
def path() -> Generator[Path]:
    """Where to listen; a short one, as the kernel wants it."""
    with tempfile.TemporaryDirectory(prefix="orc-") as folder:
        yield Path(folder) / "sock"


@asynccontextmanager
async def welcomed(connect: Connect, cwd: Path) -> AsyncGenerator[Streams]:
    """A client that the server has welcomed."""
    reader, writer = await connect()
    writer.write(lines({"orchestrator": API, "cwd": str(cwd), "env": {}}))
    assert json.loads(await reader.readline())["ok"]
    try:
        yield reader, writer
    finally:
        writer.close()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server ends the connection without a word."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def test_who_says_nothing_is_dropped_after_a_while(
    path: Path, cwd: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "HELLO_S", 0.2)
    async with served(path) as connect, welcomed(connect, cwd) as (reader, writer):
        for said in (b"", b"x" * 10_000, b'{"orchestrator": 1'):
            silent, speech = await connect()
            speech.write(said)
            assert await ended(silent)
            speech.close()
        assert "said nothing" in caplog.text
        writer.write(lines(listing(1)))
        assert json.loads(await reader.readline())["id"] == 1


async def clients(connect: Connect) -> int:
    """How many the host says it has."""
    question, asking = await connect()
    asking.write(lines({"orchestrator": API, "control": "status"}))
    said = json.loads(await question.readline())
    asking.close()
    return said["clients"]


async def test_who_does_not_read_is_dropped_after_a_while_and_said_in_the_log(
    path: Path, cwd: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "WRITE_S", 0.3)
    async with (
        served(path) as connect,
        welcomed(connect, cwd) as (reader, writer),
        welcomed(connect, cwd) as (_, lazy),
    ):
        lazy.write(lines(*map(listing, range(200))))
        await wait_until(lambda: "has not read" in caplog.text, "the log says who is dropped")
        assert len(logged(caplog, "has not read")) == 1
        for number in range(10):
            writer.write(lines(listing(number)))
            assert json.loads(await reader.readline())["id"] == number
        async with asyncio.timeout(20):
            while await clients(connect) != 1:  # noqa: ASYNC110  its session ends behind the log line
                await asyncio.sleep(0.01)


def logged(caplog: pytest.LogCaptureFixture, text: str) -> list[logging.LogRecord]:
    """The warnings with this text."""
    return [record for record in caplog.records if text in record.getMessage() and record.levelno >= logging.WARNING]


async def test_who_sends_a_line_that_is_too_long_is_dropped(
    path: Path, cwd: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "LINE_BYTES", 100_000)
    async with served(path) as connect, welcomed(connect, cwd) as (reader, writer):
        async with welcomed(connect, cwd) as (cut, speech):
            speech.write(b"x" * 1_000_000)
            assert await ended(cut)
        silent, speech = await connect()
        speech.write(b"x" * 1_000_000)
        assert await ended(silent)
        speech.close()
        assert len(logged(caplog, "is dropped")) == 2
        writer.write(lines(listing(1)))
        assert json.loads(await reader.readline())["id"] == 1


async def test_another_user_is_not_let_in(
    path: Path, cwd: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(path) as connect:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getuid", lambda: os.geteuid() + 1)
            reader, writer = await connect()
            writer.write(lines({"orchestrator": API, "cwd": str(cwd), "env": {}}))
            assert await ended(reader)
            writer.close()
        assert logged(caplog, "may not connect")
        async with welcomed(connect, cwd) as (reader, writer):
            writer.write(lines(tool(1, "list_runs")))
            assert document(json.loads(await reader.readline()))["runs"] == []


async def test_a_client_with_whom_the_host_meets_a_defect_is_told(
    path: Path, cwd: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def offered(_scripted: bool) -> frozenset[str]:
        raise RuntimeError("planted")

    async with served(path, offered) as connect:
        reader, writer = await connect()
        writer.write(lines({"orchestrator": API, "cwd": str(cwd), "env": {}}))
        answer = json.loads(await reader.readline())
        assert (answer["code"], "orchestrator host logs" in answer["error"]) == ("internal", True)
        assert await ended(reader)
        writer.close()
        assert await clients(connect) == 0
    assert "planted" in caplog.text
