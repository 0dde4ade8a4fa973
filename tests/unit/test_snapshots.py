"""Random repositories, random edits: the patch of a snapshot is exactly what changed, and looking changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.model import JsonObject, RunSpec
from orchestrator.store.layout import RunDir, Workspace
from orchestrator.workspaces.asked import workspace_of
from orchestrator.workspaces.git import Git
from orchestrator.workspaces.places import Place
from orchestrator.workspaces.snapshots import Snapshots
from tests.unit.runs import spec_in

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
SNAPSHOTS = settings(max_examples=35, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)
PLACES = settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)

Files = dict[bytes, tuple[str, bytes]]


def environment(home: Path, **more: str) -> dict[str, str]:
    """A client's variables: no configuration of git but the repository's."""
    fixed = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_GLOBAL": "/dev/null"}
    return {**fixed, "GIT_CONFIG_NOSYSTEM": "1", **more}


def git(where: Path, *arguments: str | bytes, check: bool = True, more: Mapping[str, str] | None = None) -> str:
    """A git command of the user's or of the agent's."""
    who = ("-c", "user.name=User", "-c", "user.email=user@localhost", "-c", "protocol.file.allow=always")
    done = subprocess.run(
        ["git", *who, *arguments],
        cwd=where,
        env=environment(where.parent, **(more or {})),
        capture_output=True,
        check=False,
    )
    assert not check or not done.returncode, (arguments, done.stderr)
    return os.fsdecode(done.stdout).rstrip("\n")


def spec_of(cwd: Path, env: Mapping[str, str], *, trusted: bool = False, **workspace: Any) -> RunSpec:
    """A run that asks for a workspace, a worktree by default. Its directory is there."""
    exact = workspace_of({"mode": "worktree", **workspace}, cwd, env, trusted=trusted)
    spec = spec_in(cwd, agent_name="tom", workspace=exact)
    Workspace(cwd).open()
    dir_of(spec).path.mkdir(mode=0o700)
    return spec


def dir_of(spec: RunSpec) -> RunDir:
    """The directory of a run."""
    return Workspace(spec.cwd).run(spec.run_id)


def _entries(folder: bytes) -> Iterator[tuple[bytes, tuple[str, bytes]]]:
    for entry in os.scandir(folder):
        if entry.is_symlink():
            yield entry.path, ("link", os.readlink(entry.path))
        elif entry.is_dir():
            yield from _entries(entry.path)
        else:
            mode = "executable" if entry.stat().st_mode & 0o100 else "file"
            yield entry.path, (mode, Path(os.fsdecode(entry.path)).read_bytes())


def files_in(folder: Path, *, without: tuple[bytes, ...] = (b".git", b".orchestrator")) -> Files:
    """What a directory holds, byte for byte."""
    top = os.fsencode(folder)
    found = ((path[len(top) + 1 :], facts) for path, facts in _entries(top))
    return {path: facts for path, facts in found if path.split(b"/")[0] not in without}


def visible(repo: Path) -> Files:
    """The same without what the repository ignores."""
    listed = set(os.fsencode(git(repo, "ls-files", "-z", "-c", "-o", "--exclude-standard")).split(b"\0"))
    return {path: facts for path, facts in files_in(repo).items() if path in listed}


# ---- repositories and edits at random

_NAMES = [
    *(b"a", b"b.txt", b"-lead", b"with space", b"new\nline", b'qu"ote', b"ta\tb", b"c:d", b"*", b"[x]!", b"!not"),
    *(b":(top)z", b"back\\slash", b"#hash", b"trail ", "é".encode(), b"x.ign", b"keep"),
    *([b"\xff\xfe"] if sys.platform == "linux" else []),
]
_TEXT = b"".join(b"line %d\n" % number for number in range(30))
paths = st.lists(st.sampled_from(_NAMES), min_size=1, max_size=3).map(b"/".join)
contents = st.sampled_from([
    b"", b"one\n", b"two\n", b"no end", b"one\r\ntwo\r\n", b"mixed\r\nlines\n\r", _TEXT, _TEXT.replace(b"\n", b"\r\n"),
    _TEXT.replace(b"line 7", b"line x"), b"\0binary\xff" * 50, b"\0other\xff" * 50, b"\xff\xfeno text\n", b" \t\n\n\n",
    b"-- \n+++ b/a\n@@ -1 +1 @@\n", b"*.ign\n",
]) | st.binary(max_size=30)  # fmt: skip
targets = st.sampled_from([b"a", b"../outside", b"no/where", b"b.txt\n", b"/nowhere \xff", b"."])


class Edit(NamedTuple):
    """One thing that somebody does; `number` chooses among the files that are there."""

    kind: str
    number: int
    path: bytes
    content: bytes
    target: bytes


CHANGES = ("add", "add", "modify", "modify", "delete", "rename", "rename", "chmod", "link", "unlink", "folder", "file")
STAGING = ("stage", "stage", "stage all", "unstage")


def edits(*kinds: str, least: int = 0, most: int = 8) -> st.SearchStrategy[list[Edit]]:
    """Edits of these kinds, one after the other."""
    one = st.builds(Edit, st.sampled_from(kinds), st.integers(0, 20), paths, contents, targets)
    return st.lists(one, min_size=least, max_size=most)


bases = edits("add", "add", "add", "link", "chmod", "ignore", least=1, most=10)
users = edits(*CHANGES, *STAGING, most=5)
agents = edits(*CHANGES, *CHANGES, *STAGING, "commit", "ignore", most=10)


def _free(top: bytes, path: bytes) -> bytes:
    """Where a file may be made now: whatever is in the way goes. No link is followed."""
    parts, place = path.split(b"/"), top
    for part in parts[:-1]:
        place = place + b"/" + part
        if os.path.islink(place) or os.path.isfile(place):
            os.unlink(place)
        if not os.path.isdir(place):
            os.mkdir(place)
    place = place + b"/" + parts[-1]
    _remove(place)
    return place


def _remove(place: bytes) -> None:
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place)
    elif os.path.lexists(place):
        os.unlink(place)


def _write(place: bytes, content: bytes, mode: int = 0o644) -> None:
    with open(place, "wb") as file:
        file.write(content)
    os.chmod(place, mode)


def work(repo: Path, done: list[Edit]) -> None:
    """Does it."""
    for edit in done:
        there = sorted(files_in(repo))
        chosen = there[edit.number % len(there)] if there else edit.path
        if edit.kind in (*STAGING, "commit"):
            _stage(repo, edit.kind, chosen)
        else:
            _change(os.fsencode(repo), edit, chosen)


def _stage(repo: Path, kind: str, chosen: bytes) -> None:
    command: tuple[str | bytes, ...] = {
        "stage": ("--literal-pathspecs", "add", "--", chosen),
        "stage all": ("add", "-A"),
        "unstage": ("--literal-pathspecs", "rm", "-q", "-f", "--cached", "--", chosen),
        "commit": ("commit", "-q", "--allow-empty", "-m", "of the agent"),
    }[kind]
    git(repo, *command, check=False)  # what is ignored or unknown is refused


def _change(top: bytes, edit: Edit, chosen: bytes) -> None:
    own = top + b"/" + chosen
    regular = os.path.isfile(own) and not os.path.islink(own)
    match edit.kind:
        case "add":
            _write(_free(top, edit.path), edit.content, 0o755 if edit.number % 4 == 0 else 0o644)
        case "ignore":
            _write(_free(top, b".gitignore"), b"*.ign\n" if edit.number % 2 else b"keep\n")
        case "modify" if regular:
            _write(own, Path(os.fsdecode(own)).read_bytes()[: edit.number * 9] + edit.content)
        case "chmod" if regular:
            os.chmod(own, os.stat(own).st_mode ^ 0o111)
        case "rename" if os.path.lexists(own) and not edit.path.startswith(chosen + b"/"):
            os.rename(own, top + b"/moved")
            os.rename(top + b"/moved", _free(top, edit.path))
        case _:
            _change_kind(top, edit, chosen)


def _change_kind(top: bytes, edit: Edit, chosen: bytes) -> None:
    own = top + b"/" + chosen
    match edit.kind:
        case "delete":
            _remove(own)
        case "link":
            os.symlink(edit.target, _free(top, edit.path))
        case "unlink":
            kind = os.path.islink(own)
            place = _free(top, chosen)
            _write(place, edit.content) if kind else os.symlink(edit.target, place)
        case "folder":
            _write(_free(top, chosen + b"/" + edit.path.split(b"/")[0]), edit.content)
        case "file" if b"/" in chosen:
            _write(_free(top, chosen.split(b"/")[0]), edit.content)
        case _:
            pass


def begun(folder: Path, base: list[Edit], user: list[Edit], *, stash: bool) -> Path:
    """A repository with a commit, perhaps a stash, and what its user has not committed."""
    repo = folder / "project"
    repo.mkdir()
    git(repo, "init", "-q", "-b", "main", "--template=")
    work(repo, base)
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "--allow-empty", "-m", "first")
    if stash:
        (repo / "stashed").write_text("stashed\n")
        git(repo, "add", "stashed")
        git(repo, "stash", "-q")
    work(repo, user)
    return repo


def applied(repo: Path, tree: str, patch: Path, folder: Path, objects: Mapping[str, str] | None = None) -> Files:
    """What a clean checkout of a tree holds once the patch is applied by plain git."""
    clean = folder / "clean"
    clean.mkdir()
    into = {"GIT_DIR": str(repo / ".git"), "GIT_WORK_TREE": str(clean), "GIT_INDEX_FILE": str(folder / "clean.index")}
    into.update(objects or {})
    git(clean, "read-tree", tree, more=into)
    git(clean, "checkout-index", "-a", more=into)
    if patch.stat().st_size:
        git(clean, "apply", "--binary", str(patch))
    return files_in(clean)


def numbers(repo: Path, old: str, new: str, objects: Mapping[str, str]) -> tuple[int, int, int]:
    """Files, insertions and deletions as git counts them."""
    lines = [line.split("\t") for line in git(repo, "diff", "-M", "--numstat", old, new, more=objects).splitlines()]
    added, removed = ([int(line[place]) for line in lines if line[place] != "-"] for place in (0, 1))
    return len(lines), sum(added), sum(removed)


# ---- what holds for all of them


@SNAPSHOTS
@given(bases, users, agents, st.booleans(), st.booleans())
def test_the_patch_of_any_edits_makes_the_same_directory_and_looking_changes_nothing(
    tmp_path: Path, base: list[Edit], user: list[Edit], agent: list[Edit], stash: bool, dirty: bool
) -> None:
    with TemporaryDirectory(dir=tmp_path) as made:
        folder = Path(made)
        repo, scratch, patch = begun(folder, base, user, stash=stash), folder / "scratch", folder / "patch.diff"
        snapshots = Snapshots(Git(repo, environment(folder)), scratch)
        objects = {"GIT_OBJECT_DIRECTORY": str(next(scratch.iterdir()) / "objects"),
                   "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(repo / ".git/objects")}  # fmt: skip
        old = snapshots.take().tree if dirty else git(repo, "rev-parse", "HEAD^{tree}")
        work(repo, agent)
        everything = files_in(repo, without=())
        new = snapshots.take()
        snapshots.write_patch(old, new.tree, patch)
        difference = snapshots.difference(old, new.tree)
        assert snapshots.yields(old, patch, new.tree)
        assert files_in(repo, without=()) == everything, "files, index, refs, stash and objects"
        assert new.left_out == ()
        assert difference[:3] == numbers(repo, old, new.tree, objects)
        assert applied(repo, old, patch, folder, objects) == visible(repo)
        # what is not exactly this patch from this tree to that is found out
        assert snapshots.yields(old, patch, old) == (old == new.tree)
        whole = patch.read_bytes()
        patch.write_bytes(
            whole + b"diff --git a/z b/z\nnew file mode 100644\n--- /dev/null\n+++ b/z\n@@ -0,0 +1 @@\n+z\n"
        )
        assert not snapshots.yields(old, patch, new.tree)
        patch.write_bytes(b"")
        assert snapshots.yields(old, patch, new.tree) == (old == new.tree)
        snapshots.close()
        assert not any(scratch.iterdir())


@pytest.mark.parametrize("content", [b"", b"\0binary", b"text\n"])
@pytest.mark.parametrize("name", ["ends with a space /a", " /a", "a b/a b", "x /b x /b", "b/x b/x"])
def test_names_with_spaces_are_unambiguous_in_a_patch(tmp_path: Path, name: str, content: bytes) -> None:
    repo, patch = begun(tmp_path, [], [], stash=False), tmp_path / "patch.diff"
    snapshots = Snapshots(Git(repo, environment(tmp_path)), tmp_path / "scratch")
    old = snapshots.take().tree
    (repo / name).parent.mkdir(parents=True)
    (repo / name).write_bytes(content)
    new = snapshots.take().tree
    snapshots.write_patch(old, new, patch)
    assert snapshots.yields(old, patch, new)


def mine(repo: Path) -> tuple[object, ...]:
    """What is the user's own: files, index, branch, stash and refs, and how git finds all of it."""
    refs = git(repo, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return (
        files_in(repo),
        (repo / ".git/index").read_bytes(),
        (repo / ".git/HEAD").read_bytes(),
        git(repo, "stash", "list"),
        [ref for ref in refs if "/orchestrator/" not in ref],
        git(repo, "status", "--porcelain=v2", "-z", "--untracked-files=all", more={"GIT_OPTIONAL_LOCKS": "0"}),
        git(repo, "fsck", "--no-dangling", "--no-progress"),
    )


@PLACES
@given(bases, users, agents, st.booleans(), st.booleans())
def test_what_is_done_in_a_worktree_is_in_its_patch_and_the_worktree_goes_without_a_trace(
    tmp_path: Path, base: list[Edit], user: list[Edit], agent: list[Edit], stash: bool, uncommitted: bool
) -> None:
    with TemporaryDirectory(dir=tmp_path) as made:
        folder = Path(made)
        repo = begun(folder, base, user, stash=stash)
        Workspace(repo).open()
        before = mine(repo)
        spec = spec_of(repo, environment(folder), include_uncommitted=uncommitted)
        place = Place(dir_of(spec), spec, environment(folder))
        place.prepare()
        worktree = place.cwd
        begins_with = visible(repo) if uncommitted else _committed(repo, folder)
        assert files_in(worktree) == begins_with
        work(worktree, agent)
        changes = place.finish()
        assert changes is not None
        assert changes.applies
        assert changes.told["applies"] is True
        told: JsonObject = changes.told
        tree = git(repo, "rev-parse", f"{told['base']}^{{tree}}")
        assert applied(repo, tree, place.patch, folder) == visible(worktree)
        assert (told.get("patch", {"total_bytes": 0}))["total_bytes"] == place.patch.stat().st_size
        assert mine(repo) == before
        if "left_out" in told:  # what only rules of the agent ignore
            assert place.remove() is not None
            assert worktree.exists()
            return
        assert place.remove() is None
        assert not worktree.exists()
        assert git(repo, "worktree", "list", "--porcelain").count("worktree ") == 1
        assert mine(repo) == before


def _committed(repo: Path, folder: Path) -> Files:
    empty = folder / "empty.diff"
    empty.write_bytes(b"")
    held = applied(repo, "HEAD", empty, folder)
    shutil.rmtree(folder / "clean")
    return held


@settings(SNAPSHOTS, max_examples=5)
@given(bases, users)
def test_a_lasting_snapshot_adds_objects_and_nothing_else(tmp_path: Path, base: list[Edit], user: list[Edit]) -> None:
    with TemporaryDirectory(dir=tmp_path) as made:
        folder = Path(made)
        repo = begun(folder, base, user, stash=False)
        before, objects = mine(repo), files_in(repo / ".git/objects")
        tree = Snapshots(Git(repo, environment(folder)), folder / "scratch", lasting=True).take().tree
        shutil.rmtree(folder / "scratch")
        assert mine(repo) == before
        assert objects.items() <= files_in(repo / ".git/objects").items()
        (folder / "empty.diff").write_bytes(b"")
        assert applied(repo, tree, folder / "empty.diff", folder) == visible(repo)
