"""How a turn of Codex ended, as the outcome of its run: every error that was seen of the real CLI, and what is near."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.codex.ends import (
    exit_of,
    failure_of,
    is_cold_start,
    kind_of,
    login_words,
    outcome_of,
    refusal_of,
)
from backends.codex.updates import Translation
from orchestrator.ends import Cancelled, Completed, Failed, Rejected
from orchestrator.model import JsonObject, Usage
from tests.unit.codex_messages import CWD, ended, own, played, recordings, tell


def error(info: Any, message: str = "words of Codex", **more: Any) -> JsonObject:
    return {"message": message, "codexErrorInfo": info, "additionalDetails": None, **more}


def http(kind: str, status: int | None) -> JsonObject:
    return {kind: {"httpStatusCode": status}}


def turn_of(name: str) -> JsonObject:
    """How the turn of a recording ended."""
    return next(m["params"]["turn"] for m in own(name) if m["method"] == "turn/completed")


def failed(given: JsonObject) -> Failed:
    outcome = failure_of(given)
    assert isinstance(outcome, Failed)
    return outcome


# ---- turns


def test_a_recorded_turn_completes_with_the_last_message_and_the_runs_usage() -> None:
    told, _ = played("work")
    usage = Usage(input_tokens=90, cached_input_tokens=0, output_tokens=18, turns=9)
    assert outcome_of(turn_of("work"), told, stopped=False) == Completed(final_response="done", usage=usage)


def test_a_turn_without_an_answer_completes_with_none() -> None:
    outcome = outcome_of({"status": "completed", "items": []}, Translation(CWD), stopped=False)
    assert isinstance(outcome, Completed)
    assert outcome.final_response == ""


def test_a_turn_that_the_caller_stopped_is_cancelled_and_by_nobody_is_a_failure() -> None:
    told, _ = played("stopped")
    turn = turn_of("stopped")
    assert turn["status"] == "interrupted"
    assert isinstance(outcome_of(turn, told, stopped=True), Cancelled)
    by_itself = outcome_of(turn, told, stopped=False)
    assert isinstance(by_itself, Failed)
    assert (by_itself.code, by_itself.resumable) == ("agent_error", True)
    assert isinstance(outcome_of({"status": "completed"}, told, stopped=True), Completed)


def test_a_recorded_failure_says_what_the_service_said() -> None:
    outcome = outcome_of(turn_of("failed"), played("failed")[0], stopped=False)
    assert isinstance(outcome, Failed)
    assert outcome.code == "agent_error"
    assert "high demand" in outcome.message
    assert "internalServerError" in outcome.message


@pytest.mark.parametrize("turn", [{}, {"status": "failed"}, {"status": "failed", "error": None}, {"status": "news"}])
def test_an_end_that_says_nothing_is_a_failure(turn: JsonObject) -> None:
    outcome = outcome_of(turn, Translation(CWD), stopped=False)
    assert outcome == Failed(code="agent_error", message="Codex: the turn failed")


# ---- the errors of the notes

TABLE: list[tuple[Any, str, str | None]] = [
    ("other", "agent_error", None),
    (http("httpConnectionFailed", 404), "agent_error", "check backend_config.model"),
    (http("responseTooManyFailedAttempts", 429), "agent_error", "wait"),
    ("usageLimitExceeded", "agent_error", "limit is reached"),
    ("rateLimitExceeded", "agent_error", "wait"),
    ("internalServerError", "agent_error", "wait"),
    ("serverOverloaded", "agent_error", "wait"),
    (http("httpConnectionFailed", None), "agent_error", "wait"),
    (http("responseStreamConnectionFailed", 502), "agent_error", "wait"),
    (http("responseStreamDisconnected", None), "agent_error", "wait"),
    ("contextWindowExceeded", "agent_error", "smaller"),
    ("sessionBudgetExceeded", "budget_exceeded", None),
    ("sandboxError", "backend_unavailable", "doctor"),
    ("badRequest", "agent_error", None),
    ("ofTheFuture", "agent_error", None),
    ({"ofTheFuture": {"x": 1}}, "agent_error", None),
    (None, "agent_error", None),
    ({}, "agent_error", None),
]


@pytest.mark.parametrize(("info", "code", "next_step"), TABLE)
def test_each_error_has_a_code_and_what_can_be_done(info: Any, code: str, next_step: str | None) -> None:
    outcome = failed(error(info))
    assert (outcome.code, outcome.resumable) == (code, True)
    assert outcome.message.startswith("Codex: words of Codex")
    kind = info if isinstance(info, str) else next(iter(info or {}), "")
    assert (f"({kind})" in outcome.message) is (kind not in ("other", ""))
    if next_step is None:
        assert outcome.next_step is None
    else:
        assert next_step in (outcome.next_step or "")


@pytest.mark.parametrize("info", ["cyberPolicy", "misalignmentPolicyViolation", "tooManyDenials"])
def test_what_the_service_refuses_is_rejected(info: str) -> None:
    assert failure_of(error(info)) == Rejected(message=f"Codex: words of Codex ({info})")


def test_details_are_told_with_the_words() -> None:
    assert failed(error("other", additionalDetails="and more")).message == "Codex: words of Codex and more"
    assert failed({"codexErrorInfo": "other", "message": None}).message == "Codex: the turn failed"


@pytest.mark.parametrize(
    ("info", "kind"),
    [("other", ("other", None)), (http("a", 401), ("a", 401)), (http("a", None), ("a", None)),
     ({"a": None}, ("a", None)),
     ({"a": {"httpStatusCode": "401"}}, ("a", None)), ({}, ("", None)), (None, ("", None)), (7, ("", None)),
     (["x"], ("", None))],
)  # fmt: skip
def test_the_kind_of_an_error(info: Any, kind: tuple[str, int | None]) -> None:
    assert kind_of({"codexErrorInfo": info}) == kind


# ---- logins

REFUSED = "unexpected status 401 Unauthorized: no, url: http://127.0.0.1:1/v1/responses"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (error("unauthorized"), "words of Codex"),
        (error(http("httpConnectionFailed", 401)), "words of Codex"),
        (error(http("httpConnectionFailed", 403)), "words of Codex"),
        (error(http("responseStreamDisconnected", None), "Reconnecting... 1/2", additionalDetails=REFUSED), REFUSED),
        (error("other", REFUSED.replace("401", "403")), REFUSED.replace("401", "403")),
        (error("other", "Missing environment variable: `KEY`."), "Missing environment variable: `KEY`."),
    ],
)
def test_a_service_that_lets_nobody_in_needs_a_login(given: JsonObject, words: str) -> None:
    assert login_words(given) == words


@pytest.mark.parametrize(
    "given",
    [
        {},
        error("other"),
        error(http("httpConnectionFailed", 404)),
        error(http("httpConnectionFailed", None)),
        error("usageLimitExceeded", "you made 401 requests"),
        error("other", "unexpected status 400 Bad Request"),
        error("other", "the line 'Missing environment variable' is in the file"),
    ],
)
def test_other_errors_need_none(given: JsonObject) -> None:
    assert login_words(given) is None


def test_a_recorded_refusal_is_found_in_the_first_error_already() -> None:
    first = next(m["params"] for m in recordings()["refused"] if m["method"] == "error")
    assert first["willRetry"]
    assert login_words(first["error"]) == REFUSED


# ---- what is refused, and processes that end


@pytest.mark.parametrize(
    "words",
    ["no rollout found for thread id 01a2", "invalid session id: x", "Invalid thread id", "thread not found: 01a2"],
)
def test_a_session_that_is_lost_cannot_be_resumed(words: str) -> None:
    for begun in (True, False):
        outcome = refusal_of(words, begun=begun)
        assert isinstance(outcome, Failed)
        assert (outcome.code, outcome.resumable) == ("agent_error", False)
        assert words in outcome.message
        assert "CODEX_HOME" in (outcome.next_step or "")


def test_a_session_that_is_in_use_is_a_conflict() -> None:
    outcome = refusal_of("thread 01a2 already has an active writer", begun=False)
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.resumable) == ("conflict", True)


def test_what_codex_refuses_before_it_had_the_prompt_is_rejected() -> None:
    assert refusal_of("remote image URLs are not supported", begun=False) == Rejected(
        message="Codex: remote image URLs are not supported"
    )
    assert isinstance(refusal_of("something else", begun=True), Failed)


@pytest.mark.parametrize(
    ("code", "begun", "kind"),
    [(1, False, Rejected), (2, False, Rejected), (0, False, Failed), (-9, False, Failed), (None, False, Failed),
     (1, True, Failed), (0, True, Failed), (-9, True, Failed)],
)  # fmt: skip
def test_a_process_that_ends_too_early(code: int | None, begun: bool, kind: type) -> None:
    outcome = exit_of(code, ["WARNING: x", "Error: the last words"], begun=begun)
    assert type(outcome) is kind
    assert isinstance(outcome, (Failed, Rejected))
    assert "the last words" in outcome.message
    if isinstance(outcome, Failed):
        assert (outcome.code, outcome.resumable) == ("agent_exited", True)
        assert ("by signal 9" in outcome.message) is (code == -9)


def test_a_process_that_ends_without_a_word_is_told_as_such() -> None:
    silent = exit_of(1, [], begun=False)
    assert isinstance(silent, Rejected)
    assert silent.message.endswith("it says nothing")
    assert exit_of(-9, [], begun=True) == Failed(code="agent_exited", message="Codex ended by signal 9")
    long = exit_of(3, ["x" * 1500] * 50, begun=True)
    assert isinstance(long, Failed)
    assert len(long.message) < 2100


def test_a_home_that_another_is_just_making_is_told_apart() -> None:
    assert is_cold_start(["WARNING: x", "Error: failed to initialize the sqlite state runtime: database is locked"])
    assert not is_cold_start(["Error: failed to initialize", "the state runtime"])
    assert not is_cold_start([])


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
errors = st.dictionaries(
    st.sampled_from(["message", "codexErrorInfo", "additionalDetails", "httpStatusCode"]), anything, max_size=4
)


@given(st.fixed_dictionaries({}, optional={"status": anything, "error": errors | anything}), st.booleans(), errors)
def test_every_end_has_an_outcome(turn: JsonObject, stopped: bool, given: JsonObject) -> None:
    told = Translation(CWD)
    tell(told, ended("agentMessage", text="x"))
    assert outcome_of(turn, told, stopped=stopped)
    assert login_words(given) is None or isinstance(login_words(given), str)
