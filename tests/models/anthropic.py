"""The scripted model behind Anthropic's Messages API, as Claude Code speaks to it: ANTHROPIC_BASE_URL is its `url`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from orchestrator.model import JsonObject
from tests.models.server import Call, Model, Said


class AnthropicModel(Model):
    """`POST /v1/messages`, always with streaming."""

    path = "/v1/messages"

    @classmethod
    def search(cls, server: str, names: Sequence[str]) -> Call:
        """See `Model.search`. Some tools are shown at once; those that are not are told of by name."""
        wanted = ",".join(_prefix(server) + name for name in names)
        return Call("ToolSearch", {"query": f"select:{wanted}", "max_results": len(names)})

    def shown(self, request: JsonObject, server: str) -> set[str]:
        """See `Model.shown`."""
        names: list[str] = [tool["name"] for tool in request["tools"]]
        return {name.removeprefix(_prefix(server)) for name in names if name.startswith(_prefix(server))}

    def spoken(self, request: JsonObject) -> int:
        """See `Model.spoken`."""
        return sum(message["role"] == "assistant" for message in request["messages"])

    def heard(self, request: JsonObject) -> str:
        """See `Model.heard`. Messages with role `system`, reminders of the agent's, may follow the result."""
        last = takewhile(lambda message: message["role"] != "assistant", reversed(request["messages"]))
        blocks: list[JsonObject] = [
            block for message in last if message["role"] == "user" for block in message["content"]
        ]
        return "".join(_text(block) for block in blocks if block["type"] == "tool_result")

    def events(self, said: Said, number: int) -> Iterator[JsonObject]:
        """See `Model.events`."""
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": "scripted"}
        yield {"type": "message_start", "message": {**message, "content": [], "stop_reason": None, "usage": usage}}
        if isinstance(said, Call):
            name = _prefix(said.server) + said.name if said.server else said.name
            block: JsonObject = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(said.arguments)}
        else:
            block = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": said}
        yield {"type": "content_block_start", "index": 0, "content_block": block}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
        yield {"type": "content_block_stop", "index": 0}
        stop = {"stop_reason": "tool_use" if isinstance(said, Call) else "end_turn", "stop_sequence": None}
        yield {"type": "message_delta", "delta": stop, "usage": usage}
        yield {"type": "message_stop"}


def _prefix(server: str) -> str:
    return f"mcp__{server}__"


def _text(block: JsonObject) -> str:
    content: str | list[dict[str, Any]] = block.get("content", "")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
