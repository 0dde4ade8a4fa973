"""Commands that read one run, or wait for some: show, events, wait, artifact."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.output import (
    DONE,
    NEEDS_INPUT,
    TIMED_OUT,
    age,
    console,
    exit_code_of,
    files_of,
    for_people,
    harmless,
    print_fact,
    print_json,
    said_or_asked,
    say,
    usage_line,
)
from orchestrator.cli.reach import Reach
from orchestrator.errors import ArtifactNotFound, InvalidArgument, nearest
from orchestrator.model import TERMINAL, JsonObject
from orchestrator.store.layout import RunDir
from orchestrator.updates import Update

if TYPE_CHECKING:
    from rich.console import Console

PAGE_BYTES = 262_144
WAIT_S = 50.0


async def show(reach: Reach, run_dir: RunDir, *, as_json: bool) -> int:
    """Everything about one run. Returns 0 whatever became of it."""
    run = await reach.queries.get_run(run_dir)
    if run["status"] == "queued":  # the host alone knows its place
        run = await reach.command("get_run", run_id=run["run_id"])
    if as_json:
        print_json(run)
        return DONE
    from rich.text import Text

    from orchestrator.cli.lines import STYLES

    out, run = console(), harmless(run)
    head = Text.assemble((run["agent_name"], "bold"), "  ", (run["status"], STYLES.get(run["status"], "")))
    out.print(head + Text(f"  {run.get('detail', '')}", style="dim"))
    facts = {
        "run": run["run_id"],
        "backend": f"{run['backend']}, role {run['role']}",
        "session": run["session_id"],
        "cwd": run["cwd"],
        "started": f"{run['started_at']}, last event {run['last_seq']} {age(run['updated_at'])} ago",
        "parent": run.get("parent_run_id"),
        "place": f"{run['queue_place']} in the queue" if "queue_place" in run else None,
        "resumes": run.get("resumed_from_run_id"),
        "used": usage_line(run),
        "left": ", ".join(f"{name} {left:g}" for name, left in run.get("budget_left", {}).items()),
        "profile": profile["name"] + f" ({profile['path']})" if (profile := run.get("profile")) else None,
    }
    for name, value in facts.items():
        if value:
            print_fact(out, Text(f"{name:>8}  ", style="dim") + Text(str(value)))
    for text, style in _proof(run):
        print_fact(out, Text(text, style=style))
    for told in run.get("told", ()):
        how = f": {told['error']}" if "error" in told else ""
        style = {"delivered": "green", "failed": "red"}.get(told["status"], "yellow")
        out.print(Text(f"    told  {told['channel']}: {told['status']}, {told['attempts']} attempts{how}", style=style))
    for request in run.get("pending", ()):
        _show_request(out, run_dir, request)
    if error := run.get("error"):
        out.print(Text(f"\n{error['code']}: {error['message']}", style="red"))
        out.print(Text(for_people(error["next_step"]), style="dim"))
    if result := run.get("result"):
        _show_result(out, run, result)
    return DONE


def _show_result(out: Console, run: JsonObject, result: JsonObject) -> None:
    from rich.text import Text

    from orchestrator.cli.lines import cut_line

    out.print(Text("\n" + str(result.get("final_response", ""))))
    if "final_response_ref" in result:
        out.print(cut_line(run["run_id"], run["last_seq"], "/final_response"))
    for report in result.get("reports", ()):
        print_fact(out, Text("report  ", style="dim") + Text(str(Path(run["cwd"], report))))


def _proof(run: JsonObject) -> Iterator[tuple[str, str]]:
    """What the host found: the place, the changes, the checks, the criteria; each line with its style."""
    result = run.get("result", {})
    if place := run.get("workspace"):
        kept = f", kept: {place['why']}" if place.get("kept") else ", removed" if "kept" in place else ""
        yield f"    tree  {place['path']} on {place.get('branch', '')}{kept}", ""
    if changes := result.get("changes"):
        applies = "" if changes["applies"] else ", which does not apply"
        lines = f"+{changes['insertions']} -{changes['deletions']}"
        yield f" changes  {files_of(changes)}, {lines}{applies}", ""
    for check in result.get("verification", {}).get("checks", ()):
        passed = check["status"] == "passed"
        more = "" if passed else f" (exit code {check['exit_code']})" if "exit_code" in check else ""
        yield f"   check  {check['name']}: {check['status']}{more}", "green" if passed else "red"
    for answer in result.get("acceptance", ()):
        yield (
            f"  accept  {'yes' if answer['met'] else 'no '}  {answer['criterion']}",
            "green" if answer["met"] else "red",
        )


def _show_request(out: Console, run_dir: RunDir, pending: JsonObject) -> None:
    from rich.text import Text

    from orchestrator.cli.requests import (
        detail_lines,
        option_lines,
        question_lines,
        questions_of,
        text_lines,
        whole_of,
    )

    asked = whole_of(run_dir, pending)
    asked = asked._replace(request=harmless(asked.request))
    request, questions = asked.request, questions_of(asked.request)
    lines = [Text(""), *text_lines(run_dir.run_id, asked, "? "), *detail_lines(run_dir.run_id, asked)]
    for number, question in enumerate(questions, 1):
        lines += question_lines(number, question)
    lines += () if questions else option_lines(request.get("options"))
    for line in lines:
        out.print(line)
    choices = " | ".join(str(option["id"]) for option in request.get("options") or ())
    if len(questions) > 1:
        choices = """'{"1": "...", "2": ["...", "..."]}'"""
    out.print(Text(f"  {request['request_id']}, {request['kind']}{': ' + choices if choices else ''}", style="dim"))


async def events(
    reach: Reach, run_dir: RunDir, *, follow: bool, types: list[str] | None, after: int, as_json: bool
) -> int:
    """Prints the run's events; with `follow` until it is over.

    Raises:
        InvalidArgument: there is no such type of event.
    """
    for name in types or ():
        if name not in (known := known_types()):
            raise InvalidArgument(f"no events are of type {name!r}{nearest(name, known) or ': ' + ', '.join(known)}")
    show_event = _printer(as_json=as_json)
    while True:
        page = await reach.queries.poll_events(
            run_dir, after_seq=after, limit=1000, wait_s=WAIT_S if follow else 0, types=types, max_chars=1_000_000
        )
        for event in page["events"]:
            show_event(event)
        sys.stdout.flush()
        after = page["next_after_seq"]
        if page["has_more"]:
            continue
        over = page["status"] in TERMINAL
        if not follow or (over and not page["events"]):
            return exit_code_of(page["status"]) if follow else DONE


def known_types() -> list[str]:
    """The types of events that there are."""
    from orchestrator.cli.lines import TELLERS

    return sorted(({kind.type for kind in Update.__subclasses__()} | TELLERS.keys()) - {""})


def _printer(*, as_json: bool) -> Callable[[JsonObject], None]:
    if as_json:
        return print_json
    from rich.text import Text

    from orchestrator.cli.lines import lines_of
    from orchestrator.cli.tables import NARROW

    out = console()
    narrow = out.is_terminal and out.width < NARROW  # no room for its time and type

    def show_event(event: JsonObject) -> None:
        when = "" if narrow else f"{event['ts'][11:19]}  {event['type']:<16} "
        head = Text(f"{event['seq']:>5}  {when}", style="dim")
        lines = lines_of(event) or [Text("")]
        for number, line in enumerate(lines):
            out.print((head if not number else Text(" " * len(head))) + line)

    return show_event


async def wait(reach: Reach, run_dirs: list[RunDir], *, until_all: bool, timeout_s: float | None, as_json: bool) -> int:
    """Waits until a run, or each, is over or needs its caller."""
    loop = asyncio.get_running_loop()
    deadline = None if timeout_s is None else loop.time() + timeout_s
    while True:
        left = WAIT_S if deadline is None else max(min(deadline - loop.time(), WAIT_S), 0)
        digest = await reach.queries.wait_runs(run_dirs, until_all=until_all, wait_s=left)
        if digest["done"] or (deadline is not None and loop.time() >= deadline):
            break
    if as_json:
        print_json(digest)
    else:
        _show_digest(digest["runs"])
    if not digest["done"]:
        return TIMED_OUT
    codes = [exit_code_of(run["status"]) for run in digest["runs"]]
    return NEEDS_INPUT if NEEDS_INPUT in codes else max(codes)


def _show_digest(runs: list[JsonObject]) -> None:
    from rich.text import Text

    from orchestrator.cli.lines import STYLES
    from orchestrator.cli.tables import Column, show_rows

    columns = {"run": Column(most=26), "status": Column(most=14), "summary": Column()}
    rows: list[list[str | Text]] = []
    for run in runs:
        asks = str(run["pending"][0].get("text", "")) if run.get("pending") else None
        status = Text(run["status"], STYLES[run["status"]])
        rows.append([run["run_id"], status, said_or_asked(run["summary"], asks)])
    show_rows(columns, rows, whole=True)


async def page(reach: Reach, run_dir: RunDir, *, seq: int, field: str, offset: int, limit: int | None) -> int:
    """Prints a page of a field of an event, as a document."""
    _check_seq(seq)
    print_json(await reach.queries.get_event_artifact(run_dir, seq=seq, field_path=field, offset=offset, limit=limit))
    return DONE


def _check_seq(seq: int) -> None:
    if seq < 1:
        raise ArtifactNotFound("there is no such event; the first is 1")


async def artifact(reach: Reach, run_dir: RunDir, *, seq: int, field: str, output: Path | None) -> int:
    """Writes a whole field of an event to stdout or a file, binary as it is."""
    _check_seq(seq)
    shown = output is None and sys.stdout.isatty()
    if shown:
        page = await reach.queries.get_event_artifact(run_dir, seq=seq, field_path=field, offset=0, limit=1)
        if page["encoding"] == "base64":
            say("this is binary; give a file with --output, or redirect it")
            return 2
    offset: int | None = 0
    page = await reach.queries.get_event_artifact(run_dir, seq=seq, field_path=field, offset=0, limit=PAGE_BYTES)
    try:  # only now: where there is nothing to write, the file stays as it is
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) if output else os.dup(1)
    except OSError as error:
        raise InvalidArgument(f"cannot write {output}: {error.strerror}") from error
    far = sys.stderr.isatty() and page["has_more"] and not shown
    with os.fdopen(target, "wb") as file, _bar(page["total_bytes"]) if far else nullcontext(_nothing) as advance:
        while offset is not None:
            if offset:
                page = await reach.queries.get_event_artifact(
                    run_dir, seq=seq, field_path=field, offset=offset, limit=PAGE_BYTES
                )
            content = harmless(page["content"]) if shown else page["content"]
            file.write(base64.b64decode(content) if page["encoding"] == "base64" else content.encode())
            offset = page.get("next_offset")
            advance(page["returned_bytes"])
    return DONE


def _nothing(_more: int) -> None:
    """Nobody looks."""


@contextmanager
def _bar(total: int) -> Generator[Callable[[int], object]]:
    """Shows beside the output how many of so many bytes are written; what it gives is told of more of them."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda more: progress.advance(task, more)
