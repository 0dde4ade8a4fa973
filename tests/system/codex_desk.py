"""What the tests of the real Codex share: scripts' lines, and a desk's answers in short."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from orchestrator.model import JsonObject
from tests.models import echo_server
from tests.system.desk import Desk

ECHO: JsonObject = {"command": sys.executable, "args": [echo_server.__file__]}
"""The MCP server of the script's word `tool`, to be given by the name `echo`. Each use of it is asked for."""


def call(tool: str, **arguments: Any) -> str:
    """A line of a script: a tool by its own name."""
    return f"call {tool} {json.dumps(arguments)}"


def calls(*lines: str) -> str:
    """A line of a script: several such calls in one answer."""
    return "call " + " // ".join(line.removeprefix("call ") for line in lines)


def escalated(command: str, why: str = "it has to be so") -> str:
    """A line of a script: a command outside of the sandbox, for a reason."""
    more = {"sandbox_permissions": "require_escalated", "justification": why}
    return call("exec_command", cmd=command, **more)


def patch(body: str) -> str:
    """A line of a script: a patch of several files."""
    return call("apply_patch", input=f"*** Begin Patch\n{body}*** End Patch")


def helper(*script: str) -> str:
    """A line of a script: a sub-agent that plays one of its own, while this one goes on."""
    return call("multi_agent_v1.spawn_agent", message="\n".join(script))


def configured(**config: Any) -> JsonObject:
    """What is spawned with a configuration of Codex's own keys."""
    return {"backend_config": {"config": config}}


def tree(cwd: Path) -> dict[str, bytes]:
    """All files of the project with what is in them, but for our own."""
    files = (path for path in cwd.rglob("*") if path.is_file() and ".orchestrator" not in path.parts)
    return {str(path.relative_to(cwd)): path.read_bytes() for path in files}


def repository(cwd: Path) -> None:
    """Makes the project a git repository."""
    subprocess.run(["git", "init", "-q"], cwd=cwd, check=True)


def kill(codex: Desk) -> None:
    """Kills all processes of the desk's runs; some end together with others."""
    for process in codex.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


async def done(codex: Desk, *script: str, **more: Any) -> JsonObject:
    """Runs a script to its end without being asked anything."""
    run = await codex.finished(*script, **more)
    assert run["status"] == "completed", run
    return run


async def texts(codex: Desk, run: JsonObject) -> list[str]:
    """What the agent said."""
    return [event["data"]["text"] for event in await codex.events(run["run_id"], "agent_message")]


async def commands(codex: Desk, run: JsonObject) -> list[tuple[str, str]]:
    """The commands that ended, and how."""
    ended = await codex.events(run["run_id"], "command_finished")
    return [(event["data"]["command"], event["data"]["status"]) for event in ended]


async def changed(codex: Desk, run: JsonObject) -> list[JsonObject]:
    """All file changes that were told."""
    events = await codex.events(run["run_id"], "file_changed")
    return [change for event in events for change in event["data"]["changes"]]


async def details(codex: Desk, run: JsonObject) -> list[str]:
    """All that was told in a line."""
    events = await codex.events(run["run_id"], "status_changed")
    return [event["data"]["detail"] for event in events if "detail" in event["data"]]
