"""The scripted model behind OpenAI's Responses API, as Codex speaks to it: a provider's `base_url` is `url` + /v1."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from orchestrator.model import JsonObject
from tests.models.server import Call, Model, Said

SEARCH = "tool_search"


class OpenAIModel(Model):
    """`POST /v1/responses`, always with streaming."""

    path = "/v1/responses"

    @classmethod
    def search(cls, server: str, names: Sequence[str]) -> Call:
        """See `Model.search`. No tool of an MCP server is shown at once, only what the server says of itself."""
        return Call(SEARCH, {"query": " ".join([server, *names]), "limit": len(names)})

    def shown(self, request: JsonObject, server: str) -> set[str]:
        """See `Model.shown`. What was searched for is shown where it was found."""
        found = [item["tools"] for item in request["input"] if item["type"] == f"{SEARCH}_output"]
        spaces = [tool for tools in [request["tools"], *found] for tool in tools if tool["type"] == "namespace"]
        return {tool["name"] for space in spaces if space["name"] == _space(server) for tool in space["tools"]}

    def spoken(self, request: JsonObject) -> int:
        """See `Model.spoken`."""
        return sum(_is_the_models(item) for item in request["input"])

    def heard(self, request: JsonObject) -> str:
        """See `Model.heard`."""
        last = takewhile(lambda item: not _is_the_models(item), reversed(request["input"]))
        return "".join(_text(item["output"]) for item in last if item["type"] == "function_call_output")

    def events(self, said: Said, number: int) -> Iterator[JsonObject]:
        """See `Model.events`."""
        response: JsonObject = {"id": f"resp_{number}", "object": "response", "output": []}
        yield {"type": "response.created", "response": {**response, "status": "in_progress"}}
        yield {"type": "response.output_item.done", "output_index": 0, "item": _item(said, number)}
        usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        yield {"type": "response.completed", "response": {**response, "status": "completed", "usage": usage}}


def _item(said: Said, number: int) -> JsonObject:
    if isinstance(said, str):
        content: JsonObject = {"type": "output_text", "text": said, "annotations": []}
        return {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": [content]}
    call = {"call_id": f"call_{number}", "status": "completed"}
    if said.name == SEARCH:
        arguments = said.arguments
        return {"type": f"{SEARCH}_call", "id": f"ts_{number}", "execution": "client", "arguments": arguments, **call}
    space = {"namespace": _space(said.server)} if said.server else {}
    arguments = json.dumps(said.arguments)
    return {"type": "function_call", "id": f"fc_{number}", "name": said.name, "arguments": arguments, **space, **call}


def _is_the_models(item: JsonObject) -> bool:
    return item["type"] in ("function_call", f"{SEARCH}_call") or item.get("role") == "assistant"


def _space(server: str) -> str:
    return f"mcp__{server}"


def _text(output: str | list[dict[str, Any]]) -> str:
    """What a tool gave, without the line on how long it took that Codex puts before it."""
    text = output if isinstance(output, str) else "\n".join(part.get("text", "") for part in output)
    return text.partition("\nOutput:\n")[2] if text.startswith("Wall time: ") else text
