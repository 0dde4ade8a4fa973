"""The backend `claude_code`, as the engine sees it. What needs the SDK is loaded at first use, in a thread."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backends.claude_code import options
from backends.claude_code.prompt import content_of
from orchestrator.backend import Ability, RunContext
from orchestrator.config import Settings
from orchestrator.ends import Outcome
from orchestrator.errors import BackendError
from orchestrator.model import RunSpec


class ClaudeCode:
    """The backend `claude_code`."""

    name = "claude_code"
    abilities: frozenset[Ability] = frozenset(
        {
            *("steer", "resume", "fork", "permission", "images", "max_turns", "max_tokens", "max_cost_usd"),
            *("instructions", "model", "effort", "tools", "disallowed_tools", "agent_tools"),
        }
    )

    def __init__(self) -> None:
        if find_spec("claude_agent_sdk") is None:
            raise ImportError("claude-agent-sdk is missing: pip install 'orchestrator-mcp[claude]'")

    def check(self, spec: RunSpec, settings: Settings) -> None:
        """See `Backend.check`."""
        options.check(spec, settings)
        content_of(spec.message)

    def ready(self, spec: RunSpec, env: Mapping[str, str]) -> bool:
        """See `Backend.ready`: like every local agent it runs in the environment of its client."""
        return bool(env)

    async def run(self, spec: RunSpec, ctx: RunContext) -> Outcome:
        """See `Backend.run`."""
        drive = await asyncio.to_thread(_load)
        cli = await asyncio.to_thread(cli_path, ctx.settings, ctx.env)
        return await drive.Drive(spec, ctx, options.read_options(spec.backend_config), cli).run()


def cli_path(settings: Settings, env: Mapping[str, str]) -> str:
    """The Claude Code to run: that of the user's settings, of the extra, or on PATH.

    Raises:
        BackendError: there is none (`backend_unavailable`).
    """
    if settings.claude_cli:
        path = Path(settings.claude_cli).expanduser()
        if path.is_file():
            return str(path)
        raise BackendError("backend_unavailable", f"the setting claude_cli names {path}, which is no file")
    package = find_spec("claude_agent_sdk")
    if package and package.origin and (bundled := Path(package.origin).with_name("_bundled") / "claude").is_file():
        return str(bundled)
    if found := shutil.which("claude", path=env.get("PATH")):
        return found
    raise BackendError(
        "backend_unavailable",
        "Claude Code is not installed",
        next_step="pip install 'orchestrator-mcp[claude]', or put `claude` on PATH, then spawn the run again",
    )


def _load() -> Any:
    """Imports what needs the SDK, which takes about a second."""
    from backends.claude_code import drive

    return drive
