"""One signed POST to a receiver of webhooks, as the Standard Webhooks specification has it.

Above it is whoever keeps what is to be delivered, and tries again. This file knows one attempt: where it may go, that
it goes nowhere else, and why it failed. Nothing here is kept.

A URL comes from a caller that may itself be an agent under the influence of what it read. So link-local addresses,
where clouds hand out credentials, are never spoken to: a name is resolved here, once, and the connection goes to the
very address that was looked at. Loopback and private networks are where receivers live, and are open.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import os
import re
import secrets
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator import __version__
from orchestrator.addresses import special
from orchestrator.errors import InvalidArgument

if TYPE_CHECKING:
    import httpx

MAX_URL_CHARS = 2_000

_PREFIX = "whsec_"
_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::([0-9]*))?")
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


class Undelivered(Exception):
    """The receiver did not take the message.

    Args:
        reason: what happened, in a few words; nothing of the URL but its host, and nothing that the receiver wrote.
        final: trying again cannot help.
    """

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


# ---- what a caller gives


def check_url(url: object) -> str:
    """Takes a URL that something can be delivered to, as far as one can tell without asking the network. Returns it.

    Raises:
        InvalidArgument: nothing can ever be delivered there.
    """
    target = _target(url)
    if kind := special(target.host):
        raise InvalidArgument(f"on_finish.webhook names an address that is {kind}; nothing is sent there")
    return target.url


def new_secret() -> str:
    """Makes a secret to sign with."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> None:
    """Refuses what the libraries of receivers would not take for a secret.

    Raises:
        InvalidArgument: it is no `whsec_` with the base64 of 24 to 64 bytes. It is not repeated in the message.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX))
    except ValueError:
        key = b""
    if not 24 <= len(key) <= 64 or secret != _PREFIX + base64.b64encode(key).decode():
        raise InvalidArgument(f"a secret for webhooks is {_PREFIX} followed by the base64 of 24 to 64 bytes")


class _Target(NamedTuple):
    """A URL, taken apart once: what is checked is what is connected to."""

    url: str
    scheme: str
    host: str
    """In ASCII, without brackets."""
    port: int
    rest: str
    """Path and query."""

    def at(self, host: str) -> str:
        """Host and port, as a URL or a `Host` header has them."""
        shown = f"[{host}]" if ":" in host else host
        return shown if self.port == _PORTS[self.scheme] else f"{shown}:{self.port}"


def _target(url: object) -> _Target:
    if not isinstance(url, str):
        raise InvalidArgument("on_finish.webhook must be a string, the URL of a receiver")
    if len(url) > MAX_URL_CHARS:
        raise InvalidArgument(f"on_finish.webhook has {len(url):,} characters; the most is {MAX_URL_CHARS:,}")
    if not url.isprintable() or " " in url:
        raise InvalidArgument("on_finish.webhook holds a space or a control character; write it as %20 and the like")
    if not (parts := _URL.fullmatch(url)):
        raise InvalidArgument("on_finish.webhook must begin with https:// or http://")
    scheme, authority, rest = parts[1].lower(), parts[2], parts[3]
    if "@" in authority:
        raise InvalidArgument("on_finish.webhook holds a user name; every message is signed, and needs no login")
    if not (place := _AUTHORITY.fullmatch(authority)):
        raise InvalidArgument("on_finish.webhook has no valid host and port")
    port = int(place[3] or _PORTS[scheme])
    if not 0 < port < 65_536:
        raise InvalidArgument("on_finish.webhook has a port that is not between 1 and 65,535")
    host = _name(place[2]) if place[1] is None else _address(place[1])
    return _Target(url, scheme, host, port, rest if rest.startswith("/") else f"/{rest}")


def _address(host: str) -> str:
    """An IPv6 address. A scope is of use to link-local ones alone, which are refused by whoever looks at it next."""
    bare, scope, _ = host.partition("%")
    with contextlib.suppress(ValueError):
        address = ipaddress.IPv6Address(bare)
        if address.is_link_local or not scope:
            return str(address)
    raise InvalidArgument("on_finish.webhook has no valid IPv6 address between its brackets")


def _name(host: str) -> str:
    """A name or an IPv4 address, in ASCII."""
    if not host:
        raise InvalidArgument("on_finish.webhook has no host")
    if not host.isascii():
        import httpx  # for names that are not ASCII alone: the rest of this needs no library

        try:
            host = httpx.URL(f"http://{host}").raw_host.decode()
        except httpx.InvalidURL:
            host = ""
    if not _NAME.fullmatch(host.removesuffix(".")):
        raise InvalidArgument("on_finish.webhook has a host that is no name of a machine")
    return host.lower()


async def _resolve(target: _Target) -> list[str]:
    """The addresses of a host, in the order to try them. One that is special refuses them all: someone put it there."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise Undelivered(f"the host is not found: {error.strerror}") from error
    except (OSError, ValueError) as error:  # a ValueError is of the codec for names
        raise Undelivered("the host is not found") from error
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    for address in addresses:
        if kind := special(address):
            raise Undelivered(
                f"the host is at an address that is {kind}; nothing is sent there", final=kind == "link-local"
            )
    return addresses


# ---- one attempt


async def post(url: str, message_id: str, body: bytes, secret: str, *, timeout_s: float = 20.0) -> int:
    """Delivers a message, once. Returns the status of the answer, which is 2xx; the rest of the answer is not read.

    Args:
        url: as `check_url` takes it.
        message_id: the same for every attempt to deliver this message, so that a receiver knows it again.
        body: JSON, in UTF-8.
        secret: as `check_secret` takes it.
        timeout_s: for all of it, however slowly the receiver talks.

    Raises:
        Undelivered: it did not arrive, or nobody said that it did.
    """
    try:
        target = _target(url)
    except InvalidArgument as error:
        raise Undelivered(str(error)) from None
    try:
        async with asyncio.timeout(timeout_s):
            until = asyncio.get_running_loop().time() + timeout_s
            status = await _deliver(target, message_id, body, secret, until)
    except TimeoutError:
        raise Undelivered(f"timed out after {timeout_s:g} s") from None
    if 200 <= status < 300:
        return status
    if 300 <= status < 400:
        raise Undelivered(f"HTTP {status}; redirects are not followed")
    raise Undelivered(f"HTTP {status}", final=status == 410)


async def _deliver(target: _Target, message_id: str, body: bytes, secret: str, until: float) -> int:
    """Tries the addresses one after the other, until one of them can be connected to. Returns the status."""
    addresses = await _resolve(target)
    tls = await asyncio.to_thread(_load, target.scheme)
    import httpx

    headers = {**_signed(message_id, body, secret), "host": target.at(target.host)}
    failed: httpx.TransportError | None = None
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        # so that one that is silent leaves time for the others; the last has all that is left
        connect_s = (until - asyncio.get_running_loop().time()) / left if left > 1 else None
        try:
            return await _send(target, address, headers, body, tls, connect_s)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failed = error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise Undelivered(_reason(error)) from error
    raise Undelivered(_reason(failed)) from failed


def _load(scheme: str) -> ssl.SSLContext:
    """Imports the libraries and reads the certificates, which takes a while: for a thread.

    Without TLS the context is one that trusts nobody, for httpx would read the certificates otherwise.
    """
    import httpx
    import standardwebhooks  # noqa: F401  # pyright: ignore[reportUnusedImport]

    if scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.create_ssl_context(trust_env=False)


def _signed(message_id: str, body: bytes, secret: str) -> dict[str, str]:
    """The headers of a message that is sent now."""
    from standardwebhooks import Webhook

    now = datetime.now(UTC)
    return {
        "content-type": "application/json",
        "user-agent": f"orchestrator/{__version__}",
        "connection": "close",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, now, body.decode()),
    }


async def _send(
    target: _Target,
    address: str,
    headers: Mapping[str, str],
    body: bytes,
    tls: ssl.SSLContext,
    connect_s: float | None,
) -> int:
    """Sends it to one address. Returns the status.

    By a transport and not a client, which would follow proxies of the environment, keep cookies, parse where a
    redirect leads to and log the URL.
    """
    import httpx

    opened: list[Any] = []

    async def seen(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            opened.append(info["return_value"])

    request = httpx.Request(
        "POST",
        f"{target.scheme}://{target.at(address)}{target.rest}",
        headers=headers,
        content=body,
        extensions={
            "sni_hostname": target.host.removesuffix("."),
            "timeout": {"connect": connect_s},
            "trace": seen,
        },
    )
    try:
        async with httpx.AsyncHTTPTransport(verify=tls, trust_env=False) as transport:
            response = await transport.handle_async_request(request)
            await response.aclose()
            return response.status_code
    finally:
        for stream in opened:  # httpcore leaves it open when a TLS handshake is cancelled
            await stream.aclose()


def _reason(error: BaseException | None) -> str:
    """What went wrong, in words of ours or of the system's: a receiver could repeat the URL in its own."""
    while error is not None:
        if said := _said(error):
            return said
        error = error.__cause__ or error.__context__
    return "the connection broke off"


def _said(error: BaseException) -> str | None:
    import httpx

    if isinstance(error, httpx.RemoteProtocolError):
        gone = "disconnected" in str(error)
        return "the receiver closed the connection without an answer" if gone else "the answer is not HTTP"
    if isinstance(error, httpx.TimeoutException):
        return "timed out while connecting"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'no reason given').replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return None
