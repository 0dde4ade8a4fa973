"""`orchestrator mcp` as clients start it: a bridge to a host that is well."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.hosts import Ground, ending, ground, stopped_by
from tests.system.lines import (
    DEADLINE_S,
    INITIALIZED,
    OLD_ERA,
    Bridge,
    Client,
    document,
    lines,
    listing,
    request,
    sentence,
    tool,
)

pytestmark = pytest.mark.system

OWN = ("orchestrator", "orchestrator.home", "orchestrator.host")
MOST_BYTES = 16 * 2**20
ENDINGS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, None]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ground]:
    """A home whose host runs, for tests that do it no harm."""
    root = tmp_path_factory.mktemp("bridge")
    with ground(root / "home", root / "project") as place:
        assert place.command("start").returncode == 0
        yield place


def loaded(stderr: bytes) -> set[str]:
    """The modules that an interpreter says it has imported."""
    return {
        line.rsplit(b"|", 1)[1].strip().decode() for line in stderr.splitlines() if line.startswith(b"import time:")
    }


def test_a_bridge_loads_nothing_but_the_standard_library(shared: Ground) -> None:
    told = shared.having(PYTHONPROFILEIMPORTTIME="1")
    bare = subprocess.run([sys.executable, "-c", ""], env=told.environment, capture_output=True, check=True)
    with told.bridge() as bridge:
        bridge.begin()
        assert bridge.call("list_runs", cwd=str(shared.home))["runs"] == []
        assert bridge.close() == 0
        names = loaded(bridge.said().encode()) - loaded(bare.stderr)
    foreign = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if name not in OWN and not name.startswith("orchestrator.host.")} == set()
    assert not names & {"asyncio", "argparse", "logging", "pathlib", "subprocess", "tempfile", "typing_extensions"}


@pytest.mark.skipif(sys.platform != "linux", reason="how much memory a process has is measured differently elsewhere")
def test_a_bridge_is_small_and_has_no_children(shared: Ground) -> None:
    with shared.bridge() as bridge:
        bridge.begin()
        run_id = bridge.waiting("events 50\nask Which?", shared.cwd)
        for _ in range(10):
            bridge.call("poll_events", run_id=run_id, max_chars=20_000)
        process = psutil.Process(bridge.process.pid)
        assert process.memory_info().rss < MOST_BYTES
        assert process.children() == []
        assert process.num_threads() == 1
        bridge.call("cancel_run", run_id=run_id)


@pytest.mark.parametrize("how", ENDINGS)
def test_every_way_to_end_a_bridge_touches_no_run(shared: Ground, how: signal.Signals | None) -> None:
    with shared.bridge() as bridge, shared.session() as other:
        bridge.begin()
        run_id = bridge.waiting("ask Which?", shared.cwd)
        working = bridge.spawn("say hi\nsleep 100", shared.cwd)
        bridge.ask_tool("wait_runs", run_ids=[working])
        assert stopped_by(bridge.process, how) == 0
        assert bridge.said() == ""
        assert other.call("get_run", run_id=run_id)["status"] == "input_required"
        assert other.call("cancel_run", run_id=working)["status"] == "cancelled"
        other.call("continue_run", run_id=run_id, text="this")
        assert other.call("wait_runs", run_ids=[run_id])["runs"][0]["status"] == "completed"


def test_a_run_outlives_its_killed_client_and_the_next_one_goes_on_with_it(shared: Ground) -> None:
    with shared.bridge() as first:
        run_id = first.waiting("say hello\nask Which?", shared.cwd)
        first.process.kill()
        first.process.wait()
    with shared.bridge() as second:
        second.begin()
        assert run_id in {run["run_id"] for run in second.call("list_runs", status="input_required")["runs"]}
        assert second.call("poll_events", run_id=run_id)["events"][-1]["type"] == "input_required"
        second.call("continue_run", run_id=run_id, text="this")
        second.call("wait_runs", run_ids=[run_id])
        assert second.call("get_run", run_id=run_id)["result"]["final_response"] == "the answer is: this"


def test_an_agent_has_the_environment_of_the_client_that_spawned_it(shared: Ground) -> None:
    odd = {"MY_WORD": "from\nthe client: ü", "EMPTY": ""}
    with shared.having(**odd).bridge() as one, shared.having(MY_WORD="other").bridge() as other:
        runs = [one.spawn("env MY_WORD", shared.cwd), other.spawn("env MY_WORD", shared.cwd)]
        runs.append(one.spawn("env ORCHESTRATOR_HOME", shared.cwd))
        one.call("wait_runs", run_ids=runs, until="all")
        said = [one.call("get_run", run_id=run_id)["result"]["final_response"] for run_id in runs]
    assert said == [f"MY_WORD={odd['MY_WORD']}", "MY_WORD=other", f"ORCHESTRATOR_HOME={shared.home}"]


def test_a_client_in_a_directory_with_an_odd_name_is_served(shared: Ground) -> None:
    odd = shared.cwd / "ä 'b' \"c\"\n\\d"
    odd.mkdir()
    with shared.bridge(cwd=odd) as bridge:
        run_id = bridge.spawn("say x", odd)
        assert bridge.call("list_runs")["runs"][0]["run_id"] == run_id
        assert bridge.call("list_runs")["runs"][0]["cwd"] == str(odd)


# ---- lines ----


def test_answers_that_come_soon_after_the_end_of_input_are_passed_on(shared: Ground) -> None:
    with shared.session() as other:
        other.call("list_runs")  # the tools are loaded
    ask = lines(listing("a"), tool("b", "list_runs")).rstrip(b"\n")  # also a last line that nothing ends
    for _ in range(5):
        process = shared.start("mcp", "--scripted")
        out, err = process.communicate(ask, timeout=DEADLINE_S)
        assert {json.loads(line)["id"] for line in out.splitlines()} == {"a", "b"}
        assert (process.returncode, err) == (0, b"")


def test_requests_from_a_file_are_answered_into_a_file(shared: Ground, tmp_path: Path) -> None:
    with shared.session() as other:
        other.call("list_runs")
    asked, answered = tmp_path / "asked", tmp_path / "answered"
    asked.write_bytes(
        lines(request(1, "initialize", **OLD_ERA), INITIALIZED, *(request(n, "tools/list") for n in range(2, 50)))
    )
    with asked.open("rb") as source, answered.open("wb") as sink:
        process = shared.start("mcp", stdin=source, stdout=sink)
        assert process.communicate(timeout=DEADLINE_S)[1] == b""
    assert process.returncode == 0
    ids = [json.loads(line)["id"] for line in answered.read_bytes().splitlines()]
    assert sorted(ids) == list(range(1, 50))


def test_lines_of_megabytes_pass_in_both_directions(shared: Ground) -> None:
    text = "\x01" * 600_000  # six bytes each in JSON, and more in JSON within JSON
    with shared.bridge() as bridge, ThreadPoolExecutor(1) as pool:
        spawn = {"backend": "scripted", "cwd": str(shared.cwd)}
        pool.submit(
            bridge.send, tool(1, "spawn_run", **spawn, prompt=text * 4), tool(2, "spawn_run", **spawn, prompt=text)
        )
        assert sentence(bridge.answer(1)).startswith("limit_exceeded: ")
        run_id = document(bridge.answer(2))["run_id"]
        bridge.call("wait_runs", run_ids=[run_id])
        (event,) = bridge.call("poll_events", run_id=run_id, types=["message_added"])["events"]
        field = {"run_id": run_id, "seq": event["seq"], "field_path": "/text", "limit": 262_144}
        asked = {bridge.ask_tool("get_event_artifact", **field, offset=at): at for at in range(0, len(text), 262_144)}
        pages = {at: document(bridge.answer(request_id))["content"] for request_id, at in asked.items()}
    assert "".join(page for _, page in sorted(pages.items())) == text
    assert max(len(json.dumps(message)) for message in bridge.heard) > 3_000_000


def test_a_line_may_come_in_any_pieces(shared: Ground) -> None:
    said = lines(*(tool(f"ü{n}", "list_runs", cwd="/nowhere ü€") for n in range(20)))
    said = said.replace(b"\\u00fc", "ü".encode())  # characters of several bytes are torn too
    dice = random.Random(1)
    with shared.bridge() as bridge:
        while said:
            size = dice.choice([1, 1, 2, 7, 100, 1000])
            bridge.write(said[:size])
            said = said[size:]
        answers = [bridge.answer(f"ü{n}") for n in range(20)]
    assert len({sentence(answer) for answer in answers}) == 1


def test_many_requests_at_once_are_each_answered_once(shared: Ground) -> None:
    with shared.bridge() as bridge, ThreadPoolExecutor(1) as pool:
        pool.submit(bridge.send, *(listing(n) if n % 2 else tool(str(n), "list_runs") for n in range(1000)))
        for _ in range(1000):
            bridge.message()
        assert set(bridge.ids()) == {n if n % 2 else str(n) for n in range(1000)}
        bridge.call("list_runs")  # nothing came twice
        assert len(bridge.heard) == 1001


def test_ids_come_back_as_they_were_given(shared: Ground) -> None:
    given: list[Any] = [0, 1, "1", -5, 2**53 + 1, "", "ü\n\"'", "x" * 10_000, "null"]
    with shared.bridge() as bridge:
        bridge.send(*map(listing, given))
        for request_id in given:
            bridge.answer(request_id)
        assert {json.dumps(request_id) for request_id in bridge.ids()} == {
            json.dumps(request_id) for request_id in given
        }


def test_junk_between_requests_harms_none_of_them(shared: Ground) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  shown when the test fails
    dice = random.Random(seed)
    junk = [
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"",
        b"\r",
        b'"id"',
        b'{"id": 1}',
        b"1" * 5000,
        b'{"method": 5}',
        b"\0\0\0{",
    ]
    with shared.bridge() as bridge, shared.session() as other:
        bridge.begin()
        for number in range(200):
            bridge.write(dice.choice([*junk, dice.randbytes(dice.randrange(1, 3000)).replace(b"\n", b" ")]) + b"\n")
            bridge.send(request(f"real {number}", "tools/list"))
        for number in range(200):
            assert len(bridge.answer(f"real {number}")["result"]["tools"]) == 8
        assert other.call("list_runs", cwd="*")
        assert bridge.close() == 0
        assert bridge.said() == ""


# ---- several clients ----


def follow(client: Client, runs: list[str]) -> dict[str, list[int]]:
    """The numbers of all events of the runs, followed to their ends all at once."""
    told: dict[str, list[int]] = {run_id: [] for run_id in runs}
    asked = {client.ask_tool("poll_events", run_id=run_id, limit=7): run_id for run_id in runs}
    while asked:
        answer = client.message()
        run_id, page = asked.pop(answer["id"]), document(answer)
        told[run_id] += [event["seq"] for event in page["events"]]
        if page["has_more"] or page["status"] != "completed":
            again = client.ask_tool("poll_events", run_id=run_id, limit=7, after_seq=page["next_after_seq"])
            asked[again] = run_id
    return told


def test_all_clients_that_follow_the_same_runs_are_told_every_event_once(shared: Ground) -> None:
    with (
        shared.session() as lead,
        shared.bridge() as first,
        shared.bridge() as second,
        shared.session() as third,
        shared.session() as fourth,
        ThreadPoolExecutor(4) as pool,
    ):
        first.begin()
        runs = [lead.spawn("events 10 50\nask Go on?\nevents 10 50\nask Yes?", shared.cwd) for _ in range(20)]
        told = [pool.submit(follow, client, runs) for client in (first, second, third, fourth)]
        for run_id in [*runs, *runs]:
            lead.call("wait_runs", run_ids=[run_id])
            lead.call("continue_run", run_id=run_id, text="go")
        for each in told:
            for run_id, numbers in each.result(DEADLINE_S).items():
                assert numbers == list(range(1, lead.call("get_run", run_id=run_id)["last_seq"] + 1))


def test_a_server_in_process_passes_commands_on_to_the_host(shared: Ground) -> None:
    with shared.session() as owner, ending(shared.start("mcp", "--scripted", "--in-process")) as process:
        run_id = owner.waiting("ask Which?", shared.cwd)
        alone = Bridge(process)
        assert alone.call("continue_run", run_id=run_id, text="this")["mode"] == "answer"
        assert alone.call("wait_runs", run_ids=[run_id])["runs"][0]["status"] == "completed"
        other = owner.waiting("ask Which?", shared.cwd)
        assert alone.refusal("continue_run", run_id=other, request_id="none", text="x").startswith("wrong_state: ")
        assert alone.call("cancel_run", run_id=other)["status"] == "cancelled"
        assert alone.close() == 0
