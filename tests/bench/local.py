"""Engine and store alone, in this process: events, spawns, waking, reading."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson

from orchestrator.model import now
from orchestrator.store.layout import RunDir
from orchestrator.store.reader import RunReader
from tests.bench.figures import Figure, millis, percentiles, rate
from tests.bench.workbench import open_bench

EVENTS = 20_000
APPEND = "limit: dump and append a line"


async def events() -> AsyncIterator[Figure]:
    """Events of 200 bytes through engine and store: one run, twenty runs; CPU and disk for each."""
    async with open_bench() as bench:
        await bench.finished(await bench.spawn("talker", count=100, size=200))
        one: list[float] = []
        cpu: list[float] = []
        size: list[float] = []
        for _ in range(3):
            started, busy = time.perf_counter(), time.process_time()
            run_id = await bench.spawn("talker", count=EVENTS, size=200)
            (run,) = await bench.finished(run_id)
            one.append(EVENTS / (time.perf_counter() - started))
            cpu.append((time.process_time() - busy) / EVENTS * 1e6)
            size.append(
                sum(f.stat().st_size for f in bench.run_dir(run_id).rglob("*") if f.is_file()) / run["last_seq"]
            )
        yield rate("engine and store, one run", one, goal=10_000, limit=APPEND)
        yield Figure(name="CPU per event, engine and store", unit="µs", samples=cpu)
        yield Figure(name="disk per event of 200 bytes", unit="B", samples=size)
        many: list[float] = []
        for _ in range(3):
            started = time.perf_counter()
            runs = [await bench.spawn("talker", count=EVENTS // 20, size=200) for _ in range(20)]
            await bench.finished(*runs)
            many.append(EVENTS / (time.perf_counter() - started))
        yield rate("engine and store, 20 runs at once", many, limit=APPEND)


async def spawns(stored: tuple[int, ...] = (10, 1_000, 5_000)) -> AsyncIterator[Figure]:
    """The answer to `spawn_run`, the cost of an event and the first page of `list_runs`, with more and more runs."""
    costs: dict[int, float] = {}
    async with open_bench() as bench:
        have = 0
        for number in stored:
            for start in range(have, number, 100):
                await bench.finished(
                    *[await bench.spawn("talker", count=1, size=20) for _ in range(min(100, number - start))]
                )
            have = number
            samples: list[float] = []
            for _ in range(100):
                started = time.perf_counter()
                await bench.spawn("talker", count=1, size=20)
                samples.append(time.perf_counter() - started)
            have += 100
            for figure in percentiles(f"spawn_run answered, {number:,} runs stored", samples, goal_p50=10):
                yield figure
            started = time.perf_counter()
            await bench.finished(await bench.spawn("talker", count=EVENTS, size=200))
            costs[number] = time.perf_counter() - started
        listed: list[float] = []
        for _ in range(10):
            started = time.perf_counter()
            await bench.tools.call("list_runs", {})
            listed.append(time.perf_counter() - started)
        yield millis(f"list_runs, first page, {stored[-1]:,} runs stored", listed, goal=20)
        burst = time.perf_counter()
        arguments = {
            "backend": "talker",
            "cwd": str(bench.cwd),
            "prompt": "x",
            "backend_config": {"count": 1, "size": 1},
        }
        answers = await asyncio.gather(*(bench.tools.call("spawn_run", arguments) for _ in range(200)))
        took = time.perf_counter() - burst
        assert len({answer["agent_name"] for answer in answers}) == 200
        yield millis("200 spawns at once, all answered", [took], note="names distinct")
    ratio = costs[stored[-1]] / costs[stored[0]]
    yield Figure(
        name=f"cost per event, {stored[-1]:,} runs stored over {stored[0]}", unit="×", samples=[ratio], goal=1.2
    )


async def waking() -> AsyncIterator[Figure]:
    """From an agent's event to the answer of a `poll_events` that waits for it."""
    samples: list[float] = []
    async with open_bench() as bench:
        script = "\n".join(["sleep 0.01", "say tick"] * 60)
        run_id = await bench.spawn("scripted", script)
        after = 0
        while True:
            page = await bench.tools.call("poll_events", {"run_id": run_id, "after_seq": after, "limit": 1})
            woken = time.time()
            after = page["next_after_seq"]
            if page["status"] == "completed":
                break
            samples += [woken - _seconds(event["ts"]) for event in page["events"] if event["type"] == "agent_message"]
    # an event's time is cut to milliseconds, so half of one is taken off
    for figure in percentiles("event to waiting poll_events", [max(0.0, s - 0.0005) for s in samples], goal_p50=10):
        yield figure


def _seconds(ts: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(ts).timestamp()


async def tails(count: int) -> AsyncIterator[Figure]:
    """The last events of a long log: with nothing of the file in memory, and again."""
    async with open_bench() as bench:
        run_id = await bench.spawn("talker", count=2, size=200)
        await bench.finished(run_id)
        directory = RunDir(bench.run_dir(run_id))
        _write_log(Path(directory.file("events.jsonl")), count)
        Path(directory.file("run.json")).unlink()
        cold: list[float] = []
        warm: list[float] = []
        for _ in range(5):
            _forget(directory.file("events.jsonl"))
            for samples in (cold, warm):
                started = time.perf_counter()
                events, seen, more = RunReader(directory).poll(count - 50, 100, None)
                samples.append(time.perf_counter() - started)
                assert (len(events), seen, more) == (50, count, False)
        goals = (50, 5) if count <= 50_000 else (None, None)
        yield millis(f"tail poll, {count:,} events, cold", cold, goal=goals[0], note="page cache dropped")
        yield millis(f"tail poll, {count:,} events, warm", warm, goal=goals[1])


def _write_log(path: Path, count: int) -> None:
    with path.open("wb") as log:
        for seq in range(1, count + 1):
            event = {"seq": seq, "ts": now(), "type": "agent_message", "data": {"text": "x" * 150}}
            log.write(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))


def _forget(path: str) -> None:
    """Takes a file out of the page cache, where the system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


TYPICAL = "\n".join(
    ["think What is there to do?", "todo [>] read; change; test"]
    + [f"command step {number} -> 5KB" for number in range(15)]
    + [f"command step {number} -> all as expected" for number in range(15, 25)]
    + [f"file src/file{number}.py 4KB" for number in range(8)]
    + [f"say Step {number} is done; the next one follows from what was found." for number in range(10)]
    + ["tool search -> 3KB"] * 3
    + ["final All twenty-five steps are done, eight files were changed, and the tests pass."]
)
"""A run of about eighty events, 26 of them with long outputs."""


async def reading() -> AsyncIterator[Figure]:
    """The characters that a caller's model reads to follow a typical run."""
    async with open_bench() as bench:
        run_id = await bench.spawn("scripted", TYPICAL)
        polled, seqs, after = 0, 0, 0
        while True:
            page = await bench.tools.call("poll_events", {"run_id": run_id, "after_seq": after})
            polled += _chars(page)
            seqs += len(page["events"])
            after = page["next_after_seq"]
            if page["status"] == "completed" and not page["has_more"]:
                break
        waited = _chars(await bench.tools.call("wait_runs", {"run_ids": [run_id]}))
        waited += _chars(await bench.tools.call("get_run", {"run_id": run_id}))
        yield Figure(
            name="a typical run by poll_events", unit="chars", samples=[polled], goal=30_000, note=f"{seqs} events"
        )
        yield Figure(name="the same by wait_runs and get_run", unit="chars", samples=[waited], goal=3_000)


def _chars(document: Any) -> int:
    return len(orjson.dumps(document).decode())
