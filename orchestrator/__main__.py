"""The command `orchestrator`, and the one place where an in-process server is put together.

`mcp` is started by every client for every session, so the way to the bridge loads nothing but the standard library.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

THREADS = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns its exit code; an in-process server ends the process itself."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if sys.platform == "win32":
        sys.stderr.write("orchestrator needs Linux or macOS; on Windows run it inside WSL\n")
        return 2
    if (wanted := _plain_mcp(given)) is not None:  # what clients start: no parser is loaded for it
        return serve_mcp(**wanted)
    if given[:3] == ["host", "serve", "--detach"]:  # what a bridge starts
        return _be_the_host(given[3:])
    code = _command(given)
    if arguments is None:
        os._exit(code)  # taking all modules apart takes as long as many a command; all is flushed
    return code


def _command(given: list[str]) -> int:
    try:
        if (flags := _plain_ls(given)) is not None:
            from orchestrator.cli.listing import ls_here

            code = ls_here(**flags)
        else:
            gc.disable()  # nothing that the parser loads is ever garbage, and looking for it takes its time
            from orchestrator.cli.app import main as run

            gc.freeze()
            gc.enable()
            code = run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except OSError as error:  # of what the parser wrote; commands tell of their own
        sys.stderr.write(f"orchestrator: {error}\n")
        code = 1
    return code


def _plain_mcp(given: list[str]) -> dict[str, Any] | None:
    """The arguments of `serve_mcp` for `mcp` with what clients usually say; None for anything else."""
    match given:
        case ["mcp"]:
            return {}
        case ["mcp", "--scripted"]:
            return {"scripted": True}
        case ["mcp", "--toolset", names]:
            return {"toolsets": names.split(",")}
        case _:
            return None


def _plain_ls(given: list[str]) -> dict[str, bool] | None:
    """The arguments of `ls_here` for `ls` as it is mostly called; None for anything else.

    The parser takes longer to load than the list takes to make, and agents ask for it often.
    """
    names = {"--all": "everywhere", "-a": "everywhere", "--tree": "tree", "--json": "as_json"}
    if given[:1] != ["ls"] or not set(given[1:]) <= names.keys():
        return None
    return {names[flag]: True for flag in given[1:]}


def serve_mcp(
    *, scripted: bool = False, toolsets: Sequence[str] = (), in_process: bool = False, verbose: bool = False
) -> int:
    """`orchestrator mcp`: a bridge to the host, or a server with the runs in this process."""
    from orchestrator.host.place import TOOLSETS

    if unknown := [name for name in toolsets if name not in TOOLSETS]:
        sys.stderr.write(f"orchestrator: no toolset {unknown[0]!r}; known: {', '.join(TOOLSETS)}\n")
        return 2
    if sys.stdin is not None and sys.stdin.isatty():  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr.write("serving MCP on stdin and stdout; this is for MCP clients to start (end it with Ctrl-C)\n")
    if not in_process:
        from orchestrator.host import bridge

        if bridge.run(scripted=scripted, toolsets=list(toolsets)):
            return 0
    _serve_in_process(scripted=scripted, toolsets=toolsets, verbose=verbose)
    return 0


def _be_the_host(given: list[str]) -> int:
    from orchestrator.host.serve import serve

    options = dict(zip(given[::2], given[1::2], strict=True))
    lock, status = int(options["--lock"]), int(options["--status"])
    return serve(key=options["--key"], lock=lock, status=status, detach=True)


def _serve_in_process(*, scripted: bool, toolsets: Sequence[str], verbose: bool) -> None:
    import asyncio
    import logging
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import AsyncExitStack
    from dataclasses import replace
    from pathlib import Path

    from backends import BACKENDS, SCRIPTED, Backends
    from orchestrator.doors.mcp import serve_stdio
    from orchestrator.doors.tools import Tools
    from orchestrator.engine.engine import Caller, Engine
    from orchestrator.host.agents import agents_door
    from orchestrator.host.client import call
    from orchestrator.logs import Plain
    from orchestrator.process import MARKER
    from orchestrator.store.layout import Home

    async def run() -> None:
        # slow disks hold threads; those of one run must not be all that there are
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "disk"))
        backends = Backends({**BACKENDS, **SCRIPTED} if scripted else BACKENDS)
        env, parent = dict(os.environ), os.environ.get(MARKER)
        caller = Caller(cwd=Path.cwd(), env=env, toolsets=frozenset(toolsets), parent_run_id=parent)
        async with Engine(Home.default(), backends.load, scope=caller.cwd) as engine:
            caller = replace(caller, settings=engine.settings_of(caller))
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(agents_door(engine, scripted=scripted))
                stack.enter_context(engine.lives.client(caller))

                async def close() -> None:
                    await engine.lives.close()
                    await stack.aclose()

                await engine.recovery.recover()
                await serve_stdio(Tools(engine, caller, forward=call), close)

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Plain())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler])
    asyncio.run(run())


if __name__ == "__main__":
    raise SystemExit(main())
