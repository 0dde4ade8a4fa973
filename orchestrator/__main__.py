"""The command `orchestrator`, and the one place where an in-process server is put together.

`mcp` is started by every client for every session, so the way to the bridge loads nothing but the standard library.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from orchestrator import __version__

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

THREADS = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns its exit code; an in-process server ends the process itself."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if sys.platform == "win32":
        sys.stderr.write("orchestrator needs Linux or macOS; on Windows run it inside WSL\n")
        return 2
    if given in (["mcp"], ["mcp", "--scripted"]):  # what clients start: no parser is loaded for it
        return _mcp(scripted=len(given) > 1)
    options = _parser().parse_args(given)
    if options.command == "mcp":
        return _mcp(scripted=options.scripted, in_process=options.in_process, verbose=options.verbose)
    return _host(options)


def _mcp(*, scripted: bool, in_process: bool = False, verbose: bool = False) -> int:
    if sys.stdin.isatty():
        sys.stderr.write("serving MCP on stdin and stdout; this is for MCP clients to start (end it with Ctrl-C)\n")
    if not in_process:
        from orchestrator.host import bridge

        if bridge.run(scripted=scripted):
            return 0
    _serve_in_process(scripted=scripted, verbose=verbose)
    return 0


def _host(options: argparse.Namespace) -> int:
    from orchestrator.host import commands
    from orchestrator.host.place import HostError

    try:
        match options.action:
            case "start":
                return commands.start()
            case "status":
                return commands.status(as_json=options.json)
            case "stop":
                return commands.stop(cancel=options.cancel, wait=not options.no_wait)
            case "logs":
                return commands.logs(follow=options.follow, lines=options.lines)
            case _:
                from orchestrator.host.serve import serve

                return serve(key=options.key, lock=options.lock, status=options.status, detach=options.detach)
    except HostError as error:
        sys.stderr.write(f"orchestrator: host_unavailable: {error}\n")
        return 6


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="orchestrator",
        description="Runs other coding agents for an MCP client or a person.",
        epilog="example: claude mcp add orchestrator -- orchestrator mcp",
    )
    parser.add_argument("--version", action="version", version=f"orchestrator {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    mcp = commands.add_parser("mcp", help="serve the tools to an MCP client on stdin and stdout")
    mcp.add_argument("--in-process", action="store_true", help="keep the runs in this process: they end with it")
    mcp.add_argument(
        "--scripted", action="store_true", help="also offer the backend 'scripted', an agent without a model"
    )
    mcp.add_argument("--verbose", action="store_true", help="with --in-process: log what happens to stderr")
    host = commands.add_parser("host", help="the process that owns the live runs; clients start it on demand")
    actions = host.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("start", help="start it if it is not running")
    status = actions.add_parser("status", help="say whether it runs, and what it does (exit code 6: it does not run)")
    status.add_argument("--json", action="store_true", help="as one JSON document")
    stop = actions.add_parser("stop", help="end it when its live runs are over")
    stop.add_argument("--cancel", action="store_true", help="cancel the live runs")
    stop.add_argument("--no-wait", action="store_true", help="return at once")
    logs = actions.add_parser("logs", help="print the end of its log")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    logs.add_argument("-n", "--lines", type=int, default=50, help="how many lines (50)")
    serve = actions.add_parser("serve", help="be the host, in the foreground")
    serve.add_argument("--detach", action="store_true", help=argparse.SUPPRESS)
    serve.add_argument("--key", help=argparse.SUPPRESS)
    serve.add_argument("--lock", type=int, help=argparse.SUPPRESS)
    serve.add_argument("--status", type=int, help=argparse.SUPPRESS)
    return parser


def _serve_in_process(*, scripted: bool, verbose: bool) -> None:
    import asyncio
    import logging
    import os
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import replace
    from pathlib import Path

    from backends import BACKENDS, SCRIPTED, Backends
    from orchestrator.doors.mcp import serve_stdio
    from orchestrator.doors.tools import Tools
    from orchestrator.engine.engine import Caller, Engine
    from orchestrator.host.client import call
    from orchestrator.process import MARKER
    from orchestrator.store.layout import Home

    async def run() -> None:
        # slow disks hold threads; those of one run must not be all that there are
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "disk"))
        backends = Backends({**BACKENDS, **SCRIPTED} if scripted else BACKENDS)
        caller = Caller(cwd=Path.cwd(), env=dict(os.environ), parent_run_id=os.environ.get(MARKER))
        async with Engine(Home.default(), backends.load, scope=caller.cwd) as engine:
            caller = replace(caller, settings=engine.settings_of(caller))
            with engine.lives.client(caller):
                await engine.recovery.recover()
                await serve_stdio(Tools(engine, caller, forward=call), engine.lives.close)

    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(run())


if __name__ == "__main__":
    raise SystemExit(main())
