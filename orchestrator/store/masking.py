"""Credentials never reach the disk: every text that is written passes a `Mask` first.

Pure. Which values are secret is decided here too, once: credentials in `backend_config`, and environment variables
that look like one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

from orchestrator.model import JsonObject
from orchestrator.store.serial import well_formed

STARS = "***"
_CONFIG_MIN, _ENV_MIN = 8, 12
_ENV_NAME = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)$")
_ENV_HARMLESS = re.compile(r"[A-Za-z]+|[-+.\d]+|[~./].*|[A-Za-z]:\\.*", re.DOTALL)


def secrets_of(backend_config: JsonObject, env: Mapping[str, str], also: Iterable[str] = ()) -> frozenset[str]:
    """The values that must not be written: given credentials from 8 characters, environment values from 12.

    An environment variable counts when the last word of its name is KEY, TOKEN, SECRET, PASSWORD or CREDENTIALS and
    its value is not a path, a number or letters only.

    Args:
        also: names of further variables whose values are secret whatever they look like.
    """
    found: set[str] = set()

    def collect(value: str) -> str:
        # of "Bearer abc" the token alone is as secret as the whole
        found.update(word for word in (value, *value.split()[1:]) if len(word) >= _CONFIG_MIN)
        return value

    _through(backend_config, collect)
    if isinstance(name := backend_config.get("auth_token_env"), str) and name in env:
        collect(env[name])
    found.update(
        value
        for name, value in env.items()
        if len(value) >= _ENV_MIN and _ENV_NAME.search(name.upper()) and not _ENV_HARMLESS.fullmatch(value)
    )
    found.update(env[name] for name in also if len(env.get(name, "")) >= _CONFIG_MIN)
    return frozenset(found)


def without_credentials(backend_config: JsonObject) -> JsonObject:
    """The same configuration with every credential, however short, replaced by `***`."""
    return _through(backend_config, lambda _: STARS)


def lost_credentials(backend_config: JsonObject) -> list[str]:
    """The keys of a stored configuration in which something was masked."""
    return [key for key, value in backend_config.items() if STARS.encode() in orjson.dumps(value)]


def without_placeholders(backend_config: JsonObject) -> JsonObject:
    """A stored configuration without what was masked in it: what a resumed run can take over."""
    kept: JsonObject = {}
    for key, value in backend_config.items():
        if isinstance(value, str) and STARS in value:
            continue
        kept[key] = without_placeholders(cast(JsonObject, value)) if isinstance(value, dict) else value
    return kept


def renewed(stored: JsonObject, given: JsonObject) -> JsonObject:
    """A stored configuration with newly given values in it; a credential given in one way replaces the other way."""
    kept = without_placeholders(stored)
    if given.keys() & {"auth_token", "auth_token_env"}:
        kept = {key: value for key, value in kept.items() if key not in ("auth_token", "auth_token_env")}
    return {**kept, **given}


def _through(config: JsonObject, secret: Callable[[str], str]) -> JsonObject:
    """A copy of the configuration in which every credential went through `secret`."""
    copy = dict(config)
    if isinstance(copy.get("auth_token"), str):
        copy["auth_token"] = secret(copy["auth_token"])
    copy = _values_through(copy, "headers", secret)
    if isinstance(servers := copy.get("mcp_servers"), dict):
        copy["mcp_servers"] = {
            name: _server_through(cast(JsonObject, server), secret) if isinstance(server, dict) else server
            for name, server in cast(JsonObject, servers).items()
        }
    return copy


def _server_through(server: JsonObject, secret: Callable[[str], str]) -> JsonObject:
    server = _values_through(_values_through(server, "env", secret), "headers", secret)
    if isinstance(url := server.get("url"), str):
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
        netloc = ":".join(secret(word) if word else word for word in user.split(":")) + at + host
        query = re.sub(r"(?<==)[^&]+", lambda value: secret(value[0]), parts.query)
        server = {**server, "url": parts._replace(netloc=netloc, query=query).geturl()}
    return server


def _values_through(config: JsonObject, key: str, secret: Callable[[str], str]) -> JsonObject:
    if not isinstance(values := config.get(key), dict):
        return config
    through = {k: secret(v) if isinstance(v, str) else v for k, v in cast(JsonObject, values).items()}
    return {**config, key: through}


class Mask:
    """Replaces secrets by `***`, leftmost and longest first.

    Args:
        secrets: the values; the empty set makes every method the identity.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = frozenset(map(well_formed, secrets))
        longest_first = sorted({s for s in self._secrets if s}, key=lambda s: (-len(s), s))
        self._plain = [secret.encode() for secret in longest_first]
        # JSON escapes character by character, so a secret inside a string stands in the line in this form
        self._escaped = [orjson.dumps(secret)[1:-1] for secret in longest_first]
        self._text = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._bytes = re.compile(b"|".join(map(re.escape, self._plain))) if self._plain else None

    def __bool__(self) -> bool:
        return bool(self._plain)

    def plus(self, secrets: Iterable[str]) -> Mask:
        """A mask for these secrets as well."""
        return Mask(self._secrets.union(secrets))

    def touches(self, line: bytes) -> bool:
        """Whether this serialised JSON may hold a secret in one of its strings. Cheap; never falsely False."""
        return any(needle in line for needle in self._escaped)

    def found_in(self, content: bytes) -> bool:
        """Whether bytes that are no JSON hold a secret."""
        return self._bytes is not None and self._bytes.search(content) is not None

    def text(self, text: str) -> str:
        """The text with its secrets masked."""
        return self._text.sub(STARS, text) if self._text else text

    def value(self, value: Any) -> Any:
        """A JSON value with the secrets in its strings and keys masked."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in cast(JsonObject, value).items()}
        if isinstance(value, list):
            return [self.value(item) for item in cast(list[Any], value)]
        return value

    def stream(self, held: bytes = b"") -> MaskStream:
        """A mask for bytes that arrive in pieces; a secret that lies across two pieces is found.

        Args:
            held: what an earlier stream held back and this one goes on with.
        """
        return MaskStream(self._bytes, self._plain, held)


class MaskStream:
    """Masks a stream. Concatenated output equals the masked concatenated input, however it was cut."""

    def __init__(self, pattern: re.Pattern[bytes] | None, secrets: list[bytes], held: bytes) -> None:
        self._pattern, self._secrets, self.held = pattern, secrets, held

    def feed(self, piece: bytes) -> bytes:
        """What can be written now. A tail that may be the beginning of a secret is held back."""
        if self._pattern is None:
            return piece
        buffer = self.held + piece
        border = len(buffer) - self._undecided(buffer)
        out: list[bytes] = []
        done = 0
        for match in self._pattern.finditer(buffer):
            if match.start() >= border:
                break
            out += buffer[done : match.start()], STARS.encode()
            done = match.end()
        border = max(border, done)
        out.append(buffer[done:border])
        self.held = buffer[border:]
        return b"".join(out)

    def end(self) -> bytes:
        """The rest."""
        rest, self.held = self.held, b""
        return self._pattern.sub(STARS.encode(), rest) if self._pattern else rest

    def _undecided(self, buffer: bytes) -> int:
        """The length of the longest tail that a secret may begin with and go beyond."""
        longest = 0
        for secret in self._secrets:
            for size in range(min(len(secret) - 1, len(buffer)), longest, -1):
                if buffer.endswith(secret[:size]):
                    longest = size
                    break
        return longest
