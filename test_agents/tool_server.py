"""The tools of an A2A client in the hands of the agent that works for it: an MCP server at a socket of one task.

Above: the agent, which starts `pipe.py` as its MCP server on stdio. Below: the task's `Work`, through which a call
reaches the client as a pause of the task. Asking and telling need no call: A2A has words for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, cast

import anyio
import mcp_types as types
import orjson
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from backends.remote_a2a.extension import ToolCall
from orchestrator.model import Answer, InputRequest, JsonObject, compact
from orchestrator.questions import with_context
from orchestrator.updates import Progress, Update
from test_agents import pipe

logger = logging.getLogger(__name__)

LINE_BYTES = 16 * 2**20


class ToolResult(NamedTuple):
    """What a tool of the client gave."""

    text: str
    is_error: bool


class Client(Protocol):
    """Who brings calls to the client: the task's work."""

    async def ask(self, request: InputRequest) -> Answer:
        """See `RunContext.ask`."""
        ...

    async def emit(self, update: Update) -> None:
        """See `RunContext.emit`."""
        ...

    async def call(self, call: ToolCall) -> ToolResult:
        """Has the client call one of its tools."""
        ...


class ToolServer:
    """The server of one task, while the block lasts. Also the backend's `AgentTools`.

    Args:
        tools: as the client told them, in MCP's shape; untrusted, so only what makes a tool of MCP is offered.
    """

    def __init__(self, tools: Sequence[JsonObject], client: Client) -> None:
        self._tools = [tool for given in tools if (tool := _tool(given))]
        self._client = client
        self._asked = 0
        self._path = ""
        self._closing = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="orc-")  # for the user alone
        self._path = f"{folder}/sock"
        listener = await asyncio.start_unix_server(self._serve, self._path, limit=LINE_BYTES)
        self._closing.callback(_remove, Path(folder))
        self._closing.callback(listener.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    @property
    def server(self) -> JsonObject:
        """See `AgentTools.server`."""
        return {"command": sys.executable, "args": ["-I", pipe.__file__, self._path], "env": {}}

    def listed(self) -> list[JsonObject]:
        """See `AgentTools.listed`."""
        return [tool.model_dump(by_alias=True, exclude_none=True) for tool in self._tools]

    async def call(self, call_id: str, name: str, arguments: JsonObject) -> JsonObject:
        """See `AgentTools.call`."""
        result = await self._client.call(ToolCall(call_id, name, arguments))
        return {"content": [{"type": "text", "text": result.text}], "isError": result.is_error}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server: Server[Any] = Server("orchestrator", on_list_tools=self._list_tools, on_call_tool=self._call_tool)
        stream = cast(anyio.AsyncFile[str], _Lines(reader, writer))
        try:
            async with stdio_server(stream, stream) as (read, write):
                await server.run(read, write, server.create_initialization_options())
        except (OSError, ExceptionGroup) as gone:
            logger.info("the agent's client went away: %r", gone)
        finally:
            writer.close()

    async def _list_tools(self, _ctx: Any, _params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=self._tools)

    async def _call_tool(self, _ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        given = params.arguments or {}
        match params.name:
            case "ask_caller" if isinstance(given.get("question"), str):
                result = ToolResult(await self._ask(given), is_error=False)
            case "report_progress" if isinstance(given.get("text"), str):
                progress = compact({"text": given["text"], "percent": given.get("percent")})
                await self._client.emit(Progress(detail=given["text"], progress=progress))
                result = ToolResult('{"reported":true}', is_error=False)
            case name:
                result = await self._client.call(ToolCall(uuid.uuid4().hex, name, given))
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=result.text)], is_error=result.is_error
        )

    async def _ask(self, given: JsonObject) -> str:
        self._asked += 1
        question = with_context(given)
        options = [{"id": str(option), "label": str(option)} for option in given.get("options") or ()]
        request_id = f"ask_caller:{self._asked}"
        request = InputRequest(request_id=request_id, kind="question", text=question, options=options or None)
        answer = await self._client.ask(request)
        declined = answer.decision == "deny" and not any(option["id"] == "deny" for option in options)
        said = {"declined": True, "reason": answer.text} if declined else {"answer": answer.text}
        return orjson.dumps(said).decode()


def _tool(given: JsonObject) -> types.Tool | None:
    with contextlib.suppress(ValueError):
        return types.Tool.model_validate(given)
    return None


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / "sock").unlink(missing_ok=True)
        folder.rmdir()


class _Lines:
    """A connection as the SDK's transport wants it: an async iterator of lines, and a text file to write."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def __aiter__(self) -> AsyncIterator[str]:
        while line := await self._reader.readline():
            yield line.decode()

    async def write(self, text: str) -> None:
        self._writer.write(text.encode())
        await self._writer.drain()

    async def flush(self) -> None:
        pass
