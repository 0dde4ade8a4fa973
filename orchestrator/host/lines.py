"""Lines of JSON-RPC as bridge and host look at them: where they end, and which requests are open. Standard library
only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Generic, Literal, NamedTuple, TypeVar

LINE_BYTES = 64 * 2**20
"""A longer line is nobody's."""

READS = frozenset(
    "get_run list_runs poll_events wait_runs get_event_artifact list_profiles list_agents fetch_messages "
    "fetch_agent_messages get_patch".split()
)
"""Tools that may be called again when nobody knows whether the first call arrived."""


class Heard(NamedTuple):
    """What a line is, as far as anybody here cares.

    Attributes:
        kind: `cancel` and `initialized` are the notifications of that name; an `answer` has an id and no method.
        id: of the request that the line makes, answers or cancels.
        tool: what a `tools/call` calls.
    """

    kind: Literal["request", "answer", "cancel", "initialized", "other"]
    id: Any = None
    method: str = ""
    tool: str | None = None

    @property
    def key(self) -> str:
        """The id as a key: 1 and "1" are two ids."""
        return json.dumps(self.id)

    @property
    def is_command(self) -> bool:
        """Whether it may change something, so that it must not be asked twice."""
        return self.tool is not None and self.tool not in READS


def parsed(line: bytes) -> dict[str, Any]:
    """A line as a JSON object; nothing if it is none, for what is wrong with it is for others to say."""
    try:
        return _object(json.loads(line)) or {}
    except (ValueError, RecursionError):
        return {}


def _object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]


def hear(line: bytes) -> Heard:
    """What a line is. A request that no server would answer, for it is malformed, is none."""
    message = parsed(line)
    method, request_id = message.get("method"), message.get("id")
    if method is None:
        return Heard("answer", request_id) if "id" in message else Heard("other")
    params = _object(message.get("params", {}))
    if not isinstance(method, str) or params is None or message.get("jsonrpc") != "2.0":
        return Heard("other")
    if method == "notifications/cancelled":
        return Heard("cancel", params.get("requestId"), method)
    if method == "notifications/initialized":
        return Heard("initialized", method=method)
    if isinstance(request_id, bool) or not isinstance(request_id, (str, int)):
        return Heard("other", method=method)
    return Heard("request", request_id, method, str(params.get("name")) if method == "tools/call" else None)


T = TypeVar("T")


class OpenCalls(Generic[T]):
    """The requests that are not answered yet, in the order in which they came, with something for each."""

    def __init__(self) -> None:
        self._calls: dict[str, T] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._calls.values()))

    def open(self, heard: Heard, call: T) -> None:
        """A request came."""
        self._calls[heard.key] = call

    def close(self, heard: Heard) -> bool:
        """It was answered, or cancelled and so never will be. False if there was none.

        Whoever cancels may write 1 as "1": the SDK takes either for the other.
        """
        if self._calls.pop(heard.key, None) is not None:
            return True
        other = heard._replace(id=int(heard.id) if _is_number(heard.id) else str(heard.id))
        return heard.kind == "cancel" and self._calls.pop(other.key, None) is not None

    def clear(self) -> None:
        """Forgets all."""
        self._calls.clear()


def _is_number(request_id: Any) -> bool:
    return isinstance(request_id, str) and request_id.isascii() and request_id.isdigit()


class Splitter:
    """Pieces in, whole lines out."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self.size = 0
        """Bytes of a line whose end has not come yet."""

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that end in this piece, without their ends."""
        first, *rest = piece.split(b"\n")
        self._begun.append(first)
        self.size += len(first)
        if not rest:
            return []
        lines = [b"".join(self._begun), *rest[:-1]]
        self._begun = [rest[-1]]
        self.size = len(rest[-1])
        return lines
