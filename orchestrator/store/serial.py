"""Making any value fit for JSON, as what agents say is not always. Pure."""

from __future__ import annotations

from typing import Any, cast

import orjson

from orchestrator.model import JsonObject

DEEPEST = 200
"""Levels that are kept of a value nested too deep; orjson writes 254, and a value gets wrapped several times."""


def serialisable(value: Any) -> Any:
    """The value itself if orjson takes it, otherwise with what JSON cannot hold replaced: half surrogates in strings
    by `?`, whole numbers over 64 bits by their digits, what is nested too deep by `…`."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return _replaced(value, DEEPEST)
    return value


def well_formed(text: str) -> str:
    """The text with its half surrogates replaced by `?`."""
    return text.encode(errors="replace").decode()


def _replaced(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, (dict, list, tuple)) and not levels:
        return "…"
    if isinstance(value, dict):
        items = cast(JsonObject, value).items()
        return {well_formed(str(key)): _replaced(item, levels - 1) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_replaced(item, levels - 1) for item in cast(list[Any], value)]
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -(2**63) <= value < 2**64 else str(value)
    return value if value is None or isinstance(value, (bool, float)) else str(value)
