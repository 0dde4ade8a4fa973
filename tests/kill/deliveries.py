"""A host that is killed between the end of a run and its delivery: everybody is told of each end, once by its id."""

from __future__ import annotations

import json
import random
import time

from orchestrator.engine.outbox import delivery_id
from orchestrator.model import JsonObject
from orchestrator.store.deliveries import Deliveries
from orchestrator.store.layout import Home, Workspace
from tests.kill.places import Kills
from tests.receiver import Receiver
from tests.system.hosts import Ground, until, wait_gone
from tests.system.lines import Bridge

WINDOW_S = 0.25
"""After the spawn, within which the host is killed: a short run, and what is told of it, take about so long."""
SCRIPTS = ("final done", "say x\nsleep 0.05\nfinal done", "sleep 1", "fail why")
ANSWERS = (200, 200, 0, 500, 302)
"""What the receiver answers, at random: 0 is nothing, until the host is dead."""


def kill_before_delivery(place: Ground, client: Bridge, count: int, seed: int) -> Kills:
    """Kills the host so many times, each when a run has just been spawned of whose end two are to be told.

    Args:
        place: with the setting `delivery_retry_s` so small that nobody waits long.
    """
    found, draw = Kills(), random.Random(seed)
    runs: list[str] = []
    with Receiver(draw.choices(ANSWERS, k=2 * count)) as receiver:
        for _ in range(count):
            wanted = {"webhook": receiver.url, "message_to": "caller"}
            run_id = client.spawn(draw.choice(SCRIPTS), place.cwd, on_finish=wanted)
            runs.append(run_id)
            time.sleep(draw.uniform(0, WINDOW_S))
            host = place.host()
            host.kill()
            wait_gone(host)
            stage = _stage(place, run_id, receiver)
            found.struck[stage] = found.struck.get(stage, 0) + 1
            receiver.release.set()
            killed = time.monotonic()
            client.call("list_runs")
            until(lambda run_id=run_id: _settled(place, run_id), f"everybody is told of {run_id}")
            found.seconds.append(time.monotonic() - killed)
            receiver.release.clear()
        found.broken = _wrong(place, runs, receiver)
    return found


def _events(place: Ground, run_id: str) -> list[JsonObject]:
    return Deliveries(Home(place.home), run_id).events()


def _settled(place: Ground, run_id: str) -> bool:
    done = [event["data"]["channel"] for event in _events(place, run_id) if event["type"] == "delivered"]
    return set(done) == {"webhook", "message_to"}


def _stage(place: Ground, run_id: str, receiver: Receiver) -> str:
    """How far it had come when the host died."""
    log = Workspace(place.cwd).run(run_id).path / "events.jsonl"
    types = [json.loads(line)["type"] for line in log.read_text().splitlines()]
    if not {"run_completed", "run_failed"} & set(types):
        return "the run not over"
    if _settled(place, run_id):
        return "everybody told"
    sent = any(delivery.message_id == delivery_id(run_id) for delivery in receiver.deliveries)
    return "under way, not recorded" if sent else "over, nothing sent"


def _wrong(place: Ground, runs: list[str], receiver: Receiver) -> list[str]:
    """What was lost, or told twice under different names."""
    wanted = {delivery_id(run_id) for run_id in runs}
    heard = {delivery.message_id for delivery in receiver.deliveries}
    bodies: dict[str, set[bytes]] = {}
    for delivery in receiver.deliveries:
        bodies.setdefault(delivery.message_id, set()).add(delivery.body)
    inbox = place.cwd / ".orchestrator" / "sessions" / "caller.inbox.jsonl"
    letters = [json.loads(line)["id"] for line in inbox.read_text().splitlines()]
    wrong = [f"the webhook never heard {name}" for name in wanted - heard]
    wrong += [f"the webhook heard {name}, which is none" for name in heard - wanted]
    wrong += [f"{name} said two things" for name, said in bodies.items() if len(said) > 1]
    wrong += [f"{name} is {letters.count(name)} times in the inbox" for name in wanted if letters.count(name) != 1]
    return wrong + [f"{run.run_id} is still owed" for run in Home(place.home).owing()]
