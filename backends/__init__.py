"""The kinds of agents, by name. Loading one imports its package, in a thread, at first use."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import import_module

from orchestrator.backend import Backend
from orchestrator.errors import BackendUnavailable, InvalidArgument, nearest

BACKENDS: Mapping[str, str] = {
    "claude_code": "backends.claude_code.backend:ClaudeCode",
    "codex": "backends.codex.backend:Codex",
    "remote_a2a": "backends.remote_a2a.backend:RemoteA2A",
}
"""Name -> `module:class`. A class is made once per load, without arguments."""

SCRIPTED: Mapping[str, str] = {"scripted": "test_agents.scripted:Scripted"}
"""A deterministic agent without a model, for trying things out; offered only where it is enabled."""


class Backends:
    """Loads backends by name, each once.

    Args:
        known: the names on offer and where their classes are.
    """

    def __init__(self, known: Mapping[str, str] = BACKENDS) -> None:
        self.known = known
        self._loaded: dict[str, Backend] = {}

    async def load(self, name: str) -> Backend:
        """The backend of that name.

        Raises:
            InvalidArgument: there is none.
            BackendUnavailable: what it needs is not installed.
        """
        if name not in self.known:
            raise InvalidArgument(f"no backend {name!r}{nearest(name, self.known)}")
        if name not in self._loaded:
            self._loaded[name] = await asyncio.to_thread(self._import, name)
        return self._loaded[name]

    def _import(self, name: str) -> Backend:
        module, _, cls = self.known[name].partition(":")
        try:
            return getattr(import_module(module), cls)()
        except ImportError as error:
            raise BackendUnavailable(f"backend {name!r} cannot be loaded ({error}); install what it needs") from error
