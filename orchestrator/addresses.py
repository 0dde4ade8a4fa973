"""Addresses to which nothing is sent, whoever names them: above all those where clouds hand out credentials.

Above: whoever opens connections to places that a caller named, who may itself be an agent under the influence of what
it read. The network is not asked: what a name resolves to is to be looked at as well.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from typing import Any, Literal

_COMPATIBLE = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
"""Where the last 32 bits are an IPv4 address: the old form of one, and two of translators."""
_METADATA = ipaddress.IPv6Address("fd00:ec2::254")
"""Not link-local, but the same thing: where AWS hands out credentials over IPv6."""

Kind = Literal["link-local", "multicast", "unspecified"]


def special(host: str) -> Kind | None:
    """What is wrong with the address that a host is; None if it may be spoken to, or is a name.

    Args:
        host: as URLs and resolvers give it, without brackets.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0] if ":" in host else _dotted(host))
    except (OSError, ValueError):
        return None
    for one in _within(address):
        if one.is_link_local or one == _METADATA:
            return "link-local"
        if one.is_multicast:
            return "multicast"
        if one.is_unspecified:
            return "unspecified"
    return None


def _dotted(host: str) -> str:
    """An IPv4 address in its usual form.

    A resolver takes `2852039166`, `0xa9fea9fe`, `0251.0376.0251.0376` and `169.254.43518` for 169.254.169.254.
    """
    return socket.inet_ntoa(socket.inet_aton(host.removesuffix(".")))


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Iterator[Any]:
    """An address, and the IPv4 ones that a tunnel or a translator would make of it."""
    yield address
    if isinstance(address, ipaddress.IPv6Address):
        held = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        yield from (one for one in held if one is not None)
        if any(address in network for network in _COMPATIBLE):
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
