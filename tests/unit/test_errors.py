"""Proves that every error has a place in the one table, and that the table is the contract."""

from __future__ import annotations

from typing import get_args

import pytest

from orchestrator.ends import FailureCode
from orchestrator.errors import TABLE, BackendError, Conflict, GitError, NotFound, OrchestratorError, nearest

CALL_CODES = (
    "invalid_argument, unknown_argument, run_not_found, agent_not_found, session_not_found, artifact_not_found, "
    "profile_not_found, conflict, wrong_state, already_answered, unsupported, limit_exceeded, permission_ceiling, "
    "backend_unavailable, not_owner, host_restarted, host_unavailable, store_version, store_error, internal"
).split(", ")
RUN_CODES = (
    "backend_unavailable, auth_failed, agent_error, agent_exited, agent_protocol, invalid_output, timeout, expired, "
    "budget_exceeded, input_timeout, conflict, checks_failed, lost_contact, host_lost, unsupported, store_error, "
    "internal"
).split(", ")
EXIT_CODES = {
    1: {"store_version", "store_error", "internal"},
    2: {"invalid_argument", "unknown_argument", "unsupported", "backend_unavailable"},
    3: {"conflict", "already_answered", "limit_exceeded", "permission_ceiling"},
    4: {"run_not_found", "agent_not_found", "session_not_found", "artifact_not_found", "profile_not_found"},
    5: {"wrong_state"},
    6: {"not_owner", "host_restarted", "host_unavailable"},
}


def _below(kind: type[OrchestratorError]) -> set[type[OrchestratorError]]:
    return {kind}.union(*(_below(child) for child in kind.__subclasses__()))


def test_every_error_but_those_that_only_group_others_is_in_the_table() -> None:
    assert set(TABLE) == _below(OrchestratorError) - {OrchestratorError, NotFound}


def test_the_codes_of_refused_calls_are_those_of_the_contract() -> None:
    codes = [row.code for kind, row in TABLE.items() if kind is not GitError]  # which is a conflict in git's words
    assert sorted(codes) == sorted(CALL_CODES)
    assert len(set(codes)) == len(codes)
    assert TABLE[GitError] == TABLE[Conflict]


def test_the_codes_of_failed_runs_are_those_of_the_contract() -> None:
    assert list(get_args(FailureCode)) == RUN_CODES


def test_the_exit_codes_are_those_of_the_contract() -> None:
    table = {exit_code: {row.code for row in TABLE.values() if row.exit_code == exit_code} for exit_code in EXIT_CODES}
    assert table == EXIT_CODES


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.__name__)
def test_an_error_says_its_code_and_what_to_do(kind: type[OrchestratorError]) -> None:
    error = kind("this is wrong; do that")
    assert error.sentence == f"{TABLE[kind].code}: this is wrong; do that"
    assert (error.code, error.exit_code) == TABLE[kind]
    assert kind.__doc__


def test_an_error_of_a_backend_is_no_refused_call() -> None:
    error = BackendError("agent_exited", "it went away", resumable=False)
    assert not isinstance(error, OrchestratorError)
    assert (error.code, str(error), error.resumable, error.next_step) == ("agent_exited", "it went away", False, None)
    assert BackendError("timeout", "too slow", next_step="wait").next_step == "wait"
    assert BackendError("timeout", "too slow").resumable


def test_a_hint_names_what_is_nearest_or_all_of_a_few() -> None:
    assert nearest("workr", ["worker", "boss"]) == "; did you mean 'worker'?"
    assert nearest("zzz", ["worker", "boss", "boss"]) == "; known: boss, worker"
    assert nearest("zzz", [f"agent-{number}" for number in range(9)]) == ""
    assert nearest("zzz", []) == ""
