"""Settings: one model, three sources, and where each value comes from.

    $ORCHESTRATOR_HOME/config.toml     the user's own; the only place that can widen a cap
    .orchestrator.toml                 a project's, from the top of its git repository down to cwd: each may only
                                       narrow, and is ignored with a notice where it would widen
    ORCHESTRATOR_*                     the environment of a client: overrides, but for caps, which it may only narrow

The environment counts as little as a project's file for caps, because an agent sets the environment of what it starts.
Some settings are those of a host, which serves all directories and clients: they come from the user's file and from the
environment that the host itself was started with.
"""

from __future__ import annotations

import errno
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from orchestrator.errors import InvalidArgument, nearest
from orchestrator.files import read_file
from orchestrator.model import ON_APPROVAL_ORDER, PERMISSIONS, OnApproval, Permission

PROJECT_FILE = ".orchestrator.toml"
USER_FILE = "config.toml"
MOST_BYTES, MOST_DOTS = 2**16, 1_000
"""Of a file. What it takes to parse a key grows with the square of its dots: 100,000 of them fill any memory."""
ENV_PREFIX = "ORCHESTRATOR_"
HOME_VARIABLE, RUN_PREFIX = "ORCHESTRATOR_HOME", "ORCHESTRATOR_RUN_"
DELIVERY_VARIABLE = "ORCHESTRATOR_DELIVERY_ID"
"""In the environment of a command of `on_finish`: by it the command knows an end that it was told of before."""
NO_SETTINGS = (HOME_VARIABLE, DELIVERY_VARIABLE)
BACKENDS = ("claude_code", "codex", "remote_a2a", "scripted")
"""The names of `backends`, which nobody below the host imports; a test compares them."""

Narrowing = Literal["free", "min", "union", "user"]


class Form(NamedTuple):
    """What a text, or each of a list, must be like, beside being one: a test of it, and the same in words."""

    fits: Callable[[str], object]
    words: str


URL = Form(re.compile(r"https?://[^/?#\s]\S*", re.IGNORECASE).fullmatch, "a URL that begins with https:// or http://")
"""As far as can be told without `webhook.py`, which takes its time to load."""


def _is_folder(given: str) -> bool:
    return "\0" not in given and os.path.isabs(os.path.expanduser(given))  # noqa: PTH111, PTH117


FOLDER = Form(_is_folder, "absolute paths, or such that begin with ~/")


def setting(
    default: Any,
    doc: str,
    narrowing: Narrowing = "free",
    choices: tuple[str, ...] = (),
    *,
    form: Form | None = None,
    least: int = 0,
    of_host: bool = False,
) -> Any:
    """A setting.

    Args:
        narrowing: what sources other than the user's file may do to it: `free` anything, `min` lower it (of choices: an
            earlier one), `union` add to it, `user` nothing.
        form: what its text, or each of its list, must be like; the default need not be.
        least: the least number that it takes.
        of_host: no source but the user's file and the environment of the host itself counts.
    """
    meta = {
        "doc": doc, "narrowing": narrowing, "choices": choices, "form": form, "least": least, "of_host": of_host
    }  # fmt: skip
    if isinstance(default, tuple):
        return field(default_factory=tuple, metadata=meta)
    return field(default=default, metadata=meta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force for one client. In files a `_local` or `_remote` ending may be written as a table."""

    max_concurrent_runs_local: int = setting(
        8, "local agents that work at the same time; more are queued", "min", least=1, of_host=True
    )
    max_concurrent_runs_remote: int = setting(
        64, "remote runs that work at the same time", "min", least=1, of_host=True
    )
    max_depth: int = setting(3, "how deep runs may spawn runs: 0 is none, 1 children, 2 grandchildren", "min")
    max_runs_per_tree: int = setting(
        50, "runs below one that a client spawned, with itself, over its life", "min", least=1
    )
    max_permission: Permission = setting("full_access", "the most that any run may be permitted", "min", PERMISSIONS)
    max_on_approval: OnApproval = setting(
        "allow", "the most that on_approval may be; deny is less than ask", "min", ON_APPROVAL_ORDER
    )
    trusted_dirs: tuple[str, ...] = setting(
        (), "folders whose files may carry commands and environment", "user", form=FOLDER
    )
    env_deny: tuple[str, ...] = setting((), "variables that no agent gets; * stands for anything", "union")
    env_allow: tuple[str, ...] = setting((), "if given, the only variables that agents get", "user")
    mask_env: tuple[str, ...] = setting((), "further variables whose values are masked in all files", "union")
    claude_cli: str = setting("", "the Claude Code to run; otherwise that of the extra, or on PATH", "user")
    codex_cli: str = setting("", "the Codex to run; otherwise that of the extra, or on PATH", "user")
    backend: str = setting("", "what `orchestrator run` uses without --backend", choices=BACKENDS)
    rate_limit_wait_s: float = setting(
        60.0,
        "seconds that a backend begins no run after a rate limit of unknown length; doubled each time, to 900",
        of_host=True,
    )
    on_finish_webhook: str = setting(
        "", "a URL that is told of the end of each run that no agent spawned", "user", form=URL
    )
    on_finish_command: tuple[str, ...] = setting((), "a program, with its arguments, that is told likewise", "user")
    delivery_retry_s: float = setting(
        5.0, "seconds before somebody is told again who could not be; later ones grow", of_host=True
    )
    host_idle_s: float = setting(600.0, "seconds that a host stays without clients and live runs", of_host=True)
    log_level: str = setting("info", "what the host logs", "free", ("debug", "info", "warning", "error"), of_host=True)

    def trusts(self, folder: Path) -> bool:
        """Whether the user listed the folder, or one above it, wherever links to either may lie. Looks at the disk."""
        listed = [own for own in map(os.path.expanduser, self.trusted_dirs) if os.path.isabs(own)]  # noqa: PTH117
        if not listed:
            return False
        real = Path(os.path.realpath(folder))
        return any(real.is_relative_to(os.path.realpath(own)) for own in listed)


class Origin(NamedTuple):
    """Where a value comes from: a file, a variable, or `default`; and what was ignored on the way."""

    source: str
    notices: tuple[str, ...] = ()


class Effective(NamedTuple):
    """Settings with the origin of each."""

    settings: Settings
    origins: Mapping[str, Origin]
    file: Path
    """The user's own."""

    @property
    def notices(self) -> list[str]:
        """What was ignored, for the user to read."""
        return [notice for origin in self.origins.values() for notice in origin.notices]


FIELDS = {f.name: f for f in fields(Settings)}


def load(home: Path, cwd: Path | None, env: Mapping[str, str]) -> Effective:
    """The settings for a client at `cwd` with that environment. Looks at the disk.

    Args:
        cwd: None for the process itself, a host: its environment counts for what is the host's.

    Raises:
        InvalidArgument: a file or a variable has an unknown key or a wrong value; the message names it.
    """
    user = home / USER_FILE
    effective = Effective(Settings(), dict.fromkeys(FIELDS, Origin("default")), user)
    effective = _applied(effective, _file(Path(os.path.realpath(user))), str(user), own=True)
    if cwd is not None:
        why = f"it is the host's, which serves all directories; set it in {user}"
        for project in project_files(cwd):
            effective = _applied(effective, _file(project), str(project), why_not_host=why)
    why = "" if cwd is None else "it counts only for a host that is started with it"
    for name, value in sorted(env.items()):
        if name.startswith(ENV_PREFIX) and name not in NO_SETTINGS and not name.startswith(RUN_PREFIX):
            given = {name.removeprefix(ENV_PREFIX).lower(): value}
            effective = _applied(effective, given, name, why_not_host=why)
    return effective


def project_files(cwd: Path) -> list[Path]:
    """Where the files of a project may lie, outermost first: from the top of the git repository down to cwd; in cwd
    alone where there is no repository. Looks at the disk.

    Folders count by where they really lie: a link into a repository is no way out of what the repository says.

    Raises:
        InvalidArgument: cwd cannot be the name of a directory.
    """
    try:
        here = Path(os.path.realpath(cwd))
        folders = (here, *here.parents)
        depth = next((n for n, folder in enumerate(folders) if os.path.exists(folder / ".git")), 0)  # noqa: PTH110
    except ValueError as error:
        raise InvalidArgument(f"{str(cwd)!r} is no directory: {error}") from error
    return [folder / PROJECT_FILE for folder in reversed(folders[: depth + 1])]


def _file(path: Path) -> dict[str, Any]:
    try:
        content = read_file(path, MOST_BYTES).decode()
        if content.count(".") > MOST_DOTS:
            raise ValueError(f"it has over {MOST_DOTS:,} dots, which no settings need")
        document = tomllib.loads(content)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise InvalidArgument(f"{path} cannot be read as TOML: {why}") from error
    except ValueError as error:
        raise InvalidArgument(f"{path} cannot be read as TOML: {error}") from error
    except RecursionError:  # not from it: its traceback is long
        raise InvalidArgument(f"{path} cannot be read as TOML: it is nested too deeply") from None
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat |= {f"{key}_{inner}": item for inner, item in cast(dict[str, Any], value).items()}
        else:
            flat[key] = value
    return flat


def _applied(
    effective: Effective, given: Mapping[str, Any], source: str, *, own: bool = False, why_not_host: str = ""
) -> Effective:
    """What is given on top of what there is.

    Args:
        own: the source is the user's file.
        why_not_host: why the source does not count for what is the host's; empty if it does.
    """
    settings, origins = effective.settings, dict(effective.origins)
    for key, raw in given.items():
        if key not in FIELDS:
            raise InvalidArgument(f"{source}: no setting {key!r}{nearest(key, FIELDS)}")
        value = _checked(key, raw, source)
        _check_form(key, value, source)
        old = getattr(settings, key)
        why = why_not_host if FIELDS[key].metadata["of_host"] else ""
        if why:
            origins[key] = origins[key]._replace(notices=(*origins[key].notices, f"{source}: {key}: {why}"))
            continue
        allowed = value if own else _NARROWING[FIELDS[key].metadata["narrowing"]](key, old, value)
        if allowed == value or (isinstance(value, tuple) and set(value) <= set(allowed)):  # pyright: ignore[reportUnknownArgumentType]
            origins[key] = origins[key]._replace(source=_source_of(key, old, value, origins[key].source, source))
        else:
            notice = f"{source} may not set {key} to {shown(value)}; it stays {shown(allowed)}"
            origins[key] = origins[key]._replace(notices=(*origins[key].notices, notice))
        settings = replace(settings, **{key: allowed})
    return effective._replace(settings=settings, origins=origins)


def _source_of(key: str, old: Any, value: Any, before: str, source: str) -> str:
    """Where a value comes from that was given on top of an old one: what is added to a list has all its sources."""
    if FIELDS[key].metadata["narrowing"] != "union" or not old:
        return source
    return f"{before}, {source}" if set(value) - set(old) else before


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
            least: int = FIELDS[key].metadata["least"]
            wanted = "a whole number" if isinstance(default, int) else "a number"
            wanted += f" from {least} on"
            number = math.nan if isinstance(raw, bool) else type(default)(raw)
            if number >= least and number == float(raw) and math.isfinite(number):
                return number
        elif isinstance(raw, str) and (not choices or raw in choices or raw == default):
            return raw
        else:
            wanted = f"one of {', '.join(choices)}" if choices else "a string"
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidArgument(f"{source}: {key} is {raw!r}; it takes {wanted}")


def _check_form(key: str, value: Any, source: str) -> None:
    form: Form | None = FIELDS[key].metadata["form"]
    if form is None or value == _default(key):
        return
    for text in cast(tuple[str, ...], value if isinstance(value, tuple) else (value,)):
        if not form.fits(text):
            raise InvalidArgument(f"{source}: {key} has {text!r}; it takes {form.words}")


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
        others = "only you, and a host's own environment" if f.metadata["of_host"] else who[f.metadata["narrowing"]]
        lines.append(f"| `{name}` | {default} | {f.metadata['doc']}{choices} | {others} |")
    return "\n".join(lines)
