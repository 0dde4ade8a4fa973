"""What Codex says, for tests: recordings of the real CLI, notifications made by hand, and updates in short.

`tests/golden/codex.jsonl` holds what Codex 0.163.0 told and asked while a scripted model worked with it: a line
`{"recording": name}`, then the messages, with ids, times and paths made the same for all. Its folder is CWD. The
first recording is whole; the others are without what Codex says of itself and of its account.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from backends.codex.client import Request
from backends.codex.updates import Translation
from orchestrator.model import JsonObject
from orchestrator.updates import Update

CWD = Path("/work/project")
_FILE = Path(__file__).parents[1] / "golden/codex.jsonl"


@cache
def recordings() -> dict[str, list[JsonObject]]:
    found: dict[str, list[JsonObject]] = {}
    messages: list[JsonObject] = []
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        message = json.loads(line)
        if name := message.get("recording"):
            messages = found[name] = []
        else:
            messages.append(message)
    return found


def own(name: str) -> list[JsonObject]:
    """The messages of a recording that the conversation passes on: of the run's own thread, and not of earlier runs."""
    messages = recordings()[name]
    turn = next(m["params"] for m in messages if m["method"] == "turn/started")
    return [m for m in messages if _concerns(m, turn["threadId"], turn["turn"]["id"])]


def _concerns(message: JsonObject, thread: str, turn: str) -> bool:
    params = message["params"]
    earlier = message["method"] == "thread/tokenUsage/updated" and params["turnId"] != turn
    return params.get("threadId", thread) == thread and not earlier


def asked(name: str) -> list[Request]:
    """What Codex asked in a recording."""
    return [Request(m["id"], m["method"], m["params"]) for m in recordings()[name] if "id" in m]


def tell(told: Translation, *messages: JsonObject) -> list[Update]:
    found: list[Update] = []
    for message in messages:
        if "id" not in message:
            found += told.updates(message["method"], message["params"])
    return found


def played(name: str) -> tuple[Translation, list[Update]]:
    told = Translation(CWD)
    return told, tell(told, *own(name))


def shape(update: Update) -> tuple[str, JsonObject]:
    """An update in short: without ids."""
    ids = ("message_id", "command_id", "tool_id", "cwd")
    return update.type, {name: value for name, value in update.payload().items() if name not in ids}


def shapes(updates: Iterable[Update]) -> list[tuple[str, JsonObject]]:
    return [shape(update) for update in updates]


def begun(kind: str, item_id: str = "i", **fields: Any) -> JsonObject:
    return {"method": "item/started", "params": {"item": {"type": kind, "id": item_id, **fields}, "threadId": "t"}}


def ended(kind: str, item_id: str = "i", **fields: Any) -> JsonObject:
    return {"method": "item/completed", "params": {"item": {"type": kind, "id": item_id, **fields}, "threadId": "t"}}
