"""Faults besides death: a host that stands still, owners that are not who they seem, two servers, a full disk."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.model import JsonObject
from orchestrator.process import start_of
from tests.conftest import wait_until
from tests.kill.arena import Arena, open_arena
from tests.kill.client import ROOT, Client, Refused
from tests.kill.store import is_end, read_document, read_log

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


async def spawn(client: Client, prompt: str, cwd: Path, agent_url: str | None = None) -> str:
    backend: JsonObject = {"backend": "scripted"}
    if agent_url is not None:
        backend = {"backend": "remote_a2a", "backend_config": {"agent_url": agent_url}}
    return (await client.call("spawn_run", **backend, prompt=prompt, cwd=str(cwd)))["run_id"]


async def settled(client: Client, run_id: str) -> JsonObject:
    """The run once it is over or waits."""
    while not (await client.call("wait_runs", run_ids=[run_id]))["done"]:
        pass
    return await client.call("get_run", run_id=run_id)


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    with pytest.raises(Refused) as refused:
        await client.call(tool, **arguments)
    return refused.value.code


def said(run: Path) -> list[str]:
    """The messages in the log, which is whole."""
    log = read_log(run)
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    assert [event["seq"] for event in log if is_end(event)] == [len(log)]
    return [event["data"]["text"] for event in log if event["type"] == "agent_message"]


# ---- a host that stands still


async def test_a_stopped_host_is_not_declared_dead_and_goes_on_where_it_stood(tmp_path: Path) -> None:
    async with open_arena(tmp_path) as arena:
        client, reader = await arena.client(), await arena.client("--in-process")
        run_id = await spawn(client, "say one\nask Which?\nsay two", arena.cwd)
        (request,) = (await settled(client, run_id))["pending"]
        host = arena.host()
        assert host is not None
        host.suspend()
        try:
            commands = [
                asyncio.create_task(
                    each.call("continue_run", run_id=run_id, request_id=request["request_id"], text="this")
                )
                for each in (client, reader)
            ]
            newcomer = asyncio.create_task(arena.client())
            # whoever can read files works on, and sees that the run has an owner
            assert (await reader.call("get_run", run_id=run_id))["status"] == "input_required"
            page = await reader.call("poll_events", run_id=run_id, types=["agent_message"])
            assert [event["data"]["text"] for event in page["events"]] == ["one"]
            own = await spawn(reader, "final own", arena.cwd)
            assert (await settled(reader, own))["status"] == "completed"
            assert [row["run_id"] for row in (await reader.call("list_runs"))["runs"]] == [own, run_id]
            assert not any(task.done() for task in (*commands, newcomer))
        finally:
            host.resume()
        answers = await asyncio.gather(*commands, return_exceptions=True)
        assert [answer["mode"] for answer in answers if isinstance(answer, dict)] == ["answer"]
        assert {answer.code for answer in answers if isinstance(answer, Refused)} <= {"already_answered", "wrong_state"}
        assert (await settled(await newcomer, run_id))["status"] == "completed"
        assert said(arena.runs / run_id) == ["one", "the answer is: this", "two"]
        assert read_document(arena.runs / run_id / "owner.json")["epoch"] == 1
        assert arena.host() == host
        for each in (client, reader, await newcomer):
            await each.end()
    assert arena.ledger.broken == []


# ---- names of processes that lie


@contextmanager
def a_stranger() -> Generator[psutil.Process]:
    """A process that has nothing to do with us, in a group of its own."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()


def named(stranger: psutil.Process, later_s: float = 0.0, **more: str) -> JsonObject:
    """What `owner.json` says if the stranger is taken for the owner and for its agent."""
    started = start_of(stranger.pid) - later_s
    agent = {"pid": stranger.pid, "pgid": stranger.pid, "start_time": started}
    return {"pid": stranger.pid, "start_time": started, "agent": agent, **more}


LIES: dict[str, Callable[[psutil.Process], JsonObject]] = {
    "a pid that was given out again": lambda stranger: named(stranger, 1000.0),
    "another boot of this machine": lambda stranger: named(stranger, boot_id="another"),
    "another machine": lambda stranger: named(stranger, host="another"),
}


async def left_behind(arena: Arena, stranger: psutil.Process, lie: Callable[[psutil.Process], JsonObject]) -> list[str]:
    """A local run that had begun, one that waited in its session, and a remote one: their host is killed, and their
    owner is said to be somebody else."""
    await arena.start_agent()
    client = await arena.client()
    begun = await spawn(client, "say one\nask Which?", arena.cwd)
    session = {"session_mode": "resume", "session_id": (await settled(client, begun))["session_id"]}
    queued = await client.call("spawn_run", backend="scripted", cwd=str(arena.cwd), prompt="say two", **session)
    remote = await spawn(client, "say one\nask Which?\nsay two", arena.cwd, arena.agent_url)
    await settled(client, remote)
    await client.end()
    await arena.orphan()
    runs = [begun, queued["run_id"], remote]
    for run_id in runs:
        path = arena.runs / run_id / "owner.json"
        path.write_text(json.dumps({**read_document(path), **lie(stranger)}))
    return runs


@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
async def test_a_run_is_recovered_whoever_is_named_and_no_stranger_is_signalled(
    lie: Callable[[psutil.Process], JsonObject], tmp_path: Path
) -> None:
    async with open_arena(tmp_path) as arena:
        with a_stranger() as stranger:
            begun, queued, remote = await left_behind(arena, stranger, lie)
            client = await arena.client()
            run = await settled(client, begun)
            assert (run["status"], run["error"]["code"], run["error"]["resumable"]) == ("failed", "host_lost", True)
            assert (await settled(client, queued))["status"] == "completed"
            assert (await settled(client, remote))["status"] == "input_required"
            await client.call("continue_run", run_id=remote, text="this")
            assert (await settled(client, remote))["status"] == "completed"
            assert stranger.is_running()
            assert stranger.status() != psutil.STATUS_ZOMBIE
            await client.end()
        assert said(arena.runs / begun) == ["one"]
        assert said(arena.runs / queued) == ["two"]
        assert said(arena.runs / remote) == ["one", "the answer is: this", "two"]
    assert arena.ledger.broken == []


async def test_an_agent_that_a_dead_host_left_is_ended(tmp_path: Path) -> None:
    """So that the test above would notice a signal."""
    async with open_arena(tmp_path) as arena:
        with a_stranger() as agent:
            begun, *_ = await left_behind(arena, agent, named)
            ended = asyncio.create_task(asyncio.to_thread(agent.wait, 20))
            client = await arena.client()
            assert (await settled(client, begun))["error"]["code"] == "host_lost"
            await ended
            await client.end()


async def test_a_run_that_the_index_of_live_runs_has_lost_is_entered_again(tmp_path: Path) -> None:
    """As if a host had died between the two entries that it makes for a new run."""
    async with open_arena(tmp_path) as arena:
        client = await arena.client()
        begun = await spawn(client, "say one\nask Which?", arena.cwd)
        session = {"session_mode": "resume", "session_id": (await settled(client, begun))["session_id"]}
        queued = await client.call("spawn_run", backend="scripted", cwd=str(arena.cwd), prompt="ask Which?", **session)
        await client.end()
        await arena.orphan()
        entry = arena.home.live / queued["run_id"]
        entry.unlink()
        client = await arena.client()
        assert (await settled(client, queued["run_id"]))["status"] == "input_required"
        assert entry.exists()
        await client.end()
    assert arena.ledger.broken == []


# ---- two servers in one place


async def test_a_host_and_an_in_process_server_share_a_directory(tmp_path: Path) -> None:
    async with open_arena(tmp_path) as arena:
        hosted, alone = await arena.client(), await arena.client("--in-process")
        theirs = await spawn(hosted, "say one\nask Theirs?", arena.cwd)
        asleep = await spawn(hosted, "say one\nsleep 100", arena.cwd)
        ours = await spawn(alone, "say one\nask Ours?", arena.cwd)
        for client in (hosted, alone):
            assert (await settled(client, theirs))["status"] == "input_required"
            assert (await settled(client, ours))["status"] == "input_required"
            rows = (await client.call("list_runs"))["runs"]
            assert [row["run_id"] for row in rows] == [ours, asleep, theirs]
        host = arena.host()
        assert host is not None
        owners = [read_document(arena.runs / run_id / "owner.json")["pid"] for run_id in (theirs, asleep, ours)]
        assert owners == [host.pid, host.pid, alone.bridge]
        # a host takes commands from others, an in-process server does not
        assert await refusal(hosted, "continue_run", run_id=ours, text="x") == "not_owner"
        assert await refusal(hosted, "cancel_run", run_id=ours) == "not_owner"
        assert (await alone.call("continue_run", run_id=theirs, text="this"))["mode"] == "answer"
        assert (await alone.call("cancel_run", run_id=asleep))["status"] == "cancelled"
        assert (await alone.call("continue_run", run_id=ours, text="that"))["mode"] == "answer"
        for client in (alone, hosted):
            assert (await settled(client, theirs))["result"]["final_response"] == "the answer is: this"
            assert (await settled(client, ours))["result"]["final_response"] == "the answer is: that"
            assert (await settled(client, asleep))["status"] == "cancelled"
        for client in (hosted, alone):
            await client.end()
    assert arena.ledger.broken == []


# ---- a full disk

LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = ["orchestrator", "host", "serve"]
runpy.run_module("orchestrator", run_name="__main__")
"""
FILE_BYTES = 200_000


@contextmanager
def a_limited_host(arena: Arena) -> Generator[subprocess.Popen[bytes]]:
    """A host none of whose files can grow beyond FILE_BYTES."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIMITED, str(FILE_BYTES)], env={**arena.env, "PYTHONPATH": str(ROOT)}
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_run_that_fills_its_disk_ends_and_those_in_other_places_go_on(tmp_path: Path) -> None:
    async with open_arena(tmp_path) as arena:
        await arena.start_agent()
        places = [tmp_path / name for name in ("full", "local", "remote")]
        for place in places:
            place.mkdir()
        with a_limited_host(arena) as process:
            await wait_until(lambda: arena.host() is not None, "the host")
            clients = [await arena.client(cwd=place) for place in places]
            local = await spawn(clients[1], "say one\nask Still there?", places[1])
            remote = await spawn(clients[2], "say one\nask Still there?", places[2], arena.agent_url)
            full = await spawn(clients[0], "events 5000 200", places[0])
            run = await settled(clients[0], full)
            assert (run["status"], run["error"]["code"]) == ("failed", "store_error")
            log = places[0] / ".orchestrator/runs" / full / "events.jsonl"
            assert FILE_BYTES - 10_000 < log.stat().st_size <= FILE_BYTES
            assert len(said(log.parent)) == run["last_seq"] - 3
            for client, place, run_id in zip(clients[1:], places[1:], (local, remote), strict=True):
                assert (await settled(client, run_id))["status"] == "input_required"
                await client.call("continue_run", run_id=run_id, text="yes")
                assert (await settled(client, run_id))["status"] == "completed"
                assert said(place / ".orchestrator/runs" / run_id) == ["one", "the answer is: yes"]
            small = await spawn(clients[0], "final small", places[0])
            assert (await settled(clients[0], small))["status"] == "completed"
            host = arena.host()
            assert host is not None
            assert host.pid == process.pid
            for client in clients:
                await client.end()
            assert await arena.stop_host() == 0
            assert await asyncio.to_thread(process.wait, 20) == 0
    assert arena.ledger.broken == []
