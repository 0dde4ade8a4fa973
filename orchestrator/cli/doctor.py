"""`orchestrator doctor`: what is installed, what works, and how to mend what does not."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from orchestrator import __version__, config
from orchestrator.cli.agents import Finding, local_agents, version_of
from orchestrator.cli.installed import install
from orchestrator.cli.listing import store_of
from orchestrator.cli.output import DONE, FAILED, console, harmless, print_fact, print_json
from orchestrator.cli.reach import Reach, ask_host
from orchestrator.config import HOME_VARIABLE
from orchestrator.errors import InvalidArgument, OrchestratorError
from orchestrator.host.place import API, HostError, Place
from orchestrator.model import JsonObject
from orchestrator.store.deliveries import Deliveries
from orchestrator.store.layout import RUN_ID, Home, RunDir, Workspace
from orchestrator.store.owner import owner_alive
from orchestrator.store.reader import RunReader

_MAKING_S = 60.0
"""How long a run may take to get its spec.json."""
_Left = Literal["a run that is over", "an owner that is gone"]


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
            yield Finding(name, "fault", "not installed", install())


def _git(_reach: Reach) -> Iterator[Finding]:
    without = "without it there are no worktrees and no patches: `run --worktree`, `diff` and `apply`"
    if (path := shutil.which("git")) is None:
        yield Finding("git", "note", f"not found; {without}", "install git, or put it on PATH")
    elif not (answer := version_of(path)).ok:
        yield Finding("git", "fault", f"{path} {answer.text}; {without}", "install git anew")
    else:
        yield Finding("git", "ok", f"{answer.text} at {path}")


def _settings(reach: Reach) -> Iterator[Finding]:
    try:
        effective = config.load(reach.home.path, reach.cwd, os.environ)
    except OrchestratorError as error:
        yield Finding("settings", "fault", str(error), "mend the file or variable that is named")
        return
    yield Finding("settings", "ok", f"{reach.home.path / config.USER_FILE}")
    for notice in effective.notices:
        yield Finding("settings", "note", notice, f"what you want goes into {effective.file}")
    for folder in effective.settings.trusted_dirs:
        if not Path(folder).expanduser().is_dir():
            source = effective.origins["trusted_dirs"].source
            yield Finding("settings", "note", f"{source}: trusted_dirs has {folder}, which is no directory", "mend it")
    if url := effective.settings.on_finish_webhook:
        from orchestrator.webhook import check_url

        try:
            check_url(url)
        except InvalidArgument as error:
            source = effective.origins["on_finish_webhook"].source
            yield Finding("settings", "fault", f"{source}: on_finish_webhook: {error}", "mend it")


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
        yield from _run(workspace.run(run_id))


def _run(run_dir: RunDir) -> Iterator[Finding]:
    try:
        if os.path.exists(run_dir.file("spec.json")):  # noqa: PTH110  a plain path
            RunReader(run_dir).state()
        elif time.time() - run_dir.path.stat().st_mtime > _MAKING_S:
            begun = os.path.exists(run_dir.file("events.jsonl"))  # noqa: PTH110
            words = (
                "has lost its spec.json and cannot be read" if begun else "was never made whole: it has no spec.json"
            )
            fix = f"mv or rm -r {shlex.quote(str(run_dir.path))}"
            yield Finding("store", "fault" if begun else "note", f"{run_dir.run_id} {words}", fix)
    except FileNotFoundError:  # it has just been removed
        return
    except OrchestratorError as error:
        fix = f"move {run_dir.path} away, or mend it"
        yield Finding("store", "fault", f"{run_dir.run_id} cannot be read: {error}", fix)


def _profiles(reach: Reach) -> Iterator[Finding]:
    """Those of the user, and those that lie here: of others' folders one can only take notice."""
    from orchestrator.profiles import Fault, listed

    for row in listed(reach.cwd, reach.home.path):
        if isinstance(row, Fault):
            state = "fault" if row.source == "user" else "note"
            yield Finding("profiles", state, str(row.why), "mend it, or move it away; `orchestrator profiles check`")


def _processes(reach: Reach) -> Iterator[Finding]:
    found = False
    for pid, run_id, ours in _marked():
        match _left_by(reach.home, run_id, unknown="a run that is over" if ours else None):
            case "a run that is over":
                yield Finding("processes", "fault", f"process {pid} was left behind by {run_id}", f"kill {pid}")
            case "an owner that is gone":
                words = (
                    f"process {pid} is of {run_id}, whose owner is gone; the next host that looks at the run ends it"
                )
                yield Finding("processes", "fault", words, f"orchestrator show {run_id}")
            case _:
                continue
        found = True
    if not found:
        yield Finding("processes", "ok", "no agent's process was left behind")


def _marked() -> Iterator[tuple[int, str, bool]]:
    """Processes with the marker of a run: pid, run id, and whether they were started with this very home."""
    import psutil

    from orchestrator.process import MARKER

    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        run_id = environment.get(MARKER, "")
        ours = environment.get(HOME_VARIABLE) == os.environ.get(HOME_VARIABLE)
        if RUN_ID.fullmatch(run_id) and process.pid != os.getpid():
            yield process.pid, run_id, ours


def _left_by(home: Home, run_id: str, *, unknown: _Left | None) -> _Left | None:
    """Who left a process with the marker of a run behind; None if nobody did.

    Args:
        unknown: the same for a run that is not known here: it may be of another home, and live.
    """
    try:
        run_dir = home.find(run_id)
        if run_dir is None:
            return unknown
        if RunReader(run_dir).state().run.terminal:
            return "a run that is over"
        return "an owner that is gone" if owner_alive(run_dir) is False else None
    except OrchestratorError:
        return unknown


def _deliveries(reach: Reach) -> Iterator[Finding]:
    """Who was to be told of the end of a run, and has not been."""
    for run_dir in reach.home.owing():
        for channel, told in Deliveries(reach.home, run_dir.run_id).told().items():
            if told.status == "pending":
                words = f"{channel} of {run_dir.run_id}, tried {told.attempts} times: {told.error}"
                yield Finding("deliveries", "note", words, "see to the receiver; a running host tries again")


_LOOKS = (_python, _git, local_agents, _home, _settings, _profiles, _host, _store, _processes, _deliveries)
