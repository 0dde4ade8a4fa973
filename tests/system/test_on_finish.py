"""The end of a run reaches whoever is to hear of it, whenever the host is killed; by its id each hears of it once."""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from orchestrator.engine.outbox import delivery_id
from orchestrator.model import JsonObject
from orchestrator.store.deliveries import Deliveries
from orchestrator.store.layout import Home
from tests.kill.deliveries import kill_before_delivery
from tests.receiver import Receiver
from tests.system.hosts import Ground, ground, until

pytestmark = pytest.mark.system

SEED = random.SystemRandom().randrange(10_000)
KILLS = 6
"""Hosts that the suite kills; `scripts/bench kill-deliveries` kills many more."""


@pytest.fixture
def place(tmp_path: Path) -> Generator[Ground]:
    with ground(tmp_path / "home", tmp_path / "project") as place:
        place.home.mkdir()
        (place.home / "config.toml").write_text("delivery_retry_s = 0.002\n")
        yield place


def told(place: Ground, run_id: str) -> list[JsonObject]:
    return Deliveries(Home(place.home), run_id).events()


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
        until(lambda: Home(place.home).owing() == [], "nothing is owed")


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
    with place.bridge() as client:
        found = kill_before_delivery(place, client, KILLS, SEED)
    assert found.broken == [], f"seed {SEED}: {found}"


def test_a_command_that_is_told_may_use_orchestrator_itself(place: Ground) -> None:
    ours = [sys.executable, "-m", "orchestrator"]
    with place.bridge() as client:
        spawns = client.spawn(
            "final x", place.cwd, on_finish={"command": [*ours, "run", "-d", "-b", "scripted", "final y"]}
        )
        wait_for(place, spawns, "delivered")
        assert [event["type"] for event in told(place, spawns)] == ["delivered"]
        assert len(client.call("list_runs")["runs"]) == 2
