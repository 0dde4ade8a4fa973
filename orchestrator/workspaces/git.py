"""git, as the rest of the room uses it: one command after the other, with nothing of the caller's or the repository's
configuration that could change what a command does or start a program.

Blocks; called in threads. A filter (clean, smudge) is the exception, for without it LFS and encrypted files would come
out wrong: those of the system's and the user's own configuration are used, and those of a repository's own, where an
agent could have written, only if the user trusts the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import GitError, InvalidArgument

LOCKED_S = 15.0
"""How long a lock that another git holds is waited for."""
_LOOK_S = 0.1

_FIXED = (
    *("core.fsmonitor=false", "core.hooksPath=/dev/null", "core.safecrlf=false", "core.quotePath=true"),
    *("gc.auto=0", "maintenance.auto=false", "apply.whitespace=nowarn", "apply.ignoreWhitespace=no"),
    *("core.splitIndex=false", "core.untrackedCache=false", "submodule.recurse=false", "commit.gpgSign=false"),
    *("advice.addEmbeddedRepo=false", "protocol.ext.allow=never", "diff.renameLimit=1000"),
    *("core.trustctime=true", "core.checkStat=default"),
)
_REMOVED = re.compile(
    r"GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|COMMON_DIR|PREFIX|NAMESPACE|CONFIG"
    r"|CONFIG_PARAMETERS|CONFIG_COUNT|CONFIG_(KEY|VALUE)_\d+|GRAFT_FILE|SHALLOW_FILE|NO_REPLACE_OBJECTS"
    r"|REPLACE_REF_BASE|IMPLICIT_WORK_TREE|EXTERNAL_DIFF|DIFF_OPTS|TRACE.*|PAGER|EDITOR|(GLOB|NOGLOB|ICASE|LITERAL)_"
    r"PATHSPECS|CEILING_DIRECTORIES|DEFAULT_HASH|INTERNAL_.*|NO_LAZY_FETCH)"
)
"""Variables by which git would work somewhere else than it is told to, or otherwise."""
_LOCKED = re.compile(
    rb"\.lock': File exists|could not lock config file|failed to read .*/commondir|Invalid path '.*/worktrees/"
)
"""Another git is at work: it holds a lock, or is just making or removing a worktree."""
PARTIAL = re.compile(r"extensions\.partialclone|remote\..*\.(promisor|partialclonefilter)")
"""Settings by which git fetches an object that is missing."""
_PROGRAM = re.compile(r"(filter\..+|merge\..+)\.(clean|smudge|process|driver)")


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: bytes
    err: bytes

    @property
    def locked(self) -> bool:
        """Whether it gave up before it did anything, for another git is at work."""
        return bool(self.code and _LOCKED.search(self.err))


class _Given(NamedTuple):
    """What stays the same wherever git goes; see `Git`."""

    env: Mapping[str, str]
    off: Sequence[str]
    stop: threading.Event | None
    held: Sequence[int]
    trusted: bool


class Git:
    """git in one directory.

    Args:
        where: the directory.
        env: that of the client; its HOME has the user's identity and credentials.
        more: variables beside it, as GIT_INDEX_FILE.
        off: programs of the repository's own configuration that are not to be run, see `own_programs`.
        stop: ends the command that runs when it is set.
        held: descriptors of locks that git keeps for as long as it runs, also after our own death.
        trusted: programs of the repository's own configuration are run, also those by which a partial clone fetches
            objects that are missing.
    """

    def __init__(
        self,
        where: Path,
        env: Mapping[str, str],
        more: Mapping[str, str] | None = None,
        off: Sequence[str] = (),
        stop: threading.Event | None = None,
        held: Sequence[int] = (),
        *,
        trusted: bool = False,
    ) -> None:
        self.where = where
        self._given = _Given(env, off, stop, held, trusted)
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        kept = {name: value for name, value in {**own, **env}.items() if not _REMOVED.fullmatch(name)}
        fixed = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_LITERAL_PATHSPECS": "0"}
        if not trusted:
            fixed["GIT_NO_LAZY_FETCH"] = "1"
        self._env = {**kept, **fixed, **_settings(off), **(more or {})}
        self._command = ["git", *(word for flag in _FIXED for word in ("-c", flag))]

    def at(self, where: Path, more: Mapping[str, str] | None = None) -> Git:
        """The same in another directory, or with other variables."""
        return self._like(self._given, where, more)

    def without(self, off: Sequence[str]) -> Git:
        """The same without these programs."""
        return self._like(self._given._replace(off=off))

    def holding(self, lock: int) -> Git:
        """The same, which keeps this lock; so does all that is made of it."""
        return self._like(self._given._replace(held=(lock,)))

    def marked(self, variables: Mapping[str, str]) -> Git:
        """The same, which is known by these variables; so is all that is made of it."""
        return self._like(self._given._replace(env={**self._given.env, **variables}))

    def _like(self, given: _Given, where: Path | None = None, more: Mapping[str, str] | None = None) -> Git:
        env, off, stop, held, trusted = given
        return Git(where or self.where, env, more, off, stop, held, trusted=trusted)

    def inside(self, where: Path) -> Git:
        """The same in a working tree: never in one above it, and without what agents may have configured.

        Raises:
            GitError: it is none any more, or cannot be read without such programs.
        """
        if not (where / ".git").exists():
            raise GitError(f"{where} is no working tree any more: its .git is gone")
        git = self.at(where)
        if self._given.trusted:
            return git
        programs = git.own_programs()
        if partial := next(filter(PARTIAL.fullmatch, programs), None):
            raise GitError(f"{where} is a partial clone ({partial}), which is read in folders of trusted_dirs alone")
        return git.without(programs)

    def run(
        self,
        *arguments: str,
        input: bytes | None = None,
        output: int = subprocess.PIPE,
        ok: tuple[int, ...] = (0,),
        timeout_s: float | None = None,
    ) -> bytes:
        """One command. Returns what it wrote to stdout; waits for locks that others hold.

        Args:
            output: a file descriptor that gets stdout instead.
            ok: exit codes that are no failure.

        Raises:
            GitError: it failed, took too long, or was stopped.
        """
        deadline, pause = time.monotonic() + LOCKED_S, 0.02
        while True:
            done = self.attempt(*arguments, input=input, output=output, timeout_s=timeout_s)
            if done.code in ok:
                return done.out
            if not done.locked or time.monotonic() > deadline:
                raise GitError(f"git {arguments[0]} failed: {told(done.err) or f'exit code {done.code}'}")
            time.sleep(pause)
            pause = min(pause * 2, 0.5)

    def attempt(
        self,
        *arguments: str,
        input: bytes | None = None,
        output: int = subprocess.PIPE,
        timeout_s: float | None = None,
    ) -> Done:
        """One command, however it ends. Nothing of it is left when it is stopped or takes too long.

        Raises:
            GitError: it was stopped, took too long, or its directory is gone.
        """
        stop = self._given.stop
        deadline = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        with self._started(arguments, input, output) as process:
            given = input
            while True:
                try:
                    out, err = process.communicate(given, timeout=_LOOK_S if stop or timeout_s else None)
                    return Done(process.returncode, out or b"", err)
                except subprocess.TimeoutExpired:
                    given = None
                stopped = stop is not None and stop.is_set()
                if stopped or time.monotonic() > deadline:
                    _kill(process)
                    process.communicate()
                    why = "was stopped" if stopped else f"took longer than {timeout_s:g} s"
                    raise GitError(f"git {arguments[0]} {why}")

    def _started(self, arguments: tuple[str, ...], given: bytes | None, output: int) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [*self._command, *arguments],
                cwd=self.where,
                env=self._env,
                stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
                stdout=output,
                stderr=subprocess.PIPE,
                process_group=0,
                pass_fds=self._given.held,
            )
        except OSError as error:
            if not self.where.is_dir():
                raise GitError(f"{self.where} is gone") from error
            if isinstance(error, FileNotFoundError):
                raise InvalidArgument(
                    "git is not installed, or not in PATH: only workspace mode 'shared' works"
                ) from error
            raise GitError(f"git cannot be started in {self.where}: {error}") from error

    def text(self, *arguments: str, ok: tuple[int, ...] = (0,)) -> str:
        """One command whose answer is a line: its words, without the end of the line."""
        return os.fsdecode(self.run(*arguments, ok=ok)).rstrip("\n")

    def asks(self, *arguments: str) -> str | None:
        """The same; None where git says no."""
        try:
            return self.text(*arguments)
        except GitError:
            return None

    def resolved(self, name: str) -> str | None:
        """The id of what a name stands for; None if nothing is called so."""
        return self.asks("rev-parse", "--verify", "-q", name)

    def tree_of(self, commit: str) -> str:
        """The id of a commit's tree."""
        return self.text("rev-parse", f"{commit}^{{tree}}")

    def path_of(self, name: str) -> Path:
        """Where a file of the repository's own lies, as `index`, in whatever kind of working tree."""
        return Path(self.text("rev-parse", "--path-format=absolute", "--git-path", name))

    def own_programs(self) -> list[str]:
        """The filters and merge drivers that the repository's own configuration defines, by their keys: somebody who
        may write there could have the one who runs git run anything. So they could by what is fetched in a partial
        clone."""
        keys = rf"^(filter\..*\.(clean|smudge|process)|merge\..*\.driver|{PARTIAL.pattern})$"
        found = self.run("config", "--show-scope", "-z", "--get-regexp", keys, ok=(0, 1)).split(b"\0")
        pairs = zip(found[::2], found[1::2], strict=False)
        return [os.fsdecode(item).partition("\n")[0] for scope, item in pairs if scope not in (b"system", b"global")]


def _settings(off: Sequence[str]) -> dict[str, str]:
    """The variables that set programs to nothing. Not by -c, which cannot name what has a `=` in it."""
    pairs: dict[str, str] = {}
    for key in off:
        if (match := _PROGRAM.fullmatch(key)) is None:
            continue
        if match[2] == "driver":
            pairs[key] = "false"
        else:
            pairs |= {f"{match[1]}.{name}": "" for name in ("clean", "smudge", "process")}
            pairs[f"{match[1]}.required"] = "false"
    numbered = {f"GIT_CONFIG_{what}_{n}": text for n, pair in enumerate(pairs.items())
                for what, text in zip(("KEY", "VALUE"), pair, strict=True)}  # fmt: skip
    return {"GIT_CONFIG_COUNT": str(len(pairs)), **numbered} if pairs else {}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends git with what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)  # it removes its own locks
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def told(stderr: bytes) -> str:
    """What git complains of, in a line."""
    said = stderr.decode(errors="replace").splitlines()
    lines = [line for line in said if not line.startswith(("hint:", "Preparing", "Cloning", "warning:"))]
    words = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines[-3:]
    return "; ".join(line.removeprefix("fatal: ").removeprefix("error: ") for line in words)[:1_000]


def top_of(cwd: Path) -> Path | None:
    """The top of the working tree that a directory lies in, as far as a look at names tells; None if in none."""
    return next((folder for folder in (cwd, *cwd.parents) if (folder / ".git").exists()), None)
