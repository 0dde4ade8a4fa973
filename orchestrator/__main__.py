"""The command `orchestrator`, and the one place where everything is put together.

`mcp` serves the tools to one MCP client on stdin and stdout, with the runs in this same process.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator import __version__

THREADS = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns its exit code; a server ends the process itself."""
    options = _parser().parse_args(arguments)
    if sys.platform == "win32":
        sys.stderr.write("orchestrator needs Linux or macOS; on Windows run it inside WSL\n")
        return 2
    level = logging.DEBUG if options.verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if sys.stdin.isatty():
        sys.stderr.write("serving MCP on stdin and stdout; this is for MCP clients to start (end it with Ctrl-C)\n")
    asyncio.run(_serve(scripted=options.scripted))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="orchestrator",
        description="Runs other coding agents for an MCP client or a person.",
        epilog="example: claude mcp add orchestrator -- orchestrator mcp",
    )
    parser.add_argument("--version", action="version", version=f"orchestrator {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    mcp = commands.add_parser("mcp", help="serve the tools to an MCP client on stdin and stdout")
    mcp.add_argument("--in-process", action="store_true", help="keep the runs in this process (the only way for now)")
    mcp.add_argument(
        "--scripted", action="store_true", help="also offer the backend 'scripted', an agent without a model"
    )
    mcp.add_argument("--verbose", action="store_true", help="log what happens to stderr")
    return parser


async def _serve(*, scripted: bool) -> None:
    from backends import BACKENDS, SCRIPTED, Backends
    from orchestrator.doors.mcp import serve_stdio
    from orchestrator.doors.tools import Tools
    from orchestrator.engine.engine import Caller, Engine
    from orchestrator.store.layout import Home

    # slow disks hold threads; those of one run must not be all that there are
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "disk"))
    backends = Backends({**BACKENDS, **SCRIPTED} if scripted else BACKENDS)
    async with Engine(Home.default(), backends.load) as engine:
        caller = Caller(cwd=Path.cwd(), env=dict(os.environ))
        await serve_stdio(Tools(engine, caller), engine.close)


if __name__ == "__main__":
    raise SystemExit(main())
