"""Making a JSON document fit a number of characters, so that no result floods its reader's context. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import orjson

from orchestrator.model import JsonObject

_SHORTEST = 80
"""Strings are not cut below this; if that is not enough, arrays and objects lose their last items."""


class Clipped(NamedTuple):
    """A document that fits, and the JSON Pointers of what is not whole in it."""

    value: Any
    pointers: list[str]


def json_chars(value: Any) -> int:
    """The length of a value as compact JSON, in characters."""
    return len(orjson.dumps(value).decode())


def how_many(sizes: Iterable[int], most: int) -> int:
    """How many of the first fit together; one at least, if there is one."""
    count = total = 0
    for size in sizes:
        total += size
        if count and total > most:
            break
        count += 1
    return count


def clip(document: JsonObject, max_chars: int) -> Clipped:
    """Cuts the longest strings, then the longest arrays and objects, until the document fits.

    Returns:
        A copy; the document itself when it fits already.
    """
    size = json_chars(document)
    if size <= max_chars:
        return Clipped(document, [])
    copy: JsonObject = orjson.loads(orjson.dumps(document))
    pointers: list[str] = []
    while size > max_chars:
        place = _longest(copy)
        if place is None:
            break
        holder, key, pointer = place
        holder[key] = _shorter(holder[key], size - max_chars)
        if pointer not in pointers:
            pointers.append(pointer)
        size = json_chars(copy)
    return Clipped(copy, [p for p in pointers if not any(p.startswith(other + "/") for other in pointers)])


def _shorter(value: Any, excess: int) -> Any:
    if isinstance(value, str):
        keep = max(_SHORTEST, min(len(value) * 9 // 10, len(value) - excess) - 20)
        return value[:keep].rstrip("…") + "…"
    if isinstance(value, dict):
        return dict(list(cast(JsonObject, value).items())[: len(cast(JsonObject, value)) * 3 // 4])
    items = cast(list[Any], value)
    return items[: len(items) * 3 // 4]


def _longest(document: Any) -> tuple[Any, Any, str] | None:
    """Where the longest string that can be cut is, otherwise the longest array, at last the object with most keys.

    None if nothing is left to cut.
    """
    best: tuple[float, tuple[Any, Any, str]] | None = None
    for holder, key, pointer in _leaves(document, ""):
        value = holder[key]
        if isinstance(value, str):
            weight = json_chars(value) if len(value) > _SHORTEST + 1 else 0
        elif isinstance(value, dict):
            weight = 1 - 1 / (1 + len(cast(JsonObject, value)))  # less than any array has
        else:
            weight = min(json_chars(value), 400)  # strings first: an array goes only when no long string is left
        if weight and (best is None or weight > best[0]):
            best = (weight, (holder, key, pointer))
    return best[1] if best else None


def _leaves(value: Any, pointer: str) -> Iterator[tuple[Any, Any, str]]:
    items: Any = ()
    if isinstance(value, dict):
        items = cast(JsonObject, value).items()
    elif isinstance(value, list):
        items = enumerate(cast(list[Any], value))
    for key, item in items:
        place = f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"
        if isinstance(item, str) or (isinstance(item, (dict, list)) and item):
            yield value, key, place
        if isinstance(item, (dict, list)):
            yield from _leaves(item, place)
