"""`python -m test_agents scripted` starts a real A2A agent on loopback and prints how to reach it.

Without arguments it asks on the terminal which agent to start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from test_agents.a2a_agent import Settings

AGENTS = {
    "scripted": "a deterministic agent without a model; the prompt is its script",
    "claude_code": "the local Claude Code, with your login",
    "codex": "the local Codex, with your login",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves the agent until SIGINT or SIGTERM. The first line of output is one JSON object."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.tck and options.default_cwd is None:
        parser.error("--tck needs --default-cwd: the kit's messages do not say where to work")
    agent = options.agent or _ask_which()
    if agent is None:
        return 2
    asyncio.run(_serve(agent, options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m test_agents", description="A2A agents to try things out with.")
    parser.add_argument("agent", nargs="?", choices=sorted(AGENTS), help="which agent; asked for when absent")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free port")
    parser.add_argument("--v03", action="store_true", help="speak A2A 0.3 instead of 1.0")
    parser.add_argument("--token", help="bearer token that clients must send")
    parser.add_argument("--default-cwd", type=_directory, help="where to work for clients that do not say")
    parser.add_argument("--allow-root", type=_directory, help="refuse directories outside of this one")
    parser.add_argument("--backend-config", type=_object, help="JSON: what every run of the agent gets")
    parser.add_argument("--no-streaming", action="store_true", help="answer without event streams")
    parser.add_argument("--tck", action="store_true", help="also play the script of A2A's compatibility kit")
    return parser


def _object(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no JSON: {error}") from error
    if not isinstance(given, dict):
        raise argparse.ArgumentTypeError("a JSON object is needed")
    return cast("dict[str, Any]", given)


def _directory(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return path


def _ask_which() -> str | None:
    if not sys.stdin.isatty():
        print(f"which agent? give one of: {', '.join(AGENTS)}", file=sys.stderr)
        return None
    names = sorted(AGENTS)
    for number, name in enumerate(names, 1):
        print(f"  {number}  {name:12} {AGENTS[name]}", file=sys.stderr)
    while True:
        try:
            answer = input(f"which agent? [1-{len(names)}] ").strip() or "1"
        except EOFError:
            return None
        if answer in names:
            return answer
        if answer.isdigit() and 1 <= int(answer) <= len(names):
            return names[int(answer) - 1]


async def _serve(agent: str, options: argparse.Namespace) -> None:
    from backends import BACKENDS, SCRIPTED, Backends
    from test_agents.a2a_agent import Settings, serve

    settings = Settings(
        name=agent,
        port=options.port,
        v03=options.v03,
        token=options.token,
        default_cwd=options.default_cwd,
        allow_root=options.allow_root,
        streaming=not options.no_streaming,
        tck=options.tck,
        backend_config=options.backend_config,
    )
    backend = await Backends({**BACKENDS, **SCRIPTED}).load(agent)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve(backend, settings) as base:
        print(json.dumps(_introduction(base, settings)), flush=True)
        await stop.wait()


def _introduction(base: str, settings: Settings) -> dict[str, Any]:
    config = {"agent_url": base} | ({"auth_token": settings.token} if settings.token else {})
    script = "say hello\nask Which colour? | red | blue\nfinal all done"
    spawn = {
        "backend": "remote_a2a",
        "cwd": str(settings.default_cwd or Path.cwd()),
        "prompt": script if settings.name == "scripted" else "Say what is in this directory.",
        "backend_config": config,
    }
    return {"agent_url": base, "card": f"{base}/.well-known/agent-card.json", "spawn_run": spawn}


if __name__ == "__main__":
    raise SystemExit(main())
