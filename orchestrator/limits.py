"""What a run may use: the keys of `limits`, and what each takes. Pure."""

from __future__ import annotations

from orchestrator.backend import Ability
from orchestrator.errors import InvalidArgument, nearest
from orchestrator.model import JsonObject

TIMES = ("timeout_s", "input_timeout_s", "queue_ttl_s")
"""Seconds. What a run gives none of it has of the run that spawned it, and never more than that."""
KEPT_BY_BACKENDS: tuple[Ability, ...] = ("max_turns", "max_tokens", "max_cost_usd")
"""Budgets that can be kept only where the backend says what its agent uses."""
BUDGETS: tuple[str, ...] = (*KEPT_BY_BACKENDS, "max_events", "max_artifact_mb")
"""What a run and all below it may use together."""
LIMITS = (*TIMES, *BUDGETS, "fix_attempts")
_WHOLE = ("max_turns", "max_tokens", "max_events", "fix_attempts")
MOST_ATTEMPTS = 10


def limits_of(given: JsonObject) -> JsonObject:
    """The limits of a run, checked: seconds, calls of the model, tokens, US dollars, events, megabytes, times to mend.

    Raises:
        InvalidArgument: it names the first that is wrong, and what it takes.
    """
    for name, value in given.items():
        if name not in LIMITS:
            raise InvalidArgument(f"no limit {name!r}{nearest(name, LIMITS)}")
        least = 0 if name == "fix_attempts" else 1e-9  # no attempt is an answer to a profile that gives some
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 1e9:
            what = "number of seconds" if name in TIMES else "number"
            raise InvalidArgument(f"limits.{name} must be a positive {what}, not {value!r}")
        if name in _WHOLE and value != int(value):
            raise InvalidArgument(f"limits.{name} must be a whole number, not {value!r}")
        if name == "fix_attempts" and value > MOST_ATTEMPTS:
            raise InvalidArgument(f"limits.fix_attempts is at most {MOST_ATTEMPTS}")
    return given


def limits_below(own: JsonObject, parent: JsonObject) -> JsonObject:
    """The limits of a run that another one spawns: its times are the parent's where it gives none, and never longer."""
    return {**own, **{name: min(own.get(name, parent[name]), parent[name]) for name in TIMES if name in parent}}


def has_budget(limits: JsonObject) -> bool:
    """Whether one of the limits is a budget."""
    return any(name in limits for name in BUDGETS)
