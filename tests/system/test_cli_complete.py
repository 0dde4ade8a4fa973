"""What the shell completes: each key asks a process, whose words are looked at here."""

from __future__ import annotations

import pytest

from backends import BACKENDS, SCRIPTED
from orchestrator import config
from orchestrator.cli.complete import TYPES, names
from orchestrator.cli.reading import known_types
from tests.system.shell import Shell

pytestmark = pytest.mark.system


def completed(here: Shell, words: str) -> set[str]:
    """What is offered for the last of the words, which may be empty."""
    count = str(len(words.split(" ")))
    asked = here.having(_ORCHESTRATOR_COMPLETE="complete_bash", COMP_WORDS=f"orchestrator {words}", COMP_CWORD=count)
    return set(asked.ok().split())


def test_names_and_ids_are_completed(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here.cwd)
    assert names("") == []
    run_id = here.detached("final x", "--name", "nina")
    (here.cwd / ".orchestrator" / "runs" / "no run").mkdir()
    assert names("") == ["nina", run_id]
    assert (names("ni"), names("run_"), names("x")) == (["nina"], [run_id], [])
    assert completed(here, "show ni") == {"nina"}
    assert set(config.BACKENDS) == {*BACKENDS, *SCRIPTED}
    assert list(TYPES) == known_types()
    for words, expected in {
        "run --resume ni": {"nina"},
        "msg send ni": {"nina"},
        "run --backend c": {"claude_code", "codex"},
        "run --permission r": {"read_only"},
        "run --on-approval a": {"ask", "allow"},
        "ls --status c": {"completed", "cancelled"},
        "events --types todo": {"todo_updated"},
        "events --types todo_updated,command_f": {"todo_updated,command_finished"},
        "events --types todo_updated,t": {"todo_updated,tool_started", "todo_updated,tool_finished"},
        "clients c": {"claude", "claude-user", "codex", "cursor"},
    }.items():
        assert completed(here, words) == expected, words
    assert "_ORCHESTRATOR_COMPLETE" in here.having(SHELL="/bin/bash").ok("--show-completion", "bash")


def test_names_are_those_of_the_directory_that_is_given(here: Shell) -> None:
    run_id = here.detached("final x", "--name", "nina")
    (here.cwd / "profiles").mkdir()
    (here.cwd / "profiles" / "nitpicker.md").write_text("---\nname: nitpicker\ndescription: x\n---\nBe strict.\n")
    other = here.at(here.cwd.parent / "other").having(HOME=str(here.cwd.parent))
    for place in (str(here.cwd), "../project", f"~/{here.cwd.name}"):
        assert completed(other, f"show -C {place} ") == {"nina", run_id}, place
        assert completed(other, f"cancel {run_id} --cwd {place} ni") == {"nina"}, place
        assert "nitpicker" in completed(other, f"profiles show -C {place} ni")
    assert completed(other, "show ") == completed(other, "show -C nowhere ") == set()
