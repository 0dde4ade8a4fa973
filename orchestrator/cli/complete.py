"""What the shell completes: run ids, agents' names and profiles of a directory, and words that options take.

The shell waits for it at each key, so it loads neither backends nor what tells of events.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import OrchestratorError
from orchestrator.model import Status
from orchestrator.store.layout import Home, Workspace

TYPES = (
    *("agent_message", "artifact_added", "auth_required", "command_finished", "command_started", "command_updated"),
    *("file_changed", "input_required", "message_added", "reasoning", "rejected", "run_completed", "run_failed"),
    *("run_started", "status_changed", "todo_updated", "tool_finished", "tool_started"),
)
"""The types of events."""


def names(incomplete: str, cwd: str | None = None) -> list[str]:
    """Agents' names, and the newest runs, of a directory; default: this one."""
    return [name for name in _known(cwd) if name.startswith(incomplete)]


def _known(cwd: str | None) -> list[str]:
    try:
        workspace = Workspace(_place(cwd))
    except (OSError, RuntimeError):  # it is gone, or nobody's home
        return []
    return [*workspace.agent_names(), *workspace.run_ids()[:50]]


def _place(cwd: str | None) -> Path:
    """A directory as it was typed: shells hand on a ~ as it is."""
    return Path(cwd).expanduser() if cwd else Path.cwd()


def backends(incomplete: str) -> list[str]:
    """The kinds of agents."""
    from orchestrator.config import BACKENDS

    return [name for name in BACKENDS if name.startswith(incomplete)]


def statuses(incomplete: str) -> list[str]:
    """The states of runs."""
    return [name for name in Status if name.startswith(incomplete)]


def types(incomplete: str) -> list[str]:
    """The types of events: of several, with commas, the last."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in TYPES if name.startswith(last) and name not in before.split(",")]


def clients(incomplete: str) -> list[str]:
    """The clients that we know the configuration of."""
    from orchestrator.cli.clients import known

    return [name for name in known(Path()) if name.startswith(incomplete)]


def profiles(incomplete: str, cwd: str | None = None) -> list[str]:
    """The names of profiles, in a directory; default: this one."""
    from orchestrator.profiles import Profile, listed

    try:
        rows = listed(_place(cwd), Home.default().path)
    except (OSError, RuntimeError, OrchestratorError):
        return []
    return [row.name for row in rows if isinstance(row, Profile) and row.name.startswith(incomplete)]
