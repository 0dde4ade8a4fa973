"""One tool call at another process of ours: how a command reaches the owner of its run.

No handshake and no SDK: a call of the 2026-07-28 era stands alone in one line.
"""

from __future__ import annotations

import asyncio
import json
from socket import socket as Socket

from orchestrator import __version__
from orchestrator.engine.engine import Caller
from orchestrator.errors import TABLE, HostUnavailable, Internal, OrchestratorError
from orchestrator.host.lines import LINE_BYTES, parsed
from orchestrator.host.place import API, HostError, dial
from orchestrator.model import JsonObject, as_object

CONNECT_S = 2.0
CALL_S = 60.0
_ERA = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "orchestrator", "version": __version__},
    "io.modelcontextprotocol/clientCapabilities": {},
}
_ERRORS = {row.code: error for error, row in TABLE.items()}


async def call(socket: str, caller: Caller, tool: str, arguments: JsonObject) -> JsonObject:
    """Calls a tool at the socket of another process, for the same caller.

    Raises:
        OrchestratorError: the call was refused there, or nobody answers.
    """
    first = {
        "orchestrator": API,
        "build": __version__,
        "cwd": str(caller.cwd),
        "env": dict(caller.env),
        "scripted": caller.backends is None or "scripted" in caller.backends,
        "toolsets": sorted(caller.toolsets),
        "forwarded": True,
    }
    connection = await asyncio.to_thread(_dialled, socket)
    return await _talk(connection, first, tool, arguments)


def _dialled(path: str) -> Socket:
    try:
        connection = dial(path, CONNECT_S)
    except (OSError, HostError) as error:
        raise HostUnavailable(f"the process that owns the run cannot be reached: {error}") from error
    if connection is None:
        raise HostUnavailable(f"the process that owns the run does not listen at {path}; try again")
    return connection


async def exchange(connection: Socket, tool: str, arguments: JsonObject) -> JsonObject:
    """One tool call on a connection on which the first lines were said; closes it.

    Raises:
        OrchestratorError: the call was refused, or the host went away.
    """
    return await _talk(connection, None, tool, arguments)


async def _talk(connection: Socket, first: JsonObject | None, tool: str, arguments: JsonObject) -> JsonObject:
    params = {"name": tool, "arguments": arguments, "_meta": _ERA}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    try:
        connection.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_BYTES)
        try:
            async with asyncio.timeout(CALL_S):
                if first is not None:
                    writer.write(json.dumps(first).encode() + b"\n")
                    greeting = parsed(await reader.readline())
                    if not greeting.get("ok"):
                        why = greeting.get("error", "it is about to end")
                        raise HostUnavailable(f"the process that owns the run refuses: {why}; try again")
                writer.write(json.dumps(request).encode() + b"\n")
                while (answer := parsed(await reader.readline())).get("id") != 1:
                    if not answer:
                        raise HostUnavailable("the host went away while it was asked; call list_runs")
        finally:
            writer.close()
    except (OSError, ValueError, TimeoutError) as error:
        raise HostUnavailable(f"the host does not answer: {error}; call get_run") from error
    return _document(answer)


def _document(answer: JsonObject) -> JsonObject:
    result = as_object(answer.get("result")) or {}
    if (document := as_object(result.get("structuredContent"))) is not None:
        return document
    sentence = str(result["content"][0]["text"]) if result.get("content") else str(answer.get("error"))
    code, _, message = sentence.partition(": ")
    error: type[OrchestratorError] = _ERRORS.get(code, Internal)
    raise error(message if code in _ERRORS else sentence)
