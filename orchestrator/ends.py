"""How a run ends: what a backend returns, what it used, and why it failed. Pure."""

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
