"""What the shell completes: run ids and agents' names of this directory, and profiles."""

from __future__ import annotations

from pathlib import Path

from orchestrator.store.layout import Home, Workspace


def names(incomplete: str) -> list[str]:
    """Agents' names, and the newest runs."""
    workspace = Workspace(Path.cwd())
    return [name for name in (*workspace.agent_names(), *workspace.run_ids()[:50]) if name.startswith(incomplete)]


def profiles(incomplete: str) -> list[str]:
    """The names of profiles."""
    from orchestrator.profiles import Profile, listed

    rows = listed(Path.cwd(), Home.default().path)
    return [row.name for row in rows if isinstance(row, Profile) and row.name.startswith(incomplete)]
