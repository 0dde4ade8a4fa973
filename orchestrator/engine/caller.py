"""Who calls, and what of its environment an agent gets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cache
from pathlib import Path

from orchestrator.config import DELIVERY_VARIABLE, Settings

REMOVED = (
    "CLAUDECODE",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_CODE_MESSAGING_*",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_PROJECT_DIR",
    "CODEX_THREAD_ID",
    "ORCHESTRATOR_RUN_*",
    DELIVERY_VARIABLE,
)
"""Variables by which an agent would take itself for part of its caller, or for one who is told of an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: the directory and the environment of a client. The environment stays in memory."""

    cwd: Path
    env: Mapping[str, str] = field(repr=False)
    settings: Settings = field(default_factory=Settings)
    """As they were when the client came."""
    backends: frozenset[str] | None = None
    """What it may spawn on; None for all there are."""
    toolsets: frozenset[str] = frozenset()
    """The sets of tools that it wants beside the usual ones."""
    bound: bool = False
    """It is the agent of `parent_run_id` itself, by its pass: it sees the tree of that run alone."""
    delegates: bool = False
    """It may spawn and follow runs of its own as well."""
    parent_run_id: str | None = None
    """The run whose agent this client is, if it is one."""
    forwarded: bool = False
    """It is another process of ours that passes a command on, which is never passed on again."""

    @property
    def agent_env(self) -> dict[str, str]:
        """What its agents get of its environment."""
        denied = _any_of(REMOVED, tuple(self.settings.env_deny))
        allowed = _any_of(tuple(self.settings.env_allow or ("*",)))
        return {name: value for name, value in self.env.items() if allowed.match(name) and not denied.match(name)}


@cache
def _any_of(*patterns: tuple[str, ...]) -> re.Pattern[str]:
    """What matches a name that one of these shell patterns matches."""
    return re.compile("|".join(translate(pattern) for group in patterns for pattern in group))
