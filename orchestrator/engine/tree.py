"""Runs that spawn runs: whose child a run is, how many a tree may have, and how much a child may do.

A tree is the run that a client spawned and all below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.config import Settings
from orchestrator.errors import LimitExceeded, PermissionCeiling
from orchestrator.model import ON_APPROVAL_ORDER, PERMISSIONS, JsonObject, OnApproval, Permission, RunSpec, as_object
from orchestrator.store.layout import RunDir
from orchestrator.store.members import members
from orchestrator.workspaces.git import top_of

_STARTING = frozenset({"mcp_servers", "own_mcp_servers", "setting_sources", "config"})
_REACHING = frozenset({"agent_url", "auth_token_env", "headers"})
"""Keys of `backend_config`, of whatever backend, by which a run may start programs of its caller's choice, or carry
what its caller knows out of a sandbox."""


class Ceiling(NamedTuple):
    """The most that a run may be permitted, and who says so."""

    permission: Permission
    permission_by: str
    on_approval: OnApproval
    on_approval_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The run whose agent spawns another one."""

    spec: RunSpec
    root: RunDir


def ceiling_of(settings: Settings, parent: Parent | None) -> Ceiling:
    """What the settings and the parent allow together."""
    ceiling = Ceiling(
        settings.max_permission, "the setting max_permission", settings.max_on_approval, "the setting max_on_approval"
    )
    if parent is None:
        return ceiling
    spec, by = parent.spec, f"its parent {parent.spec.run_id}"
    if _permission_rank(spec.level) < _permission_rank(ceiling.permission):
        ceiling = ceiling._replace(permission=spec.level, permission_by=by)
    if _approval_rank(spec.on_approval) < _approval_rank(ceiling.on_approval):
        ceiling = ceiling._replace(on_approval=spec.on_approval, on_approval_by=by)
    return ceiling


def under(
    ceiling: Ceiling, permission: Permission | None, on_approval: OnApproval
) -> tuple[Permission | None, OnApproval]:
    """What a run gets. The defaults are lowered silently; what was asked for beyond the ceiling is refused.

    Raises:
        PermissionCeiling: more was asked for than may be given.
    """
    if permission is None and _permission_rank("workspace_write") > _permission_rank(ceiling.permission):
        permission = ceiling.permission
    if permission is not None and _permission_rank(permission) > _permission_rank(ceiling.permission):
        raise PermissionCeiling(
            f"permission {permission!r} is more than {ceiling.permission_by} allows, {ceiling.permission!r}"
        )
    if on_approval == "ask" and ceiling.on_approval == "deny":
        on_approval = "deny"
    if _approval_rank(on_approval) > _approval_rank(ceiling.on_approval):
        raise PermissionCeiling(
            f"on_approval {on_approval!r} is more than {ceiling.on_approval_by} allows, {ceiling.on_approval!r}"
        )
    return permission, on_approval


def check_depth(settings: Settings, parent: Parent | None) -> None:
    """Refuses a child that would stand too deep, or one too many.

    Raises:
        LimitExceeded: with the setting that says so.
    """
    if parent is None:
        return
    if parent.spec.depth >= settings.max_depth:
        raise LimitExceeded(
            f"{parent.spec.run_id} stands at depth {parent.spec.depth} and may spawn nothing: the setting max_depth is "
            f"{settings.max_depth}; do the work in this run"
        )
    if (count := members(parent.root)) >= settings.max_runs_per_tree:
        raise LimitExceeded(
            f"the tree of {parent.root.run_id} has {count} runs: the setting max_runs_per_tree is "
            f"{settings.max_runs_per_tree}; do the work in this run, or use a finished agent again by continue_run"
        )


def check_programs(backend_config: JsonObject, parent: Parent | None) -> None:
    """Refuses what an agent could start by its child and not by itself: such programs run outside of any sandbox.

    Raises:
        PermissionCeiling: with the key that would start them.
    """
    if parent is None or parent.spec.level == "full_access":
        return
    if wanted := sorted(backend_config.keys() & (_STARTING | _REACHING)):
        raise PermissionCeiling(
            f"backend_config.{wanted[0]} leads out of what {parent.spec.run_id} is permitted "
            f"({parent.spec.level}); leave it out, or let the caller who spawned {parent.root.run_id} spawn this run"
        )


def check_commands(arguments: Mapping[str, Any], parent: Parent | None) -> None:
    """Refuses what the host would do for an agent that it may not do itself: run its commands, fetch from elsewhere,
    send there.

    Raises:
        PermissionCeiling: with the argument.
    """
    if parent is None or parent.spec.level == "full_access":
        return
    workspace = as_object(arguments.get("workspace")) or {}
    wanted = "checks" if arguments.get("checks") else "workspace.repo" if "repo" in workspace else None
    reaching = [name for name in ("command", "webhook") if name in (as_object(arguments.get("on_finish")) or {})]
    wanted = wanted or (f"on_finish.{reaching[0]}" if reaching else None)
    if wanted is not None:
        raise PermissionCeiling(
            f"{wanted} leads out of what {parent.spec.run_id} is permitted ({parent.spec.level}); leave it out"
        )


def check_place(cwd: Path, permission: Permission | None, parent: Parent | None) -> None:
    """Refuses a child that may write where its parent may not.

    Raises:
        PermissionCeiling: with what would be allowed.
    """
    if parent is None or parent.spec.level == "full_access" or permission == "read_only":
        return
    if not cwd.is_relative_to(parent.spec.cwd):
        raise PermissionCeiling(
            f"{parent.spec.run_id} is permitted {parent.spec.level} in {parent.spec.cwd}, and so is its child: "
            "choose a cwd in there, or permission 'read_only'"
        )


def check_writes(cwd: Path, parent: Parent | None) -> None:
    """Refuses an agent that wants to bring something into a repository that is not all its own.

    Raises:
        PermissionCeiling: with what it is permitted.
    """
    if parent is not None:
        under(ceiling_of(Settings(), parent), "workspace_write", "deny")
        check_place(top_of(cwd) or cwd, None, parent)


def _permission_rank(permission: Permission) -> int:
    return PERMISSIONS.index(permission)


def _approval_rank(on_approval: OnApproval) -> int:
    return ON_APPROVAL_ORDER.index(on_approval)
