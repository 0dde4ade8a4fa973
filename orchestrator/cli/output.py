"""How commands end, and how they speak: tables and colour for a person at a terminal, plain lines in a pipe, JSON for
a program. Every command loads this, so it loads nothing but the standard library."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TextIO, TypeVar, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from orchestrator.errors import OrchestratorError
    from orchestrator.model import JsonObject

P = ParamSpec("P")
T = TypeVar("T")

ROWS = 20
"""How many runs a list shows if nobody says."""
DONE, FAILED, NEEDS_INPUT, TIMED_OUT, INTERRUPTED = 0, 1, 10, 124, 130


def command(body: Callable[P, Coroutine[Any, Any, int]]) -> Callable[P, None]:
    """A command from a coroutine that returns its exit code. Errors are told in one sentence, or as JSON."""

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        import asyncio  # not for the help

        end(lambda: asyncio.run(body(*args, **kwargs)), as_json=bool(kwargs.get("as_json")))

    return run


def end(body: Callable[[], int], *, as_json: bool = False) -> NoReturn:
    """Ends a command, by `SystemExit`: see `code_of`."""
    raise SystemExit(code_of(body, as_json=as_json))


def code_of(body: Callable[[], int], *, as_json: bool = False) -> int:
    """The exit code that the body of a command returns. Errors are told in one sentence, or as JSON."""
    from orchestrator.errors import HostUnavailable, OrchestratorError, StoreError

    try:
        try:
            code = body()
        except OrchestratorError as error:
            code = refuse(error, as_json=as_json)
        except _host_error() as error:  # only looked at when something was raised
            code = refuse(HostUnavailable(str(error)), as_json=as_json)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # `| head -1` has seen enough
        _drop_output()
        code = DONE
    except OSError as error:
        _drop_output()
        code = refuse(StoreError(str(error)), as_json=False)
    return code


def _host_error() -> type[Exception]:
    from orchestrator.host.place import HostError

    return HostError


def place_of(cwd: Path | None) -> Path:
    """The directory to work for; default: this one.

    Raises:
        InvalidArgument: this one is gone, or the one that was given is none.
    """
    from orchestrator.errors import InvalidArgument

    try:
        place = (cwd or Path.cwd()).resolve()
    except (OSError, RuntimeError) as error:  # the second until Python 3.13, of a link that leads to itself
        what = (
            f"--cwd {cwd} cannot be used; give another"
            if cwd
            else "the directory that you are in is gone; go to another"
        )
        raise InvalidArgument(f"{what} one") from error
    if cwd is not None and not os.path.isdir(place):  # noqa: PTH112  what may not be looked at is none, too
        raise InvalidArgument(f"--cwd {cwd} is no directory; give one that exists")
    return place


def open_streams() -> None:
    """Gives the process the standard streams that it was started without, and never fails for want of a letter."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:  # closed; else the next file to be opened would be taken for it
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, mode))
        else:
            getattr(sys, name).reconfigure(errors="backslashreplace" if number else "surrogateescape")


def _drop_output() -> None:
    """What could not be written is not tried again at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def refuse(error: OrchestratorError, *, as_json: bool) -> int:
    """Tells why a command was refused. Returns its exit code."""
    if as_json:
        print_json({"error": {"code": error.code, "message": str(error)}})
    else:
        say(for_people(f"{error.code}: {error}"))
    return error.exit_code


_COMMANDS = {
    **{"list_runs": "ls", "get_run": "show", "continue_run": "say", "wait_runs": "wait", "cancel_run": "cancel"},
    **{"spawn_run": "run", "poll_events": "events", "get_event_artifact": "artifact", "get_patch": "diff"},
    **{"apply_run": "apply", "discard_run": "discard", "list_profiles": "profiles ls", "list_agents": "msg list"},
}
"""What is a command for a person where it is a tool for a model."""
_PHRASES = {
    "use one that spawn_run or list_runs returned": "see `orchestrator ls`",
    "continue_run with this request_id and backend_config": "`orchestrator answer RUN approve --backend-config FILE`",
    "continue_run on this run with text": "continue_run",
    "continue_run with text": "continue_run",
    "before you call it again": "before you try again",
    "name one by request_id": "name one by --request",
    "pass decision:": "answer with",
    "pass text, input_message or decision": "say it",
}


def for_people(text: str) -> str:
    """A sentence that was written for a model: with our commands in the place of tools."""
    for phrase, words in _PHRASES.items():
        text = text.replace(phrase, words)
    for tool, name in _COMMANDS.items():
        if tool in text:
            verb = "see" if name in ("ls", "show", "msg list") else "use"
            text = re.sub(rf"\bcall {tool}\b", f"{verb} `orchestrator {name}`", text)
            text = re.sub(rf"\b{tool}\b", f"`orchestrator {name}`", text)
    return text


def print_json(document: JsonObject) -> None:
    """One document on one line."""
    import orjson

    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def say(text: str) -> None:
    """A sentence for the person, beside the output."""
    sys.stdout.flush()
    sys.stderr.write(f"{in_lines(harmless(text), sys.stderr)}\n")
    sys.stderr.flush()


def tell(text: str) -> None:
    """A sentence that is the output."""
    print(in_lines(harmless(text), sys.stdout), flush=True)


def in_lines(text: str, stream: TextIO) -> str:
    """Text for a terminal, with its lines broken between words; a longer word stays whole, so that it can be copied."""
    if not stream.isatty():
        return text
    import shutil
    import textwrap

    width = shutil.get_terminal_size().columns
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapper.fill(line) for line in text.split("\n"))


_CONTROLS = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},  # as a picture: ␛
    **dict.fromkeys((0x7F, *range(0x80, 0xA0)), 0xFFFD),
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),  # these would turn the line around
}


def harmless(value: T) -> T:
    """A document, or text, without what would move the cursor, colour or rename a terminal, or reorder a line."""
    if isinstance(value, str):
        return cast(T, value.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROLS))
    if isinstance(value, dict):
        return cast(T, {key: harmless(item) for key, item in cast("JsonObject", value).items()})
    if isinstance(value, list):
        return cast(T, [harmless(item) for item in cast("list[Any]", value)])
    return value


def one_line(text: str) -> str:
    """Text for one cell or line."""
    return " ".join(harmless(text).split())


def console() -> Console:
    """The terminal, or whatever stdout is. Colour only where it is wanted (`NO_COLOR`, a pipe)."""
    from rich.console import Console

    class Output(Console):
        """Rich's own, but for a reader that went away, which `end` knows of."""

        def on_broken_pipe(self) -> None:
            """See `Console.on_broken_pipe`."""
            raise BrokenPipeError

    return Output(highlight=False, soft_wrap=not sys.stdout.isatty())


def print_fact(out: Console, text: Text) -> None:
    """A line in which there may be a path: it is broken between words, and a longer word stays whole to be copied."""
    from itertools import accumulate
    from textwrap import TextWrapper

    if not out.is_terminal:  # whose lines are whole
        out.print(text)
        return
    keep = TextWrapper(out.width, break_long_words=False, break_on_hyphens=False, drop_whitespace=False)
    for line in text.split("\n", allow_blank=True):
        for part in line.divide(accumulate(map(len, keep.wrap(line.plain)[:-1]))):
            part.rstrip()
            out.print(part, overflow="ignore", crop=False)


def is_interactive() -> bool:
    """Whether a person is there to be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def exit_code_of(status: str) -> int:
    """The exit code that goes with a run's status."""
    from orchestrator.model import TERMINAL, WAITING, Status

    if status == Status.COMPLETED:
        return DONE
    if Status(status) in WAITING:
        return NEEDS_INPUT
    return FAILED if Status(status) in TERMINAL else DONE


def age(timestamp: str) -> str:
    """How long ago something was, in the largest unit."""
    from datetime import UTC, datetime

    try:
        return duration((datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds())
    except (ValueError, TypeError):  # files of a run may be its agent's work
        return "?"


def duration(seconds: float) -> str:
    """A time span in one or two units."""
    whole = max(int(seconds), 0)
    for size, unit, small, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit} {rest} {name}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def said_or_asked(summary: str, asks: str | None) -> str:
    """What a run asks if it waits, otherwise what it said last; for one cell or line."""
    return one_line(summary) if asks is None else f"? {one_line(asks)}"


def files_of(changes: JsonObject) -> str:
    """How many files changed, in words."""
    return "1 file" if changes["files"] == 1 else f"{changes['files']} files"


def used_words(row: JsonObject) -> str:
    """What a run, with all below it, used, in a word for a list: dollars if somebody knows them, otherwise tokens."""
    usage: JsonObject = (row.get("tree") or row).get("usage") or {}
    if "cost_usd" in usage:
        return f"${usage['cost_usd']:.2f}" if usage["cost_usd"] >= 0.01 else f"${usage['cost_usd']:.4f}"
    tokens = usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if tokens >= size:
            return f"{tokens / size:.1f}{unit}"
    return str(tokens) if usage else ""


def usage_line(row: JsonObject) -> str | None:
    """What a run used, and what it and all below it did together, in words; None if nobody knows."""
    tree: JsonObject = row.get("tree") or {}
    words = _in_words(row.get("usage") or {})
    if together := _in_words(tree.get("usage") or {}):
        words += f"{'; ' if words else ''}{tree['runs']} runs together {together}"
    return words or None


def _in_words(usage: JsonObject) -> str:
    names = {"input_tokens": "tokens in", "cached_input_tokens": "of them cached", "output_tokens": "out"}
    words = [f"{usage[name]:,} {word}" for name, word in names.items() if usage.get(name)]
    words += [f"{usage['turns']} turns"] if usage.get("turns") else []
    words += [f"${usage['cost_usd']:.4f}"] if "cost_usd" in usage else []
    return ", ".join(words)
