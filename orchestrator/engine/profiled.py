"""What a profile does to a run: to the arguments of its spawn, and to what its agent is told.

Explicit arguments of the call win. A profile out of the workspace may have been written by anybody who can write
there, an agent among them: it may only lower permission and tighten approval, and names no commands and tools, unless
the user trusts its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from orchestrator.backend import Backend
from orchestrator.config import Settings
from orchestrator.engine.tree import Ceiling
from orchestrator.limits import KEPT_BY_BACKENDS
from orchestrator.model import ON_APPROVAL_ORDER, PERMISSIONS, JsonObject, Message, ProfileRef, RunSpec
from orchestrator.profiles import Profile

T = TypeVar("T", bound=str)

_NATIVE = ("model", "effort", "tools", "disallowed_tools")
"""What only means something to the agent that a profile was made for: keys of its `backend_config`."""


class Profiled(NamedTuple):
    """A call with its profile: the arguments, and what is kept of the profile."""

    arguments: JsonObject
    profile: ProfileRef


def is_trusted(profile: Profile, cwd: Path, settings: Settings, *, by_agent: bool) -> bool:
    """Whether a profile counts as the word of the user. Looks at the disk.

    Args:
        cwd: of the run; its workspace is the repository around it, if there is one.
        by_agent: the caller is the agent of another run, and may have written what it names.
    """
    if profile.source in ("user", "packaged"):
        return True
    workspace = next((folder for folder in (cwd, *cwd.parents) if (folder / ".git").exists()), cwd)
    real = profile.path.resolve()
    inside = any(path.is_relative_to(workspace) for path in (profile.path.absolute(), real))
    return settings.trusts(real.parent) or not (inside or by_agent)


def profiled(
    arguments: Mapping[str, Any], profile: Profile, backend: Backend, ceiling: Ceiling, *, trusted: bool
) -> Profiled:
    """Fills in what the call leaves to its profile.

    Args:
        ceiling: what the call may be given at most; a profile that wants more gets that.
    """
    given, own, notices = dict(arguments), dict(profile.fields), list(profile.notices)
    if not trusted and (dropped := [key for key in ("checks", "tools") if own.pop(key, None)]):
        notices.append(f"{' and '.join(dropped)} of a folder that is not in trusted_dirs are not used")
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
    text = profile.text + _told(own.get("checks", ()))
    ref = ProfileRef(
        name=profile.name, path=str(profile.path), sha256=profile.sha256, text=text, notices=notices or None
    )
    return Profiled(given, ref)


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
    wanted = {key: own[key] for key in _NATIVE if own.get(key)}
    if own.get("backend", backend.name) == backend.name:
        kept = {key: value for key, value in wanted.items() if key in backend.abilities}
    else:
        kept = {}
    if unused := wanted.keys() - kept.keys():
        notices.append(f"{', '.join(sorted(unused))} are not used with {backend.name}")
    return {key: list(cast(Sequence[str], value)) if isinstance(value, tuple) else value for key, value in kept.items()}


def _told(checks: Sequence[str]) -> str:
    if not checks:
        return ""
    lines = "".join(f"\n- `{command}`" for command in checks)
    return f"\n\n## Checks\n\nThe work is done when these commands pass; run them before you say so.\n{lines}"


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
    """The message with the job description before it, in a fence that the description cannot close itself."""
    fence = "====="
    while fence in profile.text:
        fence += "="
    head = f"{fence} Your job description ({profile.name}) {fence}\n{profile.text}\n{fence} Your task {fence}\n"
    first, *rest = message.parts or [{}]
    if first.get("type") == "text":  # one text, for some agents read no other
        return replace(message, parts=[{**first, "text": head + first["text"]}, *rest])
    return replace(message, parts=[{"type": "text", "text": head}, *message.parts])
