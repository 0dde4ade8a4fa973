"""Finding a remote agent and speaking to it: card, interface, client, and what went wrong in one vocabulary.

The A2A SDK is imported here and in `updates` alone; this module is loaded in a thread at a run's start.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
from a2a.client import A2ACardResolver, Client, ClientCallContext, ClientConfig, ClientFactory
from a2a.client.errors import AgentCardResolutionError
from a2a.types import (
    AgentCard,
    AgentInterface,
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
)
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict

from backends.remote_a2a.extension import URI
from backends.remote_a2a.options import Options
from backends.remote_a2a.transport import Guard, Refused
from orchestrator.errors import BackendError, InvalidArgument

for _name in ("a2a", "httpx", "httpcore"):
    # the SDK logs whole cards and every request at INFO
    logging.getLogger(_name).setLevel(logging.WARNING)

CARD_TRIES = 3
CALL_TIMEOUT_S = 15.0
_PREFERENCE = (("JSONRPC", "1"), ("HTTP+JSON", "1"), ("JSONRPC", "0.3"), ("HTTP+JSON", "0.3"))


class Agent:
    """A connection to one agent. Made by `connect`."""

    def __init__(
        self, client: Client, card: AgentCard, interface: AgentInterface, guard: Guard, options: Options
    ) -> None:
        self._client = client
        self._guard = guard
        self._options = options
        self.name = card.name
        self.url = interface.url
        self.protocol = interface.protocol_version or "1.0"
        self.streaming = card.capabilities.streaming
        declared = any(extension.uri == URI for extension in card.capabilities.extensions)
        self.extended = declared and options.metadata_mode != "off"
        """Whether the extension is in use: the card declares it, and the configuration does not switch it off."""
        self._context = ClientCallContext(service_parameters={"A2A-Extensions": URI} if self.extended else {})

    @property
    def legacy(self) -> bool:
        """Whether the agent speaks 0.3, which cannot list tasks."""
        return self.protocol.startswith("0.")

    def log_in(self, token: str | None, headers: Mapping[str, str]) -> None:
        """Uses other credentials from now on."""
        self._guard.token = token or self._guard.token
        self._guard.headers = {**self._guard.headers, **headers}

    def send(self, message: Message) -> AsyncGenerator[StreamResponse]:
        """Sends a message and yields what comes back; a single answer where the agent does not stream."""
        request = SendMessageRequest(message=message)
        if self._options.history_length is not None:
            request.configuration.history_length = self._options.history_length
        # declared as an iterator, but an async generator, whose `aclose` ends the request
        return cast(AsyncGenerator[StreamResponse], self._client.send_message(request, context=self._context))

    def subscribe(self, task_id: str) -> AsyncGenerator[StreamResponse]:
        """A task's state and everything that follows."""
        request = SubscribeToTaskRequest(id=task_id)
        return cast(AsyncGenerator[StreamResponse], self._client.subscribe(request, context=self._context))

    async def get_task(self, task_id: str) -> Task:
        """The task as it is now."""
        request = GetTaskRequest(id=task_id)
        if self._options.history_length is not None:
            request.history_length = self._options.history_length
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return await self._client.get_task(request, context=self._context)

    async def find_task(self, context_id: str) -> str | None:
        """The id of the newest task of a context; None if there is none or the protocol cannot tell."""
        if self.legacy:
            return None
        async with asyncio.timeout(CALL_TIMEOUT_S):
            request = ListTasksRequest(context_id=context_id, page_size=1)
            found = await self._client.list_tasks(request, context=self._context)
        return found.tasks[0].id if found.tasks else None

    async def cancel_task(self, task_id: str) -> Task:
        """Asks the agent to cancel the task."""
        return await self._client.cancel_task(CancelTaskRequest(id=task_id), context=self._context)


@asynccontextmanager
async def connect(options: Options, token: str | None, tls: ssl.SSLContext) -> AsyncGenerator[Agent]:
    """Fetches the card and opens a client for the best interface on an allowed origin.

    Raises:
        BackendError: the agent cannot be reached, its card cannot be used, or it refuses the credentials.
    """
    guard = Guard(options, token, tls)
    timeout = httpx.Timeout(options.connect_timeout_s, read=options.read_timeout_s)
    async with httpx.AsyncClient(transport=guard, trust_env=False, follow_redirects=False, timeout=timeout) as http:
        card = await _card(http, options)
        interface = _interface(card, guard)
        del card.supported_interfaces[:]
        card.supported_interfaces.append(interface)
        config = ClientConfig(
            httpx_client=http,
            supported_protocol_bindings=["JSONRPC", "HTTP+JSON"],
            accepted_output_modes=list(options.accepted_output_modes),
            polling=not card.capabilities.streaming,
        )
        try:
            client = ClientFactory(config).create(card)
        except Exception as error:
            raise BackendError(
                "agent_protocol", f"the agent's card cannot be used: {error}", resumable=False
            ) from error
        yield Agent(client, card, interface, guard, options)


async def _card(http: httpx.AsyncClient, options: Options) -> AgentCard:
    resolver = A2ACardResolver(http, options.agent_url)
    for attempt in range(CARD_TRIES):
        try:
            async with asyncio.timeout(options.connect_timeout_s + options.read_timeout_s):
                return await resolver.get_agent_card(relative_card_path=options.agent_card_path)
        except Exception as error:
            if attempt == CARD_TRIES - 1 or not _transient(error):
                raise _card_error(error, options) from error
            await asyncio.sleep(0.2 * 2**attempt)
    raise AssertionError("the loop returns or raises")


def _transient(error: BaseException) -> bool:
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return status >= 500 or status == 429
    cause = error.__cause__ or error
    return isinstance(cause, httpx.TransportError) and not isinstance(cause, Refused)


def _card_error(error: BaseException, options: Options) -> BackendError:
    if isinstance(error, AgentCardResolutionError) and error.status_code in (401, 403):
        return BackendError(
            "auth_failed", f"the agent's card needs credentials (HTTP {error.status_code})", resumable=False
        )
    cause = error.__cause__ or error
    if isinstance(cause, Refused):
        return BackendError("agent_protocol", f"refused the agent's card: {cause}", resumable=False)
    if isinstance(error, (InvalidArgument, UnicodeDecodeError)) or (
        isinstance(error, AgentCardResolutionError)
        and not isinstance(cause, (httpx.TransportError, httpx.HTTPStatusError))
    ):
        return BackendError(
            "agent_protocol", f"{options.agent_url} serves no agent card: {told(error)}", resumable=False
        )
    return BackendError(
        "backend_unavailable",
        f"no agent answers at {options.agent_url}: {told(error)}",
        resumable=False,
        next_step="check agent_url and that the agent is running, then spawn the run again",
    )


def _interface(card: AgentCard, guard: Guard) -> AgentInterface:
    if not card.supported_interfaces:
        raise BackendError("agent_protocol", "the agent's card names no interface", resumable=False)
    usable = [interface for interface in card.supported_interfaces if guard.admits(interface.url)]
    if not usable:
        urls = ", ".join(sorted({interface.url[:200] for interface in card.supported_interfaces})[:5])
        raise BackendError(
            "agent_protocol",
            f"the agent's card names interfaces on other origins only: {urls}",
            resumable=False,
            next_step="if you trust them, spawn again with backend_config.allowed_origins",
        )
    for binding, version in _PREFERENCE:
        for interface in usable:
            if interface.protocol_binding == binding and (interface.protocol_version or "1.0").startswith(version):
                return interface
    spoken = ", ".join(sorted({f"{i.protocol_binding} {i.protocol_version}" for i in usable})[:5])
    raise BackendError(
        "agent_protocol",
        f"the agent speaks {spoken}; this backend speaks JSON-RPC and REST at 1.0 and 0.3",
        resumable=False,
    )


def http_status(error: BaseException) -> int | None:
    """The HTTP status behind an SDK error, which wraps it."""
    cause = error.__cause__
    return cause.response.status_code if isinstance(cause, httpx.HTTPStatusError) else None


def told(error: BaseException) -> str:
    """An error in words. Timeouts of httpx have none of their own; URLs in its messages hold no credentials of ours."""
    cause = error.__cause__
    words = str(cause) if isinstance(cause, httpx.HTTPError) and str(cause) else str(error)
    return (words or type(cause or error).__name__)[:500]


def refused_for_good(error: BaseException) -> bool:
    """Whether the agent itself answered with an error, so that sending again or waiting would not help."""
    status = http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in (408, 429)
    return isinstance(error, A2AError) and not isinstance(error.__cause__, httpx.TransportError)


def plain(message: Any) -> Any:
    """A protobuf Struct or Value as JSON values; numbers come back as floats."""
    return cast(Any, MessageToDict(message))
