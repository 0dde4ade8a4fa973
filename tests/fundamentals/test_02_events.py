"""Following a run by its events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson

from tests.fundamentals.conftest import Call

Spawn = Callable[..., Awaitable[str]]


async def test_events_are_numbered_from_one(call: Call, spawn: Spawn) -> None:
    """Whatever an agent does becomes an event; their numbers have no gaps."""
    run_id = await spawn("think hard", "command ls -> a.txt", "say done")
    await call("wait_runs", run_ids=[run_id])
    events = (await call("poll_events", run_id=run_id))["events"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert [event["type"] for event in events] == [
        "run_started",
        "message_added",
        "reasoning",
        "command_started",
        "command_finished",
        "agent_message",
        "run_completed",
    ]


async def test_go_on_behind_the_last_event(call: Call, spawn: Spawn) -> None:
    """poll_events gives what follows after_seq and the number to go on with, so no event is missed or doubled."""
    run_id = await spawn("say one", "say two", "say three")
    await call("wait_runs", run_ids=[run_id])
    seen: list[int] = []
    after, more = 0, True
    while more:
        page = await call("poll_events", run_id=run_id, after_seq=after, limit=2)
        seen += [event["seq"] for event in page["events"]]
        after, more = page["next_after_seq"], page["has_more"]
    assert seen == [1, 2, 3, 4, 5, 6]


async def test_polling_waits_for_what_comes(call: Call, spawn: Spawn) -> None:
    """With nothing new, poll_events waits; if nothing comes in time it answers empty, which is no error."""
    run_id = await spawn("sleep 1000")
    first = await call("poll_events", run_id=run_id, types=["run_started"])
    page = await call("poll_events", run_id=run_id, after_seq=first["next_after_seq"] + 1, wait_ms=10)
    assert page["events"] == []
    assert page["status"] == "running"


async def test_only_some_types(call: Call, spawn: Spawn) -> None:
    """With types, others are passed over, and next_after_seq lies behind them too."""
    run_id = await spawn("think", "say one", "think")
    await call("wait_runs", run_ids=[run_id])
    page = await call("poll_events", run_id=run_id, types=["agent_message"])
    assert [event["data"]["text"] for event in page["events"]] == ["one"]
    assert page["next_after_seq"] == 6


async def test_long_fields_are_previews(call: Call, spawn: Spawn) -> None:
    """A long field stays short in its event; artifact_refs says how much there is, get_event_artifact reads it."""
    run_id = await spawn("command make -> 100KB")
    await call("wait_runs", run_ids=[run_id])
    (event,) = (await call("poll_events", run_id=run_id, types=["command_finished"]))["events"]
    assert len(event["data"]["output"]) < 300
    assert event["data"]["artifact_refs"]["/output"]["total_bytes"] == 100 * 1024
    page = await call("get_event_artifact", run_id=run_id, seq=event["seq"], field_path="/output")
    assert page["content"].startswith("line at byte 000000000000000000\n")
    assert page["has_more"]


async def test_the_log_is_a_file(call: Call, spawn: Spawn, cwd: Path) -> None:
    """What the tools show is what is in the files: one JSON object a line, readable by anything."""
    run_id = await spawn("say hello")
    await call("wait_runs", run_ids=[run_id])
    log = cwd / ".orchestrator" / "runs" / run_id / "events.jsonl"
    assert [orjson.loads(line) for line in log.read_bytes().splitlines()] == (await call("poll_events", run_id=run_id))[
        "events"
    ]
