"""Settings: one model, three sources, and where each value comes from.

    $ORCHESTRATOR_HOME/config.toml     the user's own; the only place that can widen a cap
    <cwd>/.orchestrator.toml           a project's: may only narrow, and is ignored with a notice where it would widen
    ORCHESTRATOR_*                     the environment of a client: overrides, but for caps, which it may only narrow

The environment counts as little as a project's file for caps, because an agent sets the environment of what it starts.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from orchestrator.errors import InvalidArgument, nearest
from orchestrator.model import ON_APPROVAL_ORDER, PERMISSIONS, OnApproval, Permission

PROJECT_FILE = ".orchestrator.toml"
USER_FILE = "config.toml"
ENV_PREFIX = "ORCHESTRATOR_"
HOME_VARIABLE, RUN_PREFIX = "ORCHESTRATOR_HOME", "ORCHESTRATOR_RUN_"
"""Variables that are no settings."""

Narrowing = Literal["free", "min", "union", "user"]


def setting(default: Any, doc: str, narrowing: Narrowing = "free", choices: tuple[str, ...] = ()) -> Any:
    """A setting. `narrowing` is what sources other than the user's file may do to it: `free` anything, `min` lower
    it (of choices: an earlier one), `union` add to it, `user` nothing."""
    meta = {"doc": doc, "narrowing": narrowing, "choices": choices}
    if isinstance(default, tuple):
        return field(default_factory=tuple, metadata=meta)
    return field(default=default, metadata=meta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force for one client. In files a `_local` or `_remote` ending may be written as a table."""

    max_concurrent_runs_local: int = setting(8, "local agents that work at the same time; more are queued", "min")
    max_concurrent_runs_remote: int = setting(64, "remote runs that work at the same time", "min")
    max_depth: int = setting(3, "how deep runs may spawn runs: 0 is none, 1 children, 2 grandchildren", "min")
    max_runs_per_tree: int = setting(50, "runs below one that a client spawned, with itself, over its life", "min")
    max_permission: Permission = setting("full_access", "the most that any run may be permitted", "min", PERMISSIONS)
    max_on_approval: OnApproval = setting(
        "allow", "the most that on_approval may be; deny is less than ask", "min", ON_APPROVAL_ORDER
    )
    trusted_dirs: tuple[str, ...] = setting((), "folders whose files may carry commands and environment", "user")
    env_deny: tuple[str, ...] = setting((), "variables that no agent gets; * stands for anything", "union")
    env_allow: tuple[str, ...] = setting((), "if given, the only variables that agents get", "user")
    mask_env: tuple[str, ...] = setting((), "further variables whose values are masked in all files", "union")
    claude_cli: str = setting("", "the Claude Code to run; otherwise that of the extra, or on PATH", "user")
    codex_cli: str = setting("", "the Codex to run; otherwise that of the extra, or on PATH", "user")
    backend: str = setting("", "what `orchestrator run` uses without --backend")
    rate_limit_wait_s: float = setting(
        60.0, "seconds that a backend begins no run after a rate limit of unknown length; doubled each time, to 900"
    )
    on_finish_webhook: str = setting("", "a URL that is told of the end of each run that no agent spawned", "user")
    on_finish_command: tuple[str, ...] = setting((), "a program, with its arguments, that is told likewise", "user")
    delivery_retry_s: float = setting(5.0, "seconds before somebody is told again who could not be; later ones grow")
    host_idle_s: float = setting(600.0, "seconds that a host stays without clients and live runs")
    log_level: str = setting("info", "what the host logs", "free", ("debug", "info", "warning", "error"))

    def trusts(self, folder: Path) -> bool:
        """Whether the user listed the folder, or one above it."""
        return any(folder.is_relative_to(os.path.expanduser(trusted)) for trusted in self.trusted_dirs)  # noqa: PTH111


class Origin(NamedTuple):
    """Where a value comes from: a file, a variable, or `default`; and what was ignored on the way."""

    source: str
    notices: tuple[str, ...] = ()


class Effective(NamedTuple):
    """Settings with the origin of each."""

    settings: Settings
    origins: Mapping[str, Origin]

    @property
    def notices(self) -> list[str]:
        """What was ignored, for the user to read."""
        return [notice for origin in self.origins.values() for notice in origin.notices]


FIELDS = {f.name: f for f in fields(Settings)}


def load(home: Path, cwd: Path | None, env: Mapping[str, str]) -> Effective:
    """The settings for a client at `cwd` with that environment. Looks at the disk.

    Raises:
        InvalidArgument: a file or a variable has an unknown key or a wrong value; the message names it.
    """
    effective = Effective(Settings(), dict.fromkeys(FIELDS, Origin("default")))
    user = home / USER_FILE
    effective = _applied(effective, _file(user), str(user), own=True)
    if cwd is not None:
        project = cwd / PROJECT_FILE
        effective = _applied(effective, _file(project), str(project))
    for name, value in sorted(env.items()):
        if name.startswith(ENV_PREFIX) and name != HOME_VARIABLE and not name.startswith(RUN_PREFIX):
            effective = _applied(effective, {name.removeprefix(ENV_PREFIX).lower(): value}, name)
    return effective


def _file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read as TOML: {error}") from error
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat |= {f"{key}_{inner}": item for inner, item in cast(dict[str, Any], value).items()}
        else:
            flat[key] = value
    return flat


def _applied(effective: Effective, given: Mapping[str, Any], source: str, *, own: bool = False) -> Effective:
    settings, origins = effective.settings, dict(effective.origins)
    for key, raw in given.items():
        if key not in FIELDS:
            raise InvalidArgument(f"{source}: no setting {key!r}{nearest(key, FIELDS)}")
        value = _checked(key, raw, source)
        old = getattr(settings, key)
        allowed = value if own else _NARROWING[FIELDS[key].metadata["narrowing"]](key, old, value)
        if allowed == value or (isinstance(value, tuple) and set(value) <= set(allowed)):  # pyright: ignore[reportUnknownArgumentType]
            origins[key] = Origin(source, origins[key].notices)
        else:
            notice = f"{source} may not set {key} to {shown(value)}; it stays {shown(allowed)}"
            origins[key] = origins[key]._replace(notices=(*origins[key].notices, notice))
        settings = replace(settings, **{key: allowed})
    return Effective(settings, origins)


def _checked(key: str, raw: Any, source: str) -> Any:
    default, choices = _default(key), FIELDS[key].metadata["choices"]
    wanted = ""
    try:
        if isinstance(default, tuple):
            if isinstance(raw, str):
                raw = [word.strip() for word in raw.split(",") if word.strip()]
            if isinstance(raw, list) and all(isinstance(item, str) for item in cast(list[Any], raw)):
                return tuple(cast(list[str], raw))
            wanted = "a list of strings"
        elif isinstance(default, (int, float)):
            if not isinstance(raw, bool) and (number := type(default)(raw)) >= 0 and number == float(raw):
                return number
            wanted = "a whole number" if isinstance(default, int) else "a number"
        elif isinstance(raw, str) and (not choices or raw in choices):
            return raw
        else:
            wanted = f"one of {', '.join(choices)}" if choices else "a string"
    except (TypeError, ValueError):
        wanted = "a number"
    raise InvalidArgument(f"{source}: {key} is {raw!r}; it takes {wanted}")


def _default(key: str) -> Any:
    return getattr(Settings(), key)


def _least(key: str, old: Any, new: Any) -> Any:
    choices: tuple[str, ...] = FIELDS[key].metadata["choices"]
    return min(old, new, key=choices.index) if choices else min(old, new)


_NARROWING: Mapping[str, Callable[[str, Any, Any], Any]] = {
    "free": lambda _key, _old, new: new,
    "min": _least,
    "union": lambda _key, old, new: tuple(dict.fromkeys((*old, *new))) if set(new) - set(old) else old,
    "user": lambda _key, old, _new: old,
}


def shown(value: Any) -> str:
    """A value in words."""
    return ", ".join(value) or "nothing" if isinstance(value, tuple) else str(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def table() -> str:
    """The settings as a Markdown table, for the documentation."""
    who = {"free": "anybody", "min": "narrow", "union": "add", "user": "only you"}
    lines = ["| setting | default | what it is | project and environment may |", "|---|---|---|---|"]
    for name, f in FIELDS.items():
        choices = f": {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else ""
        default = shown(_default(name))
        lines.append(f"| `{name}` | {default} | {f.metadata['doc']}{choices} | {who[f.metadata['narrowing']]} |")
    return "\n".join(lines)
