"""What a profile does to a run: to the arguments of its spawn, and to what its agent is told.

Explicit arguments of the call win. Only the user's own profiles, the packaged ones and those in `trusted_dirs` count as
the user's word. Any other may have been written by anybody, an agent among them: it may only lower permission and
tighten approval, and names no commands and tools.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from orchestrator.backend import Backend
from orchestrator.config import Settings
from orchestrator.engine.tree import Ceiling, Parent
from orchestrator.errors import InvalidArgument, PermissionCeiling
from orchestrator.front_matter import in_short
from orchestrator.limits import KEPT_BY_BACKENDS
from orchestrator.model import ON_APPROVAL_ORDER, PERMISSIONS, JsonObject, Message, ProfileRef, RunSpec, as_object
from orchestrator.profiles import Profile
from orchestrator.workspaces.git import top_of

T = TypeVar("T", bound=str)

_NATIVE = ("model", "effort", "tools", "disallowed_tools")
"""What only means something to the agent that a profile was made for: keys of its `backend_config`."""


class Profiled(NamedTuple):
    """A call with its profile: the arguments, and what is kept of the profile."""

    arguments: JsonObject
    profile: ProfileRef


def is_trusted(profile: Profile, settings: Settings) -> bool:
    """Whether a profile counts as the word of the user. Looks at the disk.

    A link counts for no more than the folder it lies in, nor for more than the one it leads to.
    """
    if profile.source in ("user", "packaged"):
        return True
    listed = [Path(folder).expanduser() for folder in settings.trusted_dirs]
    listed += [folder.resolve() for folder in listed]
    given = Path(os.path.normpath(profile.path.absolute())).parent
    return all(any(folder.is_relative_to(own) for own in listed) for folder in (given, profile.real.parent))


def check_reach(profile: Profile, cwd: Path, parent: Parent | None, *, trusted: bool) -> None:
    """Refuses a file whose text the caller, or whoever wrote the workspace, could not read by itself.

    Args:
        cwd: of the run.
        parent: the run whose agent is the caller, if it is one.

    Raises:
        PermissionCeiling: with where the file lies.
    """
    if trusted:
        return
    if profile.source in ("project", "claude") and not profile.real.is_relative_to(top_of(cwd) or cwd):
        raise PermissionCeiling(
            f"profile {profile.path} leads to {profile.real}, out of the project; name that file itself"
        )
    if (
        parent
        and parent.spec.level != "full_access"
        and not profile.real.is_relative_to(top_of(parent.spec.cwd) or parent.spec.cwd)
    ):
        raise PermissionCeiling(
            f"profile {profile.path} lies outside of what {parent.spec.run_id} works in; use a name, or a file in there"
        )


def profiled(
    arguments: Mapping[str, Any], profile: Profile, backend: Backend, ceiling: Ceiling, *, trusted: bool
) -> Profiled:
    """Fills in what the call leaves to its profile.

    Args:
        ceiling: what the call may be given at most; a profile that wants more gets that.

    Raises:
        InvalidArgument: a stranger's schema could keep this process busy for ever.
    """
    given, own, notices = dict(arguments), dict(profile.fields), list(profile.notices)
    if not trusted:
        if dropped := [key for key in ("checks", "tools") if own.pop(key, None) is not None]:
            notices.append(f"{' and '.join(dropped)} of a folder that is not in trusted_dirs are not used")
        if not {"pattern", "patternProperties"}.isdisjoint(_keys(own.get("output_schema"))):
            raise InvalidArgument(
                f"output_schema of profile {profile.path} has a pattern, which only folders in trusted_dirs may have"
            )
    for key in ("role", "output_schema"):
        if key in own:
            given.setdefault(key, own[key])
    if given.get("session_mode", "new") != "resume":
        given.setdefault("nickname", profile.name)
    bound = ceiling.permission if trusted else _least(PERMISSIONS, ceiling.permission, "workspace_write")
    _lower(given, own, "permission", PERMISSIONS, bound, notices)
    bound = ceiling.on_approval if trusted else _least(ON_APPROVAL_ORDER, ceiling.on_approval, "ask")
    _lower(given, own, "on_approval", ON_APPROVAL_ORDER, bound, notices)
    given["limits"] = {**_limits(own, backend, notices), **(given.get("limits") or {})}
    given["backend_config"] = {**_native(own, backend, notices), **(given.get("backend_config") or {})}
    if "checks" in own:
        given.setdefault("checks", list(own["checks"]))
    text = profile.text + _told(own.get("checks", ()))
    ref = ProfileRef(
        name=profile.name, path=str(profile.path), sha256=profile.sha256, text=text, notices=notices or None
    )
    return Profiled(given, ref)


def _keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for item in cast(list[Any], schema):
            yield from _keys(item)
    for key, value in (as_object(schema) or {}).items():
        yield key
        yield from _keys(value)


def _lower(given: JsonObject, own: JsonObject, key: str, order: Sequence[T], bound: T, notices: list[str]) -> None:
    if key in given or key not in own:
        return
    given[key] = _least(order, own[key], bound)
    if given[key] != own[key]:
        notices.append(f"{key} {own[key]} is lowered to {given[key]}")


def _least(order: Sequence[T], one: T, other: T) -> T:
    return min(one, other, key=order.index)


def _limits(own: JsonObject, backend: Backend, notices: list[str]) -> JsonObject:
    limits: JsonObject = own.get("limits", {})
    unkept = [name for name in limits if name in KEPT_BY_BACKENDS and name not in backend.abilities]
    if unkept:
        notices.append(f"{backend.name} cannot keep limits.{', limits.'.join(unkept)}")
    return {name: value for name, value in limits.items() if name not in unkept}


def _native(own: JsonObject, backend: Backend, notices: list[str]) -> JsonObject:
    wanted = {key: own[key] for key in _NATIVE if key in own}
    if own.get("backend", backend.name) == backend.name:
        kept = {key: value for key, value in wanted.items() if key in backend.abilities}
    else:
        kept = {}
    if unused := sorted(wanted.keys() - kept.keys()):
        notices.append(f"{in_short(unused)} are not used with {backend.name}")
    return {key: list(cast(Sequence[str], value)) if isinstance(value, tuple) else value for key, value in kept.items()}


def _told(checks: Sequence[str]) -> str:
    if not checks:
        return ""
    commands = "\n".join(checks)
    return (
        "\n\n## Checks\n\nThe work is done when these commands pass; run them before you say so.\n\n"
        f"```sh\n{commands}\n```"
    )


def instructed(spec: RunSpec, backend: Backend) -> RunSpec:
    """The spec as the backend gets it: the job description is part of the agent's instructions, or of the message."""
    if spec.profile is None:
        return spec
    if "instructions" in backend.abilities:
        own: Any = spec.backend_config.get("append_system_prompt")
        text = f"{spec.profile.text}\n\n{own}" if own else spec.profile.text
        return replace(spec, backend_config={**spec.backend_config, "append_system_prompt": text})
    return replace(spec, message=_with_preamble(spec.message, spec.profile))


def _with_preamble(message: Message, profile: ProfileRef) -> Message:
    """The message with the job description before it, in a fence that the description cannot close: nothing holds the
    digest of itself."""
    fence = f"===== {profile.sha256[:16]} ====="
    head = f"{fence} Your job description ({profile.name})\n{profile.text}\n{fence} Your task\n"
    first, *rest = message.parts or [{}]
    if first.get("type") == "text":  # one text, for some agents read no other
        return replace(message, parts=[{**first, "text": head + first["text"]}, *rest])
    return replace(message, parts=[{"type": "text", "text": head}, *message.parts])
