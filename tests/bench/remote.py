"""Through `remote_a2a`: events from a canned stream, artifacts from the real scripted agent."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack

from tests.bench.figures import Figure, millis, rate
from tests.bench.workbench import Bench, child, first_line, open_bench

COUNT = 6000


async def events(v03: bool) -> AsyncIterator[Figure]:
    """Status messages: one run, and twenty at once, each counted to the last one."""
    version = "0.3" if v03 else "1.0"
    flags = ["--v03"] if v03 else []
    with ExitStack() as stack:
        long = first_line(stack.enter_context(child("tests.bench.replay", "--count", str(COUNT), *flags)))
        short = first_line(stack.enter_context(child("tests.bench.replay", "--count", "300", *flags)))
        async with open_bench() as bench:
            await bench.finished(await bench.spawn("remote_a2a", agent_url=short))
            one: list[float] = []
            cpu: list[float] = []
            stored: list[float] = []
            for _ in range(3):
                started, busy = time.perf_counter(), time.process_time()
                (run,) = await bench.finished(await bench.spawn("remote_a2a", agent_url=long))
                one.append(COUNT / (time.perf_counter() - started))
                cpu.append((time.process_time() - busy) / COUNT * 1e6)
                stored.append(run["last_seq"] / COUNT)
            limit = f"limit: SDK client alone, {version}"
            yield rate(f"remote_a2a {version}, one run", one, goal=3000 if v03 else 1800, limit=limit)
            yield Figure(name=f"CPU per event, remote_a2a {version}", unit="µs", samples=cpu)
            yield Figure(name=f"stored events per emitted one, {version}", unit="×", samples=stored, goal=1.1)
            many: list[float] = []
            for _ in range(3):
                started = time.perf_counter()
                runs = [await bench.spawn("remote_a2a", agent_url=short) for _ in range(20)]
                digests = await bench.finished(*runs)
                many.append(6000 / (time.perf_counter() - started))
                await _check_complete(bench, [digest["run_id"] for digest in digests])
            yield rate(f"remote_a2a {version}, 20 runs at once", many, limit=limit, note="no event lost")


async def _check_complete(bench: Bench, runs: list[str]) -> None:
    for run_id in runs:
        arguments = {"run_id": run_id, "types": ["agent_message"], "limit": 1000, "max_chars": 200_000, "wait_ms": 0}
        page = await bench.tools.call("poll_events", arguments)
        assert len(page["events"]) == 300, (run_id, len(page["events"]))


async def artifact(v03: bool) -> AsyncIterator[Figure]:
    """5 MB from the real agent: until its event is there, and until it is read in pages."""
    version = "0.3" if v03 else "1.0"
    visible: list[float] = []
    whole: list[float] = []
    flags = ["--v03"] if v03 else []
    with child("test_agents", "scripted", *flags) as agent:
        url = json.loads(first_line(agent))["agent_url"]
        async with open_bench() as bench:
            await bench.finished(await bench.spawn("remote_a2a", "say warm", agent_url=url))
            for _ in range(3):
                started = time.perf_counter()
                run_id = await bench.spawn("remote_a2a", "artifact 5MB", agent_url=url)
                page = await bench.tools.call("poll_events", {"run_id": run_id, "types": ["artifact_added"]})
                visible.append(time.perf_counter() - started)
                (event,) = page["events"]
                offset, size = 0, 0
                while offset is not None:
                    arguments = {"run_id": run_id, "seq": event["seq"], "field_path": "/text", "offset": offset}
                    read = await bench.tools.call("get_event_artifact", {**arguments, "limit": 262_144})
                    offset, size = read.get("next_offset"), size + read["returned_bytes"]
                assert size == 5 * 2**20
                whole.append(time.perf_counter() - started)
                await bench.finished(run_id)
    yield millis(f"5 MB artifact visible, {version}", visible)
    yield millis(f"5 MB artifact read in pages, {version}", whole, goal=800 if v03 else 1500)
