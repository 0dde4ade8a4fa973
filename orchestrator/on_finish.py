"""What is to be done when a run is over: `on_finish` of a call, checked. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from orchestrator.config import Settings
from orchestrator.errors import InvalidArgument, nearest
from orchestrator.model import JsonObject
from orchestrator.store.layout import AGENT_NAME, checked
from orchestrator.webhook import check_url

CHANNELS = ("webhook", "command", "message_to")
MOST_WORDS = 100
WORD_CHARS = 4_000


def on_finish_of(given: JsonObject, settings: Settings | None) -> JsonObject | None:
    """What to do when a run is over; None if that is nothing.

    Args:
        settings: the user's own, which say what is done for each run beside; None for a run that an agent spawns.

    Raises:
        InvalidArgument: it names what is wrong, and what it takes.
    """
    for name in given:
        if name not in CHANNELS:
            raise InvalidArgument(f"on_finish has no key {name!r}{nearest(name, CHANNELS)}; it takes {_TAKES}")
    wanted = {name: _READERS[name](value) for name, value in given.items()}
    if settings is not None and settings.on_finish_webhook:
        wanted.setdefault("webhook", _own_webhook(settings))
    if settings is not None and settings.on_finish_command:
        wanted.setdefault("command", list(settings.on_finish_command))
    return wanted or None


def _own_webhook(settings: Settings) -> str:
    try:
        return check_url(settings.on_finish_webhook)
    except InvalidArgument as error:
        raise InvalidArgument(f"the setting on_finish_webhook: {error}") from error


_TAKES = "webhook: URL, command: [program, arguments], message_to: agent_name"


def _words(value: Any) -> list[str]:
    words = cast(list[Any], value) if isinstance(value, list) else []
    if not 0 < len(words) <= MOST_WORDS or not all(_is_word(word) for word in words) or not words[0]:
        raise InvalidArgument("on_finish.command must be an array of strings: a program and its arguments, no shell")
    return words


def _is_word(word: Any) -> bool:
    return isinstance(word, str) and len(word) <= WORD_CHARS and "\0" not in word


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgument("on_finish.message_to must be a string, the agent_name of whoever is to be told")
    return checked(value, AGENT_NAME, "on_finish.message_to (an agent_name)")


_READERS: Mapping[str, Callable[[Any], Any]] = {"webhook": check_url, "command": _words, "message_to": _name}
