"""Commands for what a run changed: diff, apply, discard."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from orchestrator import config
from orchestrator.cli.output import DONE, console, files_of, print_json, say
from orchestrator.cli.reach import Reach, command
from orchestrator.errors import WrongState
from orchestrator.model import JsonObject
from orchestrator.store.layout import RunDir
from orchestrator.store.reader import RunReader, sealed_spec
from orchestrator.workspaces.git import Git
from orchestrator.workspaces.results import Result

_STYLES = (("diff ", "bold"), ("@@", "cyan"), ("+++", "bold"), ("---", "bold"), ("+", "green"), ("-", "red"))
TOOLSET = ["workspace"]


def diff(reach: Reach, run_dir: RunDir, *, stat: bool, as_json: bool) -> int:
    """Prints the patch of a run: with colours on a terminal, otherwise byte for byte."""
    run = RunReader(run_dir).state().run
    if not run.terminal:
        raise WrongState(f"{run.run_id} is {run.status}; its patch is made when it is over")
    trusted = config.load(reach.home.path, reach.cwd, os.environ).settings.trusts(run_dir.workspace.cwd)
    patch = Result(run_dir, sealed_spec(reach.home, run_dir), os.environ, trusted=trusted).patch()
    if as_json:
        print_json({"run_id": run.run_id, "changes": (run.result or {}).get("changes"), "patch": str(patch)})
    elif stat:
        if patch.stat().st_size:
            print(Git(run_dir.workspace.cwd, os.environ).text("apply", "--stat", "--summary", str(patch)))
    elif sys.stdout.isatty():
        _show(patch)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(patch.read_bytes())
    return DONE


def _show(patch: Path) -> None:
    from rich.text import Text

    out = console()
    with patch.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            style = next((style for begin, style in _STYLES if line.startswith(begin)), "")
            shown = "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line[:-1])
            out.print(Text(shown, style=style), soft_wrap=True)


async def apply(reach: Reach, run_dir: RunDir, arguments: JsonObject, *, as_json: bool) -> int:
    """Brings the result of a run into the files here."""
    given = {key: value for key, value in arguments.items() if value is not None}
    document = await command("apply_run", {"run_id": run_dir.run_id, **given}, reach.cwd, TOOLSET)
    if as_json:
        print_json(document)
        return DONE
    files = files_of(document)
    where = {"apply": "changed here", "commit": f"committed as {document.get('commit', '')[:12]}",
             "branch": f"on branch {document.get('branch')}"}[document["mode"]]  # fmt: skip
    say(f"{files} {where}" if document["applied"] else f"it applies: {files}")
    return DONE


async def discard(reach: Reach, run_dirs: list[RunDir], *, as_json: bool) -> int:
    """Removes the worktrees or clones of runs."""
    for run_dir in run_dirs:
        document = await command("discard_run", {"run_id": run_dir.run_id}, reach.cwd, TOOLSET)
        if as_json:
            print_json(document)
        else:
            say(f"{document['removed']} is removed; the patch stays: {document['patch']}")
    return DONE
