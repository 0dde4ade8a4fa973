"""The backend `codex`, as the engine sees it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from backends.codex.drive import Drive
from backends.codex.options import read_options
from backends.codex.prompt import input_of
from orchestrator.backend import Ability, RunContext
from orchestrator.config import Settings
from orchestrator.ends import Outcome
from orchestrator.errors import BackendError
from orchestrator.model import RunSpec


class Codex:
    """The backend `codex`."""

    name = "codex"
    abilities: frozenset[Ability] = frozenset(
        {
            *("steer", "resume", "fork", "permission", "images", "max_turns", "max_tokens"),
            *("instructions", "model", "effort", "agent_tools"),
        }
    )

    def check(self, spec: RunSpec, settings: Settings) -> None:
        """See `Backend.check`."""
        read_options(spec.backend_config)
        input_of(spec.message)

    def ready(self, spec: RunSpec, env: Mapping[str, str]) -> bool:
        """See `Backend.ready`: like every local agent it runs in the environment of its client."""
        return bool(env)

    async def run(self, spec: RunSpec, ctx: RunContext) -> Outcome:
        """See `Backend.run`."""
        cli = await asyncio.to_thread(find_cli, ctx.settings, ctx.env)
        return await Drive(spec, ctx, read_options(spec.backend_config), cli.path, cli.tools).run()


class Cli(NamedTuple):
    """A Codex: its binary, and the directory of the programs that come with it, if any do."""

    path: str
    tools: str | None = None


def find_cli(settings: Settings, env: Mapping[str, str]) -> Cli:
    """The Codex to run: that of the user's settings, of the extra, or on PATH.

    Raises:
        BackendError: there is none (`backend_unavailable`).
    """
    if settings.codex_cli:
        path = Path(settings.codex_cli).expanduser()
        if path.is_file():
            return Cli(str(path))
        raise BackendError("backend_unavailable", f"the setting codex_cli names {path}, which is no file")
    if find_spec("codex_cli_bin"):
        from codex_cli_bin import bundled_codex_path, bundled_path_dir

        tools = bundled_path_dir()
        return Cli(str(bundled_codex_path()), str(tools) if tools else None)
    if found := shutil.which("codex", path=env.get("PATH")):
        return Cli(found)
    raise BackendError(
        "backend_unavailable",
        "Codex is not installed",
        next_step="pip install 'orchestrator-mcp[codex]', or put `codex` on PATH, then spawn the run again",
    )
