"""How a turn of Codex ended, as the run's outcome. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.codex.updates import Translation
from orchestrator.ends import Cancelled, Completed, Failed, FailureCode, Outcome, Rejected
from orchestrator.model import JsonObject, as_object

_LATER = "wait, then call continue_run with text to go on in the same session"
_KINDS: dict[str, tuple[FailureCode, str | None]] = {
    "usageLimitExceeded": ("agent_error", "the account's limit is reached; " + _LATER),
    "rateLimitExceeded": ("agent_error", _LATER),
    "serverOverloaded": ("agent_error", _LATER),
    "internalServerError": ("agent_error", _LATER),
    "sessionBudgetExceeded": ("budget_exceeded", None),
    "contextWindowExceeded": ("agent_error", "spawn a new run with a smaller task; this conversation is full"),
    "badRequest": ("agent_error", None),
    "sandboxError": ("backend_unavailable", "run `orchestrator doctor`: Codex's sandbox does not work here"),
    "httpConnectionFailed": ("agent_error", _LATER),
    "responseStreamConnectionFailed": ("agent_error", _LATER),
    "responseStreamDisconnected": ("agent_error", _LATER),
    "responseTooManyFailedAttempts": ("agent_error", _LATER),
}
"""By Codex's word for the error: our code, and what the caller can do if the usual is not it."""
_REFUSED = ("cyberPolicy", "misalignmentPolicyViolation", "tooManyDenials")
_LOST = ("no rollout found", "invalid session id", "invalid thread id", "thread not found", "missing source rollout")
BUSY = "already has an active writer"


def outcome_of(turn: JsonObject, told: Translation, *, stopped: bool) -> Outcome:
    """The outcome of a run whose last turn ended like this.

    Args:
        stopped: the caller answered an approval by stopping the turn.
    """
    match turn.get("status"):
        case "completed":
            return Completed(final_response=told.last_message, usage=told.usage)
        case "interrupted" if stopped:
            return Cancelled(reason="the caller stopped the run instead of approving")
        case "interrupted":
            return Failed(code="agent_error", message="Codex: the turn was interrupted")
        case _:
            return failure_of(as_object(turn.get("error")) or {})


def failure_of(error: JsonObject) -> Outcome:
    """The outcome of a turn that failed with this error."""
    kind, status = kind_of(error)
    words = " ".join(str(word) for word in (error.get("message"), error.get("additionalDetails")) if word)
    message = f"Codex: {words or 'the turn failed'}" + (f" ({kind})" if kind not in ("other", "") else "")
    if kind in _REFUSED:
        return Rejected(message=message)
    code, next_step = _KINDS.get(kind, ("agent_error", None))
    if status == 404:
        next_step = "check backend_config.model, then spawn the run again"
    return Failed(code=code, message=message, next_step=next_step)


def kind_of(error: JsonObject) -> tuple[str, int | None]:
    """Codex's word for an error, and the HTTP status behind it if there was one."""
    info: Any = error.get("codexErrorInfo")
    if isinstance(info, str):
        return info, None
    table = as_object(info) or {}
    kind = next(iter(table), "")
    status = (as_object(table.get(kind)) or {}).get("httpStatusCode")
    return kind, status if isinstance(status, int) else None


def login_words(error: JsonObject) -> str | None:
    """What the service said, if the error is that it does not let the agent in."""
    kind, status = kind_of(error)
    message = str(error.get("message") or "")
    details = str(error.get("additionalDetails") or "")
    if kind == "unauthorized" or status in (401, 403) or message.startswith("Missing environment variable"):
        return details or message
    if any(f"unexpected status {code}" in message + details for code in ("401", "403")):
        return details or message
    return None


def limit_words(turn: JsonObject, limited_until: float | None) -> str | None:
    """What the provider said, if the turn failed because it takes no more requests for now; None for anything else.

    Args:
        limited_until: when its limit is over, as far as it said so: without that an account may just have no credit.
    """
    error = as_object(turn.get("error")) or {}
    kind, status = kind_of(error)
    if status == 429 or kind == "rateLimitExceeded" or (kind == "usageLimitExceeded" and limited_until is not None):
        return " ".join(str(word) for word in (error.get("message"), error.get("additionalDetails")) if word)
    return None


def refusal_of(words: str, *, begun: bool) -> Outcome:
    """The outcome of a run of which Codex refused a request with these words.

    Args:
        begun: whether the agent had the prompt.
    """
    if any(sign in words.lower() for sign in _LOST):
        return Failed(
            code="agent_error",
            message=f"Codex does not have the session any more: {words}",
            resumable=False,
            next_step="spawn a new run; a session lives in the CODEX_HOME that it was made in",
        )
    if BUSY in words:
        next_step = "end the other Codex that has this conversation open, then call continue_run with text"
        return Failed(code="conflict", message=f"Codex: {words}", next_step=next_step)
    return Failed(code="agent_error", message=f"Codex: {words}") if begun else Rejected(message=f"Codex: {words}")


def is_cold_start(stderr: Sequence[str]) -> bool:
    """Whether Codex ended because another one was just making the same CODEX_HOME; the next time it is there."""
    return any("failed to initialize" in line and "state runtime" in line for line in stderr)


def exit_of(code: int | None, stderr: Sequence[str], *, begun: bool) -> Outcome:
    """The outcome of a run whose process ended before its turn did.

    Args:
        begun: whether the agent had the prompt.
    """
    last = "\n".join(stderr)[-2000:]
    if not begun and code is not None and code > 0:
        return Rejected(message=f"Codex does not start (exit code {code}): {last or 'it says nothing'}")
    how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
    return Failed(code="agent_exited", message=f"Codex ended {how}" + (f": {last}" if last else ""))
