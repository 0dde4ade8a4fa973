"""What a caller asks for by `workspace` and `checks` of `spawn_run`: read, refused where it makes no sense, and made
exact: a base is a full commit id from the moment of the call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.errors import GitError, InvalidArgument, nearest
from orchestrator.model import JsonObject, as_array, as_object
from orchestrator.workspaces.git import Git
from orchestrator.workspaces.making import OWN_BRANCHES

MODES = ("shared", "worktree", "clone")
KEEP = ("on_failure", "always", "never")
_KEYS = ("mode", "base", "repo", "branch", "include_uncommitted", "keep")
_CHECK_KEYS = ("name", "run", "timeout_s", "required")
MOST_CHECKS = 20
CHECK_S = 600.0
"""How long a check may take that says nothing of it."""
_REMOTE = re.compile(r"[\w.+-]+@[\w.-]+:.+|(https?|ssh|git|file)://.+")


def workspace_of(given: Any, cwd: Path, env: Mapping[str, str], *, trusted: bool = False) -> JsonObject | None:
    """The workspace of a run, exact; None for the directory itself. Asks git, so it is called in a thread.

    Args:
        trusted: programs of the repository's own configuration may be run.

    Raises:
        InvalidArgument: it is malformed, or cannot be had here, with the reason.
    """
    asked = _read(given)
    if asked["mode"] == "shared":
        return None
    if asked["mode"] == "clone" and _REMOTE.fullmatch(asked.get("repo", "")):
        return asked
    where = Path(asked["repo"]) if "repo" in asked else cwd
    git = Git(where, env, trusted=trusted)
    top, prefix = _place_of(git, bare=asked["mode"] == "clone")
    if not trusted and (programs := git.own_programs()):
        raise InvalidArgument(
            f"{top} has {programs[0]} in its own configuration, which is run for folders in trusted_dirs alone; list "
            "it there in your settings, or use workspace mode 'shared'"
        )
    exact = {**asked, "top": top, "prefix": prefix, "base": _commit(git, asked.get("base", "HEAD"))}
    if asked.get("include_uncommitted") and exact["base"] != _commit(git, "HEAD"):
        raise InvalidArgument(
            "workspace.include_uncommitted carries what differs from HEAD, and goes with no other base; leave out base"
        )
    if asked.get("include_uncommitted") and git.run("ls-files", "-u"):
        raise InvalidArgument(f"{top} has a merge with conflicts, which include_uncommitted cannot carry over")
    if asked["mode"] == "worktree" and "branch" not in asked and in_the_way(git, OWN_BRANCHES.rstrip("/"), below=False):
        raise InvalidArgument("a branch 'orchestrator' exists, so none can be made below it; give workspace.branch")
    if branch := asked.get("branch"):
        _check_branch(git, branch, taken=asked["mode"] == "worktree")
    return exact


def _read(given: Any) -> JsonObject:
    asked = as_object(given)
    if asked is None:
        raise InvalidArgument("workspace must be an object, as {mode: 'worktree'}")
    for key in asked:
        if key not in _KEYS:
            raise InvalidArgument(f"workspace has no key {key!r}{nearest(key, _KEYS)}")
    asked = {"mode": "shared", "keep": "on_failure", **asked}
    for key, known in (("mode", MODES), ("keep", KEEP)):
        if asked[key] not in known:
            raise InvalidArgument(f"workspace.{key} is {asked[key]!r}; it takes one of: {', '.join(known)}")
    for key in ("base", "repo", "branch"):
        if key in asked and (not isinstance(value := asked[key], str) or not value or value.startswith("-")):
            raise InvalidArgument(f"workspace.{key} must be a string that is not empty and does not begin with '-'")
    if not isinstance(asked.get("include_uncommitted", False), bool):
        raise InvalidArgument("workspace.include_uncommitted must be true or false")
    _check_together(asked)
    return asked


def _check_together(asked: JsonObject) -> None:
    mode = asked["mode"]
    if mode == "shared" and (useless := sorted(asked.keys() - {"mode", "keep"})):
        raise InvalidArgument(f"workspace.{useless[0]} goes with mode 'worktree' or 'clone'")
    if mode == "worktree" and "repo" in asked:
        raise InvalidArgument("workspace.repo goes with mode 'clone'; a worktree is one of the repository of cwd")
    if mode == "clone" and asked.get("include_uncommitted"):
        raise InvalidArgument("workspace.include_uncommitted goes with mode 'worktree'")
    repo: str = asked.get("repo", "/")
    if _REMOTE.fullmatch(repo):
        if _may_hold_a_secret(repo):
            raise InvalidArgument(
                "workspace.repo holds a password, or a user or a query that may be one, and would be kept with the run "
                "and its clone; give the plain URL, and leave who you are to git's own credential helpers"
            )
    elif not Path(repo).is_absolute():
        raise InvalidArgument(f"workspace.repo is {repo[:200]!r}; it takes an absolute path or a URL")


def _may_hold_a_secret(url: str) -> bool:
    """Whether a URL says more than where a repository is. A user of ssh is no secret, and part of the place."""
    try:
        parts = urlsplit(url)
        web = parts.scheme in ("http", "https")
        return parts.password is not None or (web and ("@" in parts.netloc or bool(parts.query or parts.fragment)))
    except ValueError:  # no URL at all; git says so
        return "@" in url


def _place_of(git: Git, *, bare: bool) -> tuple[str, str]:
    """The top of the repository, and the way from there to the directory."""
    if not git.where.is_dir():
        raise InvalidArgument(f"{git.where} is no directory")
    try:
        if git.text("rev-parse", "--is-inside-work-tree") == "true":
            return git.text("rev-parse", "--show-toplevel"), git.text("rev-parse", "--show-prefix")
        top = git.text("rev-parse", "--absolute-git-dir")
    except GitError as error:
        if "dubious ownership" in str(error):
            raise InvalidArgument(f"git does not trust {git.where}: {error}") from error
        raise InvalidArgument(
            f"{git.where} is in no git repository; use workspace mode 'shared', or git init and commit first"
        ) from error
    if not bare:
        raise InvalidArgument(f"{git.where} is in a bare repository, which has no files; use workspace mode 'clone'")
    return top, ""


def _commit(git: Git, ref: str) -> str:
    commit = git.asks("rev-parse", "--verify", "-q", "--end-of-options", f"{ref}^{{commit}}")
    if commit is None:
        if ref == "HEAD":
            raise InvalidArgument(f"{git.where} has no commit yet; commit once, or use workspace mode 'shared'")
        raise InvalidArgument(f"workspace.base {ref!r} is no commit, branch or tag of {git.where}")
    return commit


def _check_branch(git: Git, branch: str, *, taken: bool) -> None:
    if git.asks("check-ref-format", "--branch", branch) != branch:
        raise InvalidArgument(f"workspace.branch {branch!r} is no name that git takes for a branch")
    if taken and (other := in_the_way(git, branch)):
        raise InvalidArgument(f"workspace.branch {told_of(branch, other)}")


def in_the_way(git: Git, branch: str, *, below: bool = True) -> str | None:
    """A branch for whose sake this one cannot be made: itself, one above it, or one below it."""
    names = branch.split("/")
    above = ["/".join(names[: count + 1]) for count in range(len(names))]
    asked = [f"refs/heads/{name}" for name in above] + ([f"refs/heads/{branch}/**"] if below else [])
    found = git.text("for-each-ref", "--format=%(refname:lstrip=2)", *asked).split("\n")
    return next((name for name in found if name in above or (name.startswith(f"{branch}/") and below)), None)


def told_of(branch: str, other: str) -> str:
    """Why a branch cannot be made."""
    more = "" if other == branch else f" cannot be made: {other!r}"
    return f"{branch!r}{more} exists already; choose another"


def checks_of(given: Any) -> list[JsonObject] | None:
    """The checks of a run, each `{name, run, timeout_s, required}`.

    Raises:
        InvalidArgument: it names the first that is wrong, and what it takes.
    """
    listed = as_array(given)
    if listed is None:
        raise InvalidArgument("checks must be an array of commands, or of {name, run, timeout_s, required}")
    if len(listed) > MOST_CHECKS:
        raise InvalidArgument(f"checks has {len(listed)} entries; a run takes {MOST_CHECKS}")
    checks = [_check(f"checks[{place}]", entry) for place, entry in enumerate(listed)]
    names = [check["name"] for check in checks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidArgument(f"two checks are called {twice!r}; give each a name of its own")
    return checks or None


def _check(place: str, given: Any) -> JsonObject:
    check = {"run": given} if isinstance(given, str) else as_object(given)
    if check is None:
        raise InvalidArgument(f"{place} must be a command, or an object with run")
    for key in check:
        if key not in _CHECK_KEYS:
            raise InvalidArgument(f"{place} has no key {key!r}{nearest(key, _CHECK_KEYS)}")
    run, name = check.get("run"), check.get("name", check.get("run"))
    if not isinstance(run, str) or not run.strip() or "\0" in run or len(run) > 8_000:
        raise InvalidArgument(f"{place}.run must be a command for the shell")
    if not isinstance(name, str) or not name.strip():
        raise InvalidArgument(f"{place}.name must be a string that is not empty")
    timeout_s, required = check.get("timeout_s", CHECK_S), check.get("required", True)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not 0 < timeout_s <= 24 * 3600:
        raise InvalidArgument(f"{place}.timeout_s must be a number of seconds up to a day, not {timeout_s!r}")
    if not isinstance(required, bool):
        raise InvalidArgument(f"{place}.required must be true or false")
    return {"name": name.strip()[:80], "run": run, "timeout_s": timeout_s, "required": required}
