"""Values of a `backend_config`, checked one by one. Pure.

Each reader takes the place of a value, for the message, and the value, and gives it back as what it is; or raises
`InvalidArgument` with what it takes. A backend keeps a table of them and reads its configuration by `read`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.errors import InvalidArgument, nearest
from orchestrator.model import JsonObject, as_array, as_object

Reader = Callable[[str, Any], Any]

OURS = "orchestrator"
"""The name of the MCP server with our own tools, which no other server may have."""


def read(backend: str, config: JsonObject, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The checked values by key. An unknown key is refused with the nearest known ones."""
    for name in config:
        if name not in readers:
            raise InvalidArgument(f"backend_config of {backend} has no key {name!r}{nearest(name, readers)}")
    return {name: readers[name](f"backend_config.{name}", value) for name, value in config.items()}


def text(place: str, value: Any) -> str:
    """A string that says something."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InvalidArgument(f"{place} must be a string that is not empty")
    return value


def word(place: str, value: Any) -> str:
    """A string that no program takes for an option."""
    if text(place, value).startswith("-"):
        raise InvalidArgument(f"{place} must not begin with '-'")
    return value


def words(place: str, value: Any) -> tuple[str, ...]:
    """An array of words."""
    if (items := as_array(value)) is None:
        raise InvalidArgument(f"{place} must be an array of strings")
    return tuple(word(place, item) for item in items)


def flag(place: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise InvalidArgument(f"{place} must be true or false")
    return value


def one_of(choices: tuple[str, ...]) -> Reader:
    """One of these words."""

    def reader(place: str, value: Any) -> str:
        if value not in choices:
            raise InvalidArgument(f"{place} is {repr(value)[:80]}; it takes {', '.join(choices)}")
        return value

    return reader


def seconds(place: str, value: Any) -> float:
    """A duration; 0 is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise InvalidArgument(f"{place} must be a number of seconds, not {value!r}")
    return value


def mcp_servers(place: str, value: Any) -> Mapping[str, JsonObject]:
    """MCP servers by name: `{command, args?, env?}`, or `{type: http | sse, url, headers?}`."""
    servers = as_object(value)
    if servers is None:
        raise InvalidArgument(f"{place} must be an object of servers by name")
    for name, given in servers.items():
        if re.sub(r"[^A-Za-z0-9_-]", "_", name).split("__")[0] == OURS:  # whose tools would have our names
            raise InvalidArgument(f"{place}.{name} is the name of our own; choose another")
        server = as_object(given) or {}
        wanted = "url" if server.get("type") in ("http", "sse") or "url" in server else "command"
        if server.get("type", "stdio") not in ("stdio", "http", "sse") or not isinstance(server.get(wanted), str):
            raise InvalidArgument(f"{place}.{name} must have a command, or type http or sse and a url, each a string")
    return servers
