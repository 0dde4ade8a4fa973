"""A model that plays scripts behind OpenAI's Responses API, through the tools of Codex."""

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

Item = dict[str, Any]

ECHO = "echo"
"""The name of an MCP server with a tool of the same name, which a test may give to the agent."""


class CodexPlayer(Player):
    """`POST /v1/responses`, always with streaming."""

    path = "/v1/responses"

    def environment(self) -> Mapping[str, str]:
        """See `Player.environment`: the key that `config` names."""
        return {"PLAYER_KEY": "none", "NO_PROXY": "127.0.0.1,localhost"}

    def prepare(self, home: Path) -> None:
        """See `Player.prepare`: the configuration by which Codex talks to this model."""
        (home / ".codex").mkdir(exist_ok=True)
        (home / ".codex" / "config.toml").write_text(_CONFIG.replace("URL", self.url), encoding="utf-8")

    def answer(self, request: JsonObject) -> Answer:
        """See `Player.answer`."""
        return super().answer(_unbroken(request))

    def past(self, request: JsonObject) -> Past | None:
        """See `Player.past`."""
        items: list[Item] = request["input"]
        scripts = [
            (place, text)
            for place, item in enumerate(items)
            if item.get("role") == "user"
            for text in _texts(item)
            if is_script(text)
        ]
        if not scripts:
            return None
        place, script = scripts[-1]
        heard: list[Heard] = []
        said: list[str] = []
        open_answer = False
        for item in items[place + 1 :]:
            if (number := _number_of(item)) is not None:
                while len(heard) <= number:
                    heard.append(Heard([], []))
                open_answer = False
            elif item.get("role") == "assistant":
                open_answer = True
            elif item["type"].endswith("_output"):
                last = heard[-1] if heard else Heard((), ())
                heard[-1:] = [Heard((*last.results, _output(item)), last.said)]
            elif item.get("role") == "user":
                if open_answer:  # what was said before it called no tool
                    heard.append(Heard([], []))
                    open_answer = False
                words = [text for text in _texts(item) if not text.lstrip().startswith("<")]
                said += words
                if heard:
                    heard[-1] = Heard(heard[-1].results, [*heard[-1].said, *words])
        instructions = "\n".join(text for item in items if item.get("role") == "developer" for text in _texts(item))
        return Past(script, len(scripts) - 1, heard, instructions + str(request.get("instructions")), said)

    def error(self, code: int, why: str) -> JsonObject:
        """See `Player.error`. A first word with an underscore is the kind of the error."""
        kind = why.split(" ")[0]
        names = {"type": kind, "code": kind} if "_" in kind else {"type": "error", "code": "scripted"}
        return {"error": {"message": why, **names}}

    def events(self, answer: Answer, request: JsonObject) -> Iterator[JsonObject]:
        """See `Player.events`."""
        request = _unbroken(request)
        past = self.past(request)
        number = len(past.heard) if past else 0
        name = f"{len(request['input'])}_{number}"
        response: JsonObject = {"id": f"resp_{name}", "object": "response", "output": []}
        yield {"type": "response.created", "response": {**response, "status": "in_progress"}}
        items = [
            {"type": "reasoning", "id": f"rs_{name}_{place}", "summary": [{"type": "summary_text", "text": text}],
             "encrypted_content": "none"}
            for place, text in enumerate(answer.thinking)
        ]  # fmt: skip
        for place, act in enumerate(answer.acts):
            if isinstance(act, str):
                content: JsonObject = {"type": "output_text", "text": act, "annotations": []}
                items.append(
                    {"type": "message", "id": f"msg_{name}_{place}", "role": "assistant", "content": [content]}
                )
            else:
                items.append({**_call(act), "id": f"fc_{name}_{place}", "call_id": f"call_{number}_{place}_{name}"})
        for place, item in enumerate(items):
            yield {"type": "response.output_item.added", "output_index": place, "item": item}
            if answer.broken and item is items[-1] and item["type"] == "message":
                where = {"item_id": item["id"], "output_index": place, "content_index": 0}
                yield {"type": "response.output_text.delta", **where, "delta": _texts(item)[0][:2]}
            else:
                yield {"type": "response.output_item.done", "output_index": place, "item": item}
        if answer.broken is not None:
            kind, why = answer.broken
            if not kind:
                raise ConnectionError("the script cuts it")
            failed = {"status": "failed", "error": {"code": kind, "message": why}}
            yield {"type": "response.failed", "response": {**response, **failed}}
            return
        used, made = answer.usage
        usage = {"input_tokens": used, "output_tokens": made, "total_tokens": used + made}
        yield {"type": "response.completed", "response": {**response, "status": "completed", "usage": usage}}


def _call(tool: Tool) -> Item:  # noqa: C901  one row for each kind of tool
    """A tool in Codex's own words."""
    given = tool.arguments
    match tool.kind:
        case "pretend":
            words = f"echo {shlex.quote(given['output'])}" if given["output"] else "true"
            return _function("exec_command", cmd=words + ("; false" if given["code"] else ""))
        case "shell":
            return _function("exec_command", cmd=given["command"])
        case "shell_on":
            return _function("exec_command", cmd=given["command"], yield_time_ms=250)
        case "shell_ask":
            more = {"sandbox_permissions": "require_escalated", "justification": "it has to be so"}
            return _function("exec_command", cmd=given["command"], **more)
        case "read":
            return _function("exec_command", cmd=f"cat {shlex.quote(given['path'])}")
        case "write":
            lines = "".join(f"+{line}\n" for line in given["text"].splitlines())
            return _patch(f"*** Add File: {given['path']}\n{lines}")
        case "edit":
            return _patch(f"*** Update File: {given['path']}\n@@\n-{given['old']}\n+{given['new']}\n")
        case "ask":
            options = {"options": given["options"]} if given["options"] else {}
            return _function("ask_caller", question=given["question"], **options)
        case "todo":
            plan = [{"step": text, "status": status} for text, status in given["items"]]
            return _function("update_plan", plan=plan)
        case "own":
            return _own(given["name"], given["arguments"])
        case "structured":
            content: JsonObject = {"type": "output_text", "text": json.dumps(given["value"]), "annotations": []}
            return {"type": "message", "role": "assistant", "content": [content]}
        case _:
            return {**_function(ECHO, text=given["result"]), "namespace": f"mcp__{ECHO}"}


def _function(name: str, **arguments: Any) -> Item:
    return {"type": "function_call", "name": name, "arguments": json.dumps(arguments), "status": "completed"}


def _own(name: str, arguments: JsonObject) -> Item:
    """A tool by its own name; one of an MCP server has that before it: `mcp__echo.echo`."""
    space, _, name = name.rpartition(".")
    if name == "apply_patch":
        return {"type": "custom_tool_call", "name": name, "input": arguments["input"], "status": "completed"}
    return {**_function(name, **arguments), **({"namespace": space} if space else {})}


def _patch(body: str) -> Item:
    text = f"*** Begin Patch\n{body}*** End Patch"
    return {"type": "custom_tool_call", "name": "apply_patch", "input": text, "status": "completed"}


def _unbroken(request: JsonObject) -> JsonObject:
    """A request without what was said in an answer that broke off: so it is the one that is made again."""
    items: list[Item] = list(request["input"])
    while items and (items[-1].get("role") == "assistant" or items[-1]["type"] == "reasoning"):
        items.pop()
    return {**request, "input": items}


_CALL = re.compile(r"call_(\d+)_")


def _number_of(item: Item) -> int | None:
    """Of which answer an item is the call of a tool; None if it is none."""
    match = _CALL.match(str(item.get("call_id"))) if item["type"].endswith("_call") else None
    return int(match[1]) if match else None


def _texts(item: Item) -> list[str]:
    content = item.get("content")
    parts: list[Item] = [{"text": content}] if isinstance(content, str) else content or []
    return [part.get("text", "") for part in parts]


def _output(item: Item) -> str:
    """What a tool gave, without the lines on how it went that Codex puts before it."""
    text = as_text(item["output"])
    return text.partition("Output:\n")[2] if "Output:\n" in text else text


_CONFIG = """\
model = "gpt-5.5"
model_provider = "player"

[model_providers.player]
name = "player"
base_url = "URL/v1"
wire_api = "responses"
env_key = "PLAYER_KEY"
request_max_retries = 0
stream_max_retries = 2
"""
