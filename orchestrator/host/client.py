"""One tool call at another process of ours: how a command reaches the owner of its run.

No handshake and no SDK: a call of the 2026-07-28 era stands alone in one line.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from orchestrator import __version__
from orchestrator.engine.engine import Caller
from orchestrator.errors import TABLE, HostUnavailable, Internal, OrchestratorError
from orchestrator.host.place import API, HostError, dial
from orchestrator.model import JsonObject, as_object

CONNECT_S = 2.0
CALL_S = 60.0
LINE_BYTES = 64 * 2**20
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
        "forwarded": True,
    }
    params = {"name": tool, "arguments": arguments, "_meta": _ERA}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    try:
        connection = await asyncio.to_thread(dial, socket, CONNECT_S)
        if connection is None:
            raise HostUnavailable(f"the process that owns the run does not listen at {socket}; try again")
        connection.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_BYTES)
        try:
            async with asyncio.timeout(CALL_S):
                writer.write(b"".join(json.dumps(line).encode() + b"\n" for line in (first, request)))
                greeting = _object(await reader.readline())
                if not greeting.get("ok"):
                    raise HostUnavailable(f"the process that owns the run refuses: {greeting.get('error')}")
                while (answer := _object(await reader.readline())).get("id") != 1:
                    if not answer:
                        raise HostUnavailable("the process that owns the run went away; call get_run")
        finally:
            writer.close()
    except (OSError, ValueError, HostError, TimeoutError) as error:
        raise HostUnavailable(f"the process that owns the run does not answer: {error}; call get_run") from error
    return _document(answer)


def _object(line: bytes) -> dict[str, Any]:
    return as_object(json.loads(line)) or {} if line.strip() else {}


def _document(answer: JsonObject) -> JsonObject:
    result = as_object(answer.get("result")) or {}
    if (document := as_object(result.get("structuredContent"))) is not None:
        return document
    sentence = str(result["content"][0]["text"]) if result.get("content") else str(answer.get("error"))
    code, _, message = sentence.partition(": ")
    error: type[OrchestratorError] = _ERRORS.get(code, Internal)
    raise error(message if code in _ERRORS else sentence)
