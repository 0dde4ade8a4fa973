"""`orchestrator` at a terminal: a person watches a run, is asked by it, presses Ctrl-C, and reads at any width."""

from __future__ import annotations

import pytest

from tests.system.shell import Shell

pytestmark = pytest.mark.system
HOSTILE = "\x1b]0;owned\x07 \x1b[38;5;199m \x9b31m \x1b[2J \x08\x08 \x7f \u202egnp.exe"
"""Renames the terminal, colours it, erases it, goes back, and turns the line around."""


@pytest.mark.parametrize("columns", [80, 40])
def test_a_run_is_watched(here: Shell, columns: int) -> None:
    script = (
        f"say hello {'long ' * 60}\nsay {'x' * 300}\nthink hm\ncommand [3] {'make ' * 30} -> {'o' * 200}\n"
        "file é/ü.txt 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字\ntool search -> found\n"
        f"todo [x] first {'wide ' * 20}; [>] 漢字; third\nartifact 5KB name\nlisten\nusage 1 2\nfinal all ☃ done"
    )
    with here.terminal("run", "-b", "scripted", script, columns=columns) as terminal:
        terminal.expect("hello")
        terminal.expect("exit 3")
        terminal.expect("é/ü.txt")
        terminal.expect("☑ first")
        terminal.expect("◐ 漢字")
        terminal.expect("☐ third")
        terminal.expect("Ctrl-C")
        (run,) = here.json("ls")["runs"]
        here.ok("say", run["run_id"], "go on")
        terminal.expect("heard: go on")
        terminal.expect("all ☃ done")
        assert terminal.ended() == 0
        assert "\x1b[" in terminal.raw
        terminal.fits()


def test_an_approval_is_given_or_denied_with_a_reason(here: Shell) -> None:
    with here.terminal("run", "-b", "scripted", "approve rm -r build\napprove git push\nfinal over") as terminal:
        assert "$ rm -r build" in terminal.expect("[a]pprove or [d]eny")
        terminal.type("")
        terminal.expect("it needs an answer")
        terminal.expect("[a]pprove or [d]eny")
        terminal.type("perhaps")
        terminal.expect("[a]pprove or [d]eny")
        terminal.type("a")
        terminal.expect("approved")
        assert "$ git push" in terminal.expect("[a]pprove or [d]eny")
        terminal.type("d not in main")
        terminal.expect("denied: not in main")
        assert terminal.ended() == 0
        terminal.fits()


def test_a_question_is_answered_by_number_and_by_words(here: Shell) -> None:
    script = "ask Which? | red | blue\nask Which? | red | blue\nask Why?\ninput More\nask Which? | red | blue"
    said = {"2": "the answer is: blue", "red": "red", "because ☃": "because ☃", "77": "is: 77", "9": "9"}
    with here.terminal("run", "-b", "scripted", script) as terminal:
        for number, (words, heard) in enumerate(said.items()):
            shown = terminal.expect("your answer: " if number in (2, 3) else "your choice: ")
            assert number in (2, 3) or ("1  red" in shown and "2  blue" in shown)
            terminal.type(words)
            terminal.expect(heard)
        assert terminal.ended() == 0
        terminal.fits()


def test_a_login_and_several_questions_are_asked_one_after_the_other(here: Shell) -> None:
    with here.terminal("run", "-b", "scripted", "auth\nasks One? | Two?") as terminal:
        terminal.expect("please log in")
        terminal.expect("your answer: ")
        terminal.type("approve")
        terminal.expect("logged in")
        for words in ("uno", "due"):
            terminal.expect("your answer: ")
            terminal.type(words)
        terminal.expect("the answers are: uno, due")
        assert terminal.ended() == 0


def test_what_is_asked_is_not_shown_cut_without_a_word(here: Shell) -> None:
    run_id = here.waiting(f"approve {'echo safe; ' * 3000}rm -rf /")
    shown = here.ok("show", run_id)
    pointed = next(line for line in shown.splitlines() if "orchestrator artifact" in line).split()[-3:]
    assert "rm -rf /" in here.ok("artifact", *pointed)
    here.ok("cancel", run_id)
    with here.terminal("run", "-b", "scripted", f"approve {'echo safe; ' * 3000}rm -rf /") as terminal:
        assert "orchestrator artifact" in terminal.expect("[a]pprove or [d]eny")
        terminal.type("d")
        assert terminal.ended() == 0


def test_ctrl_c_goes_on_then_detaches(here: Shell) -> None:
    with here.terminal("run", "-b", "scripted", "say begun\nask Which?\nlisten\nfinal over") as terminal:
        terminal.expect("your answer: ")
        terminal.interrupt()  # while it is asked
        terminal.expect("[d]etach, [c]ancel or go on")
        terminal.type("")
        terminal.expect("your answer: ")
        terminal.type("x")
        terminal.expect("the answer is: x")
        for answer in ("", "d"):  # while it works, also after it was asked
            terminal.expect("Ctrl-C")
            terminal.interrupt()
            terminal.expect("[d]etach, [c]ancel or go on")
            terminal.type(answer)
        terminal.expect("the run goes on: orchestrator events -f run_")
        assert terminal.ended() == 130
        terminal.fits()
    (run,) = here.json("ls")["runs"]
    assert run["status"] == "running"
    here.ok("say", run["run_id"], "go on")
    here.settled(run["run_id"])


def test_ctrl_c_cancels(here: Shell) -> None:
    with here.terminal("run", "-b", "scripted", "say begun\nsleep 60") as terminal:
        terminal.expect("Ctrl-C")
        terminal.interrupt()
        terminal.expect("[c]ancel")
        terminal.type("c")
        terminal.expect("is cancelled")
        assert terminal.ended() == 130
    assert here.json("ls")["runs"][0]["status"] == "cancelled"


@pytest.mark.parametrize("keys", ["\x04\x04", "\x03\x03", "\x04d\n"], ids=["end of input", "ctrl-c twice", "detach"])
def test_who_goes_away_from_a_question_leaves_the_run_waiting(here: Shell, keys: str) -> None:
    with here.terminal("run", "-b", "scripted", "ask Which?") as terminal:
        terminal.expect("your answer: ")
        terminal.press(keys[0])
        terminal.expect("go on (Enter)?")
        terminal.press(keys[1:])
        terminal.expect("the run goes on")
        assert terminal.ended() == 130
    assert here.json("ls")["runs"][0]["status"] == "input_required"


def test_another_may_answer_while_a_person_is_asked(here: Shell) -> None:
    with here.terminal("run", "-b", "scripted", "ask Which?\nfinal over") as terminal:
        terminal.expect("your answer: ")
        (run,) = here.json("ls")["runs"]
        terminal.press("half of a li")
        here.ok("answer", run["run_id"], "elsewhere")
        terminal.expect("somebody else has answered")
        terminal.expect("over")
        assert terminal.ended() == 0
    assert here.state(run["run_id"])["result"]["final_response"] == "over"


def test_a_person_who_is_asked_is_told_that_the_run_is_over(here: Shell) -> None:
    with here.terminal("run", "-b", "scripted", "ask Which?\nfinal over") as terminal:
        terminal.expect("your answer: ")
        here.ok("cancel", here.json("ls")["runs"][0]["run_id"])
        terminal.expect("it is over")
        terminal.expect("cancelled")
        assert terminal.ended() == 1


def test_each_prompt_says_what_it_is_for(here: Shell) -> None:
    with here.terminal("run", "-b", "scripted", "asks One? | Two?\nask Three?") as terminal:
        terminal.expect("? Two?")
        for question in ("One?", "Two?"):
            assert question in terminal.expect("your answer: ")
            terminal.type("x")
        terminal.expect("Three?")
        terminal.expect("your answer: ")
        terminal.type("")
        assert "Three?" in terminal.expect("your answer: ")
        terminal.type("y")
        assert terminal.ended() == 0


@pytest.mark.parametrize("columns", [80, 40])
def test_the_time_and_the_way_out_are_seen_beside_any_text(here: Shell, columns: int) -> None:
    script = f"progress {'reading the whole of the repository ' * 4}\nlisten\nfinal over"
    with here.terminal("run", "-b", "scripted", script, columns=columns) as terminal:
        terminal.expect("0 s")
        terminal.expect("reading" if columns == 80 else "Ctrl-C to leave")
        terminal.expect("1 s")  # it goes on while nothing happens
        terminal.expect("Ctrl-C to")
        terminal.interrupt()
        terminal.expect("[c]ancel")
        terminal.type("c")
        assert terminal.ended() == 130
        terminal.fits()


def test_a_run_that_fails_at_a_terminal_says_why_and_what_next(here: Shell) -> None:
    with here.terminal("run", "-b", "scripted", "fail the disk is on fire") as terminal:
        terminal.expect("agent_error: the disk is on fire")
        assert terminal.ended() == 1
    with here.terminal("run", "-b", "scripted", "--json", "ask Which?") as terminal:
        assert terminal.ended() == 10


def test_no_output_of_an_agent_commands_the_terminal(here: Shell) -> None:
    script = (
        f"say a{HOSTILE}z\nthink b{HOSTILE}\ncommand c{HOSTILE} -> d{HOSTILE}\ntool e{HOSTILE} -> f{HOSTILE}\n"
        f"todo g{HOSTILE}\nprogress h{HOSTILE}\nfile i.txt j{HOSTILE}\nartifact 1KB k{HOSTILE}\n"
        f"ask l{HOSTILE} | m{HOSTILE}\napprove n{HOSTILE}\nfail o{HOSTILE}"
    )
    with here.terminal("run", "-b", "scripted", script) as terminal:
        terminal.expect("your choice: ")
        (run,) = here.json("ls")["runs"]
        asked = here.bytes("show", run["run_id"])
        terminal.type("1")
        terminal.expect("[a]pprove or [d]eny")
        terminal.type("d no")
        assert terminal.ended() == 1
        shown = terminal
    shown.fits()
    assert "\x1b[38;5;199m" not in shown.raw
    assert "\u202e" not in shown.raw
    assert "\x1b[2J" not in shown.raw
    run_id = run["run_id"]
    for words in (["show", run_id], ["events", run_id], ["wait", run_id], ["ls"], ["run", "-b", "scripted", script]):
        done = asked if words[0] == "show" else here.bytes(*words)
        text = (done.stdout + done.stderr).decode()
        assert not set(text) & set("\x1b\x07\x08\x7f\x9b\u202e"), (words, text)
        with here.terminal(*words) as terminal:
            if words[0] == "run":
                terminal.expect("your choice: ")
                terminal.press("\x03")
                terminal.expect("go on (Enter)?")
                terminal.type("c")
            terminal.ended()
            terminal.fits()
    texts = [event["data"].get("text") for event in here.run("events", run_id, "--json").lines]
    assert f"a{HOSTILE}z" in texts  # a program gets what was said


def test_neither_a_text_nor_a_projects_settings_command_the_terminal(here: Shell) -> None:
    run_id = here.over(f"say a{HOSTILE}z")
    seq = next(e["seq"] for e in here.run("events", run_id, "--json").lines if e["type"] == "agent_message")
    with here.terminal("artifact", run_id, str(seq), "/text") as terminal:
        assert terminal.ended() == 0
        terminal.fits()
        assert "␛[2J" in terminal.text
    assert here.bytes("artifact", run_id, str(seq), "/text").stdout.decode() == f"a{HOSTILE}z"
    odd = here.at(here.cwd / "a\x1b[2Jz")
    settings = odd.cwd / ".orchestrator.toml"
    listed = 'env_deny = ["A\\u001b[2J"]\ntrusted_dirs = ["/\\u001b[2J"]\n'
    looks = [(listed, ["config"]), (listed, ["doctor"]), (listed, ["clients"])]
    wrong = 'backend = "a\\u001b[2Jz"\n'
    for text, words in [*looks, (wrong, ["config"]), (wrong, ["doctor"])]:
        settings.write_text(text)
        done = odd.bytes(*words)
        assert b"\x1b" not in done.stdout + done.stderr, words
        with odd.terminal(*words, columns=200) as terminal:
            terminal.ended()
            assert "\x1b[2J" not in terminal.raw, words


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_nothing_is_wider_than_the_terminal(here: Shell, columns: int) -> None:
    run_id = here.detached(f"say {'漢字' * 60}\ntodo A; B\ncommand {'ls ' * 80} -> {'o' * 500}\nfinal {'é' * 300}")
    asks = here.waiting(f"ask {'Which one of all these? ' * 9} | {'red' * 40} | blue")
    here.settled(run_id)
    commands = [["ls"], ["ls", "--tree"], ["show", run_id], ["show", asks], ["events", run_id], ["config"], ["doctor"]]
    for words in commands:
        with here.terminal(*words, columns=columns) as terminal:
            code = terminal.ended()
            assert code == 0, (words, terminal.text)
            if words != ["config"] or columns > 20:
                terminal.fits()
            assert terminal.text.strip()


def test_a_terminal_without_abilities_gets_plain_text(here: Shell) -> None:
    run_id = here.detached("say hello\nfinal ok")
    here.settled(run_id)
    for env in ({"TERM": "dumb"}, {"NO_COLOR": "1"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}):
        place = here.having(**env)
        for words in (["ls"], ["events", run_id], ["doctor"], ["run", "-b", "scripted", "todo é; B\nfinal ☃"]):
            with place.terminal(*words) as terminal:
                assert terminal.ended() == 0, (env, words, terminal.text)
                if "LC_ALL" not in env:  # there a letter may be written as several
                    terminal.fits()
                if "TERM" in env:
                    assert "\x1b" not in terminal.raw
                if "NO_COLOR" in env:
                    assert "\x1b[3" not in terminal.raw.replace("\x1b[3m", "")


def test_a_list_is_kept_up_to_date(here: Shell) -> None:
    with here.terminal("ls", "--watch") as terminal:
        terminal.expect("no runs here yet")
        here.ok("run", "-b", "scripted", "final shown at once")
        terminal.expect("shown at once")
        terminal.interrupt()
        assert terminal.ended() == 130


def test_events_are_followed_at_a_terminal(here: Shell) -> None:
    run_id = here.detached("say begun\nlisten\nfinal over")
    with here.terminal("events", "-f", run_id, columns=40) as terminal:
        terminal.expect("begun")
        here.ok("say", run_id, "more")
        terminal.expect("heard: more")
        assert terminal.ended() == 0
        terminal.fits()
    other = here.detached("listen")
    with here.terminal("events", "-f", other) as terminal:
        terminal.expect("listen")
        terminal.interrupt()
        assert terminal.ended() == 130
    here.ok("cancel", other)
