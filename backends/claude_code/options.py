"""What `backend_config` of a Claude Code run may say, and what our permissions are in Claude Code's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from orchestrator import values
from orchestrator.config import Settings
from orchestrator.errors import InvalidArgument, PermissionCeiling
from orchestrator.model import JsonObject, Permission, RunSpec

Effort = Literal["low", "medium", "high", "xhigh", "max"]
Source = Literal["user", "project", "local"]
Mode = Literal["default", "acceptEdits", "bypassPermissions"]

MODES: Mapping[Permission, Mode] = {
    "read_only": "default",  # what reads runs; what asks and could write is denied by `requests`
    "workspace_write": "acceptEdits",  # the agent's own file tools work in cwd; everything else asks
    "full_access": "bypassPermissions",
}
"""Claude Code's permission mode for each of our levels."""

IDLE_MS = 7 * 24 * 3600 * 1000

UNSUITED = ("CronCreate", "CronDelete", "CronList", "ScheduleWakeup", "EnterWorktree", "ExitWorktree")
"""Tools that no run is offered: a run ends with its work, so nothing can be put off, and stays where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The checked configuration."""

    model: str | None = None
    fallback_model: str | None = None
    effort: Effort | None = None
    append_system_prompt: str | None = None
    plan: bool = False
    """Begin in plan mode: the agent writes only after its plan was approved."""
    setting_sources: tuple[Source, ...] = ()
    tools: tuple[str, ...] | None = None
    """Its own tools that it is offered; all if nothing is said. Those of MCP servers are offered anyway."""
    disallowed_tools: tuple[str, ...] = ()
    mcp_servers: Mapping[str, JsonObject] = field(default_factory=dict[str, JsonObject], repr=False)
    agent_tools: bool = True
    """Give the agent our own tools, by which it asks its caller and talks to other agents."""
    delegate: bool = False
    """With the tools that spawn and follow runs of its own."""
    background_wait_s: float = 600.0
    """How long commands that the agent left in the background may keep a run whose turn is over."""


def read_options(config: JsonObject) -> Options:
    """Checks a configuration.

    Raises:
        InvalidArgument: it names the first key that is wrong, and what it takes.
    """
    return Options(**values.read("claude_code", config, _READERS))


def check(spec: RunSpec, settings: Settings) -> None:
    """Refuses a run that its configuration makes impossible or unsafe.

    Raises:
        InvalidArgument: a key is wrong, or does not go with the permission.
        PermissionCeiling: the folder's own settings are wanted, and the user does not trust the folder.
    """
    options = read_options(spec.backend_config)
    if not options.setting_sources:
        return
    if spec.level == "read_only":
        raise InvalidArgument(
            "a read_only run loads no setting_sources: their rules could permit writing; leave it out"
        )
    if {"project", "local"} & set(options.setting_sources) and not settings.trusts(spec.cwd):
        raise PermissionCeiling(
            f"setting_sources 'project' and 'local' run the hooks of {spec.cwd}, which is not trusted; "
            "list it in trusted_dirs of your own config.toml, or leave setting_sources out"
        )


def sdk_options(spec: RunSpec, options: Options, *, cli: str) -> JsonObject:
    """The fields of `ClaudeAgentOptions` for a run, without the session and without what only a running one has: what
    is appended to the system prompt is no argument of a program, for it may be long."""
    preset: JsonObject = {
        "type": "preset",
        "preset": "claude_code",
        "snapshot": False,
    }  # or a resumed one keeps its own
    fields: JsonObject = {
        "cli_path": cli,
        "cwd": str(spec.cwd),
        "system_prompt": preset,
        "permission_mode": "plan" if options.plan else MODES[spec.level],
        "setting_sources": list(options.setting_sources),
        "strict_mcp_config": True,
        "mcp_servers": dict(options.mcp_servers),
        "tools": list(options.tools) if options.tools is not None else None,
        "disallowed_tools": [*UNSUITED, *options.disallowed_tools],
        "verbatim_prompts": True,
        "forward_subagent_text": True,
        "model": options.model,
        "fallback_model": options.fallback_model,
        "effort": options.effort,
        "max_turns": int(turns) if (turns := spec.limits.get("max_turns")) else None,
        "max_budget_usd": spec.limits.get("max_cost_usd"),
    }
    if options.plan and spec.level == "full_access":  # it may be had once the plan is approved
        fields["extra_args"] = {"allow-dangerously-skip-permissions": None}
    if spec.output_schema is not None:
        fields["output_format"] = {"type": "json_schema", "schema": spec.output_schema}
    return fields


def agent_environment(env: Mapping[str, str], cwd: Path, sdk_version: str) -> dict[str, str]:
    """The environment of the CLI: the client's, and what a run in the background needs; the client's words win."""
    own = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
    told = {
        "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
        "CLAUDE_AGENT_SDK_VERSION": sdk_version,
        "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
        "CLAUDE_CODE_MCP_TOOL_IDLE_TIMEOUT": str(IDLE_MS),  # a question may take its caller days
        "PWD": str(cwd),
    }
    return {**own, **env, **told}


def _sources(place: str, value: Any) -> tuple[str, ...]:
    return tuple(values.one_of(get_args(Source))(place, item) for item in values.words(place, value))


_READERS: Mapping[str, values.Reader] = {
    "model": values.word,
    "fallback_model": values.word,
    "effort": values.one_of(get_args(Effort)),
    "append_system_prompt": values.text,
    "plan": values.flag,
    "setting_sources": _sources,
    "tools": values.words,
    "disallowed_tools": values.words,
    "mcp_servers": values.mcp_servers,
    "agent_tools": values.flag,
    "delegate": values.flag,
    "background_wait_s": values.seconds,
}
