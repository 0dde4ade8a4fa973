"""What `backend_config` of a Codex run may say, and what our permissions are in Codex's words. Pure but for looks at
the user's own configuration and at where a project begins."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from orchestrator import values
from orchestrator.errors import InvalidArgument
from orchestrator.model import JsonObject, Permission, RunSpec, as_array, as_object
from orchestrator.process import MARKER
from orchestrator.values import OURS

SANDBOXES: Mapping[Permission, str] = {
    "read_only": "read-only",
    "workspace_write": "workspace-write",
    "full_access": "danger-full-access",
}
"""Codex's sandbox for each of our levels. The approval policy is `on-request` in all: what the sandbox does not allow
is asked for, and `requests` declines it where the level rules it out."""

_QUIET = ("features.plugins", "features.apps", "features.unbounded_connection_retries", "check_for_update_on_startup")
"""Switched off unless the user's own configuration says something of them: the first two and the last call home, the
third would let a run that has no network wait for ever."""

_OF_OURS: JsonObject = {
    "default_tools_approval_mode": "approve",
    "tool_timeout_sec": 7 * 24 * 3600,  # its caller may take days to answer
    "disabled_tools": ["ask_caller"],  # there is one that works where MCP servers do not
}
_OURS = (
    "approval_policy", "approvals_reviewer", "default_permissions", "developer_instructions", "hooks", "mcp_servers",
    "model_instructions_file", "notify", "permissions", "profile", "projects", "sandbox_mode",
    "sandbox_workspace_write", "shell_environment_policy",
)  # fmt: skip
"""Keys of Codex's configuration that `permission` and other arguments decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The checked configuration."""

    model: str | None = None
    effort: str | None = None
    append_system_prompt: str | None = None
    network: bool = False
    """Let commands of a workspace_write run reach the network."""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further keys of Codex's configuration, dotted or nested."""
    mcp_servers: Mapping[str, JsonObject] = field(default_factory=dict[str, JsonObject], repr=False)
    own_mcp_servers: bool = False
    """Also start the MCP servers of the user's own configuration."""
    agent_tools: bool = True
    """Give the agent our own tools, by which it talks to other agents."""
    delegate: bool = False
    """With the tools that spawn and follow runs of its own."""
    isolated_home: bool = False
    """Use a CODEX_HOME of the orchestrator's own, which shares nothing with the user's but the login."""


def read_options(config: JsonObject) -> Options:
    """Checks a configuration.

    Raises:
        InvalidArgument: it names the first key that is wrong, and what it takes.
    """
    return Options(**values.read("codex", config, _READERS))


def flags(options: Options, user: JsonObject, project: Sequence[Path], *, trusted: bool = False) -> list[str]:
    """The command line's part of the configuration.

    Args:
        user: the user's own configuration, as `user_config` has it.
        project: the folders of the run's project. Of those that nobody speaks of Codex would take a run for the user's
            word that they may be trusted, write that into the user's configuration for good, and do what their own
            `.codex` says.
        trusted: whether the user's settings trust them.
    """
    pairs: dict[str, Any] = {key: False for key in _QUIET if _at(user, key) is None}
    pairs["tools.update_plan.enabled"] = True  # otherwise there is no todo list
    if not trusts(user, project):
        level = {"trust_level": "trusted" if trusted else "untrusted"}
        # an inline table, for quotes in a dotted key would be a part of the name
        pairs["projects"] = {str(folder): level for folder in project}
    return [*_words(pairs), *config_flags(options)]


def trusts(user: JsonObject, project: Iterable[Path]) -> bool:
    """Whether the user told Codex to trust the project."""
    known = as_object(user.get("projects")) or {}
    return any((as_object(known.get(str(folder))) or {}).get("trust_level") == "trusted" for folder in project)


def config_flags(options: Options) -> list[str]:
    """The caller's own keys as a command line."""
    return _words(options.config)


def _words(pairs: Mapping[str, Any]) -> list[str]:
    return [word for key, value in pairs.items() for word in ("-c", f"{key}={toml(value)}")]


def thread_fields(
    spec: RunSpec, options: Options, user: JsonObject, agent_tools: JsonObject | None = None
) -> JsonObject:
    """The parameters of a thread that a run decides, whether it is begun, resumed or forked.

    Args:
        user: the user's own configuration, as `user_config` has it.
        agent_tools: the MCP server with our own tools.
    """
    own = {} if options.own_mcp_servers else as_object(user.get("mcp_servers")) or {}
    off: JsonObject = {name: {"enabled": False} for name in own}
    config: JsonObject = {
        "shell_environment_policy.ignore_default_excludes": False,  # no keys, tokens and secrets for commands
        f"shell_environment_policy.set.{MARKER}": spec.run_id,  # whatever the user's own policy leaves out
        "sandbox_workspace_write.writable_roots": [],
        "sandbox_workspace_write.exclude_slash_tmp": True,
        "sandbox_workspace_write.network_access": options.network,
    }
    if options.effort:
        config["model_reasoning_effort"] = options.effort
    servers = off | {name: _server(server) for name, server in options.mcp_servers.items()}
    if agent_tools is not None:
        servers[OURS] = {**_server(agent_tools), **_OF_OURS}
        config |= {f"shell_environment_policy.set.{name}": value for name, value in agent_tools["env"].items()}
    if servers:
        config["mcp_servers"] = servers
    fields: JsonObject = {
        "cwd": str(spec.cwd),
        "approvalPolicy": "on-request",
        "sandbox": SANDBOXES[spec.level],
        "config": config,
    }
    return {**fields, "model": options.model} if options.model else fields


def user_config(env: Mapping[str, str]) -> JsonObject:
    """The user's own `config.toml`; empty if there is none, or Codex itself will complain about it. Blocks."""
    try:
        return tomllib.loads((codex_home(env) / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def provider_lines(user: JsonObject) -> str:
    """The user's own providers of models as a configuration file, for what the caller's keys may refer to."""
    kept = {key: user[key] for key in ("model_provider", "model_providers") if key in user}
    return "".join(f"{key} = {toml(value)}\n" for key, value in kept.items())


def project_of(cwd: Path) -> list[Path]:
    """The folders that are one project with cwd for Codex: itself, its repository, and that of a worktree. Blocks."""
    root = next((folder for folder in (cwd, *cwd.parents) if (folder / ".git").exists()), cwd)
    folders = [cwd, root]
    with suppress(OSError, ValueError):
        if (root / ".git").is_file():  # "gitdir: <main>/.git/worktrees/<name>"
            named = (root / ".git").read_text(encoding="utf-8").removeprefix("gitdir:").strip()
            folders.append((root / named).resolve().parents[2])
    return list(dict.fromkeys(folders))


def loosening_rules(home: Path) -> Path | None:
    """A file of the user's rules that lets commands run outside of any sandbox, unasked; None if there is none. Blocks.

    Codex has no switch that would leave them out.
    """
    for path in sorted((home / "rules").glob("*.rules")):
        with suppress(OSError):
            text = _COMMENT.sub("", path.read_text(encoding="utf-8", errors="replace"))
            if len(_RULE.findall(text)) > len(_STRICT.findall(text)):
                return path
    return None


_COMMENT = re.compile(r"#.*")
_RULE = re.compile(r"\bprefix_rule\s*\(")
_STRICT = re.compile(r"""\bdecision\s*=\s*["'](?:prompt|forbidden)["']""")
"""Of a rule that says nothing the decision is to allow."""


def codex_home(env: Mapping[str, str]) -> Path:
    """Where Codex keeps its configuration, its login and its conversations."""
    return Path(env.get("CODEX_HOME") or Path(env.get("HOME", "~")).expanduser() / ".codex")


def toml(value: Any) -> str:
    """A JSON value as TOML."""
    if (table := as_object(value)) is not None:
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in table.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in cast(list[Any], value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _at(config: JsonObject, dotted: str) -> Any:
    value: Any = config
    for word in dotted.split("."):
        value = (as_object(value) or {}).get(word)
    return value


def _server(server: JsonObject) -> JsonObject:
    """An MCP server in Codex's words: remote ones have `http_headers`."""
    kept = {key: value for key, value in server.items() if key not in ("type", "headers")}
    return {"enabled": True, **kept} | ({"http_headers": server["headers"]} if "headers" in server else {})


def _config(place: str, value: Any) -> Mapping[str, Any]:
    config = as_object(value)
    if config is None:
        raise InvalidArgument(f"{place} must be an object of Codex's configuration keys")
    for key, item in _leaves(config):
        path = f"{place}.{key}"
        if not all(map(_WORD.fullmatch, key.split("."))):
            raise InvalidArgument(f"{place} has no key {key!r}")
        if key.split(".")[0] in _OURS:
            raise InvalidArgument(f"{path} is decided by permission and the other keys of backend_config")
        if _SECRET.search(key):
            raise InvalidArgument(f"{path} looks like a credential; name a variable of your environment by env_key")
        if isinstance(item, str) and _USERINFO.match(item):
            raise InvalidArgument(f"{path} has a password in its address; name a variable by env_key instead")
        if item is None:
            raise InvalidArgument(f"{path} is null, which Codex's configuration does not know")
    return config


_WORD = re.compile(r"[\w/:@+][\w/:@+-]*")
"""A word of a key; Codex trims blanks, and takes quotes away."""
_USERINFO = re.compile(r"\w+://[^/]*@")
_SECRET = re.compile(r"(?:token|secret|password|api[-_]?key|(?<!env_http_)headers|query_params)(?:\.|$)", re.IGNORECASE)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key and every value inside of an object, with the way to it."""
    if (table := as_object(value)) is not None:
        for key, item in table.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif (items := as_array(value)) is not None:
        for item in items:
            yield from _leaves(item, path)
    else:
        yield path, value


_READERS: Mapping[str, values.Reader] = {
    "model": values.text,
    "effort": values.text,
    "append_system_prompt": values.text,
    "network": values.flag,
    "config": _config,
    "mcp_servers": values.mcp_servers,
    "own_mcp_servers": values.flag,
    "agent_tools": values.flag,
    "delegate": values.flag,
    "isolated_home": values.flag,
}
