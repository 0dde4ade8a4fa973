"""The end of a run reaches whoever is to hear of it, whenever the host is killed; by its id each hears of it once."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from orchestrator.engine.outbox import delivery_id
from orchestrator.model import JsonObject
from orchestrator.store.deliveries import Deliveries
from orchestrator.store.layout import Home, Workspace
from tests.receiver import Receiver
from tests.system.hosts import Ground, ground, until
from tests.system.lines import Bridge

pytestmark = pytest.mark.system

SEED = random.SystemRandom().randrange(10_000)


@pytest.fixture
def place(tmp_path: Path) -> Generator[Ground]:
    with ground(tmp_path / "home", tmp_path / "project") as place:
        place.home.mkdir()
        (place.home / "config.toml").write_text("delivery_retry_s = 0.02\n")
        yield place


def told(place: Ground, run_id: str) -> list[JsonObject]:
    return Deliveries(Workspace(place.cwd).run(run_id)).events()


def wait_for(place: Ground, run_id: str, event_type: str) -> None:
    until(lambda: any(e["type"] == event_type for e in told(place, run_id)), f"{event_type} of {run_id}")


def test_a_kill_between_the_attempt_and_its_record_gives_the_same_message_again(place: Ground) -> None:
    with Receiver([0]) as receiver, place.bridge() as client:
        run_id = client.spawn("final done", place.cwd, on_finish={"webhook": receiver.url})
        until(lambda: len(receiver.deliveries) == 1, "the first attempt")
        place.kill_host()
        client.call("list_runs")
        wait_for(place, run_id, "delivered")
        assert [delivery.message_id for delivery in receiver.deliveries] == [delivery_id(run_id)] * 2
        bodies = {delivery.body for delivery in receiver.deliveries}
        assert len(bodies) == 1
    assert Home(place.home).owing() == []


def test_a_run_that_died_with_its_host_is_told_of_too(place: Ground) -> None:
    with Receiver() as receiver, place.bridge() as client:
        run_id = client.waiting("ask Well?", place.cwd)
        owed = client.spawn("sleep 60", place.cwd, on_finish={"webhook": receiver.url})
        client.call("poll_events", run_id=owed, types=["run_started"])
        place.kill_host()
        client.call("get_run", run_id=run_id)
        wait_for(place, owed, "delivered")
        (delivery,) = receiver.deliveries
        assert delivery.message["type"] == "run.failed"
        assert delivery.message["data"]["error"]["code"] == "host_lost"


def test_a_host_that_is_stopped_leaves_what_is_owed_to_the_next(place: Ground) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with place.bridge() as client:
        run_id = client.spawn("final done", place.cwd, on_finish={"webhook": f"http://127.0.0.1:{port}/"})
        wait_for(place, run_id, "delivery_failed")
        assert place.command("stop").returncode == 0
        until(lambda: place.hosts() == [], "the host ends")
        with Receiver(port=port) as receiver:
            client.call("list_runs")
            wait_for(place, run_id, "delivered")
            assert len(receiver.deliveries) == 1


def test_whenever_the_host_is_killed_each_end_is_delivered_once_by_its_id(place: Ground) -> None:
    print(f"seed {SEED}")  # noqa: T201  a failure is to be made again
    chance = random.Random(SEED)
    with Receiver(chance.choices([200, 200, 0, 500, 302], k=20)) as receiver, place.bridge() as client:
        runs: list[str] = []
        for _ in range(6):
            script = chance.choice(["final done", "say x\nsleep 0.05\nfinal done", "sleep 60", "fail why"])
            runs.append(client.spawn(script, place.cwd, on_finish={"webhook": receiver.url, "message_to": "caller"}))
            seen = len(receiver.deliveries)
            if script != "sleep 60" and chance.random() < 0.5:
                until(lambda seen=seen: len(receiver.deliveries) > seen, "something is sent")
            place.kill_host()
            receiver.release.set()
        client.call("list_runs")
        for run_id in runs:
            until(lambda run_id=run_id: _settled(place, run_id), f"everybody is told of {run_id}")
        by_id = {delivery.message_id: delivery.message for delivery in receiver.deliveries}
        assert set(by_id) == {delivery_id(run_id) for run_id in runs}
        letters = _letters(client)
        assert sorted(letters) == sorted(by_id)
    assert Home(place.home).owing() == []


def _settled(place: Ground, run_id: str) -> bool:
    done = [event["data"]["channel"] for event in told(place, run_id) if event["type"] == "delivered"]
    return set(done) == {"webhook", "message_to"}


def _letters(client: Bridge) -> list[str]:
    """The ids of the messages in the caller's inbox."""
    (inbox,) = Path(client.call("list_runs")["runs"][0]["cwd"], ".orchestrator/sessions").glob("caller.inbox.jsonl")
    return [json.loads(line)["id"] for line in inbox.read_text().splitlines()]
