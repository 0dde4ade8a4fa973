"""git, as the rest of the room uses it: one command after the other, with nothing of the caller's or the repository's
configuration that could change what a command does or start a program.

Blocks; called in threads. Filters (clean, smudge) are the exception: without them LFS and encrypted files would come
out wrong. Those that came into a repository's own configuration while an agent worked in it are switched off.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import InvalidArgument, StoreError

LOCKED_S = 15.0
"""How long a lock that another git holds is waited for."""

_FIXED = (
    *("core.fsmonitor=false", "core.hooksPath=/dev/null", "core.safecrlf=false", "core.quotePath=true"),
    *("gc.auto=0", "maintenance.auto=false", "apply.whitespace=nowarn", "apply.ignoreWhitespace=no"),
    *("core.splitIndex=false", "core.untrackedCache=false", "submodule.recurse=false", "commit.gpgSign=false"),
    *("advice.addEmbeddedRepo=false", "protocol.ext.allow=never", "diff.renameLimit=1000"),
)
_REMOVED = re.compile(
    r"GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|COMMON_DIR|PREFIX|NAMESPACE|CONFIG"
    r"|CONFIG_PARAMETERS|CONFIG_COUNT|CONFIG_(KEY|VALUE)_\d+|GRAFT_FILE|SHALLOW_FILE|NO_REPLACE_OBJECTS"
    r"|REPLACE_REF_BASE|IMPLICIT_WORK_TREE|EXTERNAL_DIFF|DIFF_OPTS|TRACE.*|PAGER|EDITOR|(GLOB|NOGLOB|ICASE|LITERAL)_"
    r"PATHSPECS|CEILING_DIRECTORIES|DEFAULT_HASH|INTERNAL_.*)"
)
"""Variables by which git would work somewhere else than it is told to, or otherwise."""
_LOCKED = re.compile(rb"\.lock': File exists|could not lock config file|cannot lock ref|Unable to create .*\.lock")


class GitError(StoreError):
    """A git command failed; the sentence is git's own."""


class Git:
    """git in one directory.

    Args:
        where: the directory.
        env: that of the client; its HOME has the user's identity and credentials.
        more: variables beside it, as GIT_INDEX_FILE.
        flags: `key=value` of configuration beside the fixed ones.
    """

    def __init__(
        self, where: Path, env: Mapping[str, str], more: Mapping[str, str] | None = None, flags: tuple[str, ...] = ()
    ) -> None:
        self.where = where
        self._given = (env, flags)
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        kept = {name: value for name, value in {**own, **env}.items() if not _REMOVED.fullmatch(name)}
        fixed = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_LITERAL_PATHSPECS": "0"}
        self._env = {**kept, **fixed, **(more or {})}
        self._command = ["git", *(word for flag in (*_FIXED, *flags) for word in ("-c", flag))]

    def at(self, where: Path, more: Mapping[str, str] | None = None) -> Git:
        """The same in another directory, or with other variables."""
        env, flags = self._given
        return Git(where, env, more, flags)

    def with_flags(self, flags: tuple[str, ...]) -> Git:
        """The same with more configuration."""
        env, own = self._given
        return Git(self.where, env, None, (*own, *flags))

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
            GitError: it failed.
        """
        deadline, pause = time.monotonic() + LOCKED_S, 0.02
        while True:
            done = self._once(arguments, input, output, timeout_s)
            if done.returncode in ok:
                return done.stdout or b""
            if not _LOCKED.search(done.stderr) or time.monotonic() > deadline:
                raise GitError(f"git {arguments[0]} failed: {_words(done.stderr) or f'exit code {done.returncode}'}")
            time.sleep(pause)
            pause = min(pause * 2, 0.5)

    def refusal(self, *arguments: str) -> bytes:
        """What a command that only looks complains of; nothing if it has no complaint."""
        done = self._once(arguments, None, subprocess.PIPE, None)
        return (done.stderr or b"error: it failed") if done.returncode else b""

    def _once(
        self, arguments: tuple[str, ...], given: bytes | None, output: int, timeout_s: float | None
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [*self._command, *arguments],
                cwd=self.where,
                env=self._env,
                input=given,
                stdin=subprocess.DEVNULL if given is None else None,
                stdout=output,
                stderr=subprocess.PIPE,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError as error:
            if not self.where.is_dir():
                raise GitError(f"{self.where} is gone") from error
            raise InvalidArgument("git is not installed, or not in PATH: only workspace mode 'shared' works") from error
        except subprocess.TimeoutExpired as error:
            raise GitError(f"git {arguments[0]} took longer than {timeout_s:g} s") from error

    def text(self, *arguments: str, ok: tuple[int, ...] = (0,)) -> str:
        """One command whose answer is a line: its words, without the end of the line."""
        return os.fsdecode(self.run(*arguments, ok=ok)).rstrip("\n")

    def asks(self, *arguments: str) -> str | None:
        """The same; None where git says no."""
        try:
            return self.text(*arguments)
        except GitError:
            return None


def _words(stderr: bytes) -> str:
    """What git complains of, in a line."""
    said = stderr.decode(errors="replace").splitlines()
    lines = [line for line in said if not line.startswith(("hint:", "Preparing"))]
    told = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines[-3:]
    return "; ".join(line.removeprefix("fatal: ").removeprefix("error: ") for line in told)[:1_000]


def own_filters(git: Git) -> dict[str, str]:
    """The filters that a repository's own configuration defines: key and command."""
    found = git.run("config", "--local", "--includes", "-z", "--get-regexp", r"^filter\..*", ok=(0, 1))
    pairs = (os.fsdecode(item).partition("\n") for item in found.split(b"\0") if item)
    return {key: value for key, _, value in pairs}


def switched_off(now: Mapping[str, str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Flags that switch off the filters that were not there before, or were others."""
    names = {key.rpartition(".")[0] for key, value in now.items() if known.get(key) != value}
    return tuple(
        flag
        for name in sorted(names)
        for flag in (f"{name}.clean=", f"{name}.smudge=", f"{name}.process=", f"{name}.required=false")
    )


def top_of(cwd: Path) -> Path | None:
    """The top of the working tree that a directory lies in, as far as a look at names tells; None if in none."""
    return next((folder for folder in (cwd, *cwd.parents) if (folder / ".git").exists()), None)
