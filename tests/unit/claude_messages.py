"""Messages of Claude Code for tests: recordings of the real CLI, messages made by hand, and updates in short.

`tests/golden/claude_code.jsonl` holds what Claude Code 2.1.329 said to the SDK while a scripted model worked with it: a
line `{"recording": name}`, then the raw messages, with ids, times and paths made the same for all. Its folder is CWD.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from claude_agent_sdk import Message
from claude_agent_sdk._internal.message_parser import parse_message

from backends.claude_code.updates import Stored, Told, Translation
from orchestrator.model import JsonObject

CWD = Path("/work/project")
_FILE = Path(__file__).parents[1] / "golden/claude_code.jsonl"


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


def parsed(raw: JsonObject) -> Message:
    message = parse_message(raw)
    assert message is not None
    return message


def tell(told: Translation, *raw: JsonObject) -> list[Told]:
    return [update for one in raw for update in told.updates(parsed(one))]


def played(name: str) -> tuple[Translation, list[Told]]:
    told = Translation(CWD)
    return told, tell(told, *recordings()[name])


def shape(update: Told) -> tuple[str, JsonObject]:
    """An update in short: without ids, and with a stored output as the file it is in."""
    stored = {"stored": str(update.path)} if isinstance(update, Stored) else {}
    plain = update.update if isinstance(update, Stored) else update
    ids = ("message_id", "command_id", "tool_id", "cwd")
    return plain.type, {name: value for name, value in plain.payload().items() if name not in ids} | stored


def shapes(updates: Iterable[Told], *types: str) -> list[tuple[str, JsonObject]]:
    return [shape(update) for update in updates if not types or shape(update)[0] in types]


def payloads(updates: Iterable[Told], kind: str) -> list[JsonObject]:
    return [payload for _, payload in shapes(updates, kind)]


def ended(command: str, output: str | None, code: int | None, status: str, **more: Any) -> JsonObject:
    given = {"command": command, "output": output, "exit_code": code, "status": status, **more}
    return {name: value for name, value in given.items() if value is not None}


# ---- messages made by hand


def assistant(*blocks: JsonObject, model: str = "m", parent: str | None = None, message_id: str = "msg") -> JsonObject:
    message = {"id": message_id, "model": model, "content": list(blocks)}
    return {"type": "assistant", "message": message, "parent_tool_use_id": parent, "uuid": "u"}


def call(name: str, given: Any = None, call_id: str = "c") -> JsonObject:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {} if given is None else given}


def returned(content: Any = "", result: Any = None, *, failed: bool | None = False, call_id: str = "c") -> JsonObject:
    block = {"type": "tool_result", "tool_use_id": call_id, "content": content, "is_error": failed}
    message = {"role": "user", "content": [block]}
    return {"type": "user", "message": message, "parent_tool_use_id": None, "tool_use_result": result, "uuid": "u"}


def system(subtype: str, **data: Any) -> JsonObject:
    return {"type": "system", "subtype": subtype, "uuid": "u", "session_id": "s", **data}
