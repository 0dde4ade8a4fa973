"""What an agent asks of a person at a terminal: shown whole, and answered in every way that it offers.

The agent is the real Claude Code, whose model plays a script.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator

import pytest

from tests.models.claude_player import ClaudePlayer
from tests.models.player import agent_environment
from tests.system.shell import Shell, shell
from tests.system.test_claude_requests import SIZE, TOPPINGS

pytestmark = pytest.mark.system
FETCH = {"url": "http://127.0.0.1:9/page", "prompt": "what it says\nand what it leaves out"}


@pytest.fixture(scope="module")
def model() -> Iterator[ClaudePlayer]:
    """The model of all runs here."""
    with ClaudePlayer() as player:
        yield player


@pytest.fixture(scope="module")
def person(model: ClaudePlayer, tmp_path_factory: pytest.TempPathFactory) -> Generator[Shell]:
    """A shell from which Claude Code can be run, with one host for this file."""
    folder = tmp_path_factory.mktemp("requests")
    with shell(folder) as place:
        yield place.having(**agent_environment(model, folder))


def claude(*script: str) -> list[str]:
    """The command that runs a script."""
    return ["run", "-b", "claude_code", "\n".join(script)]


def test_a_plan_is_read_whole_before_it_is_approved(here: Shell) -> None:
    plan = "".join(f"{number}. step {number} of the plan\n" for number in range(1, 61))
    words = claude(f"call ExitPlanMode {json.dumps({'plan': plan})}", "say carried out")
    with here.terminal(*words, "--backend-config", '{"plan": true}') as terminal:
        shown = terminal.expect("[a]pprove or [d]eny")
        assert all(f"step {number} of the plan" in shown for number in (1, 30, 60))
        (run,) = here.json("ls")["runs"]
        assert "step 60 of the plan" in here.ok("show", run["run_id"])
        terminal.type("a")
        terminal.expect("carried out")
        assert terminal.ended() == 0
        terminal.fits()


def test_a_tool_is_named_with_its_arguments_and_allowed_for_the_run(here: Shell) -> None:
    with here.terminal(*claude(f"call WebFetch {json.dumps(FETCH)}", "say over"), columns=200) as terminal:
        shown = terminal.expect("[a]pprove or [d]eny (with a reason), or one of these by its number? ")
        for words in ("⚙ WebFetch", "url: http://127.0.0.1:9/page", "and what it leaves out", "1  Yes", "3  No"):
            assert words in shown, words
        assert "(approve_session)" in shown
        (run,) = here.json("ls")["runs"]
        told = here.ok("show", run["run_id"])
        assert "url: http://127.0.0.1:9/page" in told
        assert "2  Yes, and for this run also" in told
        terminal.type("approve_session")
        terminal.expect("answered: approve_session")
        terminal.expect("over")
        assert terminal.ended() == 0
        terminal.fits()


def test_a_change_is_read_whole_and_a_very_long_one_by_a_command(here: Shell) -> None:
    for count, whole in ((60, True), (900, False)):
        content = "".join(f"line {number} of it\n" for number in range(count))
        script = claude(
            f"call Write {json.dumps({'file_path': str(here.home / f'x{count}.txt'), 'content': content})}", "say end"
        )
        with here.terminal(*script, columns=200) as terminal:
            shown = terminal.expect("[a]pprove or [d]eny")
            assert (f"+line {count - 1} of it" in shown) == whole
            assert ("orchestrator artifact run_" in shown) != whole
            if not whole:
                words = shown.partition("orchestrator artifact ")[2].split()[:3]
                assert f"+line {count - 1} of it" in here.ok("artifact", *words)
            terminal.type("2" if whole else "d not now")
            terminal.ended()
            terminal.fits()


def test_several_questions_are_asked_one_by_one_with_their_options(here: Shell) -> None:
    asks = json.dumps({"questions": [SIZE, TOPPINGS]})
    with here.terminal(*claude(f"call AskUserQuestion {asks}", "heard"), columns=200) as terminal:
        shown = terminal.expect("your choice: ")
        assert "2  large  for two" in shown
        (run,) = here.json("ls")["runs"]
        told = here.ok("show", run["run_id"])
        assert all(words in told for words in ("2. Which toppings?", "3  corn  with corn", """'{"1": "...","""))
        terminal.type("")
        terminal.expect("it needs an answer")
        terminal.expect("your choice: ")
        terminal.type("2")
        assert "3  corn  with corn" in terminal.expect("your choice: ")
        terminal.type("1, corn")
        terminal.expect('"Which size?"="large"')
        terminal.expect('"Which toppings?"="ham, corn"')
        assert terminal.ended() == 0
