"""Repositories as they are found, and what agents do to theirs: handled, or refused with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import InvalidArgument
from orchestrator.model import JsonObject, RunSpec
from orchestrator.store.layout import Workspace
from orchestrator.workspaces.asked import workspace_of
from orchestrator.workspaces.places import Place
from orchestrator.workspaces.results import Commit, Result
from tests.unit.test_snapshots import Files, dir_of, environment, files_in, git, mine, spec_of

WORDS = Commit("Title", "Body")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The variables of a client with an identity."""
    who = {f"GIT_{who}_{what}": "user@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return environment(tmp_path, **who)


@pytest.fixture
def repo(cwd: Path) -> Path:
    """A repository with one commit."""
    return filled(cwd)


def filled(cwd: Path) -> Path:
    git(cwd, "init", "-q", "-b", "main", "--template=")
    for name in ("a.txt", "b.txt", "in/c.txt", "out/d.txt"):
        (cwd / name).parent.mkdir(exist_ok=True)
        (cwd / name).write_bytes(b"".join(b"%s %d\n" % (name.encode(), line) for line in range(20)))
    git(cwd, "add", ".")
    git(cwd, "commit", "-q", "-m", "first")
    Workspace(cwd).open()
    return cwd


def prepared(cwd: Path, env: dict[str, str], **workspace: Any) -> Place:
    spec = spec_of(cwd, env, **workspace)
    place = Place(dir_of(spec), spec, env)
    place.prepare()
    return place


def told_by(place: Place) -> JsonObject:
    """What is told of the changes; the patch gives them exactly."""
    changes = place.finish()
    assert changes is not None
    assert changes.applies
    return changes.told


def goes(place: Place) -> bool:
    """Whether the place goes, and git knows of none any more."""
    cwd, path = place.cwd, place.path
    assert cwd.is_relative_to(path)
    assert place.remove() is None
    assert str(path) not in git(place.path.parents[2], "worktree", "list")
    return not path.exists()


def stays(place: Place) -> str:
    """Why the place stays, with all that is in it."""
    held = files_in(place.cwd)
    why = place.remove()
    assert files_in(place.cwd) == held, "nothing is removed that no patch holds"
    assert why is not None
    return why


def bring(
    spec: RunSpec, env: dict[str, str], *, mode: str = "apply", three_way: bool = False, check_only: bool = False,
    branch: str | None = None, words: Commit = WORDS, trusted: bool = False,
) -> JsonObject:  # fmt: skip
    """Brings the result of a run in."""
    result = Result(dir_of(spec), spec, env, trusted=trusted)
    return result.apply(mode=mode, words=words, check_only=check_only, three_way=three_way, branch=branch)


def without_ends(files: Files) -> Files:
    """The same however lines end."""
    return {path: (kind, content.replace(b"\r", b"")) for path, (kind, content) in files.items()}


def cycle(cwd: Path, env: dict[str, str], **workspace: Any) -> JsonObject:
    """A run that changes, adds, moves and removes; its result is brought in, and the worktree goes."""
    spec = spec_of(cwd, env, **workspace)
    place = Place(dir_of(spec), spec, env)
    place.prepare()
    (place.cwd / "a.txt").write_bytes((place.cwd / "a.txt").read_bytes() + b"more\n")
    (place.cwd / "new dir").mkdir()
    (place.cwd / "new dir/é.bin").write_bytes(b"\0\xff" * 9)
    (place.cwd / "b.txt").rename(place.cwd / "moved.txt")
    (place.cwd / "out/d.txt").unlink()
    told = told_by(place)
    after = files_in(place.cwd)
    assert told["files"] == 4
    assert goes(place)
    bring(spec, env)
    assert without_ends(files_in(cwd)) == without_ends(after)
    return told


# ---- refused


def _bare(cwd: Path) -> None:
    git(cwd, "init", "-q", "--bare")


def _empty(cwd: Path) -> None:
    git(cwd, "init", "-q")


def _nothing(cwd: Path) -> None:
    pass


def _full(cwd: Path) -> None:
    filled(cwd)
    git(cwd, "branch", "taken")


def _two(cwd: Path) -> None:
    filled(cwd)
    git(cwd, "commit", "-q", "--allow-empty", "-m", "second")


def _in_conflict(cwd: Path) -> None:
    filled(cwd)
    for branch in ("other", "main"):
        git(cwd, "checkout", "-q", "-B", branch)
        (cwd / "a.txt").write_text(f"of {branch}\n")
        git(cwd, "commit", "-q", "-a", "-m", branch)
        if branch == "other":
            git(cwd, "checkout", "-q", "-B", "main", "HEAD^")
    git(cwd, "merge", "-q", "other", check=False)


@pytest.mark.parametrize(("make", "asked", "why"), [
    (_nothing, {}, "is in no git repository; use workspace mode 'shared'"),
    (_bare, {}, "is in a bare repository, which has no files"),
    (_empty, {}, "has no commit yet"),
    (_full, {"base": "nowhere"}, "workspace.base 'nowhere' is no commit, branch or tag"),
    (_full, {"base": "main:a.txt"}, "is no commit, branch or tag"),
    (_full, {"base": "--all"}, "does not begin with '-'"),
    (_full, {"branch": "taken"}, "workspace.branch 'taken' exists already"),
    (_full, {"branch": "taken/below"}, "taken"),
    (_full, {"branch": "a..b"}, "is no name that git takes for a branch"),
    (_full, {"branch": "a b"}, "is no name that git takes for a branch"),
    (_full, {"branch": "x.lock"}, "is no name that git takes for a branch"),
    (_full, {"branch": "@{-1}"}, "is no name that git takes for a branch"),
    (_two, {"include_uncommitted": True, "base": "HEAD^"}, "differs from HEAD"),
    (_in_conflict, {"include_uncommitted": True}, "has a merge with conflicts"),
])  # fmt: skip
def test_what_no_worktree_can_be_made_of_is_refused_with_the_reason(
    cwd: Path, env: dict[str, str], make: Callable[[Path], None], asked: JsonObject, why: str
) -> None:
    make(cwd)
    before = files_in(cwd, without=())
    with pytest.raises(InvalidArgument, match=why):
        workspace_of({"mode": "worktree", **asked}, cwd, env)
    assert files_in(cwd, without=()) == before


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path, env: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="is no directory"):
        workspace_of({"mode": "worktree"}, tmp_path / "nowhere", env)


# ---- in the middle of something


def test_a_merge_in_progress_does_not_matter_to_a_run_that_begins_with_a_commit(cwd: Path, env: dict[str, str]) -> None:
    _in_conflict(cwd)
    before = mine(cwd)
    place = prepared(cwd, env)
    (place.cwd / "b.txt").write_text("changed\n")
    assert told_by(place)["files"] == 1
    assert goes(place)
    assert mine(cwd) == before
    assert (cwd / ".git/MERGE_HEAD").exists()


def test_a_merge_whose_conflicts_are_resolved_is_carried_over(cwd: Path, env: dict[str, str]) -> None:
    _in_conflict(cwd)
    (cwd / "a.txt").write_text("of both\n")
    git(cwd, "add", "a.txt")
    place = prepared(cwd, env, include_uncommitted=True)
    assert (place.cwd / "a.txt").read_text() == "of both\n"
    assert told_by(place)["files"] == 0
    assert goes(place)


def test_a_detached_head_stays_where_it_is(repo: Path, env: dict[str, str]) -> None:
    git(repo, "checkout", "-q", "--detach")
    before = mine(repo)
    place = prepared(repo, env)
    (place.cwd / "b.txt").write_text("changed\n")
    assert told_by(place)["files"] == 1
    assert goes(place)
    assert mine(repo) == before


# ---- programs that a repository names


FILTER = {"clean": "sed s/secret/pointer/", "smudge": "sed s/pointer/secret/", "required": "true"}


@pytest.fixture
def filtered(repo: Path) -> Path:
    """A repository whose `.big` files are stored as pointers."""
    for key, value in FILTER.items():
        git(repo, "config", f"filter.fake.{key}", value)
    (repo / ".gitattributes").write_text("*.big filter=fake\n")
    (repo / "x.big").write_text("secret one\n")
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "with a filter")
    assert git(repo, "show", "HEAD:x.big") == "pointer one"
    return repo


def of_the_user(filtered: Path, env: dict[str, str]) -> dict[str, str]:
    """The filter is one of the user's own configuration, and no more of the repository's."""
    config = filtered.parent / "gitconfig"
    for key, value in FILTER.items():
        git(filtered, "config", "--unset", f"filter.fake.{key}")
        git(filtered, "config", "--file", str(config), f"filter.fake.{key}", value)
    return {**env, "GIT_CONFIG_GLOBAL": str(config)}


@pytest.mark.parametrize("trusted", [False, True])
def test_filters_of_the_user_and_of_trusted_folders_are_applied_both_ways(
    filtered: Path, env: dict[str, str], trusted: bool
) -> None:
    if not trusted:
        env = of_the_user(filtered, env)
    spec = spec_of(filtered, env, trusted=trusted)
    place = Place(dir_of(spec), spec, env, trusted=trusted)
    place.prepare()
    assert (place.cwd / "x.big").read_text() == "secret one\n"
    assert told_by(place)["files"] == 0
    (place.cwd / "y.big").write_text("secret two\n")
    assert told_by(place)["files"] == 1
    assert "+pointer two" in place.patch.read_text()
    assert goes(place)
    bring(spec, env, trusted=trusted)
    assert (filtered / "y.big").read_text() == "secret two\n"


def test_a_folder_with_filters_of_its_own_must_be_trusted(filtered: Path, env: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="trusted_dirs alone"):
        spec_of(filtered, env)


@pytest.mark.parametrize("how", ["new", "changed", "included", "of the worktree"])
@pytest.mark.parametrize("then", ["finish", "remove"])
def test_a_filter_that_the_agent_defines_is_never_run(
    filtered: Path, env: dict[str, str], tmp_path: Path, how: str, then: str
) -> None:
    env = of_the_user(filtered, env)
    place = prepared(filtered, env)
    marker, program = tmp_path / "ran", f"touch '{tmp_path}/ran'; cat"
    name = "fake" if how == "changed" else "evil"
    (place.cwd / ".gitattributes").write_text(f"*.big filter=fake\n*.txt filter={name}\n")
    if how == "included":
        (tmp_path / "more").write_text(f'[filter "evil"]\n\tclean = "{program}"\n')
        git(place.cwd, "config", "include.path", str(tmp_path / "more"))
    elif how == "of the worktree":
        git(place.cwd, "config", "extensions.worktreeConfig", "true")
        git(place.cwd, "config", "--worktree", "filter.evil.clean", program)
    else:
        git(place.cwd, "config", f"filter.{name}.clean", program)
    (place.cwd / "a.txt").write_text("changed\n")
    assert told_by(place)["files"] >= 2
    assert then == "remove" or not marker.exists()
    marker.unlink(missing_ok=True)
    if then == "remove":
        assert place.remove() is None
    assert not marker.exists()


HOOKS = (
    *("post-checkout", "pre-commit", "commit-msg", "prepare-commit-msg", "post-commit", "post-index-change"),
    *(
        "reference-transaction",
        "post-merge",
        "applypatch-msg",
        "pre-applypatch",
        "post-applypatch",
        "fsmonitor-watchman",
    ),
)


@pytest.mark.parametrize("mode", ["apply", "commit", "branch"])
def test_hooks_are_run_by_nothing(repo: Path, env: dict[str, str], tmp_path: Path, mode: str) -> None:
    (repo / "b.txt").write_text("of the user\n")
    marker = tmp_path / "ran"
    (repo / ".git/hooks").mkdir()
    for name in HOOKS:
        (repo / ".git/hooks" / name).write_text(f"#!/bin/sh\necho {name} >>'{marker}'\n")
        (repo / ".git/hooks" / name).chmod(0o755)
    for uncommitted in (True, False):
        spec = spec_of(repo, env, include_uncommitted=uncommitted)
        place = Place(dir_of(spec), spec, env)
        place.prepare()
        (place.cwd / f"new {uncommitted}.txt").write_text("new\n")
        told_by(place)
        bring(spec, env, mode=mode, three_way=uncommitted)
        Result(dir_of(spec), spec, env).discard()
    assert not marker.exists(), marker.read_text()


@pytest.mark.parametrize("settings", [
    ("diff.noprefix=true", "diff.renames=false", "diff.algorithm=patience", "core.autocrlf=true", "core.safecrlf=true"),
    ("diff.mnemonicPrefix=true", "diff.renames=copies", "core.autocrlf=input", "core.eol=crlf", "color.ui=always"),
    ("diff.external={ran}", "diff.context=0", "diff.relative=true", "core.fsmonitor={ran}", "core.pager={ran}"),
    ("diff.suppressBlankEmpty=true", "diff.ignoreSubmodules=all", "apply.whitespace=error", "color.diff=always"),
    ("apply.whitespace=fix", "apply.ignoreWhitespace=change", "core.whitespace=tab-in-indent", "core.quotePath=false"),
    ("commit.gpgSign=true", "gpg.program={ran}", "core.hooksPath={hooks}", "merge.renames=false", "diff.orderFile=/no"),
    ("core.splitIndex=true", "core.untrackedCache=true", "core.logAllRefUpdates=false", "core.fileMode=false"),
    ("index.version=4", "feature.manyFiles=true", "status.showUntrackedFiles=no", "branch.autoSetupMerge=always"),
])  # fmt: skip
def test_no_settings_of_the_user_change_what_is_found(
    repo: Path, env: dict[str, str], tmp_path: Path, settings: tuple[str, ...]
) -> None:
    program, marker = tmp_path / "program", tmp_path / "ran"
    program.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
    program.chmod(0o755)
    os.link(program, tmp_path / "post-checkout")
    if "core.splitIndex=true" in settings:
        git(repo, "update-index", "--split-index")
    for setting in settings:
        key, _, value = setting.format(ran=program, hooks=tmp_path).partition("=")
        git(repo, "config", key, value)
    told = cycle(repo, env, include_uncommitted=True)
    assert (told["insertions"], told["deletions"]) == (1, 20)
    assert not marker.exists()


@pytest.mark.parametrize("setting", ["true", "input", "false"])
@pytest.mark.parametrize("stored", [b"one\ntwo\n", b"one\r\ntwo\r\n", b"one\r\ntwo\n"])
def test_ends_of_lines_come_back_as_they_were(repo: Path, env: dict[str, str], setting: str, stored: bytes) -> None:
    (repo / "lines").write_bytes(stored)
    git(repo, "add", "lines")
    git(repo, "commit", "-q", "-m", "lines")
    git(repo, "config", "core.autocrlf", setting)
    (repo / "lines").unlink()
    git(repo, "checkout", "-q", "lines")
    spec = spec_of(repo, env)
    place = Place(dir_of(spec), spec, env)
    place.prepare()
    assert told_by(place)["files"] == 0
    before = (place.cwd / "lines").read_bytes()
    assert before == (repo / "lines").read_bytes()
    (place.cwd / "lines").write_bytes(before + before[-5:])
    after = (place.cwd / "lines").read_bytes()
    assert told_by(place)["files"] == 1
    assert goes(place)
    bring(spec, env)
    assert (repo / "lines").read_bytes() == after


def test_exec_bits_stay_where_the_repository_does_not_look_at_them(repo: Path, env: dict[str, str]) -> None:
    (repo / "run").write_text("#!/bin/sh\n")
    (repo / "run").chmod(0o755)
    git(repo, "add", "run")
    git(repo, "commit", "-q", "-m", "run")
    git(repo, "config", "core.fileMode", "false")
    place = prepared(repo, env)
    (place.cwd / "run").write_text("#!/bin/sh\ntrue\n")
    (place.cwd / "run").chmod(0o644)
    assert told_by(place)["files"] == 1
    assert "mode" not in place.patch.read_text()
    assert goes(place)


@pytest.mark.parametrize("name", ['a:b "c" d', '"quoted"', "it's\na line", "-dash", "back\\slash:", "*[x]", "ü %20"])
def test_the_repository_may_have_any_name(tmp_path: Path, env: dict[str, str], name: str) -> None:
    repo = tmp_path / name
    repo.mkdir()
    filled(repo)
    (repo / "own.txt").write_text("of the user\n")
    assert cycle(repo, env, include_uncommitted=True)["files"] == 4
