"""A model that plays scripts behind Anthropic's Messages API, through the tools of Claude Code."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.model import JsonObject
from tests.models.play import Answer, Heard, Past, Tool, as_text, is_script
from tests.models.player import Player

Block = dict[str, Any]


class ClaudePlayer(Player):
    """`POST /v1/messages`, always with streaming."""

    path = "/v1/messages"

    def environment(self) -> Mapping[str, str]:
        """See `Player.environment`."""
        return {
            "ANTHROPIC_API_KEY": "none",
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_MODEL": "claude-sonnet-4-5",  # newer ones are given no todo list
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "DISABLE_TELEMETRY": "1",
        }

    def prepare(self, home: Path) -> None:
        """See `Player.prepare`: nothing."""

    def past(self, request: JsonObject) -> Past | None:
        """See `Player.past`."""
        messages = [(message["role"], _blocks(message)) for message in request["messages"]]
        scripts = [
            (place, block["text"])
            for place, (role, blocks) in enumerate(messages)
            if role == "user"
            for block in blocks
            if block["type"] == "text" and is_script(block["text"])
        ]
        if not scripts:
            return None
        place, script = scripts[-1]
        heard: list[Heard] = []
        called: dict[str, int] = {}
        said: list[str] = []
        for role, blocks in messages[place + 1 :]:
            if role == "assistant":
                heard.append(Heard([], []))
                called = {block["id"]: number for number, block in enumerate(blocks) if block["type"] == "tool_use"}
                continue
            gave = [block for block in blocks if block["type"] == "tool_result"]  # in the order in which they ended
            results = [_result(block) for block in sorted(gave, key=lambda block: called.get(block["tool_use_id"], 0))]
            words = [text for block in blocks if (text := _said(role, block))]
            said += words
            if heard:
                heard[-1] = Heard([*heard[-1].results, *results], [*heard[-1].said, *words])
        instructions = as_text(request.get("system"))
        return Past(script, len(scripts) - 1, heard, instructions, said)

    def error(self, code: int, why: str) -> JsonObject:
        """See `Player.error`."""
        return {"type": "error", "error": {"type": _ERRORS.get(code, "api_error"), "message": why}}

    def events(self, answer: Answer, request: JsonObject) -> Iterator[JsonObject]:
        """See `Player.events`."""
        number = len(request["messages"])
        name = f"{abs(hash(json.dumps(request['messages'][:1]))) % 10**9}_{number}"
        blocks = [*({"type": "thinking", "thinking": text} for text in answer.thinking)]
        for place, act in enumerate(answer.acts):
            if isinstance(act, str):
                blocks.append({"type": "text", "text": act})
            else:
                blocks += _calls(act, f"toolu_{name}_{place}", request)
        usage = {"input_tokens": answer.usage[0], "output_tokens": 1}
        message = {"id": f"msg_{name}", "type": "message", "role": "assistant", "model": request["model"]}
        yield {"type": "message_start", "message": {**message, "content": [], "stop_reason": None, "usage": usage}}
        for index, block in enumerate(blocks):
            yield from _streamed(index, block)
        calls = any(block["type"] == "tool_use" for block in blocks)
        stop = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
        yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": answer.usage[1]}}
        yield {"type": "message_stop"}


_ERRORS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error", 529: "overloaded_error",
}  # fmt: skip


def _streamed(index: int, block: Block) -> Iterator[JsonObject]:
    start: Block
    deltas: list[Block]
    match block["type"]:
        case "text":
            start, deltas = {"type": "text", "text": ""}, [{"type": "text_delta", "text": block["text"]}]
        case "thinking":
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": "bm9uZQ=="},
            ]
        case _:
            start = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _calls(tool: Tool, call_id: str, request: JsonObject) -> list[Block]:
    """A tool in Claude Code's own words; the todo list takes a call for each item and each change."""
    given = tool.arguments
    uses: list[tuple[str, Block]]
    match tool.kind:
        case "pretend":
            words = f"echo {shlex.quote(given['output'])}" if given["output"] else "true"
            uses = [("Bash", {"command": words + ("; false" if given["code"] else "")})]
        case "shell" | "shell_ask" | "shell_on":
            uses = [("Bash", {"command": given["command"], "run_in_background": tool.kind == "shell_on"})]
        case "write":
            uses = [("Write", {"file_path": given["path"], "content": given["text"]})]
        case "edit":
            uses = [("Edit", {"file_path": given["path"], "old_string": given["old"], "new_string": given["new"]})]
        case "read":
            uses = [("Read", {"file_path": given["path"]})]
        case "ask":
            options = [{"label": label, "description": label} for label in given["options"] or ["yes", "no"]]
            question = {"question": given["question"], "header": "Asked", "options": options, "multiSelect": False}
            uses = [("AskUserQuestion", {"questions": [question]})]
        case "todo":
            uses = _todo(given["items"], request)
        case "own":
            uses = [(given["name"], given["arguments"])]
        case "structured":
            uses = [("StructuredOutput", given["value"])]
        case _:
            uses = [("ListAgents", {})]
    return [
        {"type": "tool_use", "id": f"{call_id}_{number}", "name": name, "input": arguments}
        for number, (name, arguments) in enumerate(uses)
    ]


def _todo(items: list[tuple[str, str]], request: JsonObject) -> list[tuple[str, Block]]:
    if any(tool.get("name") == "TodoWrite" for tool in request.get("tools", ())):
        todos = [{"content": text, "status": status, "activeForm": text} for text, status in items]
        return [("TodoWrite", {"todos": todos})]
    made: list[tuple[str, Block]] = [("TaskCreate", {"subject": text, "description": text}) for text, _ in items]
    changed = [(place, status) for place, (_, status) in enumerate(items, 1) if status != "pending"]
    return made + [("TaskUpdate", {"taskId": str(place), "status": status}) for place, status in changed]


def _blocks(message: JsonObject) -> list[Block]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _result(block: Block) -> str:
    return as_text(block.get("content"))


_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)


_MEANWHILE = re.compile(r"The user sent a new message while you were working:\n(.*?)(?:\n\n|\n</|$)", re.DOTALL)


def _said(role: str, block: Block) -> str:
    """What a person said, without what the agent tells its model on the way."""
    text = block["text"] if block["type"] == "text" else _result(block)
    if match := _MEANWHILE.search(text):
        return match[1]
    if role == "system" or block["type"] != "text":
        return ""
    words = _REMINDER.sub("", text).strip()
    return "" if words.startswith("[") else words  # a note of the agent's
