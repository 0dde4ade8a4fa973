"""`orchestrator run` in the foreground: what the agent does as it does it, and a person who is asked."""

from __future__ import annotations

import asyncio
import signal
import sys
import termios
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.text import Text

from orchestrator.cli.lines import cut_line, lines_of, todo_lines
from orchestrator.cli.output import (
    INTERRUPTED,
    console,
    duration,
    exit_code_of,
    for_people,
    harmless,
    is_interactive,
    one_line,
    print_json,
    say,
    usage_line,
)
from orchestrator.cli.reach import Reach
from orchestrator.cli.requests import (
    Asked,
    answer_of,
    answers,
    choice_of,
    detail_lines,
    option_lines,
    prompt_of,
    question_lines,
    questions_of,
    text_lines,
    whole_of,
)
from orchestrator.cli.tables import NARROW
from orchestrator.errors import AlreadyAnswered, OrchestratorError
from orchestrator.model import TERMINAL, WAITING, JsonObject
from orchestrator.store.layout import RunDir

GATHER_S = 0.15
"""Events are shown this often: a terminal need not be written a hundred times a second."""
POLL_S = 2.0


class Watcher:
    """Shows one run. `watch` returns the exit code.

    Args:
        seen: events that need not be shown.
    """

    def __init__(self, reach: Reach, run_dir: RunDir, *, as_json: bool, seen: int = 0) -> None:
        self._reach = reach
        self._run_dir = run_dir
        self._as_json = as_json
        self._after = seen
        self._started = time.monotonic()
        self._todo: list[JsonObject] = []
        self._detail = "queued"
        self._percent: float | None = None
        self._answered: set[str] = set()
        self._asked: set[str] = set()
        self._interrupted = asyncio.Event()

    async def watch(self) -> int:
        """Follows the run to its end, asks where it waits, and offers a way out on Ctrl-C."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted.set)
        try:
            return await self._watch()
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    async def _watch(self) -> int:
        while True:
            status, pending = await self._follow()
            if self._interrupted.is_set():
                if (code := await self._way_out()) is not None:
                    return code
                continue
            if status in TERMINAL:
                return await self._end(status)
            if not is_interactive() or self._as_json:
                if not self._as_json:
                    say(f"the run waits for you: orchestrator answer {self._run_dir.run_id} ...")
                return await self._end(status)
            for request in pending:
                if not self._interrupted.is_set():
                    await self._ask(request, alone=len(pending) == 1)

    async def _end(self, status: str) -> int:
        run = await self._reach.queries.get_run(self._run_dir)
        if self._as_json:
            print_json(run)
        elif result := run.get("result"):
            if (text := str(result.get("final_response", ""))) and text != self._last_said:
                console().print(Text(harmless(text)))
            if "final_response_ref" in result:
                console().print(cut_line(run["run_id"], run["last_seq"], "/final_response"))
        if not self._as_json and (used := usage_line(run)):
            say(f"used {used}")
        return exit_code_of(status)

    _last_said = ""

    async def _follow(self) -> tuple[str, list[JsonObject]]:
        """Shows events until the run is over, waits for something new, or Ctrl-C is pressed."""
        async with self._screen() as screen:
            wait_s = 0.0  # what waits already need not be waited for
            while not self._interrupted.is_set():
                page = await self._page(wait_s, screen)
                wait_s = POLL_S
                if page["events"]:
                    self._show(screen.console if screen else console(), page["events"])
                self._after = page["next_after_seq"]
                if screen and page["status"] == "queued":
                    self._detail = await self._in_line()
                self._redraw(screen)
                if page["has_more"]:
                    continue
                if page["status"] in TERMINAL:
                    return page["status"], []
                fresh = [r for r in page.get("pending", ()) if r["request_id"] not in self._answered]
                if page["status"] in WAITING and fresh:
                    return page["status"], fresh
                await asyncio.sleep(GATHER_S)
        return "interrupted", []

    async def _in_line(self) -> str:
        """What a run waits for that has not begun: the host alone knows its place."""
        run = await self._reach.command("get_run", run_id=self._run_dir.run_id)
        place = f", place {run['queue_place']} in the queue" if "queue_place" in run else ""
        return f"{run.get('detail') or run['status']}{place}"

    def _redraw(self, screen: Live | None) -> None:
        if screen:
            screen.update(self._bottom(screen.console), refresh=True)

    async def _page(self, wait_s: float, screen: Live | None) -> JsonObject:
        """What is new; until something is, the time that goes by is shown."""
        polling = asyncio.ensure_future(
            self._reach.queries.poll_events(
                self._run_dir, after_seq=self._after, limit=1000, wait_s=wait_s, types=None, max_chars=1_000_000
            )
        )
        stopping = asyncio.ensure_future(self._interrupted.wait())
        try:
            while True:
                await asyncio.wait({polling, stopping}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                if polling.done():
                    return polling.result()
                if stopping.done():
                    return {"events": [], "next_after_seq": self._after, "has_more": True, "status": "running"}
                self._redraw(screen)
        finally:
            for task in (polling, stopping):
                task.cancel()

    @asynccontextmanager
    async def _screen(self) -> AsyncGenerator[Live | None]:
        out = console()
        if self._as_json or not out.is_terminal:
            yield None
            return
        with Live(self._bottom(out), console=out, auto_refresh=False, transient=True) as live:
            yield live

    def _bottom(self, out: Console) -> Group:
        """What stands below the transcript: the todo list, and one line on what goes on."""
        took = duration(time.monotonic() - self._started)
        way_out = "Ctrl-C to detach or cancel" if out.width >= NARROW else "Ctrl-C to leave"
        detail = Text(one_line(self._detail))
        detail.truncate(max(out.width - len(f"{took}{way_out}") - 9, 0), overflow="ellipsis")
        line = Text("  ", style="dim").join((Text(took), detail, Text(way_out)))
        below = [_bar(self._percent)] if self._percent is not None else []
        return Group(*todo_lines(self._todo), *below, Spinner("dots", text=line))

    def _show(self, out: Console, events: list[JsonObject]) -> None:
        lines: list[Text] = []
        for event in events:
            if self._as_json:
                print_json(event)
                continue
            data: JsonObject = event["data"]
            match event["type"]:
                case "todo_updated" if out.is_terminal:
                    self._todo = harmless(data["items"])
                    continue
                case "agent_message":
                    self._last_said = str(data.get("text", ""))
                case "status_changed":
                    self._detail = str(data.get("detail") or data["status"])
                    self._percent = data.get("progress", {}).get("percent", self._percent)
                case "run_started":
                    self._detail = str(data.get("agent") or "running")
                case _:
                    pass
            lines += lines_of(event)
        if lines:
            out.print(Group(*lines))

    # ---- the person ----

    async def _ask(self, request: JsonObject, *, alone: bool) -> None:
        """Shows a request and brings the person's answer to the run.

        Args:
            alone: no other request waits, so that it is the one that was told last.
        """
        out = console()
        asked = await asyncio.to_thread(whole_of, self._run_dir, request)
        told = alone and request["request_id"] not in self._asked
        self._asked.add(request["request_id"])
        self._show_request(out, asked._replace(request=harmless(asked.request)), told=told)
        try:
            answer = await self._answer(out, asked.request)
            if answer is None:
                return
            self._answered.add(request["request_id"])
            await self._reach.command(
                "continue_run", run_id=self._run_dir.run_id, request_id=request["request_id"], **answer
            )
        except AlreadyAnswered:
            say("somebody else has answered already, or it is over")
        except OrchestratorError as error:
            self._answered.discard(request["request_id"])
            say(for_people(error.sentence))

    def _show_request(self, out: Console, asked: Asked, *, told: bool) -> None:
        run_id, request = self._run_dir.run_id, asked.request
        if not told or request["text"] != harmless(asked.told):  # of which the events showed the beginning
            out.print(Group(*text_lines(run_id, asked, "? ")))
        for line in [
            *detail_lines(run_id, asked),
            *(() if questions_of(request) else option_lines(request.get("options"))),
        ]:
            out.print(line)

    async def _answer(self, out: Console, request: JsonObject) -> JsonObject | None:
        """The arguments of the person's answer; None if there is none yet."""
        given: dict[str, str | list[str]] = {}
        for number, question in enumerate(questions_of(request), 1):
            out.print(Group(*question_lines(number, harmless(question))))
            while str(number) not in given:
                if (said := await self._typed(prompt_of({"kind": "question", **question}), request)) is None:
                    return None
                if choice := choice_of(question, said):
                    given[str(number)] = choice
                else:
                    out.print("it needs an answer", style="yellow")
        if given:
            return answers(given)
        if (said := await self._typed(prompt_of(request), request)) is None:
            return None
        if (answer := answer_of(request, said)) is None:
            out.print("it needs an answer", style="yellow")
        return answer

    async def _typed(self, prompt: str, request: JsonObject) -> str | None:
        """A line from the person; None if they want to leave.

        Raises:
            AlreadyAnswered: meanwhile the request was answered elsewhere, or the run is over.
        """
        gone = asyncio.ensure_future(self._gone(request["request_id"]))
        try:
            said = await _input(prompt, self._interrupted.set, gone)
        finally:
            gone.cancel()
        if said is None:
            self._interrupted.set()
        return said

    async def _gone(self, request_id: str) -> None:
        """Returns when a request waits no more."""
        after = self._after
        while True:
            page = await self._reach.queries.poll_events(
                self._run_dir, after_seq=after, limit=1000, wait_s=POLL_S, types=["status_changed"], max_chars=10_000
            )
            after = page["next_after_seq"]
            if all(pending["request_id"] != request_id for pending in page.get("pending", ())):
                return

    async def _way_out(self) -> int | None:
        """What to do after Ctrl-C. None to go on."""
        self._interrupted.clear()
        run_id = self._run_dir.run_id
        if is_interactive() and not self._as_json:
            said = await _input("[d]etach, [c]ancel or go on (Enter)? ", self._interrupted.set)
            if said == "":
                return None
            if said is not None and said.lower().startswith("c"):
                document = await self._reach.command("cancel_run", run_id=run_id, reason="cancelled at the terminal")
                say(f"{run_id} is {document['status']}")
                return INTERRUPTED
        say(f"the run goes on: orchestrator events -f {run_id}")
        return INTERRUPTED


async def _input(
    prompt: str, at_interrupt: Callable[[], object], gone: asyncio.Future[None] | None = None
) -> str | None:
    """A line from the person; None at the end of input or after Ctrl-C, which behind it does `at_interrupt` again.

    Raises:
        AlreadyAnswered: before it came, what it was for was `gone`; the half of a line is nobody's answer.
    """
    sys.stdout.write(prompt)
    sys.stdout.flush()
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        if not line.done():
            line.set_result(sys.stdin.readline())

    loop.add_signal_handler(signal.SIGINT, lambda: line.done() or line.set_result(""))
    loop.add_reader(0, read)
    try:
        await asyncio.wait({line, gone} if gone else {line}, return_when=asyncio.FIRST_COMPLETED)
        if not line.done():
            termios.tcflush(0, termios.TCIFLUSH)
            sys.stdout.write("\n")
            raise AlreadyAnswered(prompt)
        said = line.result()
    finally:
        loop.remove_reader(0)
        loop.add_signal_handler(signal.SIGINT, at_interrupt)
    return said.strip() if said else None


def _bar(percent: float) -> ProgressBar:
    """How far the agent says it is."""
    return ProgressBar(total=100, completed=percent, width=40)
