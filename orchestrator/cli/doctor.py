"""`orchestrator doctor`: what is installed, what works, and how to mend what does not."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator import __version__, config
from orchestrator.cli.agents import Finding, local_agents
from orchestrator.cli.listing import store_of
from orchestrator.cli.output import DONE, FAILED, console, harmless, print_fact, print_json
from orchestrator.cli.reach import Reach, ask_host
from orchestrator.cli.upkeep import orphans
from orchestrator.errors import OrchestratorError, RunNotFound
from orchestrator.host.place import API, HostError, Place
from orchestrator.model import JsonObject
from orchestrator.store.deliveries import Deliveries
from orchestrator.store.layout import Workspace
from orchestrator.store.reader import RunReader


def doctor(reach: Reach, *, strict: bool, as_json: bool) -> int:
    """Looks at everything. Returns 1 for a fault; with `strict` also where something is only missing."""
    findings = [finding for look in _LOOKS for finding in _guarded(look, reach)]
    if as_json:
        rows: list[JsonObject] = [{k: v for k, v in finding._asdict().items() if v} for finding in findings]
        print_json({"findings": rows})
    else:
        _show(findings)
    bad = {"fault", "note"} if strict else {"fault"}
    return FAILED if any(finding.state in bad for finding in findings) else DONE


def _guarded(look: Callable[[Reach], Iterator[Finding]], reach: Reach) -> Iterator[Finding]:
    try:
        yield from look(reach)
    except (OSError, OrchestratorError, HostError) as error:
        yield Finding(look.__name__.strip("_"), "fault", str(error), "see the message")


def _show(findings: list[Finding]) -> None:
    from rich.text import Text

    out = console()
    marks = {"ok": ("✓", "green"), "note": ("·", "yellow"), "fault": ("✗", "bold red")}
    for finding in findings:
        sign, style = marks[finding.state]
        print_fact(out, Text.assemble((f"{sign} ", style), (f"{finding.what}: ", "bold"), harmless(finding.text)))
        if finding.fix:
            print_fact(out, Text(f"    {harmless(finding.fix)}", style="dim"))


def _python(_reach: Reach) -> Iterator[Finding]:
    words = f"{sys.version.split()[0]} at {sys.prefix}"
    ok = sys.version_info >= (3, 11)
    yield Finding("Python", "ok" if ok else "fault", words, "" if ok else "Orchestrator needs Python 3.11 or newer")
    yield Finding("Orchestrator", "ok", f"{__version__}, API {API}")
    for name in ("mcp", "a2a-sdk"):
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(name, "fault", "not installed", "pip install orchestrator-mcp")


def _settings(reach: Reach) -> Iterator[Finding]:
    try:
        effective = config.load(reach.home.path, reach.cwd, os.environ)
    except OrchestratorError as error:
        yield Finding("settings", "fault", str(error), "mend the file or variable that is named")
        return
    yield Finding("settings", "ok", f"{reach.home.path / config.USER_FILE}")
    for notice in effective.notices:
        yield Finding("settings", "note", notice, f"what you want goes into {effective.file}")


def _home(reach: Reach) -> Iterator[Finding]:
    home = reach.home.path
    if not home.exists():
        parent = next(path for path in home.parents if path.exists())
        ok = parent.is_dir() and os.access(parent, os.W_OK)
        fix = "" if ok else "set ORCHESTRATOR_HOME to a directory that you can write to"
        yield Finding("home", "ok" if ok else "fault", f"{home} will be made", fix)
        return
    facts = home.stat()
    if not home.is_dir() or not os.access(home, os.W_OK):
        yield Finding("home", "fault", f"{home} cannot be written", "set ORCHESTRATOR_HOME to a directory of yours")
    elif facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        yield Finding("home", "fault", f"{home} is open to others", f"chmod 700 {home}")
    else:
        yield Finding("home", "ok", str(home))


def _host(reach: Reach) -> Iterator[Finding]:
    place = Place.own()
    path = Path(place.socket)
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        yield Finding("host", "fault", f"{path} is in the way of the host's socket", f"rm {path}")
        return
    status = ask_host("status")
    if status is None:
        yield Finding("host", "ok", "none is running; clients start one on demand")
    elif not status.get("ok"):
        fix = f"see {place.log}; `orchestrator host stop --cancel`, or end the process"
        yield Finding("host", "fault", str(status.get("error")), fix)
    else:
        words = f"process {status['pid']}, {status['live']} live runs, {status['clients']} clients"
        yield Finding("host", "ok", words)


def _store(reach: Reach) -> Iterator[Finding]:
    workspace = Workspace(reach.cwd)
    if not workspace.root.exists():
        yield Finding("store", "ok", f"{workspace.root} will be made by the first run")
        return
    try:
        store_of(reach.cwd)
    except OrchestratorError as error:
        yield Finding("store", "fault", str(error), "upgrade orchestrator-mcp, or move the directory away")
        return
    if not os.access(workspace.root, os.W_OK):
        yield Finding(
            "store", "fault", f"{workspace.root} cannot be written", f"chown it, or chmod u+w {workspace.root}"
        )
        return
    run_ids = workspace.run_ids()
    yield Finding("store", "ok", f"{workspace.root}, {len(run_ids)} runs")
    for run_id in run_ids:
        try:
            RunReader(workspace.run(run_id)).state()
        except RunNotFound:  # it is just being made, or was never made whole
            continue
        except OrchestratorError as error:
            fix = f"move {workspace.run(run_id).path} away, or mend it"
            yield Finding("store", "fault", f"{run_id} cannot be read: {error}", fix)


def _processes(reach: Reach) -> Iterator[Finding]:
    found = orphans(reach.home)
    for pid, run_id in found:
        yield Finding("processes", "fault", f"process {pid} was left behind by {run_id}", f"kill {pid}")
    if not found:
        yield Finding("processes", "ok", "no agent's process was left behind")


def _deliveries(reach: Reach) -> Iterator[Finding]:
    """Who was to be told of the end of a run, and has not been."""
    for run_dir in reach.home.owing():
        for channel, told in Deliveries(reach.home, run_dir.run_id).told().items():
            if told.status == "pending":
                words = f"{channel} of {run_dir.run_id}, tried {told.attempts} times: {told.error}"
                yield Finding("deliveries", "note", words, "see to the receiver; a running host tries again")


_LOOKS = (_python, local_agents, _home, _settings, _host, _store, _processes, _deliveries)
