"""What `backend_config` of a remote A2A run may say. Pure: checked before anything starts, without the network."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from orchestrator import values
from orchestrator.addresses import special
from orchestrator.errors import InvalidArgument, nearest
from orchestrator.model import JsonObject

Origin = tuple[str, str, int]
"""Scheme, host, port."""

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The checked configuration. Times in seconds, sizes in bytes."""

    agent_url: str
    auth_token: str | None = field(default=None, repr=False)
    auth_token_env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    agent_card_path: str | None = None
    accepted_output_modes: tuple[str, ...] = ()
    history_length: int | None = None
    allowed_origins: frozenset[Origin] = frozenset()
    metadata_mode: Literal["auto", "legacy", "off"] = "auto"
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    lost_contact_s: float = 300.0
    max_body_bytes: int = 16 * 2**20
    max_event_bytes: int = 8 * 2**20
    agent_tools: bool = True
    """Read by the engine, as is the next."""
    delegate: bool = False

    @property
    def home(self) -> Origin:
        """The configured origin, the only one that gets the credentials."""
        return origin_of(self.agent_url)

    def token(self, env: Mapping[str, str]) -> str | None:
        """The bearer token: as given, or from the caller's environment.

        Raises:
            InvalidArgument: the environment has no such variable.
        """
        if self.auth_token_env is None:
            return self.auth_token
        if not (token := env.get(self.auth_token_env)):
            raise InvalidArgument(f"auth_token_env names {self.auth_token_env!r}, which your environment does not have")
        return token


def read_options(config: JsonObject) -> Options:
    """Checks a configuration.

    Raises:
        InvalidArgument: it names the first key that is wrong, and what it takes.
    """
    for name in config:
        if name not in _READERS:
            raise InvalidArgument(f"backend_config of remote_a2a has no key {name!r}{nearest(name, _READERS)}")
    if "agent_url" not in config:
        raise InvalidArgument("remote_a2a needs backend_config.agent_url, the base URL of the agent")
    if "auth_token" in config and "auth_token_env" in config:
        raise InvalidArgument("give backend_config.auth_token or auth_token_env, not both")
    options = Options(**{name: _READERS[name](f"backend_config.{name}", value) for name, value in config.items()})
    check_address(options.agent_url, options.allowed_origins)
    return options


def origin_of(url: str) -> Origin:
    """The origin of a URL (RFC 6454).

    Raises:
        InvalidArgument: it has none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise InvalidArgument(f"{url[:200]!r} is no valid URL: {error}") from None
    if not parts.hostname or not port:
        raise InvalidArgument(f"{url[:200]!r} is no http or https URL")
    return parts.scheme, parts.hostname.lower(), port


def check_address(url: str, allowed: frozenset[Origin]) -> None:
    """Refuses addresses that no agent has: link-local ones (cloud metadata) and plain http beyond this machine."""
    scheme, host, port = origin_of(url)
    if (scheme, host, port) in allowed:
        return
    if special(host):
        raise InvalidArgument(f"{host} is a link-local or otherwise special address; no agent is called there")
    if scheme == "http" and not _is_loopback(host):
        raise InvalidArgument(
            f"plain http goes to this machine only; use https for {host}, "
            f"or allow it: backend_config.allowed_origins: ['{scheme}://{host}:{port}']"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _text(place: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{place} must be a string that is not empty")
    return value


def _url(place: str, value: Any) -> str:
    url = _text(place, value)
    if not url.isprintable():
        raise InvalidArgument(f"{place} holds a control character")
    scheme = url.partition("://")[0].lower()
    if scheme not in _PORTS or "://" not in url:
        raise InvalidArgument(f"{place} is {url[:200]!r}; it takes an http or https URL")
    origin_of(url)
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise InvalidArgument(f"{place} holds credentials; give them as backend_config.auth_token or headers")
    if parts.fragment or parts.query:
        raise InvalidArgument(f"{place} must not have a query or fragment")
    return url.rstrip("/")


def _header(place: str, value: Any) -> Mapping[str, str]:
    pairs = cast("dict[Any, Any]", value).items() if isinstance(value, dict) else None
    if pairs is None or not all(isinstance(k, str) and isinstance(v, str) and (k + v).isprintable() for k, v in pairs):
        raise InvalidArgument(f"{place} must be an object of printable strings")
    return cast("dict[str, str]", value)


def _texts(place: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in cast(list[Any], value)):
        raise InvalidArgument(f"{place} must be an array of strings")
    return tuple(cast(list[str], value))


def _origins(place: str, value: Any) -> frozenset[Origin]:
    return frozenset(origin_of(_url(place, item)) for item in _texts(place, value))


def _mode(place: str, value: Any) -> str:
    if value not in ("auto", "legacy", "off"):
        raise InvalidArgument(f"{place} is {value!r}; it takes auto, legacy or off")
    return value


def _number(place: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise InvalidArgument(f"{place} must be a positive number, not {value!r}")
    return value


def _count(place: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise InvalidArgument(f"{place} must be a whole number that is not negative, not {value!r}")
    return value


_READERS: dict[str, Any] = {
    "agent_url": _url,
    "auth_token": _text,
    "auth_token_env": _text,
    "headers": _header,
    "agent_card_path": _text,
    "accepted_output_modes": _texts,
    "history_length": _count,
    "allowed_origins": _origins,
    "metadata_mode": _mode,
    "connect_timeout_s": _number,
    "read_timeout_s": _number,
    "lost_contact_s": _number,
    "max_body_bytes": _count,
    "max_event_bytes": _count,
    "agent_tools": values.flag,
    "delegate": values.flag,
}
