"""The SDK's way to its CLI, over a process of ours. The one file that knows private parts of the SDK.

The SDK's own transport starts the CLI in our session and with our environment, and cannot end what the CLI started; so
the process is ours (`LineProcess`) and the SDK gets its lines. Of the SDK's transport only the command line is used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    ClaudeSDKError,
    CLIJSONDecodeError,
    ProcessError,
    Transport,
)
from claude_agent_sdk._internal.transport.subprocess_cli import SubprocessCLITransport

from backends.claude_code.sessions import Spent
from orchestrator.line_process import LineProcess
from orchestrator.model import as_object


def command_of(options: ClaudeAgentOptions) -> list[str]:
    """The command line of the CLI for these options, which must name the CLI."""
    asking = replace(options, permission_prompt_tool_name="stdio", can_use_tool=None)
    return SubprocessCLITransport(prompt="", options=asking)._build_command()  # pyright: ignore[reportPrivateUsage]


async def spent_now(client: ClaudeSDKClient) -> Spent:
    """What the session used until now: the CLI says so when it is asked, and the SDK does not ask.

    Raises:
        ClaudeSDKError: it does not answer.
    """
    asking = {"subtype": "get_usage", "skip_behaviors": True, "detached": True}
    try:
        answer = await client._query._send_control_request(asking)  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
    except Exception as error:  # the SDK raises a bare one for what the CLI refuses
        raise ClaudeSDKError(f"Claude Code does not say what it used: {error}") from error
    session = as_object(answer.get("session")) or {}
    return Spent.of(session.get("total_cost_usd"), session.get("model_usage"))


class ProcessTransport(Transport):
    """A running CLI as the SDK wants it. Whoever started the process ends it."""

    def __init__(self, process: LineProcess) -> None:
        self._process = process
        self._closed = False

    async def connect(self) -> None:
        """See `Transport.connect`: it is connected."""

    async def write(self, data: str) -> None:
        """See `Transport.write`."""
        await self._process.write(data.encode())

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """See `Transport.read_messages`.

        Raises:
            ProcessError: the CLI ended, and was not told to.
            CLIJSONDecodeError: what it said is no JSON.
            BackendError: it said too long a line.
        """
        async for line in self._process.lines():
            if line.startswith(b"{") and line.endswith(b"\n"):  # some builds write other things too; an end tears one
                try:
                    yield orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise CLIJSONDecodeError(line[:200].decode(errors="replace"), error) from error
        if not self._closed:  # the SDK would wait for ever for a CLI that ends with 0
            code, stderr = self._process.exit_code, "\n".join(self._process.errors)
            raise ProcessError("Claude Code ended", exit_code=code, stderr=stderr)

    async def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        self._process.close_stdin()

    def is_ready(self) -> bool:
        """See `Transport.is_ready`."""
        return self._process.exit_code is None

    async def end_input(self) -> None:
        """See `Transport.end_input`."""
        self._closed = True
        self._process.close_stdin()
