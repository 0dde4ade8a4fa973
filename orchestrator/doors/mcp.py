"""The MCP door: tools, prompts and resources on the SDK's low-level Server, over any streams, in both eras.

MCPServer is not used: it drops unknown arguments silently and puts a prefix before every error. An error is a tool
result with `isError` and text alone, because known clients read different channels of an error that has both.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from functools import partial
from typing import Any, Protocol, cast

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from orchestrator import __version__
from orchestrator.doors.mcp_offers import Offers
from orchestrator.doors.mcp_tasks import Waiting, refused, told
from orchestrator.doors.mcp_watching import Watching
from orchestrator.doors.schemas import INSTRUCTIONS, Tool
from orchestrator.doors.tools import Tools
from orchestrator.errors import Internal, OrchestratorError
from orchestrator.model import JsonObject

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def make_server(tools: Tools) -> Generator[Server[dict[str, Any]]]:
    """An MCP server that offers the tools to one caller, for as long as the block lasts."""

    async def list_tools(_ctx: Any, _params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_listed(tool) for tool in tools.offered])

    async def discover(ctx: Any, _params: types.RequestParams) -> types.DiscoverResult:
        """As the SDK's own, but that no list of ours ever changes: clients would listen for it all the time."""
        offered = server.get_capabilities(protocol_version=ctx.protocol_version)
        for part in filter(None, (offered.tools, offered.prompts, offered.resources)):
            part.list_changed = False
        versions = list(MODERN_PROTOCOL_VERSIONS)
        return types.DiscoverResult(supported_versions=versions, capabilities=offered, instructions=INSTRUCTIONS)

    offers, watching = Offers(tools), Watching(tools)
    waiting = Waiting(tools, partial(call, tools))
    server = Server[dict[str, Any]](
        "orchestrator",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=waiting.call,
        on_list_prompts=offers.list_prompts,
        on_get_prompt=offers.get_prompt,
        on_list_resources=offers.list_resources,
        on_list_resource_templates=offers.list_templates,
        on_read_resource=offers.read_resource,
        on_completion=offers.complete,
        on_subscribe_resource=watching.subscribe,
        on_unsubscribe_resource=watching.unsubscribe,
        on_subscriptions_listen=watching.listen,
    )
    server.add_request_handler("server/discover", types.RequestParams, discover)
    waiting.offer(server)
    try:
        yield server
    finally:
        watching.close()


async def call(tools: Tools, name: str, arguments: Mapping[str, Any]) -> types.CallToolResult:
    """One tool call as an MCP result. Never raises but for cancellation."""
    try:
        document = await tools.call(name, arguments)
    except OrchestratorError as error:
        return refused(error)
    except Exception:
        logger.exception("tool %s failed", name)
        return refused(Internal(f"{name} met a defect of the orchestrator; its log has the details"))
    return told(document)


class Calls:
    """The tools of an agent that is elsewhere: in MCP's shapes, without a session. Also the engine's `Calls`."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def listed(self) -> list[JsonObject]:
        """The tools as MCP lists them."""
        shapes = [(tool.name, tool.description, tool.input_schema) for tool in self._tools.offered]
        return [{"name": name, "description": words, "inputSchema": schema} for name, words, schema in shapes]

    async def call(self, call_id: str, name: str, arguments: JsonObject) -> JsonObject:
        """Calls one. Never raises but for cancellation. A spawn that is asked for again is found again."""
        once = {"idempotency_key": f"{self._tools.caller.parent_run_id}:{call_id}"} if name == "spawn_run" else {}
        result = await call(self._tools, name, {**once, **arguments})
        return result.model_dump(mode="json", by_alias=True, exclude_none=True, include={"content", "is_error"})


def _listed(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.input_schema,
        annotations=types.ToolAnnotations(
            read_only_hint=tool.read,
            destructive_hint=tool.destructive,
            idempotent_hint=tool.idempotent,
            open_world_hint=not tool.read,
        ),
        _meta={"anthropic/alwaysLoad": True} if tool.always else None,
    )


class Lines(Protocol):
    """A client's lines in both directions."""

    def __aiter__(self) -> AsyncIterator[str]:
        """What the client says; ends when it does."""
        ...

    async def write(self, text: str) -> object:
        """Says one line."""
        ...

    async def flush(self) -> object:
        """Holds nothing back."""
        ...


def fault_of(line: bytes) -> str | None:
    """What is wrong with a line that the SDK would drop without an answer; None if nothing is."""
    try:
        types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError as error:
        return str(error).splitlines()[0][:200]
    return None


def refusal(request_id: str | int, fault: str) -> str:
    """The answer to a request that is no message of JSON-RPC, as a line."""
    error = {"code": types.INVALID_REQUEST, "message": f"not a JSON-RPC message: {fault}"}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}) + "\n"


async def serve_lines(tools: Tools, lines: Lines) -> None:
    """Serves one client of many in this process, until it ends."""
    stream = cast(anyio.AsyncFile[str], lines)  # of a file the SDK uses no more than `Lines` has
    with make_server(tools) as server:
        async with stdio_server(stream, stream) as (read, write):
            await server.run(read, write, server.create_initialization_options())


async def serve_stdio(tools: Tools, close: Callable[[], Awaitable[None]]) -> None:
    """Serves one client on stdin and stdout until EOF, SIGTERM, SIGINT or SIGHUP, and then ends the process.

    Args:
        close: called once, on whichever comes first; bounded, for clients kill about half a second later.
    """
    closed = asyncio.Event()

    async def leave(why: str) -> None:
        if closed.is_set():
            return
        closed.set()
        logger.info("ending: %s", why)
        with anyio.CancelScope(shield=True):
            await close()
        logging.shutdown()
        os._exit(0)  # the SDK's thread that reads stdin cannot be cancelled

    async def on_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                await leave(signal.Signals(number).name)

    async with anyio.create_task_group() as group:
        group.start_soon(on_signal)
        with make_server(tools) as server:
            async with stdio_server() as (read, write):
                await server.run(read, write, server.create_initialization_options())
        await leave("end of input")
