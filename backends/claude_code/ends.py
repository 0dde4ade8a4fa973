"""How a turn of Claude Code ended, as the run's outcome. Pure.

A result is judged by `is_error` and `terminal_reason`: a failed call of the model comes with the subtype `success`.
"""

from __future__ import annotations

from collections.abc import Sequence

from claude_agent_sdk import AssistantMessage, ResultMessage

from orchestrator.ends import Completed, Failed, FailureCode, Outcome, Rejected
from orchestrator.model import Usage

_SUBTYPES: dict[str, tuple[FailureCode, str]] = {
    "error_max_turns": ("budget_exceeded", "the model was called as often as limits.max_turns allows"),
    "error_max_budget_usd": ("budget_exceeded", "the run cost more than limits.max_cost_usd allows"),
    "error_max_structured_output_retries": ("invalid_output", "the agent's output never matched output_schema"),
}
_NEXT: dict[str, str] = {
    "budget_exceeded": "call continue_run with text to go on in the same session, with the same limit again",
    "billing_error": "add credit to the account, then call continue_run with text to go on",
    "model_not_found": "spawn a new run with another backend_config.model",
    "rate_limit": "wait, then call continue_run with text to go on in the same session",
    "overloaded": "wait, then call continue_run with text to go on in the same session",
    "server_error": "wait, then call continue_run with text to go on in the same session",
}
"""By our code or by the CLI's word for the error."""

NO_SESSION = "No conversation found"
ROOT_REFUSED = "--dangerously-skip-permissions cannot be used with root"


def outcome_of(result: ResultMessage, error: AssistantMessage | None, usage: Usage, misfit: str) -> Outcome:
    """The outcome of a run whose last turn had this result.

    Args:
        error: the message by which the CLI told what went wrong, if it did.
        misfit: why the CLI did not take the structured output that was handed in last.
    """
    if not result.is_error and result.terminal_reason in (None, "completed", "structured_output"):
        return Completed(
            final_response=result.result or misfit, structured_output=result.structured_output, usage=usage
        )
    if result.subtype in _SUBTYPES:
        code, words = _SUBTYPES[result.subtype]
        words = f"{words}: {misfit}" if misfit and code == "invalid_output" else words
        return Failed(code=code, message=words, next_step=_NEXT.get(code))
    said = result.result or "; ".join(map(str, result.errors or ())) or str(result.terminal_reason or result.subtype)
    kind = str(error.error) if error else ""
    message = f"Claude Code: {said}" + (f" ({kind})" if kind and kind != "unknown" else "")
    return Failed(code="agent_error", message=message, next_step=_NEXT.get(kind))


def exit_of(code: int | None, stderr: Sequence[str], *, begun: bool) -> Outcome:
    """The outcome of a run whose process ended before a result.

    Args:
        begun: whether the agent had the prompt.
    """
    said = "\n".join(stderr)
    last = said[-2000:]
    if ROOT_REFUSED in said:
        return Rejected(
            message="Claude Code refuses full_access (bypassPermissions) to root: run the host as another user, "
            "use workspace_write with on_approval allow, or follow Claude Code's own documentation on sandboxes"
        )
    if NO_SESSION in said:
        return lost_session(said[said.index(NO_SESSION) :].partition("\n")[0])
    if not begun and code is not None and code > 0:
        return Rejected(message=f"Claude Code does not start (exit code {code}): {last or 'it says nothing'}")
    how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
    return Failed(code="agent_exited", message=f"Claude Code ended {how}" + (f": {last}" if last else ""))


def lost_session(words: str) -> Failed:
    """The outcome of a run that was to go on with a conversation which Claude Code does not have."""
    return Failed(
        code="agent_error",
        message=f"Claude Code does not have the session any more: {words}",
        resumable=False,
        next_step="spawn a new run; a session lives in the CLAUDE_CONFIG_DIR that it was made in",
    )
