"""`orchestrator ls`: trees, what is asked, long lists, and lists of runs whose files somebody else wrote."""

from __future__ import annotations

import orjson
import pytest

from tests.system.shell import Shell

pytestmark = pytest.mark.system


def test_a_tree_shows_children_below_their_parents(here: Shell) -> None:
    parent = here.detached("listen", "--name", "parent")
    child = here.having(ORCHESTRATOR_RUN_ID=parent).detached("final x", "--name", "child")
    here.settled(child)
    here.over("final y", "--name", "other")
    with here.terminal("ls", "--tree") as terminal:
        assert terminal.ended() == 0
        terminal.fits()
        shown = [line.split("  ")[0] if "└" not in line else line.strip() for line in terminal.text.splitlines()]
    names_shown = [line for line in shown if line.startswith(("parent", "└", "other"))]
    assert [line.split()[0] for line in names_shown] == ["other", "parent", "└"], terminal.text
    assert "└ child" in terminal.text
    assert [line.split("\t")[2] for line in here.ok("ls", "--tree").splitlines()] == ["other", "parent", "  └ child"]
    rows = [(row["agent_name"], row["depth"]) for row in here.json("ls", "--tree")["runs"]]
    assert rows == [("other", 0), ("parent", 0), ("child", 1)]
    with here.terminal("ls", "--tree", "--watch") as terminal:
        terminal.expect("└ child")
        terminal.interrupt()
        assert terminal.ended() == 130
    assert here.state(child)["parent_run_id"] == parent
    here.ok("cancel", parent)


def test_a_list_says_what_is_asked(here: Shell) -> None:
    run_id = here.waiting("say before\nask Which one? | red | blue")
    for words in (["ls"], ["wait", run_id]):
        assert here.run(*words).out.rstrip().endswith("\t? Which one?"), words
    assert here.json("ls")["runs"][0]["asks"] == "Which one?"
    for columns in (80, 40):
        with here.terminal("ls", columns=columns) as terminal:
            assert terminal.ended() == 0
        assert "? Which" in terminal.text or (columns == 40 and "? Whi" in terminal.text)
    with here.terminal("ls", "--watch") as terminal:  # 24 lines high
        for _ in range(2):
            terminal.expect("? Which one?")
        terminal.interrupt()
    here.ok("answer", run_id, "1")
    here.settled(run_id)
    assert "asks" not in here.json("ls")["runs"][0]


def test_a_long_list_stays_in_sight(here: Shell) -> None:
    runs = [here.detached("final x") for _ in range(23)]
    here.settled(*runs)
    with here.terminal("ls", "--watch", "-n", "100") as terminal:
        shown = terminal.expect("more with --limit")
        terminal.interrupt()
    assert shown.count("run_") == 21
    assert runs[-1] in shown


@pytest.mark.parametrize("odd", ["\x1b]0;evil\x07\x1b[2J", 5, None, ["x"]])
def test_whatever_an_agent_makes_of_a_runs_files_the_list_is_there(here: Shell, odd: object) -> None:
    good, bad = here.over("final good"), here.over("final bad")
    for name in ("agent_name", "backend", "updated_at", "summary"):
        for file in ("run.json", "spec.json"):
            path = here.cwd / ".orchestrator" / "runs" / bad / file
            whole = path.read_bytes()
            path.write_bytes(orjson.dumps({**orjson.loads(whole), name: odd}))
            with here.terminal("ls", columns=120) as terminal:
                assert terminal.ended() == 0
                assert good in terminal.text
                terminal.fits()
            assert here.run("ls").code == 0
            assert here.run("show", bad).code in (0, 1)
            path.write_bytes(whole)
