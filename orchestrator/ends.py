"""How a run ends: what a backend returns, what it used, why it failed, and who else may end it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.model import Usage

FailureCode = Literal[
    "backend_unavailable", "auth_failed", "agent_error", "agent_exited", "agent_protocol", "invalid_output", "timeout",
    "expired", "budget_exceeded", "input_timeout", "conflict", "checks_failed", "lost_contact", "host_lost",
    "unsupported", "store_error", "internal",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A backend's run came to its end."""

    final_response: str
    structured_output: Any = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A backend's run failed for a reason that the agent or the backend named."""

    code: FailureCode
    message: str
    resumable: bool = True
    next_step: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The agent refused the work."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The agent's side cancelled the run by itself."""

    reason: str | None = None


Outcome = Completed | Failed | Rejected | Cancelled


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run is being ended from outside."""

    why: Literal["cancel", "timeout", "unanswered", "budget", "shutdown", "lost"]
    reason: str | None = None
