"""What the shell completes: run ids and agents' names of this directory, and profiles."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.store.layout import Home, Workspace

KINDS = ("claude_code", "codex", "remote_a2a", "scripted")
"""The backends, of which this side of the program knows nothing else."""


def names(incomplete: str) -> list[str]:
    """Agents' names, and the newest runs."""
    return [name for name in _here() if name.startswith(incomplete)]


def _here() -> list[str]:
    try:
        workspace = Workspace(Path.cwd())
    except OSError:  # it is gone
        return []
    return [*workspace.agent_names(), *workspace.run_ids()[:50]]


def backends(incomplete: str) -> list[str]:
    """The kinds of agents."""
    return [name for name in KINDS if name.startswith(incomplete)]


def profiles(incomplete: str) -> list[str]:
    """The names of profiles."""
    from orchestrator.profiles import Profile, listed

    try:
        rows = listed(Path.cwd(), Home.default().path)
    except (OSError, OrchestratorError):
        return []
    return [row.name for row in rows if isinstance(row, Profile) and row.name.startswith(incomplete)]
