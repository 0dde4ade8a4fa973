"""What `orchestrator doctor` finds out about the local agents: which are there, whether they can log in, and whether
their sandboxes work here. Nothing of the user's own files is written, and nobody outside is asked."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import orjson

from orchestrator import config
from orchestrator.cli.installed import install
from orchestrator.cli.reach import Reach
from orchestrator.errors import OrchestratorError
from orchestrator.files import read_file
from orchestrator.model import JsonObject, as_object

ANSWER_S = 10.0
_MOST_BYTES = 2**20
"""Of a file that holds a login."""
_TOKEN = re.compile(r"(?!id_token)\w*(token|key|identity)", re.IGNORECASE)
"""Codex's names for what logs in, of whatever kind and version: an id_token only says who somebody is."""


class Finding(NamedTuple):
    """One thing that was looked at. `fix` says what to do where the state is not `ok`."""

    what: str
    state: Literal["ok", "note", "fault"]
    text: str
    fix: str = ""


class _Found(NamedTuple):
    """An agent's binaries.

    Attributes:
        brought: the distribution that brings it, with its version; empty if it is not installed.
        runs: the binary that runs are made with; None if there is none.
        setting: the setting that names it; empty if none does.
    """

    brought: str
    runs: str | None
    setting: str = ""


class _Answer(NamedTuple):
    """What a binary said, or why it said nothing."""

    text: str
    ok: bool


def local_agents(reach: Reach) -> Iterator[Finding]:
    """Claude Code and Codex."""
    try:
        settings = config.load(reach.home.path, reach.cwd, os.environ).settings
    except OrchestratorError:  # told elsewhere
        settings = config.Settings()
    claude = _found("claude-agent-sdk", _bundled_claude(), settings.claude_cli, "claude")
    yield (presence := _presence("Claude Code", "claude", claude))
    if presence.state == "ok":
        yield _claude_login()
        yield _claude_permissions()
    codex = _found("openai-codex-cli-bin", _bundled_codex(), settings.codex_cli, "codex")
    yield (presence := _presence("Codex", "codex", codex))
    if codex.runs and presence.state == "ok":
        yield _codex_login()
        yield _codex_sandbox(codex.runs)


def _found(distribution: str, bundled: str | None, setting: str, command: str) -> _Found:
    try:
        brought = f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        brought = ""
    if setting:
        return _Found(brought, os.path.expanduser(setting), f"{command}_cli")  # noqa: PTH111
    return _Found(brought, bundled or shutil.which(command))


def _presence(what: str, command: str, found: _Found) -> Finding:
    fix = install(command)
    if found.runs is None:
        return Finding(what, "note", "not found; its backend cannot be used", fix)
    answer = version_of(found.runs)
    if not answer.ok:
        fix = f"mend the setting {found.setting}" if found.setting else fix
        return Finding(what, "fault", f"{found.runs} {answer.text}", fix)
    words = [found.brought, f"{answer.text} at {found.runs}"]
    other = shutil.which(command)
    if other and other != found.runs:
        words.append(f"{version_of(other).text} at {other} is not used")
    return Finding(what, "ok", ", ".join(word for word in words if word))


def _bundled_claude() -> str | None:
    package = find_spec("claude_agent_sdk")
    path = Path(package.origin).with_name("_bundled") / "claude" if package and package.origin else None
    return str(path) if path and path.is_file() else None


def _bundled_codex() -> str | None:
    if find_spec("codex_cli_bin") is None:
        return None
    from codex_cli_bin import bundled_codex_path

    return str(bundled_codex_path())


def version_of(path: str) -> _Answer:
    """What a program answers to --version."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _Answer(f"does not run ({error})", ok=False)
    if done.returncode or not done.stdout.strip():
        return _Answer(f"says no version (exit code {done.returncode})", ok=False)
    return _Answer(done.stdout.strip().splitlines()[0], ok=True)


def _claude_login() -> Finding:
    what, fix = "Claude Code login", "run `claude` and log in there, or set ANTHROPIC_API_KEY"
    folder = Path(os.environ.get("CLAUDE_CONFIG_DIR") or "~/.claude").expanduser()
    known = any(
        os.environ.get(name) for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
    )
    if known:
        return Finding(what, "ok", "credentials found")
    file = folder / ".credentials.json"
    login = as_object(_document(file).get("claudeAiOauth")) or {}
    expires, renewable = login.get("expiresAt"), bool(login.get("refreshToken"))
    if not (login.get("accessToken") or renewable):
        words = f"{file} holds no token" if file.exists() else f"none found in {folder}"
        return Finding(what, "note", words, fix)
    if isinstance(expires, (int, float)) and expires / 1000 < time.time() and not renewable:
        return Finding(what, "note", f"that in {file} has expired", fix)
    return Finding(what, "ok", "credentials found")


def _document(path: Path) -> JsonObject:
    """What a file of an agent holds, which may be a link; nothing if that is no JSON object. None of it is told."""
    try:
        return as_object(orjson.loads(read_file(path.resolve(), _MOST_BYTES))) or {}
    except (OSError, ValueError, RuntimeError):
        return {}


def _claude_permissions() -> Finding:
    what, words = "Claude Code sandbox", "none: what could write or reach out is asked for"
    if os.geteuid() == 0:
        text = f"{words}; you are root, to whom Claude Code refuses full_access"
        return Finding(what, "note", text, "run as another user, or use workspace_write")
    return Finding(what, "ok", words)


def _codex_login() -> Finding:
    what, given = "Codex login", os.environ.get("CODEX_HOME")
    if given and not os.path.isdir(given):  # noqa: PTH112  as Codex takes it: ~ is no home there
        words = f"CODEX_HOME is {given}, which is no directory, so Codex does not start"
        return Finding(what, "fault", words, f"unset CODEX_HOME, or mkdir -p {shlex.quote(given)}")
    folder = Path(given) if given else Path("~/.codex").expanduser()
    file = folder / "auth.json"
    if _holds_token(_document(file)):
        return Finding(what, "ok", "credentials found")
    if _other_provider(folder):
        return Finding(what, "ok", "another model provider is configured")
    words = f"{file} holds no token" if file.exists() else f"none found in {folder}"
    return Finding(
        what,
        "note",
        f"{words}; keys in the environment do not count here",
        "run `codex login`, or `printenv OPENAI_API_KEY | codex login --with-api-key`",
    )


def _holds_token(document: JsonObject) -> bool:
    """Whether there is anything in it that logs in, at any depth that a file can have."""
    inner = [within for value in document.values() if (within := as_object(value))]
    return any(map(_holds_token, inner)) or any(
        isinstance(value, str) and value.strip() and _TOKEN.fullmatch(name) for name, value in document.items()
    )


def _other_provider(folder: Path) -> bool:
    try:
        document = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return document.get("model_provider", "openai") != "openai"


def _codex_sandbox(cli: str) -> Finding:
    """Runs a command that does nothing in Codex's sandbox, with a home that is thrown away."""
    what = "Codex sandbox"
    with tempfile.TemporaryDirectory(prefix="orc-") as home:
        env: Mapping[str, str] = {**os.environ, "CODEX_HOME": home, "HOME": home}
        try:
            command = [cli, "sandbox", "--", "true"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False, env=env)
            problem = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it fails"])[-1][:300]
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
    if problem:
        fix = "install bubblewrap and allow user namespaces; until then only full_access runs can use commands"
        return Finding(what, "note", f"does not work here: {problem}", fix)
    return Finding(what, "ok", "commands are kept to what a run's permission allows")
