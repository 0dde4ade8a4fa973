"""What a run may use: the keys of `limits`, and what each takes. Pure."""

from __future__ import annotations

from orchestrator.backend import Ability
from orchestrator.errors import InvalidArgument, nearest
from orchestrator.model import JsonObject

LIMITS = ("timeout_s", "input_timeout_s", "queue_ttl_s", "max_turns", "max_cost_usd")
KEPT_BY_BACKENDS: tuple[Ability, ...] = ("max_turns", "max_cost_usd")
"""Those that a backend keeps, if it can."""


def limits_of(given: JsonObject) -> JsonObject:
    """The limits of a run, checked: seconds, a number of calls of the model, US dollars.

    Raises:
        InvalidArgument: it names the first that is wrong, and what it takes.
    """
    for name, value in given.items():
        if name not in LIMITS:
            raise InvalidArgument(f"no limit {name!r}{nearest(name, LIMITS)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
            what = "number" if name in KEPT_BY_BACKENDS else "number of seconds"
            raise InvalidArgument(f"limits.{name} must be a positive {what}, not {value!r}")
        if name == "max_turns" and value != int(value):
            raise InvalidArgument(f"limits.max_turns must be a whole number, not {value!r}")
    return given
