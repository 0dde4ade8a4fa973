"""`orchestrator clients`: the MCP configuration for known clients, printed, or put into their files with care."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.cli.output import DONE, FAILED, harmless, print_json, refuse, say
from orchestrator.errors import InvalidArgument, nearest
from orchestrator.model import JsonObject, as_object, compact


class Client(NamedTuple):
    """An MCP client: where its configuration is, and how our entry gets into it.

    Attributes:
        shared: the file belongs to a project, so that others may get it by a commit.
    """

    title: str
    file: Path
    merge: Callable[[str, str], str]
    shared: bool = False


def _json_entry(key: str, **more: str) -> Callable[[str, str], str]:
    def merge(text: str, command: str) -> str:
        document = as_object(_parsed(text) if text.strip() else {})
        servers = None if document is None else as_object(document.setdefault(key, {}))
        if servers is None:
            raise ValueError(f"it is no JSON object with an object {key!r}")
        mine, ours = as_object(servers.get("orchestrator")) or {}, {**more, "command": command, "args": ["mcp"]}
        missing = {name: value for name, value in ours.items() if name not in mine}
        servers["orchestrator"] = {**mine, **missing, "command": command}  # what else is there is its user's
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    return merge


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"only JSON without comments and trailing commas is changed here: {error}") from error


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


_COMMAND = re.compile(r"""^(\s*command\s*=\s*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*')""", re.M)


def _codex_entry(text: str, command: str) -> str:
    entry = _CODEX.format(command=json.dumps(command))
    document = tomllib.loads(text)
    ours, servers = tomllib.loads(entry)["mcp_servers"]["orchestrator"], as_object(document.get("mcp_servers", {}))
    if servers is None:
        raise ValueError("its mcp_servers is no table")
    mine = as_object(servers.get("orchestrator")) or {}
    if table := _TABLE.search(text):
        missing = [line for line in entry.splitlines()[1:] if line.partition(" ")[0] not in mine]
        kept = _COMMAND.sub(lambda found: found[1] + json.dumps(command), table[0], count=1)
        merged = text[: table.start()] + "\n".join([kept, *missing]) + text[table.end() :].rstrip() + "\n"
    else:
        merged = f"{text.rstrip()}\n\n{entry}".lstrip()
    after = tomllib.loads(merged)  # what would not be TOML, or would change anything else, is not written
    servers = {**servers, "orchestrator": {**ours, **mine, "command": command}}
    if after != {**document, "mcp_servers": servers}:
        raise ValueError("its table mcp_servers.orchestrator is written in an unusual way; change it by hand")
    return merged


def known(cwd: Path) -> dict[str, Client]:
    """The clients that we know, with the files of this user and this directory."""
    home = Path.home()
    codex = Path(os.environ.get("CODEX_HOME") or home / ".codex")
    claude = Path(os.environ.get("CLAUDE_CONFIG_DIR") or home)
    return {
        "claude": Client("Claude Code, this project", cwd / ".mcp.json", _json_entry("mcpServers"), shared=True),
        "claude-user": Client("Claude Code, all projects", claude / ".claude.json", _json_entry("mcpServers")),
        "codex": Client("Codex", codex / "config.toml", _codex_entry),
        "gemini": Client("Gemini CLI", home / ".gemini" / "settings.json", _json_entry("mcpServers")),
        "cursor": Client("Cursor", home / ".cursor" / "mcp.json", _json_entry("mcpServers")),
        "vscode": Client(
            "VS Code, this project", cwd / ".vscode" / "mcp.json", _json_entry("servers", type="stdio"), shared=True
        ),
    }


def clients(name: str | None, *, cwd: Path, install: bool, yes: bool, as_json: bool = False) -> int:
    """Prints the configuration for a client, or for all; with `install` writes it, after showing what changes.

    Raises:
        InvalidArgument: there is no such client, or its file is not what it should be.
    """
    every = known(cwd)
    if name is not None and name not in every:
        raise InvalidArgument(f"no client {name!r}{nearest(name, every)}")
    if install and name is None:
        raise InvalidArgument(f"say which client to install for: {', '.join(every)}")
    if install and as_json and not yes:
        raise InvalidArgument("--json asks nobody; with --install it takes --yes")
    command = _own_command()
    rows: list[JsonObject] = []
    for key, client in every.items():
        if name not in (None, key):
            continue
        if install:
            return _install(client, command, yes=yes, as_json=as_json)
        rows.append({"name": key, "title": client.title, "file": str(client.file), "text": client.merge("", command)})
        if not as_json:
            print(harmless(f"# {key}: {client.title}, {client.file}\n{client.merge('', command)}"))
            _warn_of_path(client, command)
    if as_json:
        print_json({"clients": rows})
    return DONE


def _own_command() -> str:
    """Our command with its path, for clients may have another PATH."""
    beside = Path(sys.executable).with_name("orchestrator")
    return str(beside) if beside.exists() else shutil.which("orchestrator") or "orchestrator"


def _warn_of_path(client: Client, command: str) -> None:
    if client.shared and os.path.isabs(command):  # noqa: PTH117  a command without a path is right everywhere
        say(f"{client.file.name}: {command} is the path on this machine; who gets the file by a commit needs their own")


def _merged(client: Client, command: str) -> tuple[str, str]:
    """What is in the file, and what is to be in it."""
    try:
        old = client.file.read_text(encoding="utf-8") if client.file.exists() else ""
    except OSError as error:
        raise InvalidArgument(f"{client.file} cannot be read, and is left as it is: {error}") from error
    new = client.merge(old, command)
    new.encode()  # JSON can name characters that no file can hold
    return old, new


def _by_hand(client: Client, command: str, error: Exception, *, as_json: bool) -> int:
    """Says why a file is not changed, and what is to be added to it."""
    why = "it is nested too deeply" if isinstance(error, RecursionError) else error
    refused = InvalidArgument(f"{client.file} cannot be changed, and is left as it is: {why}")
    if as_json:
        raise refused from error
    code = refuse(refused, as_json=False)
    say("to go on, add this to it by hand:")
    print(harmless(client.merge("", command)), end="")
    return code


def _install(client: Client, command: str, *, yes: bool, as_json: bool) -> int:
    try:
        old, new = _merged(client, command)
    except (ValueError, RecursionError) as error:
        return _by_hand(client, command, error, as_json=as_json)
    if new == old:
        if as_json:
            print_json({"file": str(client.file), "written": False})
        else:
            say(f"{client.file} has it already")
        return DONE
    diff = difflib.unified_diff(old.splitlines(), new.splitlines(), str(client.file), "with orchestrator", lineterm="")
    if not as_json:
        print(harmless("\n".join(diff)))
    if not yes and not _agreed(client.file):
        say("nothing was written")
        return FAILED
    file = client.file.resolve()  # what a link leads to is replaced, not the link
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.orchestrator.tmp")
    temporary.unlink(missing_ok=True)
    backup = None
    if file.exists():
        backup = file.with_name(f"{file.name}.{datetime.now():%Y%m%d-%H%M%S}.bak")  # noqa: DTZ005  for a person
        shutil.copy2(file, backup)
        temporary.touch(0o600)  # there may be secrets in it
        shutil.copymode(file, temporary)
    temporary.write_text(new, encoding="utf-8")
    temporary.replace(file)
    if as_json:
        print_json(compact({"file": str(client.file), "written": True, "backup": str(backup) if backup else None}))
        return DONE
    if backup:
        say(f"the old one is {backup}")
    say(f"{client.title} knows orchestrator now; start it anew")
    _warn_of_path(client, command)
    return DONE


def _agreed(path: Path) -> bool:
    if not sys.stdin.isatty():
        say("not a terminal: pass --yes to write it")
        return False
    try:
        return input(f"write {path}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
