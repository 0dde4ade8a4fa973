"""The guard around every HTTP request to a remote agent, redirects and card URLs included.

A request goes to the configured origin or an allowed one, credentials go to the configured origin alone, and no
response grows beyond its cap. Built on httpx's one-method transport seam.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import cast

import httpx

from backends.remote_a2a.options import Options, Origin, origin_of
from orchestrator.addresses import special
from orchestrator.errors import InvalidArgument


class Refused(httpx.RequestError):
    """The guard did not let a request or a response through."""


class Guard(httpx.AsyncBaseTransport):
    """An httpx transport for one agent.

    Args:
        tls: shared by all runs, for making one takes 20 ms.
        token: the bearer token, sent to the configured origin alone; replaced when the caller logs in anew.
    """

    def __init__(self, options: Options, token: str | None, tls: ssl.SSLContext) -> None:
        self._options = options
        self._allowed = {options.home, *options.allowed_origins}
        self._checked: set[Origin] = set()
        self._inner = httpx.AsyncHTTPTransport(
            verify=tls, trust_env=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=4)
        )
        self.token = token
        self.headers: Mapping[str, str] = options.headers

    def admits(self, url: str) -> bool:
        """Whether requests to this URL would go out."""
        try:
            return origin_of(url) in self._allowed
        except InvalidArgument:
            return False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`.

        Raises:
            Refused: the request would leave the allowed origins, or the response is over its cap.
        """
        origin = origin_of(str(request.url))
        if origin not in self._allowed:
            scheme, host, port = origin
            raise Refused(f"{scheme}://{host}:{port} is not an allowed origin of this agent", request=request)
        await self._check_resolved(origin, request)
        if origin == self._options.home:
            for name, value in self.headers.items():
                request.headers[name] = value
            if self.token is not None:
                request.headers["Authorization"] = f"Bearer {self.token}"
        request.headers["Accept-Encoding"] = "identity"  # a compressed body could unpack to any size
        response = await self._inner.handle_async_request(request)
        if response.is_redirect:
            await response.aclose()
            target = response.headers.get("location", "")[:200]
            raise Refused(f"the agent redirects to {target!r}; redirects are not followed", request=request)
        streams = response.headers.get("content-type", "").startswith("text/event-stream")
        body = cast(httpx.AsyncByteStream, response.stream)
        if streams:
            response.stream = _CappedLines(body, self._options.max_event_bytes)
        else:
            response.stream = _CappedBody(body, self._options.max_body_bytes)
        return response

    async def _check_resolved(self, origin: Origin, request: httpx.Request) -> None:
        """Refuses a name that resolves to a special address. Once per origin; names may still change afterwards."""
        if origin in self._checked or origin in self._options.allowed_origins:
            return
        _, host, port = origin
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpx.ConnectError(f"cannot resolve {host}: {error}", request=request) from error
        if any(special(str(address[0])) for *_, address in found):
            raise Refused(f"{host} resolves to a link-local or otherwise special address", request=request)
        self._checked.add(origin)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._inner.aclose()


class _CappedBody(httpx.AsyncByteStream):
    """A body of at most `cap` bytes."""

    def __init__(self, inner: httpx.AsyncByteStream, cap: int) -> None:
        self._inner, self._cap = inner, cap

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = 0
        async for chunk in self._inner:
            total += len(chunk)
            if total > self._cap:
                raise Refused(f"the agent's response is over {self._cap:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


class _CappedLines(httpx.AsyncByteStream):
    """A stream of server-sent events, none over `cap` bytes."""

    def __init__(self, inner: httpx.AsyncByteStream, cap: int) -> None:
        self._inner, self._cap = inner, cap

    async def __aiter__(self) -> AsyncIterator[bytes]:
        event, tail = 0, b""
        async for chunk in self._inner:
            joined = tail + chunk  # the blank line that ends an event may lie across two chunks
            border = max(joined.rfind(b"\n\n"), joined.rfind(b"\r\n\r\n"))
            event = event + len(chunk) if border < 0 else len(joined) - border
            tail = joined[-3:]
            if event > self._cap:
                raise Refused(f"one event of the agent's stream is over {self._cap:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
