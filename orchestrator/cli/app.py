"""The commands with their options and help. What they do stands in the other files of this room, loaded when needed."""

from __future__ import annotations

import inspect
import math
import os
import shutil
import sys
from collections.abc import Sequence
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.models import CommandInfo, TyperInfo

from orchestrator import __version__
from orchestrator.cli.output import ROWS, command, end, open_streams, place_of

if TYPE_CHECKING:
    from orchestrator.cli.reach import Reach

WIDTH = shutil.get_terminal_size().columns
app = typer.Typer(
    name="orchestrator",
    context_settings={"terminal_width": max(min(WIDTH, 80) - 2, 20)},  # click would not go below 50
    help="Runs other coding agents for you or for your main agent: spawn, follow, answer, steer, cancel.",
    epilog="First run: orchestrator run --backend scripted 'say hello'     For an MCP client: orchestrator mcp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(arguments: Sequence[str]) -> int:
    """Runs a command. Returns its exit code."""
    open_streams()
    try:
        _needed(arguments)(args=list(arguments), prog_name="orchestrator")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _needed(arguments: Sequence[str]) -> typer.Typer:
    """The app with the command that is called alone, or with all of them, for help and completion.

    Typer evaluates the signatures of all commands before it runs one, which takes longer than most commands do.
    """
    completes = "_ORCHESTRATOR_COMPLETE" in os.environ
    called = None if completes else next((word for word in arguments if not word.startswith("-")), None)
    if all(called != _name_of(info) for info in app.registered_commands):
        import_module("orchestrator.cli.more")  # its commands are the app's
    chosen = copy(app)
    if called is None and not completes:
        chosen.registered_commands = list(map(_short_command, app.registered_commands))
        chosen.registered_groups = list(map(_short_group, app.registered_groups))
    elif any(called == _name_of(info) for info in (*app.registered_commands, *app.registered_groups)):
        chosen.registered_commands = [info for info in app.registered_commands if _name_of(info) == called]
        chosen.registered_groups = [info for info in app.registered_groups if _name_of(info) == called]
    return chosen


def _name_of(info: CommandInfo | TyperInfo) -> str:
    return str(info.name or getattr(info.callback, "__name__", ""))


def _short_command(info: CommandInfo) -> CommandInfo:
    """A command as a list of all shows it: with what it is for, and without its options."""
    return CommandInfo(_name_of(info), help=inspect.getdoc(info.callback), callback=lambda: None)


def _short_group(info: TyperInfo) -> TyperInfo:
    """The same for a group of commands."""
    return TyperInfo(typer.Typer(help=info.typer_instance.info.help if info.typer_instance else None), name=info.name)


def reach_of(cwd: Path | None) -> Reach:
    """What the commands need, for a directory; default: this one."""
    from orchestrator.cli.reach import Reach

    return Reach(place_of(cwd))


def seconds(given: float | None) -> float | None:
    """A time span that somebody gave: for typer, as a callback."""
    if given is not None and not (math.isfinite(given) and given >= 0):
        raise typer.BadParameter("it takes a number of seconds from 0 on")
    return given


def run_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """What completes a run, in the directory that --cwd gave before it."""
    from orchestrator.cli.complete import names

    return names(incomplete, ctx.params.get("cwd"))


def _backends(_ctx: typer.Context, incomplete: str) -> list[str]:
    from orchestrator.cli.complete import backends

    return backends(incomplete)


def _permissions(_ctx: typer.Context, incomplete: str) -> list[str]:
    from orchestrator.model import PERMISSIONS

    return [name for name in PERMISSIONS if name.startswith(incomplete)]


def _answers(_ctx: typer.Context, incomplete: str) -> list[str]:
    from orchestrator.model import ON_APPROVAL_ORDER

    return [name for name in ON_APPROVAL_ORDER if name.startswith(incomplete)]


def _statuses(_ctx: typer.Context, incomplete: str) -> list[str]:
    from orchestrator.cli.complete import statuses

    return statuses(incomplete)


def _types(_ctx: typer.Context, incomplete: str) -> list[str]:
    from orchestrator.cli.complete import types

    return types(incomplete)


def profile_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """What completes the name of a profile."""
    from orchestrator.cli.complete import profiles

    return profiles(incomplete, ctx.params.get("cwd"))


Json = Annotated[bool, typer.Option("--json", help="One JSON document a line, in the shapes of the MCP tools.")]
Cwd = Annotated[Path | None, typer.Option("--cwd", "-C", help="The directory to work for; default: this one.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run id, or an agent's name.", autocompletion=run_names)]
Runs = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Run ids or agents' names.", autocompletion=run_names)
]


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"orchestrator {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what happens inside.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    if verbose:
        import logging

        from orchestrator.logs import Plain

        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(Plain())
        logging.basicConfig(level=logging.DEBUG, handlers=[handler])
        logging.getLogger("asyncio").setLevel(logging.INFO)  # what it says is about itself


@app.command(epilog="orchestrator run -b remote_a2a --agent-url http://127.0.0.1:9000 'fix the tests'")
@command
async def run(
    prompt: Annotated[str | None, typer.Argument(help="The task; - reads it from stdin.")] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", "-b", help="The kind of agent.", autocompletion=_backends)
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the task from a file.")] = None,
    model: Annotated[str | None, typer.Option(help="The agent's model; short for --backend-config.")] = None,
    agent_url: Annotated[str | None, typer.Option(help="Of a remote A2A agent; short for --backend-config.")] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="A job description.", autocompletion=profile_names)
    ] = None,
    role: Annotated[str | None, typer.Option(help="A label.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="A wished agent name.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on in the session of this run, agent or session.", autocompletion=run_names),
    ] = None,
    fork: Annotated[bool, typer.Option("--fork", help="With --resume: in a copy of the session.")] = False,
    permission: Annotated[
        str | None, typer.Option(help="read_only, workspace_write or full_access.", autocompletion=_permissions)
    ] = None,
    on_approval: Annotated[str | None, typer.Option(help="ask, deny or allow.", autocompletion=_answers)] = None,
    schema: Annotated[str | None, typer.Option(help="JSON Schema of the answer, as JSON or a file.")] = None,
    worktree: Annotated[bool, typer.Option("--worktree", "-w", help="Work in a git worktree of its own.")] = False,
    workspace: Annotated[str | None, typer.Option(help='As {"mode": "clone", "base": "main"}.')] = None,
    check: Annotated[list[str] | None, typer.Option(help="A command that must pass in the end; repeatable.")] = None,
    accept: Annotated[list[str] | None, typer.Option(help="What must hold; repeatable.")] = None,
    require_changes: Annotated[bool, typer.Option("--require-changes", help="No change is a failure.")] = False,
    fix: Annotated[int | None, typer.Option(help="How often the agent may mend failed checks.", min=0)] = None,
    backend_config: Annotated[str | None, typer.Option(help="JSON, or a file of it.")] = None,
    limits: Annotated[str | None, typer.Option(help='As {"timeout_s": 600, "max_cost_usd": 2}.')] = None,
    on_finish: Annotated[str | None, typer.Option(help='As {"webhook": "https://...", "message_to": "boss"}.')] = None,
    webhook: Annotated[str | None, typer.Option(help="A URL that is told when it is over.")] = None,
    metadata: Annotated[str | None, typer.Option(help="Your labels, as JSON.")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 3; 0 goes first.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gives the same run.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the run id and leave it to the host.")] = False,
    cwd: Cwd = None,
    as_json: Json = False,
) -> int:
    """Starts a run and follows it. Ctrl-C detaches or cancels."""
    from orchestrator.cli import starting

    given: dict[str, Any] = {key: value for key, value in locals().items() if key not in ("cwd", "detach", "starting")}
    return await starting.run(reach_of(cwd), given, detach=detach)


@app.command(epilog="orchestrator ls --status input_required --all")
def ls(
    status: Annotated[str | None, typer.Option(help="Only runs in this state.", autocompletion=_statuses)] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", "-b", help="Only runs of this kind of agent.", autocompletion=_backends)
    ] = None,
    role: Annotated[str | None, typer.Option(help="Only runs with this label.")] = None,
    session: Annotated[str | None, typer.Option(help="Only runs of this session.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many.", min=1)] = ROWS,
    everywhere: Annotated[bool, typer.Option("--all", "-a", help="Of all directories.")] = False,
    tree: Annotated[bool, typer.Option("--tree", help="Runs below those that spawned them.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep it up to date.")] = False,
    cwd: Cwd = None,
    as_json: Json = False,
) -> None:
    """Lists runs at or below this directory, newest first."""
    from orchestrator.cli import listing

    given = {"status": status, "backend": backend, "role": role, "session_id": session}
    filters = {key: value for key, value in given.items() if value is not None}
    if watch and as_json:
        raise typer.BadParameter("--watch is for a person; a program follows a run by `events -f --json`")
    if watch and not sys.stdout.isatty():
        raise typer.BadParameter("--watch needs a terminal; without it the list is printed once")

    def body() -> int:
        _check_kind(backend, place_of(cwd))
        wanted = listing.Wanted(place_of(cwd), filters, limit, everywhere=everywhere, tree=tree)
        return listing.watch(wanted) if watch else listing.ls(wanted, as_json=as_json)

    end(body, as_json=as_json)


def _check_kind(backend: str | None, cwd: Path) -> None:
    """Refuses a kind of agent that is none. One that is not installed here may have stored runs."""
    from orchestrator.cli import listing
    from orchestrator.config import BACKENDS
    from orchestrator.errors import InvalidArgument, nearest

    if backend is None or backend in BACKENDS:
        return
    for everywhere in (False, True):
        if listing.listing(listing.Wanted(cwd, {"backend": backend}, 1, everywhere=everywhere))["runs"]:
            return
    raise InvalidArgument(
        f"no runs are of backend {backend!r}{nearest(backend, BACKENDS) or ': ' + ', '.join(BACKENDS)}"
    )


@app.command(epilog="orchestrator show RUN     orchestrator show RUN --json")
@command
async def show(run: Run, cwd: Cwd = None, as_json: Json = False) -> int:
    """Shows one run: its state, what it waits for, its result or error."""
    from orchestrator.cli import reading

    reach = reach_of(cwd)
    return await reading.show(reach, reach.find(run), as_json=as_json)


@app.command(epilog="orchestrator events -f RUN --types command_finished,file_changed")
@command
async def events(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run is over.")] = False,
    types: Annotated[str | None, typer.Option(help="Only these types, with commas.", autocompletion=_types)] = None,
    after: Annotated[int, typer.Option(help="Only events behind this number.", min=0)] = 0,
    cwd: Cwd = None,
    as_json: Json = False,
) -> int:
    """Prints what happened in a run."""
    from orchestrator.cli import reading

    reach = reach_of(cwd)
    wanted = [word.strip() for word in types.split(",")] if types else None
    return await reading.events(reach, reach.find(run), follow=follow, types=wanted, after=after, as_json=as_json)


@app.command(epilog="orchestrator wait RUN RUN --all --timeout 600")
@command
async def wait(
    runs: Runs,
    until_all: Annotated[bool, typer.Option("--all/--any", help="Each of them, or one.")] = False,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds; exit code 124 when they are over.", callback=seconds)
    ] = None,
    cwd: Cwd = None,
    as_json: Json = False,
) -> int:
    """Waits until runs are over or need an answer (exit code 10)."""
    from orchestrator.cli import reading

    reach = reach_of(cwd)
    found = [reach.find(run) for run in runs]
    return await reading.wait(reach, found, until_all=until_all, timeout_s=timeout, as_json=as_json)


@app.command(epilog="orchestrator answer RUN approve     orchestrator answer RUN deny --reason 'not in main'")
@command
async def answer(
    run: Run,
    said: Annotated[
        str, typer.Argument(metavar="ANSWER", help="[a]pprove, [d]eny, an option's number or id, or words; -: stdin.")
    ] = "",
    reason: Annotated[str | None, typer.Option(help="Goes with approve or deny.")] = None,
    request: Annotated[str | None, typer.Option(help="Which request, if several are pending.")] = None,
    backend_config: Annotated[str | None, typer.Option(help="Credentials, as JSON or a file.")] = None,
    cwd: Cwd = None,
    as_json: Json = False,
) -> int:
    """Answers a run that waits."""
    from orchestrator.cli import acting, starting

    reach = reach_of(cwd)
    config = starting.json_of("--backend-config", backend_config)
    words = sys.stdin.read() if said == "-" else said
    return await acting.answer(
        reach, reach.find(run), words, reason=reason, request=request, config=config, as_json=as_json
    )


@app.command(epilog="orchestrator say RUN 'leave the tests alone'")
@command
async def say(
    run: Run,
    text: Annotated[str, typer.Argument(help="What to say; - reads it from stdin.")],
    cwd: Cwd = None,
    as_json: Json = False,
) -> int:
    """Steers a run that works, or resumes the session of one that is over."""
    from orchestrator.cli import acting

    reach = reach_of(cwd)
    return await acting.speak(reach, reach.find(run), sys.stdin.read() if text == "-" else text, as_json=as_json)


@app.command(epilog="orchestrator cancel RUN RUN --reason 'no longer needed'")
@command
async def cancel(
    runs: Runs,
    reason: Annotated[str | None, typer.Option(help="Why; the runs keep it.")] = None,
    cwd: Cwd = None,
    as_json: Json = False,
) -> int:
    """Ends runs and their agents' processes."""
    from orchestrator.cli import acting

    reach = reach_of(cwd)
    return await acting.cancel(reach, [reach.find(run) for run in runs], reason=reason, as_json=as_json)


@app.command(epilog="orchestrator artifact RUN 8 /output > log.txt")
@command
async def artifact(
    run: Run,
    seq: Annotated[int, typer.Argument(help="The event's number.")],
    field: Annotated[str, typer.Argument(help="JSON Pointer in its data, as /output or /changes/0/diff.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    offset: Annotated[int | None, typer.Option(help="With --json: the first byte of the page.", min=0)] = None,
    limit: Annotated[int | None, typer.Option(help="With --json: bytes of it.", min=1, max=262_144)] = None,
    cwd: Cwd = None,
    as_json: Json = False,
) -> int:
    """Writes any field of any event, whole; with --json a page of it."""
    from orchestrator.cli import reading
    from orchestrator.errors import InvalidArgument

    if as_json and output:
        raise InvalidArgument("--json prints a page of it; leave out --output, or --json to write the whole")
    if not as_json and (offset, limit) != (None, None):
        raise InvalidArgument("--offset and --limit go with --json; without it all is written")
    reach = reach_of(cwd)
    run_dir = reach.find(run)
    if as_json:
        return await reading.page(reach, run_dir, seq=seq, field=field, offset=offset or 0, limit=limit)
    return await reading.artifact(reach, run_dir, seq=seq, field=field, output=output)
