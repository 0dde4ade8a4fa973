"""What a working directory holds, as a git tree, and how two such trees differ, as a patch that was tried.

A snapshot goes through an index and an object store of its own, in a directory of the run: the index, the files, the
stash and the objects of the repository stay as they are. Blocks; called in threads.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from orchestrator.errors import GitError
from orchestrator.workspaces.git import PARTIAL, Git, told

LARGE_BYTES = 64 * 2**20
"""New files beyond this size are no part of a patch: they are named instead."""
_GITLINK = b"160000"
_UNREAD = re.compile(
    rb"^(?:warning: could not open directory '(.+?)/?': .+|error: unable to index file '(.+)'"
    rb"|(?!warning: |error: |fatal: )(.+): Permission denied)$",
    re.MULTILINE,
)
"""What git passes over, with a word."""


class Snapshot(NamedTuple):
    """What a directory held.

    Attributes:
        tree: its id.
        left_out: what is there and in no tree: large files, repositories within this one, what cannot be read.
    """

    tree: str
    left_out: tuple[str, ...]


class Difference(NamedTuple):
    """How one tree became another."""

    files: int
    insertions: int
    deletions: int
    submodules: tuple[str, ...]
    """Paths at which another commit of another repository is named: its content is in no patch."""


class Snapshots:
    """Of one working tree. To be closed: until then its objects are there.

    Args:
        git: at the top of the working tree.
        within: where a directory for the index and the objects is made.
        lasting: the objects go to the repository's own, for a commit that is to stay.
        known: objects of an earlier look.
    """

    def __init__(self, git: Git, within: Path, *, lasting: bool = False, known: Snapshots | None = None) -> None:
        if git.text("rev-parse", "--show-toplevel") != os.fspath(git.where.resolve()):
            raise GitError(f"{git.where} is no working tree of its own any more")
        self._own = git
        within.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._scratch = Path(tempfile.mkdtemp(prefix="git-", dir=within))
        (self._scratch / "objects").mkdir()
        objects = os.fspath(git.path_of("objects"))
        elsewhere = [objects, *([os.fspath(known._scratch / "objects")] if known else [])]
        apart = {
            "GIT_OBJECT_DIRECTORY": str(self._scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": ":".join(map(_quoted, elsewhere)),
        }
        self._more = {} if lasting else apart

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the index and the objects, which are nobody else's."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def through(self, index: str = "index") -> Git:
        """git with an index of ours."""
        return self._own.at(self._own.where, {**self._more, "GIT_INDEX_FILE": str(self._scratch / index)})

    def take(self, timeout_s: float | None = None) -> Snapshot:
        """What the directory holds now, without what the repository ignores.

        Raises:
            GitError: it cannot be read, or not in time.
        """
        git = self.through()
        self._begin_index(git)
        strange, links = list(self._left_out(git)), self._links(git)
        apart = [*strange, *links]
        pathspecs = b"\0".join([b":/", *(b":(top,exclude,literal)" + path for path in apart)])
        done = git.attempt(
            "add", "-A", "--sparse", "--ignore-errors", "--pathspec-from-file=-", "--pathspec-file-nul",
            input=pathspecs, timeout_s=timeout_s,
        )  # fmt: skip
        if done.code > 1:
            raise GitError(f"git add failed: {told(done.err)}")
        self._set_links(git, links)
        unread = [b"".join(names) for names in _UNREAD.findall(done.err)]  # one of them
        more = [told(done.err)[:200]] if done.code and not unread else []
        left_out = [*(shown(path) for path in (*strange, *unread)), *more]
        return Snapshot(git.text("write-tree"), tuple(dict.fromkeys(left_out)))

    def _begin_index(self, git: Git) -> None:
        """Starts from the real index, which knows what has not changed. Its time goes along, by which git tells what
        may have changed within the same moment."""
        real = self._own.path_of("index")
        ours = self._scratch / "index"
        try:
            shutil.copy2(real, ours)
        except FileNotFoundError:
            ours.unlink(missing_ok=True)
            if self._own.resolved("HEAD"):
                git.run("read-tree", "HEAD")
            return
        hidden = [line for line in git.run("ls-files", "-v", "-z").split(b"\0") if line and line[:1] not in b"HM"]
        if assumed := [line[2:] for line in hidden if line[:1].islower()]:
            git.run("update-index", "--no-assume-unchanged", "-z", "--stdin", input=b"\0".join(assumed) + b"\0")
        if skipped := [line[2:] for line in hidden if line[:1] in b"Ss" and os.path.lexists(self._path(line[2:]))]:
            git.run("update-index", "--no-skip-worktree", "-z", "--stdin", input=b"\0".join(skipped) + b"\0")

    def _path(self, path: bytes) -> bytes:
        return os.fsencode(self._own.where) + b"/" + path

    def _left_out(self, git: Git) -> Iterable[bytes]:
        for path in git.run("ls-files", "-o", "-z", "--exclude-standard").split(b"\0"):
            if path.endswith(b"/"):  # a repository within this one
                yield path.rstrip(b"/")
            elif path and self._is_strange(path):
                yield path

    def _is_strange(self, path: bytes) -> bool:
        """Whether a new file cannot become part of a patch."""
        try:
            facts = os.lstat(self._path(path))
        except FileNotFoundError:
            return False  # gone again
        except OSError:
            return True
        is_link = stat.S_ISLNK(facts.st_mode)
        return not is_link and (facts.st_size > LARGE_BYTES or not os.access(self._path(path), os.R_OK))

    def _links(self, git: Git) -> dict[bytes, str]:
        """The submodules in the index that are no files now, with the commits that it names. `git add` would start a
        git in each of them, which runs the programs of that repository's configuration: an agent's, perhaps."""
        links: dict[bytes, str] = {}
        for line in git.run("ls-files", "--stage", "-z").split(b"\0"):
            facts, _, path = line.partition(b"\t")
            if facts.startswith(_GITLINK) and not self._is_file(path):
                links[path] = links.get(path) or facts.split(b" ")[1].decode()
        return links

    def _is_file(self, path: bytes) -> bool:
        return os.path.lexists(self._path(path)) and not self._is_folder(path)

    def _is_folder(self, path: bytes) -> bool:
        """Whether it is a directory that no link leads to."""
        place = os.fsencode(self._own.where.resolve()) + b"/" + path
        return os.path.realpath(place) == place and Path(os.fsdecode(place)).is_dir()

    def _set_links(self, git: Git, links: dict[bytes, str]) -> None:
        """Puts the commits that are checked out in submodules into the index, and takes those out that are gone."""
        lines: list[bytes] = []
        for path, staged in links.items():
            there = self._is_folder(path)
            commit = (self._head_of(path, len(staged)) or staged) if there else "0" * len(staged)
            lines.append(b"%s %s\t%s\0" % (_GITLINK if there else b"0", commit.encode(), path))
        if lines:
            git.run("update-index", "-z", "--index-info", input=b"".join(lines))

    def _head_of(self, path: bytes, length: int) -> str | None:
        """The commit that is checked out in a submodule; None if it has no repository of its own."""
        place = os.fsdecode(self._path(path) + b"/.git")
        head = self._own.at(self._own.where, {"GIT_DIR": place}).resolved("HEAD") if os.path.lexists(place) else None
        return head if head and len(head) == length else None

    def opened_submodules(self) -> list[str]:
        """Submodules that have files here: what is changed in them is in no tree of this repository."""
        return [shown(path) for path in self._opened()]

    def _opened(self) -> list[bytes]:
        links = self._links(self.through())
        return [path for path in links if self._is_folder(path) and _is_filled(self._path(path))]

    def in_submodules(self, timeout_s: float) -> dict[str, str]:
        """What the submodules hold that have files here, by their paths: the same words for the same files. Nothing of
        their own configurations is run."""
        return {shown(path): self._held_by(Path(os.fsdecode(self._path(path))), timeout_s) for path in self._opened()}

    def _held_by(self, submodule: Path, timeout_s: float) -> str:
        try:
            git = self._own.at(submodule)
            programs = git.own_programs()
            if any(map(PARTIAL.fullmatch, programs)):
                return "not known: it is a partial clone"
            with Snapshots(git.without(programs), self._scratch) as inner:
                return f"{inner.take(timeout_s)} {inner.in_submodules(timeout_s)}"
        except (GitError, OSError) as error:
            return f"not known: {error}"

    def empty(self) -> str:
        """The tree without files."""
        return self.through().text("hash-object", "-t", "tree", "-w", "--stdin")

    def write_patch(self, old: str, new: str, path: Path) -> bool:
        """Writes the difference of two trees into a file, as `git diff --binary` has it, and tries it. Readers see the
        old file or the new one.

        Returns:
            Whether the patch, applied to the one tree, gives exactly the other.
        """
        self._write(old, new, path, "--src-prefix=a/", "--dst-prefix=b/")
        if self.yields(old, path, new):
            return True
        # some names with spaces are ambiguous to git unless they are quoted, which a tab before them makes it do; and a
        # link that was moved is in the way of files that have its name as their folder, unless it is removed and added
        self._write(old, new, path, "--src-prefix=a\t/", "--dst-prefix=b\t/", "--no-renames")
        return self.yields(old, path, new)

    def _write(self, old: str, new: str, path: Path, *how: str) -> None:
        descriptor, name = tempfile.mkstemp(prefix="patch-", dir=path.parent)
        try:
            self._diff(old, new, "-p", "-U3", "--binary", "--full-index", *how, output=descriptor)
            os.fsync(descriptor)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink()
            raise
        finally:
            os.close(descriptor)

    def difference(self, old: str, new: str) -> Difference:
        """The difference of two trees in numbers."""
        files = insertions = deletions = 0
        items = iter(self._diff(old, new, "--numstat", "-z").split(b"\0"))
        for item in items:
            if not item:
                continue
            added, removed, path = item.split(b"\t", 2)
            if not path:  # renamed: both names follow
                next(items)
                next(items)
            files += 1
            insertions += 0 if added == b"-" else int(added)
            deletions += 0 if removed == b"-" else int(removed)
        return Difference(files, insertions, deletions, tuple(self._submodules(old, new)))

    def _submodules(self, old: str, new: str) -> Iterable[str]:
        fields = iter(self._diff(old, new, "--raw", "--no-renames", "-z").split(b"\0"))
        for facts in fields:
            if facts:
                path = next(fields)
                if facts.split(b" ")[1] == _GITLINK:
                    yield shown(path)

    def _diff(self, old: str, new: str, *how: str, output: int = -1) -> bytes:
        fixed = ("--no-ext-diff", "--no-textconv", "--no-color")
        renames = () if "--no-renames" in how else ("-M",)
        return self.through().run(
            "diff-tree", "-r", "--ignore-submodules=none", *renames, *fixed, *how, old, new, output=output
        )

    def yields(self, old: str, patch: Path, new: str) -> bool:
        """Whether the patch, applied to the one tree, gives exactly the other."""
        git = self.through("verified")
        git.run("read-tree", old)
        try:
            if patch.stat().st_size:
                git.run("apply", "--cached", "--binary", "--whitespace=nowarn", str(patch))
            return git.text("write-tree") == new
        except GitError:
            return False


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown(path: bytes) -> str:
    """A path for people and JSON: what is no UTF-8 is escaped."""
    return path.decode(errors="backslashreplace")


def _is_filled(folder: bytes) -> bool:
    """Whether there is something in a directory, as far as anybody may see."""
    try:
        return bool(os.listdir(folder))  # noqa: PTH208
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _quoted(path: str) -> str:
    """A path in a list of paths, as git reads it."""
    if ":" not in path and not path.startswith('"'):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
