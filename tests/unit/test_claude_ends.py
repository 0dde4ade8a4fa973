"""How a turn or the process of Claude Code ended becomes the run's outcome, and what a session has cost before."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import AssistantMessage, ClaudeSDKError, ProcessError, ResultMessage
from hypothesis import given
from hypothesis import strategies as st

from backends.claude_code.ends import exit_of, outcome_of
from backends.claude_code.sessions import Spent, spent_until_now, transcript_of
from backends.claude_code.transport import ProcessTransport
from orchestrator.ends import Completed, Failed, Outcome, Rejected
from orchestrator.model import JsonObject, Usage
from tests.unit.claude_messages import parsed, played, recordings
from tests.unit.line_agents import place_at

USAGE = Usage(input_tokens=1, output_tokens=2)
LATER = "wait, then call continue_run with text to go on in the same session"
AGAIN = "call continue_run with text to go on in the same session, with the same limit again"


def ended(
    subtype: str = "success",
    reason: str | None = "completed",
    *,
    failed: bool = False,
    error: str | None = None,
    misfit: str = "",
    **more: Any,
) -> Outcome:
    fixed = {"duration_ms": 1, "duration_api_ms": 1, "num_turns": 1, "session_id": "s"}
    result = ResultMessage(subtype=subtype, is_error=failed, terminal_reason=reason, **fixed, **more)
    told = None
    if error:
        told = AssistantMessage(content=[], model="<synthetic>")
        told.error = error  # type: ignore[assignment]  # the CLI has more words than the SDK knows
    return outcome_of(result, told, USAGE, misfit)


def failure(code: str, message: str, next_step: str | None = None) -> Failed:
    return Failed(code=code, message=message, next_step=next_step)  # type: ignore[arg-type]


# ---- turns


def recorded(name: str) -> Outcome:
    """The outcome of the last turn of a recording."""
    messages = [parsed(raw) for raw in recordings()[name]]
    *_, result = (message for message in messages if isinstance(message, ResultMessage))
    error = None
    for message in messages:
        if isinstance(message, AssistantMessage):
            error = message if message.error else None
    return outcome_of(result, error, USAGE, played(name)[0].misfit)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("work", Completed(final_response="done", usage=USAGE)),
        ("plan", Completed(final_response="ok", usage=USAGE)),
        ("declined_quietly", Completed(final_response="done", usage=USAGE)),
        ("background", Completed(final_response="The script is over.", usage=USAGE)),
        ("structured", Completed(final_response='{"n":5}', structured_output={"n": 5}, usage=USAGE)),
        ("not_structured", Completed(final_response="The script is over.", usage=USAGE)),
        ("error", failure("agent_error", "Claude Code: API Error: 400 it is wrong")),
        ("error_billing", failure("agent_error", "Claude Code: Credit balance is too low (billing_error)",
                                  "add credit to the account, then call continue_run with text to go on")),
        ("max_turns", failure("budget_exceeded", "the model was called as often as limits.max_turns allows", AGAIN)),
        ("max_cost", failure("budget_exceeded", "the run cost more than limits.max_cost_usd allows", AGAIN)),
        ("never_fits", failure("invalid_output", "the agent's output never matched output_schema: "
                               "Output does not match required schema: /n: must be integer")),
    ],
)  # fmt: skip
def test_the_outcome_of_a_recorded_turn(name: str, outcome: Outcome) -> None:
    assert recorded(name) == outcome


@pytest.mark.parametrize(
    ("name", "kind", "next_step"),
    [("retry", "server_error", LATER), ("model_404", "model_not_found", "spawn a new run with another "
                                        "backend_config.model")],
)  # fmt: skip
def test_an_error_of_the_service_says_its_kind_and_what_to_do(name: str, kind: str, next_step: str) -> None:
    outcome = recorded(name)
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.next_step, outcome.resumable) == ("agent_error", next_step, True)
    assert outcome.message.endswith(f"({kind})")


@pytest.mark.parametrize(
    ("kind", "next_step"),
    [
        ("billing_error", "add credit to the account, then call continue_run with text to go on"),
        ("rate_limit", LATER),
        ("server_error", LATER),
        ("overloaded", LATER),
        ("model_not_found", "spawn a new run with another backend_config.model"),
        ("invalid_request", None),
        ("from_the_future", None),
    ],
)
def test_a_failed_call_of_the_model_is_a_failure_though_its_subtype_is_success(
    kind: str, next_step: str | None
) -> None:
    outcome = ended("success", "api_error", failed=True, error=kind, result="it said no")
    assert outcome == failure("agent_error", f"Claude Code: it said no ({kind})", next_step)


def test_an_unknown_error_is_not_named() -> None:
    assert ended("success", "api_error", failed=True, error="unknown", result="no") == failure(
        "agent_error", "Claude Code: no"
    )


@pytest.mark.parametrize("reason", [None, "completed", "structured_output"])
def test_a_turn_without_an_error_is_complete(reason: str | None) -> None:
    assert ended("success", reason, result="done") == Completed(final_response="done", usage=USAGE)


def test_an_error_that_was_got_over_does_not_count() -> None:
    assert isinstance(ended(error="server_error", result="done"), Completed)


@pytest.mark.parametrize("reason", ["aborted_tools", "aborted_streaming", "tool_deferred", "hook_stopped", "new"])
def test_a_turn_that_stopped_on_the_way_is_not_complete(reason: str) -> None:
    assert ended("success", reason) == failure("agent_error", f"Claude Code: {reason}")
    assert ended("success", reason, result="half") == failure("agent_error", "Claude Code: half")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"result": "in words", "errors": ["e"]}, "in words"),
        ({"result": "", "errors": ["first", "second"]}, "first; second"),
        ({"errors": []}, "aborted_tools"),
        ({"errors": None}, "aborted_tools"),
    ],
)
def test_a_failure_is_told_by_the_best_words_there_are(more: JsonObject, said: str) -> None:
    outcome = ended("error_during_execution", "aborted_tools", failed=True, **more)
    assert outcome == failure("agent_error", f"Claude Code: {said}")


def test_a_failure_without_any_words_is_told_by_its_subtype() -> None:
    assert ended("error_during_execution", None, failed=True) == failure(
        "agent_error", "Claude Code: error_during_execution"
    )


def test_a_limit_is_told_by_its_subtype_also_when_it_is_not_called_an_error() -> None:
    assert ended("error_max_turns", "max_turns").code == "budget_exceeded"  # type: ignore[union-attr]
    assert ended("error_max_structured_output_retries", "x", failed=True) == failure(
        "invalid_output", "the agent's output never matched output_schema"
    )


def test_without_words_the_response_is_why_the_output_did_not_fit() -> None:
    assert ended(misfit="/n: must be integer") == Completed(final_response="/n: must be integer", usage=USAGE)
    assert ended(result="words", misfit="/n") == Completed(final_response="words", usage=USAGE)


# ---- processes


ROOT = "--dangerously-skip-permissions cannot be used with root/sudo privileges for security reasons"
LOST = "No conversation found with session ID: 5b0f7c9e"
NOISE = ["a warning that nobody reads " * 4] * 40


@pytest.mark.parametrize("begun", [False, True])
def test_a_refusal_to_root_is_told_with_what_can_be_done(begun: bool) -> None:
    outcome = exit_of(1, ["some warning", ROOT], begun=begun)
    assert isinstance(outcome, Rejected)
    assert "refuses full_access" in outcome.message
    assert "IS_SANDBOX" not in outcome.message, "nobody is told how to go around it"


def test_a_session_that_is_lost_cannot_be_gone_on_with() -> None:
    outcome = exit_of(1, [LOST], begun=False)
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.resumable) == ("agent_error", False)
    assert LOST in outcome.message
    assert outcome.next_step is not None
    assert "spawn a new run" in outcome.next_step


@pytest.mark.parametrize(("why", "words"), [(ROOT, "refuses full_access"), (LOST, "not have the session any more")])
def test_a_reason_is_found_wherever_it_was_said(why: str, words: str) -> None:
    outcome = exit_of(1, [why, *NOISE], begun=False)
    assert isinstance(outcome, (Rejected, Failed))
    assert words in outcome.message


@pytest.mark.parametrize(
    ("code", "stderr", "begun", "outcome"),
    [
        (2, ["no such option"], False,
         Rejected(message="Claude Code does not start (exit code 2): no such option")),
        (1, [], False, Rejected(message="Claude Code does not start (exit code 1): it says nothing")),
        (0, [], False, failure("agent_exited", "Claude Code ended with exit code 0")),
        (1, ["a", "b"], True, failure("agent_exited", "Claude Code ended with exit code 1: a\nb")),
        (0, [], True, failure("agent_exited", "Claude Code ended with exit code 0")),
        (143, [], True, failure("agent_exited", "Claude Code ended with exit code 143")),
        (-9, [], True, failure("agent_exited", "Claude Code ended by signal 9")),
        (-11, ["crash"], False, failure("agent_exited", "Claude Code ended by signal 11: crash")),
    ],
)  # fmt: skip
def test_a_process_that_ended_before_its_turn(code: int, stderr: list[str], begun: bool, outcome: Outcome) -> None:
    assert exit_of(code, stderr, begun=begun) == outcome


def test_of_a_long_stderr_the_end_is_told() -> None:
    outcome = exit_of(1, [*NOISE, "the cause"], begun=True)
    assert isinstance(outcome, Failed)
    assert outcome.message.endswith("the cause")
    assert len(outcome.message) < 2100


async def heard(cwd: Path, script: str) -> list[JsonObject]:
    """The messages of a process, with the error that ended them as the last one."""
    messages: list[JsonObject] = []
    async with place_at(cwd) as place, place.python(script) as process:
        try:
            async for message in ProcessTransport(process).read_messages():
                messages.append(message)  # noqa: PERF401  what came before the error counts
        except ClaudeSDKError as error:
            messages.append({"error": type(error), "code": getattr(error, "exit_code", None)})
    return messages


@pytest.mark.parametrize("code", [0, 3])
async def test_the_end_of_a_process_is_an_error_with_its_code(cwd: Path, code: int) -> None:
    script = f"print('[debug] no message'); print('{{\"a\": 1}}'); sys.exit({code})"
    assert await heard(cwd, script) == [{"a": 1}, {"error": ProcessError, "code": code}]


async def test_a_line_that_the_end_tore_off_is_no_message(cwd: Path) -> None:
    script = "print('{\"a\": 1}'); print('{\"b\":', end='', flush=True); os.kill(os.getpid(), 9)"
    assert await heard(cwd, script) == [{"a": 1}, {"error": ProcessError, "code": -9}]


async def test_a_line_that_makes_no_sense_is_an_error_of_the_sdk(cwd: Path) -> None:
    *_, last = await heard(cwd, "print('{broken}', flush=True); sys.stdin.read()")
    assert issubclass(last["error"], ClaudeSDKError)


# ---- what a session has cost


class Kept:
    """What Claude Code keeps below a directory."""

    def __init__(self, config: Path) -> None:
        self.file = config / "projects/-work-project/the-session.jsonl"
        self.file.parent.mkdir(parents=True)
        self.env = {"CLAUDE_CONFIG_DIR": str(config), "HOME": "/nowhere"}

    def cost(self, *lines: str) -> float:
        self.file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return spent_until_now("the-session", self.env).cost_usd


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "config")


MESSAGE = '{"type":"user","message":{"role":"user","content":"hello"},"uuid":"u"}'


def state(cost: Any) -> str:
    """As it was recorded, in short."""
    known = {"type": "cost-state", "sessionId": "the-session", "totalCostUSD": cost, "hasUnknownModelCost": False}
    return json.dumps(known, separators=(",", ":"))


def test_a_session_that_is_not_there_has_cost_nothing(tmp_path: Path, kept: Kept) -> None:
    assert spent_until_now("another", kept.env).cost_usd == 0.0
    assert spent_until_now("the-session", {"CLAUDE_CONFIG_DIR": str(tmp_path / "none")}).cost_usd == 0.0
    assert spent_until_now("the-session", {"HOME": str(tmp_path)}).cost_usd == 0.0


def test_a_session_without_a_cost_has_cost_nothing(kept: Kept) -> None:
    assert kept.cost() == 0.0
    assert kept.cost(MESSAGE) == 0.0


def test_the_last_cost_counts(kept: Kept) -> None:
    assert kept.cost(state(0.25)) == 0.25
    assert kept.cost(state(0.25), MESSAGE, state(0.5), MESSAGE) == 0.5
    assert kept.cost(state(3)) == 3.0


def test_what_a_session_used_is_counted_over_all_its_models(kept: Kept) -> None:
    used = {"inputTokens": 3, "cacheReadInputTokens": 5, "cacheCreationInputTokens": 7, "outputTokens": 11}
    models = {"large": used, "small": {"inputTokens": 100, "outputTokens": "many"}, "odd": None}
    line = {"type": "cost-state", "totalCostUSD": 0.5, "modelUsage": models}
    kept.cost(json.dumps(line, separators=(",", ":")))
    expected = Spent(cost_usd=0.5, input_tokens=115, cached_input_tokens=5, output_tokens=11)
    assert spent_until_now("the-session", kept.env) == expected


def test_a_recorded_result_counts_its_sub_agent_too() -> None:
    (raw,) = (message for message in recordings()["subagent"] if message["type"] == "result")
    assert raw["usage"]["output_tokens"] == 2
    assert Spent.of(raw["total_cost_usd"], raw["modelUsage"]) == Spent(
        cost_usd=raw["total_cost_usd"],
        input_tokens=raw["modelUsage"]["claude-sonnet-4-5"]["inputTokens"],
        output_tokens=5,
    )


@pytest.mark.parametrize("usage", [None, [], {"m": []}, {"m": {"inputTokens": True}}, "x"])
def test_a_usage_that_is_none_counts_as_nothing(usage: Any) -> None:
    assert Spent.of(None, usage) == Spent()


def test_the_last_line_may_have_no_end(kept: Kept) -> None:
    kept.file.write_text(f"{MESSAGE}\n{state(0.5)}")
    assert spent_until_now("the-session", kept.env).cost_usd == 0.5


@pytest.mark.parametrize("cost", [None, "0.5", [1], {}])
def test_a_cost_that_is_no_number_counts_as_none(kept: Kept, cost: Any) -> None:
    assert kept.cost(state(cost)) == 0.0
    assert kept.cost('{"type":"cost-state"}') == 0.0


def test_a_cost_that_somebody_spoke_of_does_not_count(kept: Kept) -> None:
    said = json.dumps({"type": "user", "message": {"content": state(99)}}, separators=(",", ":"))
    assert kept.cost(state(0.5), said) == 0.5


def test_a_cost_that_a_tool_gave_does_not_count(kept: Kept) -> None:
    assert kept.cost(state(0.5), f'{{"type":"user","toolUseResult":{state(99)}}}') == 0.5


@pytest.mark.parametrize("torn", [state(0.75)[:40], state(0.75)[:-1], '{"type":"cost-state"\xff\n'])
def test_a_damaged_cost_is_passed_over(kept: Kept, torn: str) -> None:
    assert kept.cost(state(0.5), MESSAGE, torn) == 0.5


def test_a_directory_in_the_place_of_a_session_counts_as_absent(kept: Kept) -> None:
    kept.file.mkdir()
    assert spent_until_now("the-session", kept.env).cost_usd == 0.0


def test_a_link_that_leads_nowhere_counts_as_absent(kept: Kept) -> None:
    kept.file.symlink_to("nowhere")
    assert spent_until_now("the-session", kept.env).cost_usd == 0.0


def test_a_large_session_is_not_read_into_memory(kept: Kept) -> None:
    with kept.file.open("wb") as file:
        file.write(f"{MESSAGE}\n{state(0.5)}\n".encode())
        file.truncate(128 * 2**20)  # a hole
    tracemalloc.start()
    try:
        assert spent_until_now("the-session", kept.env).cost_usd == 0.5
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_the_configuration_is_below_the_home_unless_it_is_elsewhere(tmp_path: Path) -> None:
    default = Kept(tmp_path / "home/.claude")
    env = {"HOME": str(tmp_path / "home")}
    assert transcript_of("the-session", env) is None, "there is the folder of a project, but no session"
    default.file.touch()
    assert transcript_of("the-session", env) == default.file
    assert transcript_of("the-session", {**env, "CLAUDE_CONFIG_DIR": ""}) == default.file
    assert transcript_of("the-session", {**env, "CLAUDE_CONFIG_DIR": str(tmp_path)}) is None


@given(st.binary(max_size=60))
def test_no_content_of_a_session_raises(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    kept = Kept(tmp_path_factory.mktemp("kept") / "config")
    kept.file.write_bytes(b'{"type":"cost-state"' + content)
    assert spent_until_now("the-session", kept.env).cost_usd == 0.0
