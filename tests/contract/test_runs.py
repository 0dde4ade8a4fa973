"""What a run is to its caller, whatever executes it."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise

import pytest

from orchestrator.errors import Conflict, OrchestratorError
from tests.contract.conftest import Subject


async def test_a_run_goes_from_spawn_to_its_result(subject: Subject) -> None:
    run = await subject.finished("say hello", "final all done")
    assert run["status"] == "completed"
    assert run["result"]["final_response"] == "all done"
    assert run["cwd"] == str(subject.cwd)
    assert run["summary"] == "all done"
    assert run["completed_at"] >= run["started_at"]


async def test_spawn_answers_at_once_with_names_to_use(subject: Subject) -> None:
    answer = await subject.call("spawn_run", **subject.arguments("sleep 30"), role="reviewer", nickname="ada")
    assert answer["agent_name"] == "ada"
    assert answer["role"] == "reviewer"
    assert answer["status"] == "queued"
    assert (await subject.call("get_run", agent_name="ada"))["run_id"] == answer["run_id"]
    await subject.call("cancel_run", run_id=answer["run_id"])


async def test_events_are_numbered_without_gaps_and_end_with_one_terminal_event(subject: Subject) -> None:
    run_id = await subject.spawn("say one", "command ls -> a b", "file a.txt text", "say two")
    await subject.settled(run_id)
    events = await subject.events(run_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "run_started"
    assert [event["type"] for event in events].count("run_completed") == 1
    assert events[-1]["type"] == "run_completed"


async def test_what_the_agent_does_is_told_as_it_does_it(subject: Subject) -> None:
    run_id = await subject.spawn(
        "think about it",
        "command [1] make -> no rule",
        "file src/a.txt hello",
        "tool search -> found",
        "todo A; [>] B; [x] C",
        "say done",
    )
    await subject.settled(run_id)
    told = {event["type"]: event["data"] for event in await subject.events(run_id)}
    assert told["reasoning"]["text"] == "about it"
    assert told["command_finished"]["exit_code"] == 1
    assert told["command_finished"]["output"].rstrip() == "no rule"
    assert told["file_changed"]["changes"] == [{"path": "src/a.txt", "kind": "add", "diff": "+hello\n"}]
    assert "claude" in subject.kind or told["tool_finished"]["result"] == "found"
    assert told["tool_finished"]["result"]
    assert [item["status"] for item in told["todo_updated"]["items"]] == ["pending", "in_progress", "completed"]
    assert (subject.cwd / "src/a.txt").read_text(encoding="utf-8") == "hello\n"


async def test_a_message_of_the_agent_is_told_once(subject: Subject) -> None:
    run_id = await subject.spawn("say one", "ask Which?", "say two")
    await subject.settled(run_id)
    await subject.call("continue_run", run_id=run_id, text="this")
    await subject.settled(run_id)
    texts = [event["data"]["text"] for event in await subject.events(run_id, "agent_message")]
    assert texts == ["one", "the answer is: this", "two"]


@pytest.mark.pretended
@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        ("fail because", "failed", "agent_error"),
        ("reject because", "rejected", "agent_error"),
        ("cancel because", "cancelled", None),
    ],
)
async def test_each_other_end_is_told_as_what_it_is(subject: Subject, line: str, status: str, code: str | None) -> None:
    run = await subject.finished("say first", line)
    assert run["status"] == status
    assert "because" in run["summary"]
    if code:
        assert run["error"]["code"] == code
        assert run["error"]["next_step"]


async def test_a_defect_in_the_agent_ends_its_run_and_no_other(subject: Subject) -> None:
    other = await subject.spawn("ask Still there?")
    run = await subject.finished("crash")
    assert run["status"] == "failed"
    await subject.settled(other)
    await subject.call("continue_run", run_id=other, text="yes")
    assert (await subject.settled(other))["status"] == "completed"


async def test_structured_output_is_checked_against_the_schema(subject: Subject) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    good = await subject.finished('json {"n": 1}', output_schema=schema)
    assert good["result"]["structured_output"] == {"n": 1}
    bad = await subject.finished('json {"n": "x"}', output_schema=schema)
    assert bad["error"]["code"] == "invalid_output"
    assert re.search(r"[./]n: ", bad["error"]["message"])
    none = await subject.finished("say nothing of the kind", output_schema=schema)
    assert none["error"]["code"] == "invalid_output"


async def test_usage_is_told_the_same_way(subject: Subject) -> None:
    run = await subject.finished("usage 10 20 0.5", "say done")
    usage = run["result"]["usage"]
    cost = usage.pop("cost_usd", None)
    assert usage.pop("cached_input_tokens", 0) == 0
    assert usage == {"input_tokens": 10, "output_tokens": 20, "turns": 1}
    assert cost == 0.5 or subject.real
    assert cost is None or cost > 0


async def test_cancel_ends_the_run_here_and_there(subject: Subject) -> None:
    run_id = await subject.at_work()
    answer = await subject.call("cancel_run", run_id=run_id, reason="enough")
    assert answer["status"] == "cancelled"
    assert answer["cancelled_at"]
    events = await subject.events(run_id)
    assert events[-1]["data"] == {"status": "cancelled", "reason": "enough"}
    again = await subject.call("cancel_run", run_id=run_id)
    assert again == answer


async def test_a_finished_run_can_be_cancelled_without_harm(subject: Subject) -> None:
    run = await subject.finished("say x")
    assert (await subject.call("cancel_run", run_id=run["run_id"])) == {
        "run_id": run["run_id"],
        "status": "completed",
    }


async def test_the_run_ends_when_it_worked_for_too_long(subject: Subject) -> None:
    run = await subject.finished("sleep 100", limits={"timeout_s": 0.3})
    assert run["error"]["code"] == "timeout"


async def test_waiting_for_the_caller_does_not_count_as_work(subject: Subject) -> None:
    limit_s = 8.0 if subject.real else 3.0  # what it takes to ask counts, a second for a real agent
    run_id = await subject.spawn("ask Well?", limits={"timeout_s": limit_s})
    await subject.settled(run_id)
    digest = await subject.call("wait_runs", run_ids=[run_id], until="all", wait_ms=0)
    assert digest["runs"][0]["status"] == "input_required"
    page = await subject.call(
        "poll_events", run_id=run_id, after_seq=digest["runs"][0]["last_seq"], wait_ms=int(1000 * limit_s) + 200
    )
    assert page["status"] == "input_required"
    await subject.call("continue_run", run_id=run_id, text="now")
    assert (await subject.settled(run_id))["status"] == "completed"


async def test_the_same_idempotency_key_gives_the_same_run(subject: Subject) -> None:
    arguments = subject.arguments("say once")
    spawns = [subject.call("spawn_run", **arguments, idempotency_key="k1") for _ in range(10)]
    answers = await asyncio.gather(*spawns)
    assert len({answer["run_id"] for answer in answers}) == 1
    with pytest.raises(Conflict, match="other arguments"):
        await subject.call("spawn_run", **{**arguments, "prompt": "say else"}, idempotency_key="k1")
    assert len((await subject.call("list_runs"))["runs"]) == 1


async def test_many_runs_at_once_lose_nothing(subject: Subject) -> None:
    runs = [await subject.spawn("events 100") for _ in range(10)]
    digest = await subject.call("wait_runs", run_ids=runs, until="all", wait_ms=50_000)
    assert {run["status"] for run in digest["runs"]} == {"completed"}
    for run_id in runs:
        assert len(await subject.events(run_id, "agent_message")) == 100


@pytest.mark.pretended
async def test_an_artifact_is_stored_once_and_read_in_pages(subject: Subject) -> None:
    run_id = await subject.spawn("artifact 300KB notes", "binary 100KB blob", "say done")
    await subject.settled(run_id)
    text, blob = await subject.events(run_id, "artifact_added")
    assert text["data"]["name"] == "notes"
    assert text["data"]["artifact_refs"]["/text"]["total_bytes"] == 300 * 1024
    assert blob["data"]["artifact_refs"]["/data"]["encoding"] == "base64"
    content, offset = "", 0
    while True:
        page = await subject.call(
            "get_event_artifact", run_id=run_id, seq=text["seq"], field_path="/text", offset=offset, limit=100_000
        )
        content += page["content"]
        if not page["has_more"]:
            break
        offset = page["next_offset"]
    assert len(content) == 300 * 1024
    lines = content.splitlines()
    assert all(int(later.split()[-1]) - int(line.split()[-1]) == 32 for line, later in pairwise(lines[:-1]))


async def test_read_only_reaches_the_agent(subject: Subject) -> None:
    run = await subject.finished("file a.txt x", permission="read_only")
    assert "read_only" in run["result"]["final_response"]
    assert not (subject.cwd / "a.txt").exists()


async def test_the_callers_directory_bounds_what_it_lists(subject: Subject) -> None:
    below = subject.cwd / "below"
    below.mkdir()
    run = await subject.finished("say here")
    inner = await subject.call("spawn_run", **{**subject.arguments("say below"), "cwd": str(below)})
    await subject.settled(inner["run_id"])
    rows = (await subject.call("list_runs"))["runs"]
    assert [row["run_id"] for row in rows] == [inner["run_id"], run["run_id"]]
    rows = (await subject.call("list_runs", cwd=str(below)))["runs"]
    assert [row["run_id"] for row in rows] == [inner["run_id"]]
    assert (await subject.call("list_runs", status="failed"))["runs"] == []


async def test_pages_of_runs_and_of_events_meet_without_gap(subject: Subject) -> None:
    runs = [(await subject.finished(f"say {number}"))["run_id"] for number in range(5)]
    first = await subject.call("list_runs", limit=3)
    rest = await subject.call("list_runs", limit=3, cursor=first["next_cursor"])
    assert [row["run_id"] for row in first["runs"] + rest["runs"]] == runs[::-1]
    assert "next_cursor" not in rest
    seqs: list[int] = []
    after = 0
    while True:
        page = await subject.call("poll_events", run_id=runs[0], after_seq=after, limit=2)
        seqs += [event["seq"] for event in page["events"]]
        after = page["next_after_seq"]
        if not page["has_more"]:
            break
    assert seqs == list(range(1, after + 1))


async def test_a_refused_spawn_leaves_nothing(subject: Subject) -> None:
    for wrong in (
        {"prompt": " "},
        {"output_schema": {"type": "no such type"}},
        {"limits": {"timeout_s": -1}},
        {"nickname": "../x"},
        {"session_mode": "resume"},
        {"metadata": {"x": "y" * 5000}},
    ):
        with pytest.raises(OrchestratorError):
            await subject.call("spawn_run", **{**subject.arguments("say x"), **wrong})
    assert not (subject.cwd / ".orchestrator").exists()
