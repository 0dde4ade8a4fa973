"""Proves the fold: a run is the same whether its events are folded at once or from any snapshot on."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given

from orchestrator.events import SUMMARY_CHARS, Event, concerns_fold, fold, message_added, waiting_status
from orchestrator.model import (
    TERMINAL,
    WAITING,
    InputRequest,
    JsonObject,
    Message,
    Run,
    Status,
)
from orchestrator.updates import Progress, RemoteRef, Started
from tests.unit.histories import histories
from tests.unit.runs import spec_in

QUEUED = Run.queued(spec_in(Path("/work"), metadata={"ticket": 7}, agent_name="tester"))


def _events(history: list[tuple[str, JsonObject]]) -> list[Event]:
    return [Event(seq, f"2026-01-02T03:04:{seq:02d}.000Z", *step) for seq, step in enumerate(history, 1)]


def _fold(run: Run, events: list[Event]) -> Run:
    for event in events:
        run = fold(run, event)
    return run


def _after(*history: tuple[str, JsonObject]) -> Run:
    return _fold(QUEUED, _events(list(history)))


def _asked(request_id: str, kind: str = "question") -> tuple[str, JsonObject]:
    event_type = "auth_required" if kind == "auth" else "input_required"
    return event_type, {"request": {"request_id": request_id, "kind": kind, "text": "?"}}


def _answered(request_id: str, status: str = "running") -> tuple[str, JsonObject]:
    return "status_changed", {"status": status, "resolved": {"request_id": request_id, "outcome": "answered"}}


@given(histories)
def test_a_fold_goes_on_from_any_snapshot(history: list[tuple[str, JsonObject]]) -> None:
    events = _events(history)
    whole = _fold(QUEUED, events)
    for cut in range(len(events) + 1):
        snapshot = orjson.loads(orjson.dumps(_fold(QUEUED, events[:cut]).to_json()))
        assert _fold(Run.from_json(snapshot), events[cut:]) == whole


@given(histories)
def test_the_counters_and_the_end_are_always_true(history: list[tuple[str, JsonObject]]) -> None:
    events = _events(history)
    run = QUEUED
    for event in events:
        before, run = run, fold(run, event)
        assert (run.last_seq, run.updated_at) == (event.seq, event.ts)
        assert len(run.summary) <= SUMMARY_CHARS
        assert len({request.request_id for request in run.pending}) == len(run.pending)
        assert (run.completed_at == event.ts) is run.terminal
        assert not (run.terminal and run.pending)
        if not concerns_fold(event.type):
            assert run == before.evolve(last_seq=event.seq, updated_at=event.ts)
        if event.type == "agent_message" or not concerns_fold(event.type):
            assert run == before.evolve(last_seq=event.seq, updated_at=event.ts, summary=run.summary)


def test_a_run_begins_queued_and_runs_once_it_started() -> None:
    assert (QUEUED.status, QUEUED.last_seq, QUEUED.metadata) == (Status.QUEUED, 0, {"ticket": 7})
    run = _after(("run_started", Started(agent="tester", native_session_id="n1", permission_enforced=False).payload()))
    assert (run.status, run.native_session_id, run.permission_enforced) == (Status.RUNNING, "n1", False)
    assert run.started_at == run.updated_at


def test_a_summary_is_cut_where_it_gets_too_long_and_not_before() -> None:
    for length in (SUMMARY_CHARS - 1, SUMMARY_CHARS):
        assert _after(("agent_message", {"text": "x" * length})).summary == "x" * length
    assert _after(("agent_message", {"text": "x" * 201})).summary == "x" * (SUMMARY_CHARS - 1) + "…"


def test_what_was_said_changes_nothing_of_a_run_but_its_summary() -> None:
    before = _after(("run_started", {"cwd": "/"}))
    run = fold(before, Event(before.last_seq + 1, before.updated_at, "agent_message", {"text": "hi"}))
    assert run == before.evolve(last_seq=before.last_seq + 1, summary="hi")
    assert concerns_fold("agent_message")


def test_a_run_waits_until_its_last_request_is_resolved() -> None:
    asked = (_asked("r1"), _asked("r2", "auth"), _asked("r3", "approval"))
    assert [_after(*asked[:n]).status for n in (1, 2, 3)] == ["input_required", "auth_required", "auth_required"]
    run = _after(*asked, _answered("r2", "input_required"))
    assert (run.status, [r.request_id for r in run.pending]) == (Status.INPUT_REQUIRED, ["r1", "r3"])
    run = _after(*asked, _answered("r2", "input_required"), _answered("r1", "input_required"), _answered("r3"))
    assert (run.status, run.pending) == (Status.RUNNING, ())


def test_a_request_asked_again_takes_the_place_of_the_first() -> None:
    run = _after(_asked("r1"), _asked("r2"), _asked("r1", "approval"))
    assert [(r.request_id, r.kind, r.seq) for r in run.pending] == [("r2", "question", 2), ("r1", "approval", 3)]


def test_a_login_is_waited_for_before_a_question() -> None:
    question = InputRequest(request_id="q", kind="question", text="?")
    login = InputRequest(request_id="l", kind="auth", text="Log in.")
    assert waiting_status(()) is Status.RUNNING
    assert waiting_status((question,)) is Status.INPUT_REQUIRED
    assert waiting_status((question, login)) is Status.AUTH_REQUIRED
    assert {waiting_status((question,)), waiting_status((login,))} == WAITING


@pytest.mark.parametrize(
    ("step", "status", "summary"),
    [
        (("run_completed", {"final_response": "all  is\nwell"}), Status.COMPLETED, "all is well"),
        (("run_completed", {"final_response": ""}), Status.COMPLETED, "so far"),
        (
            ("run_failed", {"code": "timeout", "message": "too slow", "resumable": True, "next_step": "wait"}),
            Status.FAILED,
            "too slow",
        ),
        (
            ("rejected", {"code": "unsupported", "message": "no", "resumable": False, "next_step": "ask"}),
            Status.REJECTED,
            "no",
        ),
        (("status_changed", {"status": "cancelled", "reason": "enough"}), Status.CANCELLED, "enough"),
        (("status_changed", {"status": "cancelled"}), Status.CANCELLED, "so far"),
    ],
)
def test_every_ending_ends_the_run_and_forgets_what_was_pending(
    step: tuple[str, JsonObject], status: Status, summary: str
) -> None:
    run = _after(("agent_message", {"text": "so far"}), _asked("r1"), step)
    assert (run.status, run.summary, run.pending, run.detail) == (status, summary, (), None)
    assert run.completed_at == run.updated_at
    assert (run.error is not None) is (status in {Status.FAILED, Status.REJECTED})
    assert (run.result is not None) is (status is Status.COMPLETED)
    assert run.terminal
    assert status in TERMINAL


def test_a_final_response_that_is_stored_apart_is_named_in_the_result() -> None:
    refs = {"/final_response": {"total_bytes": 9_000}, "/structured_output/rows": {"total_bytes": 5}}
    run = _after(("run_completed", {"final_response": "begins…", "artifact_refs": refs}))
    assert run.result == {
        "final_response": "begins…",
        "final_response_ref": {"seq": 1, "total_bytes": 9_000},
    }


def test_a_summary_is_one_line_of_bounded_length() -> None:
    run = _after(("agent_message", {"text": "a\n" * 5_000}))
    assert len(run.summary) == SUMMARY_CHARS
    assert run.summary.startswith("a a a")
    assert run.summary.endswith("…")
    assert _after(("agent_message", {"text": "kept"}), ("agent_message", {"text": " \n"})).summary == "kept"


def test_progress_and_a_remote_reference_are_changes_of_status() -> None:
    progress = Progress(detail="thinking", progress={"text": "half"}).payload()
    assert progress == {"status": "running", "detail": "thinking", "progress": {"text": "half"}}
    run = _after(("status_changed", progress), ("status_changed", RemoteRef(ref={"task_id": "t"}).payload()))
    assert (run.status, run.detail, run.remote_ref) == (Status.RUNNING, None, {"task_id": "t"})


def test_what_was_said_to_the_agent_keeps_the_parts_that_are_no_text() -> None:
    assert message_added(Message.of_text("hello"), "r1") == {"role": "user", "text": "hello", "request_id": "r1"}
    parts: list[JsonObject] = [{"type": "text", "text": "see"}, {"type": "data", "data": {"a": 1}}]
    assert message_added(Message(parts=parts)) == {"role": "user", "text": "see", "parts": parts}
