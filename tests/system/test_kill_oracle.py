"""The oracle of the kills is no friend: each kind of loss is made by hand, and it finds every one."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from orchestrator.model import JsonObject
from tests.bench.kill import Findings
from tests.bench.reliability import document, missed
from tests.kill.arena import Arena, open_arena
from tests.kill.campaign import Victim, play
from tests.kill.drive import Heard, Told
from tests.kill.ledger import Ledger, Promise
from tests.kill.oracle import COMPLETED, Oracle
from tests.kill.plans import Plan
from tests.kill.store import read_log

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

Damage = Callable[[Path], object]


def rewrite(run: Path, change: Callable[[list[JsonObject]], list[JsonObject]], *, number: bool = False) -> None:
    log = change(read_log(run))
    if number:
        log = [{**event, "seq": seq} for seq, event in enumerate(log, 1)]
    (run / "events.jsonl").write_text("".join(json.dumps(event, separators=(",", ":")) + "\n" for event in log))


def twice(kind: str) -> Callable[[list[JsonObject]], list[JsonObject]]:
    return lambda log: [one for event in log for one in [event] * (2 if event["type"] == kind else 1)]


def without(kind: str) -> Callable[[list[JsonObject]], list[JsonObject]]:
    return lambda log: [event for event in log if event["type"] != kind and kind not in event["data"]]


def tear(run: Path) -> None:
    with (run / "events.jsonl").open("ab") as file:
        file.write(b'{"seq":')


def flip(run: Path) -> None:
    path = next(run.glob("artifacts/*-artifact_added/content.0001.*"))
    path.write_bytes(b"?" + path.read_bytes()[1:])


def shorten(run: Path) -> None:
    path = sorted(run.glob("artifacts/*-artifact_added/content.*"))[-1]
    path.write_bytes(path.read_bytes()[:-1])


def copy(run: Path) -> None:
    spec = json.loads((run / "spec.json").read_bytes())
    twin = run.with_name(run.name[:-4] + "0000")
    shutil.copytree(run, twin)
    (twin / "spec.json").write_text(json.dumps({**spec, "run_id": twin.name}))


def forget_session(run: Path) -> None:
    for path in (run.parents[1] / "sessions").glob("*.json"):
        path.unlink()


def live_entry(run: Path) -> Path:
    return run.parents[3] / "home" / "live" / run.name


DAMAGES: dict[str, tuple[Promise, Damage]] = {
    "a run is gone": (Promise.FOUND, shutil.rmtree),
    "an event is gone": (Promise.NUMBERS, lambda run: rewrite(run, without("agent_message"))),
    "an event was changed": (
        Promise.EVENTS,
        lambda run: rewrite(run, lambda log: [*log[:1], {**log[1], "data": {"role": "user", "text": "?"}}, *log[2:]]),
    ),
    "an event is there twice": (Promise.NUMBERS, lambda run: rewrite(run, twice("agent_message"))),
    "half a line": (Promise.NUMBERS, tear),
    "two ends": (Promise.ONE_END, lambda run: rewrite(run, twice("run_completed"), number=True)),
    "no end": (Promise.ONE_END, lambda run: rewrite(run, without("run_completed"))),
    "an answer is gone": (Promise.ANSWERS, lambda run: rewrite(run, without("resolved"), number=True)),
    "a message is gone": (Promise.MESSAGES, lambda run: rewrite(run, without("agent_message"), number=True)),
    "a message is told twice": (Promise.MESSAGES, lambda run: rewrite(run, twice("agent_message"), number=True)),
    "a command is told twice": (Promise.ACTIONS, lambda run: rewrite(run, twice("command_finished"), number=True)),
    "a wrong byte": (Promise.ARTIFACTS, flip),
    "a byte is gone": (Promise.ARTIFACTS, shorten),
    "no result": (Promise.TRUTH, lambda run: (run / "result.json").unlink()),
    "no session": (Promise.INDEX, forget_session),
    "live and over": (Promise.INDEX, lambda run: live_entry(run).write_text(str(run))),
    "a reserve": (Promise.FILES, lambda run: (run / "reserve").touch()),
    "a temporary file": (Promise.FILES, lambda run: (run / "run.json.00.tmp").touch()),
    "half an artifact": (Promise.FILES, lambda run: (run / "artifacts" / ".incoming-1-1").mkdir()),
    "two runs of one key": (Promise.ONCE, copy),
}


async def judged(arena: Arena, told: Told) -> list[Promise]:
    """What the oracle finds broken."""
    ledger = Ledger()
    oracle = Oracle(arena, COMPLETED, COMPLETED, ledger)
    await oracle.judge(told)
    await oracle.judge_workspace([told])
    return [broken.promise for broken in ledger.broken]


async def test_the_oracle_finds_every_kind_of_loss_in_the_files(tmp_path: Path) -> None:
    plan = Plan("looked-at", remote=False)
    plan.say()
    plan.command()
    plan.ask()
    plan.artifact(70_000, binary=False)
    told = Told(plan)
    async with open_arena(tmp_path) as arena:
        for run in play(arena, [told], Heard(), Random(1)):
            await run
        run = arena.runs / told.run_id
        store, kept = run.parents[1], tmp_path / "kept"
        shutil.copytree(store, kept)
        assert await judged(arena, told) == []
        for name, (promise, damage) in DAMAGES.items():
            damage(run)
            assert promise in await judged(arena, told), name
            shutil.rmtree(store)
            shutil.copytree(kept, store)
            live_entry(run).unlink(missing_ok=True)
            (arena.home.runs / run.name).write_text(str(run))


async def test_the_oracle_finds_a_run_that_does_not_come_to_rest(tmp_path: Path) -> None:
    told = Told(Plan("restless", remote=False))
    async with open_arena(tmp_path) as arena:
        prompt = {"prompt": "sleep 100", "role": told.plan.label, "cwd": str(arena.cwd)}
        document = await arena.seats[0].command("spawn_run", backend="scripted", **prompt)
        assert document is not None
        told.run_id = document["run_id"]
        assert Promise.REST in await judged(arena, told)


async def test_a_process_that_is_left_is_found_and_ended(tmp_path: Path) -> None:
    async with open_arena(tmp_path) as arena:
        lost = await arena.client()
    assert [broken.promise for broken in arena.ledger.broken] == [Promise.PROCESSES]
    await lost.end()
    assert lost.process.returncode == -signal.SIGKILL


def test_what_was_lost_is_told_in_the_document() -> None:
    findings = Findings(steps={"work": (7, [{"step": 3, "broken": ["an answer is lost"]}])})
    host = findings.outcomes[Victim.HOST]
    host.kills, host.recoveries = 2, [0.5, 3.5]
    host.ledger.check(Promise.READS, True)
    host.ledger.check(Promise.READS, False, "nobody answered")
    text = document(findings, "scripts/bench kill")
    assert "| the host | 2 |" in text
    assert f"| {Promise.READS} | 2 | 1 |" in text
    assert "- `READS: nobody answered`" in text
    assert "- `work: an answer is lost (steps 3)`" in text
    assert "| 2 | 2,000 | 3,500 | 3,500 | 3,000 |" in text
    assert len(missed(findings)) == 2
    assert missed(Findings()) == []
