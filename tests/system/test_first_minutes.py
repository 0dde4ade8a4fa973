"""A new user's first ten minutes, as a script: each step is checked, and each says what the next one may be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.system.shell import Shell, shell

pytestmark = pytest.mark.system


@pytest.mark.timeout(180)  # thirty commands, each a process
def test_the_first_ten_minutes(tmp_path: Path) -> None:
    with shell(tmp_path) as new:
        _looks_around(new)
        first = _runs_something(new)
        asked = _answers_a_question(new)
        _goes_on_and_reads(new, first)
        _cancels(new)
        _connects_a_client(new)
        _leaves(new, {first, asked})


def _looks_around(new: Shell) -> None:
    told = new.ok("--help")
    assert "orchestrator run --backend scripted 'say hello'" in told
    assert new.run("doctor").code == 0
    assert new.run("host", "status").code == 6
    assert new.run("run", "say hello").code == 2  # which agent?
    assert "--backend" in new.run("run", "say hello").err
    assert new.ok("ls") == ""


def _runs_something(new: Shell) -> str:
    with new.terminal("run", "--backend", "scripted", "say hello\nfile hello.txt hi\nfinal done") as terminal:
        terminal.expect("hello")
        terminal.expect("completed")
        assert terminal.ended() == 0
        terminal.fits()
    assert (new.cwd / "hello.txt").read_text() == "hi\n"
    run_id, status, name, *_ = new.ok("ls").split("\t")
    assert status == "completed"
    assert "done" in new.ok("show", run_id)
    assert run_id in new.ok("show", name)
    return run_id


def _answers_a_question(new: Shell) -> str:
    run_id = new.ok("run", "-b", "scripted", "--detach", "ask Which colour? | red | blue\nfinal over").strip()
    assert new.run("wait", run_id, "--timeout", "20").code == 10
    assert "Which colour?" in new.ok("show", run_id)
    assert run_id in new.ok("ls", "--status", "input_required")
    assert new.ok("answer", run_id, "red").strip() == run_id
    assert "the answer is: red" in new.ok("events", "-f", run_id)
    assert new.run("answer", run_id, "blue").code == 5
    return run_id


def _goes_on_and_reads(new: Shell, first: str) -> None:
    again = new.ok("say", first, "remember\nartifact 100KB report\nfinal again").strip()
    assert "1 earlier prompts" in new.ok("events", "-f", again)
    (seq,) = [e["seq"] for e in new.run("events", again, "--json").lines if e["type"] == "artifact_added"]
    assert len(new.ok("artifact", again, str(seq), "/text")) == 100 * 1024
    new.ok("artifact", again, str(seq), "/text", "--output", "report.txt")
    assert (new.cwd / "report.txt").stat().st_size == 100 * 1024


def _cancels(new: Shell) -> None:
    run_id = new.ok("run", "-b", "scripted", "-d", "sleep 600").strip()
    assert new.run("wait", run_id, "--timeout", "0.1").code == 124
    assert "cancelled" in new.ok("cancel", run_id)
    assert new.run("wait", run_id).code == 1


def _connects_a_client(new: Shell) -> None:
    assert "mcpServers" in new.ok("clients", "claude")
    new.ok("clients", "claude", "--install", "--yes")
    entry = json.loads((new.cwd / ".mcp.json").read_text())["mcpServers"]["orchestrator"]
    assert entry["args"] == ["mcp"]
    assert "max_depth\t3\tdefault" in new.ok("config")


def _leaves(new: Shell, runs: set[str]) -> None:
    assert "clients 0" in new.ok("host", "status")
    assert "the host is gone" in new.ok("host", "stop")
    assert new.run("host", "status").code == 6
    assert {run["run_id"] for run in new.json("ls")["runs"]} >= runs  # reading needs no host
    assert "0 runs" in new.run("gc").err
    assert "4 runs" in new.run("gc", "--keep", "0", "--delete").err
    assert new.ok("ls") == ""
