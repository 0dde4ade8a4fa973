"""Every command, as a process: its exit code, its JSON, what a pipe gets, and that it fits terminals of 80 and 40
columns. No command is left out: they are counted."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import typer

from tests.system.shell import OURS, Shell

pytestmark = pytest.mark.system

WORDS = "which of all these many colours would you like best of all, please? "
GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@example.org")


@pytest.fixture
def here(person: Shell, tmp_path: Path) -> Generator[Shell]:
    """The same shell in a repository of the test's own."""
    place = person.at(tmp_path / "project")
    (place.cwd / "a.txt").write_text("one\n")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        subprocess.run([*GIT, *words], cwd=place.cwd, check=True)
    yield place
    live = [r["run_id"] for r in place.json("ls")["runs"] if r["status"] in ("queued", "running", "input_required")]
    for run_id in live:  # or the next ones would wait for their slots
        place.tool("cancel_run", run_id=run_id)


Words = Callable[[Shell], list[str]]


class Case(NamedTuple):
    """How a command is called, each time on something new, and what must come of it.

    Attributes:
        words: what follows the command.
        keys: that each JSON document has at least; None where there is no JSON.
        shown: words that a person sees, in a pipe as at a terminal.
        raw: what is printed is somebody's text, byte for byte, and as wide as it is.
    """

    words: Words
    keys: str | None
    shown: str
    code: int = 0
    raw: bool = False


def _then(prepare: Words, *words: str) -> Words:
    """What is prepared, and these words behind what that gives."""
    return lambda here: [*prepare(here), *words]


def _beside(prepare: Words, *words: str) -> Words:
    """These words alone, with what is prepared to be found by the command."""
    return lambda here: (prepare(here), list(words))[1]


def _nothing(_here: Shell) -> list[str]:
    return []


def _over(here: Shell) -> list[str]:
    return [here.over(f"say {WORDS * 3}\ntodo A; B\ncommand {WORDS} -> {WORDS}\nfinal done {WORDS * 2}")]


def _asked(here: Shell) -> list[str]:
    return [here.waiting(f"ask {WORDS * 3} | red | blue\nfinal over")]


def _approval(here: Shell) -> list[str]:
    return [here.waiting(f"approve make {WORDS * 3}\nfinal over")]


def _live(here: Shell) -> list[str]:
    return [here.detached(f"say {WORDS}\nlisten\nlisten")]


def _in_worktree(here: Shell) -> list[str]:
    return [here.over("file b.txt hello\nfinal ok", "--worktree")]


def _message(here: Shell) -> list[str]:
    (run_id,) = _over(here)
    event = next(e for e in here.run("events", run_id, "--json").lines if e["type"] == "agent_message")
    return [run_id, str(event["seq"]), "/text"]


def _profile(here: Shell) -> list[str]:
    for number in range(9):
        if not (here.cwd / "profiles" / f"mine-{number}.md").exists():
            return [f"mine-{number}"]
    raise AssertionError("too many")


def _addressee(here: Shell) -> list[str]:
    return [here.state(_live(here)[0])["agent_name"], WORDS * 3]


def _stopped(here: Shell) -> list[str]:
    here.ok("host", "start")
    return ["--cancel"]


CASES = {
    "run": Case(_then(_nothing, "-b", "scripted", f"say {WORDS * 3}\nfinal over"), "type|run_id", "which of all"),
    "ls": Case(_beside(_over, "--tree"), "runs", "completed"),
    "show": Case(_asked, "run_id status pending", "which of all"),
    "events": Case(_over, "seq ts type data", "which of all"),
    "wait": Case(_then(_over, "--all"), "runs done", "completed"),
    "answer": Case(_then(_approval, "d", "--reason", WORDS), "run_id", "answered"),
    "say": Case(_then(_live, WORDS * 3), "run_id mode", "told the agent"),
    "cancel": Case(_then(_live, "--reason", WORDS), "run_id status", "cancelled"),
    "artifact": Case(_message, "content total_bytes", WORDS.strip(), raw=True),
    "diff": Case(_in_worktree, "run_id patch", "+hello", raw=True),
    "apply": Case(_then(_in_worktree, "--check"), "applied files", "it applies"),
    "discard": Case(_in_worktree, "removed patch", "is removed"),
    "gc": Case(_beside(_in_worktree, "--keep", "0"), "run_id bytes removed", "would be removed"),
    "doctor": Case(_nothing, "findings", "Python"),
    "config": Case(_nothing, "settings", "max_concurrent_runs_local"),
    "clients": Case(_nothing, "clients", "mcpServers", raw=True),
    "profiles ls": Case(_nothing, "profiles", "reviewer-remediator"),
    "profiles show": Case(_then(_nothing, "worker"), "name text", "worker"),
    "profiles check": Case(_nothing, "profiles", "worker: right"),
    "profiles new": Case(_profile, "path", "edit it"),
    "msg whoami": Case(_nothing, "who", "caller"),
    "msg list": Case(_beside(_live), "agents", "running"),
    "msg send": Case(_addressee, "delivered id", "queued"),
    "msg inbox": Case(_nothing, "messages", ""),
    "msg wait": Case(_then(_nothing, "--timeout", "0.05"), "messages", "", code=124),
    "host start": Case(_nothing, "running pid", "live runs"),
    "host status": Case(_nothing, "running pid", "live runs"),
    "host logs": Case(_then(_nothing, "-n", "5"), "message", ""),
    "host stop": Case(_stopped, "was_running running", "the host is gone"),
}
WITHOUT = {"mcp", "host serve"}
"""Those that no person calls: they serve until they are ended, and have tests of their own."""


def _commands(app: typer.Typer, above: str = "") -> Iterator[str]:
    for info in app.registered_commands:
        yield f"{above}{info.name or getattr(info.callback, '__name__', '')}"
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from _commands(group.typer_instance, f"{above}{group.name} ")


def test_no_command_is_left_out() -> None:
    from orchestrator.cli import more

    assert set(_commands(more.app)) == set(CASES) | WITHOUT


@pytest.mark.parametrize("name", CASES)
def test_a_program_gets_documents(here: Shell, name: str) -> None:
    case = CASES[name]
    assert case.keys is not None
    done = here.run(*name.split(), *case.words(here), "--json")
    assert done.code == case.code, done
    documents: list[dict[str, Any]] = done.lines
    assert documents, done
    for document in documents:
        if "|" in case.keys:  # one of these
            assert set(case.keys.split("|")) & document.keys(), document
        else:
            assert set(case.keys.split()) <= document.keys(), document
    assert done.out == b"".join(orjson.dumps(d, option=orjson.OPT_APPEND_NEWLINE) for d in documents).decode()


@pytest.mark.parametrize("name", CASES)
def test_a_pipe_gets_plain_lines(here: Shell, name: str) -> None:
    case = CASES[name]
    done = here.run(*name.split(), *case.words(here))
    assert done.code == case.code, done
    assert case.shown in done.out + done.err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.out + done.err), done


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("name", CASES)
def test_a_terminal_gets_what_fits(here: Shell, name: str, columns: int) -> None:
    case = CASES[name]
    with here.terminal(*name.split(), *case.words(here), columns=columns) as terminal:
        assert terminal.ended() == case.code, terminal.text
    if not case.raw:
        terminal.fits()
    assert case.shown.split() == [] or case.shown.split()[0] in terminal.text, terminal.text


@pytest.mark.parametrize("columns", [80, 40])
def test_helps_fit_too(here: Shell, columns: int) -> None:
    """With a process for some, and for the others what they would print."""
    for name in ("", "run", "profiles", "host stop"):
        with here.terminal(*name.split(), "--help", columns=columns) as terminal:
            assert terminal.ended() == 0
        terminal.fits()
    code = "import sys; from orchestrator.cli.app import main; [main([*n.split(), '--help']) for n in sys.argv[1:]]"
    with here.having(COLUMNS=str(columns)).terminal("-c", code, *CASES, program=OURS[:1], columns=columns) as terminal:
        assert terminal.ended() == 0
    terminal.fits()
    assert terminal.text.count("Usage: ") == len(CASES)
