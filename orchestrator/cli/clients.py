"""`orchestrator clients`: the MCP configuration for known clients, printed, or put into their files with care."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from orchestrator.cli.output import DONE, FAILED, harmless, say
from orchestrator.errors import InvalidArgument, nearest
from orchestrator.model import as_object


class Client(NamedTuple):
    """An MCP client: where its configuration is, and how our entry gets into it."""

    title: str
    file: Path
    merge: Callable[[str, str], str]


def _json_entry(key: str, **more: str) -> Callable[[str, str], str]:
    def merge(text: str, command: str) -> str:
        document = as_object(json.loads(text) if text.strip() else {})
        servers = None if document is None else as_object(document.setdefault(key, {}))
        if servers is None:
            raise ValueError(f"it is no JSON object with an object {key!r}")
        servers["orchestrator"] = {
            **(as_object(servers.get("orchestrator")) or {}),
            **more,
            "command": command,
            "args": ["mcp"],
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    return merge


_CODEX = """[mcp_servers.orchestrator]
command = {command}
args = ["mcp"]
required = true
startup_timeout_sec = 30
tool_timeout_sec = 120
default_tools_approval_mode = "approve"
"""
_TABLE = re.compile(
    r"^\[mcp_servers\.orchestrator\][^\n]*(?:\n(?!\[)[^\n]*)*?(?=(?:\n[ \t]*(?:#[^\n]*)?)*(?:\n\[|\Z))", re.M
)
"""Our table to its last setting: comments behind that belong to the next one."""


def _codex_entry(text: str, command: str) -> str:
    entry = _CODEX.format(command=json.dumps(command))
    if _TABLE.search(text):
        merged = _TABLE.sub(lambda _: entry.rstrip(), text).rstrip() + "\n"
    else:
        merged = f"{text.rstrip()}\n\n{entry}".lstrip()
    tomllib.loads(merged)  # what would not be TOML is not written
    return merged


def known(cwd: Path) -> dict[str, Client]:
    """The clients that we know, with the files of this user and this directory."""
    home = Path.home()
    return {
        "claude": Client("Claude Code, this project", cwd / ".mcp.json", _json_entry("mcpServers")),
        "claude-user": Client("Claude Code, all projects", home / ".claude.json", _json_entry("mcpServers")),
        "codex": Client("Codex", home / ".codex" / "config.toml", _codex_entry),
        "gemini": Client("Gemini CLI", home / ".gemini" / "settings.json", _json_entry("mcpServers")),
        "cursor": Client("Cursor", home / ".cursor" / "mcp.json", _json_entry("mcpServers")),
        "vscode": Client("VS Code, this project", cwd / ".vscode" / "mcp.json", _json_entry("servers", type="stdio")),
    }


def clients(name: str | None, *, cwd: Path, install: bool, yes: bool) -> int:
    """Prints the configuration for a client, or for all; with `install` writes it, after showing what changes."""
    every = known(cwd)
    if name is not None and name not in every:
        raise InvalidArgument(f"no client {name!r}{nearest(name, every)}")
    if install and name is None:
        raise InvalidArgument(f"say which client to install for: {', '.join(every)}")
    command = _own_command()
    for key, client in every.items():
        if name in (None, key):
            if install:
                return _install(client, command, yes=yes)
            print(harmless(f"# {key}: {client.title}, {client.file}\n{client.merge('', command)}"))
    return DONE


def _own_command() -> str:
    """Our command with its path, for clients may have another PATH."""
    beside = Path(sys.executable).with_name("orchestrator")
    return str(beside) if beside.exists() else shutil.which("orchestrator") or "orchestrator"


def _install(client: Client, command: str, *, yes: bool) -> int:
    try:
        old = client.file.read_text(encoding="utf-8") if client.file.exists() else ""
        new = client.merge(old, command)
        new.encode()  # JSON can name characters that no file can hold
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{client.file} cannot be read, and is left as it is: {error}") from error
    if new == old:
        say(f"{client.file} has it already")
        return DONE
    diff = difflib.unified_diff(old.splitlines(), new.splitlines(), str(client.file), "with orchestrator", lineterm="")
    print(harmless("\n".join(diff)))
    if not yes and not _agreed(client.file):
        say("nothing was written")
        return FAILED
    file = client.file.resolve()  # what a link leads to is replaced, not the link
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.orchestrator.tmp")
    temporary.unlink(missing_ok=True)
    if file.exists():
        backup = file.with_name(f"{file.name}.{datetime.now():%Y%m%d-%H%M%S}.bak")  # noqa: DTZ005  for a person
        shutil.copy2(file, backup)
        say(f"the old one is {backup}")
        temporary.touch(0o600)  # there may be secrets in it
        shutil.copymode(file, temporary)
    temporary.write_text(new, encoding="utf-8")
    temporary.replace(file)
    say(f"{client.title} knows orchestrator now; start it anew")
    return DONE


def _agreed(path: Path) -> bool:
    if not sys.stdin.isatty():
        say("not a terminal: pass --yes to write it")
        return False
    try:
        return input(f"write {path}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
