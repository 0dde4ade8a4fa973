"""What a run may use: the keys of `limits`, and what each takes. Pure."""

from __future__ import annotations

from orchestrator.backend import Ability
from orchestrator.errors import InvalidArgument, nearest
from orchestrator.model import JsonObject

LIMITS = ("timeout_s", "input_timeout_s", "queue_ttl_s", "max_turns", "max_cost_usd", "fix_attempts")
MOST_ATTEMPTS = 10
KEPT_BY_BACKENDS: tuple[Ability, ...] = ("max_turns", "max_cost_usd")
"""Those that a backend keeps, if it can."""


def limits_of(given: JsonObject) -> JsonObject:
    """The limits of a run, checked: seconds, calls of the model, US dollars, times to mend.

    Raises:
        InvalidArgument: it names the first that is wrong, and what it takes.
    """
    for name, value in given.items():
        if name not in LIMITS:
            raise InvalidArgument(f"no limit {name!r}{nearest(name, LIMITS)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
            what = "number" if name in (*KEPT_BY_BACKENDS, "fix_attempts") else "number of seconds"
            raise InvalidArgument(f"limits.{name} must be a positive {what}, not {value!r}")
        if name in ("max_turns", "fix_attempts") and value != int(value):
            raise InvalidArgument(f"limits.{name} must be a whole number, not {value!r}")
        if name == "fix_attempts" and value > MOST_ATTEMPTS:
            raise InvalidArgument(f"limits.fix_attempts is at most {MOST_ATTEMPTS}")
    return given
