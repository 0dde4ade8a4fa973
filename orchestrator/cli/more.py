"""Commands beside those on runs: gc, doctor, config, clients, profiles, msg, host, mcp."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.cli.app import Cwd, Json, Run, Runs, app, place_of, profile_names, reach_of, run_names, seconds
from orchestrator.cli.output import command, end, say

host = typer.Typer(help="The process that owns the live runs; clients start it on demand.", no_args_is_help=True)
app.add_typer(host, name="host")
profiles = typer.Typer(help="Job descriptions for agents: `orchestrator run --profile NAME`.", no_args_is_help=True)
app.add_typer(profiles, name="profiles")
msg = typer.Typer(
    help="Messages between you and agents; in an agent's own shell, between agents.", no_args_is_help=True
)
app.add_typer(msg, name="msg")
Named = Annotated[str, typer.Argument(metavar="PROFILE", help="A name or a file.", autocompletion=profile_names)]


@app.command(epilog="orchestrator diff RUN     orchestrator diff RUN --stat     orchestrator diff RUN > run.patch")
def diff(
    run: Run,
    stat: Annotated[bool, typer.Option("--stat", help="Only which files, and how much.")] = False,
    cwd: Cwd = None,
    as_json: Json = False,
) -> None:
    """Prints what a run changed, as a patch."""
    from orchestrator.cli import results

    def body() -> int:
        reach = reach_of(cwd)
        return results.diff(reach, reach.find(run), stat=stat, as_json=as_json)

    end(body, as_json=as_json)


@app.command(epilog="orchestrator apply RUN --check     orchestrator apply RUN --commit -m 'Fix the parser'")
@command
async def apply(
    run: Run,
    commit: Annotated[bool, typer.Option("--commit", help="As a commit on what is checked out.")] = False,
    branch: Annotated[bool, typer.Option("--branch", help="As a commit on a branch of its own.")] = False,
    name: Annotated[str | None, typer.Option("--name", help="With --branch: another name for it.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it applies.")] = False,
    three_way: Annotated[bool, typer.Option("--3way", help="Merge with what changed meanwhile.")] = False,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Of the commit.")] = None,
    cwd: Cwd = None,
    as_json: Json = False,
) -> int:
    """Brings the result of a run in a worktree or clone into the files here: all of it, or nothing."""
    from orchestrator.cli import results
    from orchestrator.errors import InvalidArgument

    if commit and branch:
        raise InvalidArgument("give --commit or --branch, not both")
    if name and not branch:
        raise InvalidArgument("--name goes with --branch, whose name it is")
    mode = "commit" if commit else "branch" if branch else "apply"
    given = {"mode": mode, "check_only": check, "three_way": three_way, "branch": name, "message": message}
    reach = reach_of(cwd)
    return await results.apply(reach, reach.find(run), given, as_json=as_json)


@app.command(epilog="orchestrator discard RUN RUN")
@command
async def discard(runs: Runs, cwd: Cwd = None, as_json: Json = False) -> int:
    """Removes the worktrees or clones of runs, and their branches. The patches stay."""
    from orchestrator.cli import results

    reach = reach_of(cwd)
    return await results.discard(reach, [reach.find(run) for run in runs], as_json=as_json)


@app.command(epilog="orchestrator gc --older-than 14d --delete")
def gc(
    older_than: Annotated[str | None, typer.Option(help="As 30d; the default if nothing is given.")] = None,
    keep: Annotated[int | None, typer.Option(help="So many of the newest stay, whatever else is given.", min=0)] = None,
    max_size: Annotated[str | None, typer.Option(help="Only this much of the newest stays, as 500MB.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; otherwise they are only listed.")] = False,
    cwd: Cwd = None,
    as_json: Json = False,
) -> None:
    """Lists or removes old runs of this directory. Never a live one.

    With --older-than and --max-size what is too old goes, and then the oldest until the size is kept. With --keep alone
    all but those go.
    """
    from orchestrator.cli import upkeep

    def body() -> int:
        bounds = upkeep.Bounds(older_than, keep, max_size)
        return upkeep.gc(reach_of(cwd), bounds, delete=delete, as_json=as_json)

    end(body, as_json=as_json)


@app.command(epilog="orchestrator doctor --strict")
def doctor(
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 also where something is only missing.")] = False,
    cwd: Cwd = None,
    as_json: Json = False,
) -> None:
    """Looks at what is installed and whether it works, and says how to mend it."""
    from orchestrator.cli import doctor as looks

    end(lambda: looks.doctor(reach_of(cwd), strict=strict, as_json=as_json), as_json=as_json)


@app.command(epilog="orchestrator config --json")
def config(cwd: Cwd = None, as_json: Json = False) -> None:
    """Prints the settings in force here, and where each comes from."""
    from orchestrator.cli import upkeep

    end(lambda: upkeep.settings(reach_of(cwd), as_json=as_json), as_json=as_json)


def _client_names(_ctx: typer.Context, incomplete: str) -> list[str]:
    from orchestrator.cli.complete import clients

    return clients(incomplete)


@app.command(epilog="orchestrator clients codex --install")
def clients(
    name: Annotated[
        str | None,
        typer.Argument(help="claude, claude-user, codex, gemini, cursor or vscode.", autocompletion=_client_names),
    ] = None,
    install: Annotated[bool, typer.Option("--install", help="Write it, after showing what changes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cwd: Cwd = None,
    as_json: Json = False,
) -> None:
    """Prints the MCP configuration for a client, or installs it."""
    from orchestrator.cli import clients as known

    def body() -> int:
        return known.clients(name, cwd=place_of(cwd), install=install, yes=yes, as_json=as_json)

    end(body, as_json=as_json)


@app.command(epilog="orchestrator mcp     orchestrator mcp --toolset team,workspace")
def mcp(
    in_process: Annotated[bool, typer.Option("--in-process", help="Keep the runs in this process.")] = False,
    scripted: Annotated[bool, typer.Option("--scripted", help="Also offer an agent without a model.")] = False,
    toolset: Annotated[list[str] | None, typer.Option(help="Further tools: team, workspace.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="With --in-process: log to stderr.")] = False,
) -> None:
    """Serves the tools to an MCP client on stdin and stdout."""
    from orchestrator.__main__ import serve_mcp

    toolsets = [name for names in toolset or () for name in names.split(",")]
    raise typer.Exit(serve_mcp(scripted=scripted, toolsets=toolsets, in_process=in_process, verbose=verbose))


@profiles.command("ls", epilog="orchestrator profiles ls --json")
def profiles_ls(cwd: Cwd = None, as_json: Json = False) -> None:
    """Lists those that a run in this directory takes by name."""
    from orchestrator.cli import profiles as known

    end(lambda: known.ls(reach_of(cwd), as_json=as_json), as_json=as_json)


@profiles.command("show", epilog="orchestrator profiles show reviewer-remediator")
def profiles_show(profile: Named, cwd: Cwd = None, as_json: Json = False) -> None:
    """Prints one, with what its front matter says."""
    from orchestrator.cli import profiles as known

    end(lambda: known.show(reach_of(cwd), profile, as_json=as_json), as_json=as_json)


@profiles.command("check", epilog="orchestrator profiles check     orchestrator profiles check profiles/mine.md")
def profiles_check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[PROFILE]...", help="Default: all.")] = None,
    cwd: Cwd = None,
    as_json: Json = False,
) -> None:
    """Says what is wrong with them. Exit code 1: something is."""
    from orchestrator.cli import profiles as known

    end(lambda: known.check(reach_of(cwd), names or [], as_json=as_json), as_json=as_json)


@profiles.command("new", epilog="orchestrator profiles new security-reviewer")
def profiles_new(
    name: Annotated[str, typer.Argument(help="Letters, digits, '.', '_' and '-'.")],
    own: Annotated[bool, typer.Option("--own", help="For all your directories, not in this one's profiles/.")] = False,
    cwd: Cwd = None,
    as_json: Json = False,
) -> None:
    """Writes the beginning of one, to be edited."""
    from orchestrator.cli import profiles as known

    end(lambda: known.new(reach_of(cwd), name, own=own, as_json=as_json), as_json=as_json)


@msg.command("whoami", epilog="orchestrator msg whoami")
@command
async def msg_whoami(cwd: Cwd = None, as_json: Json = False) -> int:
    """Says as whom you write."""
    from orchestrator.cli import messages

    return await messages.whoami(messages.Post(reach_of(cwd).cwd), as_json=as_json)


@msg.command("list", epilog="orchestrator msg list --json")
@command
async def msg_list(cwd: Cwd = None, as_json: Json = False) -> int:
    """Lists whom you may write to."""
    from orchestrator.cli import messages

    return await messages.ls(messages.Post(reach_of(cwd).cwd), as_json=as_json)


@msg.command("send", epilog="orchestrator msg send calm-otter 'leave the tests to me' --deliver now")
@command
async def msg_send(
    to: Annotated[str, typer.Argument(help="An agent's name, a run id, or caller.", autocompletion=run_names)],
    text: Annotated[str, typer.Argument(help="What to say; - reads it from stdin.")],
    reply_to: Annotated[str | None, typer.Option(help="The id of the message that this answers.")] = None,
    deliver: Annotated[str | None, typer.Option(help="queue, now (into its work) or wake (a turn of its own).")] = None,
    cwd: Cwd = None,
    as_json: Json = False,
) -> int:
    """Sends a message."""
    from orchestrator.cli import messages

    post, said = messages.Post(reach_of(cwd).cwd), sys.stdin.read() if text == "-" else text
    return await messages.send(post, to, said, reply_to=reply_to, deliver=deliver, as_json=as_json)


@msg.command("inbox", epilog="orchestrator msg inbox --after 3")
@command
async def msg_inbox(
    after: Annotated[int | None, typer.Option(help="You have those up to this number.", min=0)] = None,
    cwd: Cwd = None,
    as_json: Json = False,
) -> int:
    """Prints the messages to you that you never said you have."""
    from orchestrator.cli import messages

    return await messages.inbox(messages.Post(reach_of(cwd).cwd), after=after, wait_s=0, as_json=as_json)


@msg.command("wait", epilog="orchestrator msg wait --timeout 600")
@command
async def msg_wait(
    timeout: Annotated[float, typer.Option(help="Seconds; exit code 124 when they are over.", callback=seconds)] = 3600,
    after: Annotated[int | None, typer.Option(help="You have those up to this number.", min=0)] = None,
    cwd: Cwd = None,
    as_json: Json = False,
) -> int:
    """Waits for a message, and prints it."""
    from orchestrator.cli import messages

    return await messages.inbox(messages.Post(reach_of(cwd).cwd), after=after, wait_s=timeout, as_json=as_json)


@host.command("start", epilog="orchestrator host start")
def host_start(as_json: Json = False) -> None:
    """Starts it if it is not running."""
    from orchestrator.cli import hosts

    end(lambda: hosts.start(as_json=as_json), as_json=as_json)


@host.command("status", epilog="orchestrator host status --json")
def host_status(as_json: Json = False) -> None:
    """Says whether it runs, and what it does. Exit code 6: it does not run."""
    from orchestrator.cli import hosts

    end(lambda: hosts.status(as_json=as_json), as_json=as_json)


@host.command("stop", epilog="orchestrator host stop     orchestrator host stop --cancel")
def host_stop(
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the live runs.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once.")] = False,
    as_json: Json = False,
) -> None:
    """Ends it when its live runs are over."""
    from orchestrator.cli import hosts

    end(lambda: hosts.stop(cancel=cancel, wait=not no_wait, as_json=as_json), as_json=as_json)


@host.command("logs", epilog="orchestrator host logs -f     orchestrator host logs -n 1000 --json")
def host_logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines.", min=0)] = 50,
    as_json: Json = False,
) -> None:
    """Prints the end of its log."""
    from orchestrator.cli import hosts

    end(lambda: hosts.logs(follow=follow, lines=lines, as_json=as_json), as_json=as_json)


@host.command("serve", hidden=True)
def host_serve() -> None:
    """Is the host, in the foreground."""
    from orchestrator.host.serve import serve

    say("this is the host; end it with Ctrl-C")
    end(lambda: serve(key=None, lock=None, status=None, detach=False))
