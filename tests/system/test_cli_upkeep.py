"""Looking after things from the command line: gc removes what it may and nothing else; config; host."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.system.hosts import ending, until
from tests.system.shell import Shell

pytestmark = pytest.mark.system


def runs_of(here: Shell) -> set[str]:
    """The runs on disk."""
    return {path.name for path in (here.cwd / ".orchestrator" / "runs").iterdir()}


def three_runs(here: Shell) -> list[str]:
    """Three runs that are over: of 60 days, of 40 days and 200 KB, and of today. Oldest first."""
    ids: list[str] = []
    for prompt, days in (("final a", 60), ("artifact 200KB a", 40), ("final c", 0)):
        run_id = here.over(prompt)
        ids.append(run_id)
        if days:
            old = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%d").encode()
            today = here.state(run_id)["completed_at"][:10].encode()
            for file in (here.cwd / ".orchestrator" / "runs" / run_id).glob("*.json*"):
                file.write_bytes(file.read_bytes().replace(today, old))
    return ids


def test_gc_lists_first_and_deletes_only_when_told(here: Shell) -> None:
    oldest, large, newest = three_runs(here)
    listed = {
        (): [large, oldest],
        ("--older-than", "50d"): [oldest],
        ("--older-than", "99999999999d"): [],
        ("--keep", "1"): [large, oldest],
        ("--keep", "0"): [newest, large, oldest],
        ("--max-size", "100KB"): [large, oldest],
        ("--keep", "2", "--older-than", "1000d"): [],
        ("--keep", "2", "--older-than", "0d"): [oldest],
        ("--keep", "1", "--max-size", "0KB"): [large, oldest],
        ("--keep", "3", "--older-than", "0d", "--max-size", "0KB"): [],
        ("--keep", "3", "--older-than", "0d", "--max-size", "1GB"): [],
        ("--older-than", "50d", "--max-size", "1GB"): [oldest],
        ("--older-than", "50d", "--max-size", "100KB"): [large, oldest],
        ("--keep", "0", "--older-than", "50d"): [oldest],
    }
    for words, expected in listed.items():
        rows = here.run("gc", *words, "--json").lines
        assert [row["run_id"] for row in rows] == expected, words
        assert all(row["removed"] is False for row in rows)
    assert runs_of(here) == {oldest, large, newest}
    plain = here.run("gc")
    assert "2 runs" in plain.err
    assert "--delete" in plain.err
    done = here.run("gc", "--older-than", "30d", "--delete", "--json")
    assert {row["run_id"] for row in done.lines if row["removed"]} == {oldest, large}
    assert runs_of(here) == {newest}
    assert [run["run_id"] for run in here.json("ls")["runs"]] == [newest]
    assert here.run("show", oldest).code == 4
    here.ok("gc", "--max-size", "0KB", "--delete")
    assert runs_of(here) == set()
    assert here.json("ls")["runs"] == []
    assert "x" in here.ok("run", "-b", "scripted", "final x")


def test_gc_says_which_runs_they_are(here: Shell) -> None:
    words = "a summary\tof many words " * 5
    here.over(f"final {words}", "--name", "nina")
    here.over("fail no luck", "--name", "otto")
    failed, done = here.run("gc", "--keep", "0", "--json").lines
    assert (done["agent_name"], done["status"]) == ("nina", "completed")
    assert done["summary"].startswith("a summary")
    assert (failed["agent_name"], failed["status"], failed["summary"]) == ("otto", "failed", "no luck")
    rows = [line.split("\t") for line in here.ok("gc", "--keep", "0").splitlines()]
    assert [row[0] for row in rows] == [failed["run_id"], done["run_id"]]
    assert [row[3:6] for row in rows] == [["", "otto", "failed"], ["", "nina", "completed"]]
    assert [len(row) for row in rows] == [7, 7]
    for columns, lines in ((40, 2), (80, 2), (120, 1)):
        with here.terminal("gc", "--keep", "0", columns=columns) as terminal:
            assert terminal.ended() == 0
        terminal.fits()
        assert terminal.text.count("\n") >= 2 * lines + 1
        assert "nina  completed  a summary of" in terminal.text
        assert "otto  failed  no luck" in terminal.text


def left_of(here: Shell, folder: str) -> list[str]:
    """What the store has in one of its folders."""
    return sorted(name for name in os.listdir(here.cwd / ".orchestrator" / folder) if name != ".lock")


def test_with_the_last_run_of_an_agent_its_session_its_name_and_its_key_go(here: Shell) -> None:
    first = here.over("final a", "--name", "reviewer", "--idempotency-key", "k")
    session = here.state(first)["session_id"]
    second = here.over("final b", "--resume", session)
    other = here.over("final c", "--name", "other", "--idempotency-key", "l")
    here.ok("gc", "--keep", "2", "--delete")
    assert (left_of(here, "names"), len(left_of(here, "keys"))) == (["other", "reviewer"], 1), "it has a run yet"
    asking = here.detached("ask Which?", "--resume", session)
    here.settled(asking)
    here.ok("gc", "--keep", "0", "--delete")
    assert runs_of(here) == {asking}
    assert (left_of(here, "names"), left_of(here, "keys")) == (["reviewer"], [])
    assert {name.partition(".")[0] for name in left_of(here, "sessions")} == {session}
    here.ok("answer", asking, "red")
    here.settled(asking)
    here.ok("gc", "--keep", "0")
    assert left_of(here, "names") == ["reviewer"]
    until(lambda: here.run("gc", "--keep", "0", "--delete") and not left_of(here, "names"), "nobody uses it any more")
    assert [left_of(here, folder) for folder in ("runs", "sessions", "keys")] == [[], [], []]
    assert here.run("run", "-b", "scripted", "--resume", session, "x").code == 4
    again = here.over("final d", "--name", "reviewer", "--idempotency-key", "k")
    assert (here.state(again)["agent_name"], again in {first, second, other}) == ("reviewer", False)


def test_gc_never_touches_a_live_run(here: Shell) -> None:
    ids = {here.detached("sleep 60"), here.waiting("ask Which?")}
    done = here.run("gc", "--keep", "0", "--delete")
    assert (done.code, runs_of(here)) == (0, ids)
    (here.cwd / ".orchestrator" / "runs" / min(ids) / "run.json").unlink()  # a cache that may be missing
    here.ok("gc", "--keep", "0", "--delete")
    assert runs_of(here) == ids
    here.ok("cancel", *ids)
    here.ok("gc", "--keep", "0", "--delete")
    assert runs_of(here) == set()


def test_gc_follows_no_link_out_of_its_store(here: Shell, tmp_path: Path) -> None:
    oldest, *_ = three_runs(here)
    runs, elsewhere = here.cwd / ".orchestrator" / "runs", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (runs / oldest).rename(elsewhere / oldest)
    (runs / oldest).symlink_to(elsewhere / oldest)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    other = next(path for path in runs.iterdir() if not path.is_symlink())
    (other / "link").symlink_to(precious)
    (runs / "not a run").mkdir()
    here.ok("gc", "--keep", "0", "--delete")
    assert (elsewhere / oldest / "events.jsonl").exists()
    assert (precious / "file").exists()
    assert runs_of(here) == {oldest, "not a run"}
    runs.rename(tmp_path / "moved")
    runs.symlink_to(elsewhere)
    here.run("gc", "--keep", "0", "--delete")
    assert (elsewhere / oldest / "events.jsonl").exists()


def test_gc_removes_nothing_of_another_directory(here: Shell, tmp_path: Path) -> None:
    other = here.at(tmp_path / "other")
    run_id = other.over("final x")
    (here.cwd / ".orchestrator").symlink_to(other.cwd / ".orchestrator")
    for words in ([], ["--delete"]):
        done = here.run("gc", "--keep", "0", *words)
        assert (done.code, done.out, "is a link" in done.err) == (1, "", True), done
    assert runs_of(other) == {run_id}


def test_gc_leaves_what_it_does_not_understand(here: Shell) -> None:
    oldest, damaged, newest = three_runs(here)
    store = here.cwd / ".orchestrator"
    (store / "runs" / damaged / "events.jsonl").write_bytes(b"\x00 not json\n" * 3)
    (store / "runs" / damaged / "run.json").unlink()
    here.ok("gc", "--keep", "0", "--delete")
    assert runs_of(here) == {damaged}
    version = store / "VERSION"
    version.write_text("999")
    done = here.run("gc", "--keep", "0", "--delete")
    assert (done.code, "store_version" in done.err) == (1, True), done
    assert here.run("gc", "--json").json["error"]["code"] == "store_version"
    assert oldest != newest


def test_wrong_bounds_are_refused(here: Shell) -> None:
    bad = [["--older-than", "soon"], ["--older-than", "-1d"], ["--keep", "-1"], ["--max-size", "5"], ["--keep", "x"]]
    for words, done in zip(bad, here.all([["gc", *words] for words in bad]), strict=True):
        assert (done.code, done.out) == (2, ""), (words, done)


def test_settings_are_shown_with_where_they_come_from(here: Shell) -> None:
    (here.cwd / ".orchestrator.toml").write_text('max_depth = 1\nmask_env = ["A"]\nmax_runs_per_tree = 10000\n')
    place = here.having(ORCHESTRATOR_BACKEND="scripted", ORCHESTRATOR_LOG_LEVEL="debug")
    document = place.json("config")
    settings = document["settings"]
    assert settings["max_depth"] == {"value": 1, "source": str(here.cwd / ".orchestrator.toml")}
    assert settings["backend"] == {"value": "scripted", "source": "ORCHESTRATOR_BACKEND"}
    assert settings["mask_env"]["value"] == ["A"]
    assert settings["host_idle_s"] == {"value": 600.0, "source": "default"}
    assert any("max_runs_per_tree" in notice for notice in document["notices"])
    told = "ORCHESTRATOR_LOG_LEVEL: log_level: it counts only for a host that is started with it"
    assert (settings["log_level"], told in document["notices"]) == ({"value": "info", "source": "default"}, True)
    plain = place.run("config")
    assert "max_depth\t1\t" in plain.out
    assert "mask_env\tA\t" in plain.out
    assert "trusted_dirs\tnothing\t" in plain.out
    assert "max_runs_per_tree" in plain.err
    (here.cwd / ".orchestrator.toml").write_text("max_dept = 1")
    for words in (["config"], ["run", "x"]):
        done = here.run(*words)
        assert (done.code, "'max_depth'" in done.err) == (2, True), (words, done)


def test_the_host_is_looked_at_and_stopped(here: Shell) -> None:
    run_id = here.detached("sleep 60")
    status = here.json("host", "status")
    assert (status["running"], status["live"] >= 1) == (True, True)
    assert "live runs" in here.ok("host", "status")
    assert here.json("host", "start")["pid"] == status["pid"]
    with here.terminal("host", "logs", "-n", "1000", "--json", columns=500) as terminal:
        assert terminal.ended() == 0
        assert all("message" in json.loads(line) for line in terminal.text.splitlines())
    assert "listens" in here.ok("host", "logs", "-n", "1000")
    assert here.piped("orchestrator host logs | head -1").code == 0
    assert "the host is gone" in here.ok("host", "stop", "--cancel")
    assert here.run("host", "status").code == 6
    assert here.run("host", "status", "--json").json == {"running": False}
    assert here.json("show", run_id)["status"] == "cancelled"
    assert here.run("host", "stop").code == 0
    assert here.json("host", "stop") == {"was_running": False, "running": False}
    here.ok("host", "start")
    assert here.json("host", "status")["live"] == 0
    assert here.json("host", "stop") == {"was_running": True, "running": False}


def test_a_run_whose_host_was_killed_is_told_truly(here: Shell) -> None:
    run_id = here.detached("sleep 60")
    # one that has not begun would be begun by the next host
    until(lambda: here.state(run_id)["status"] == "running", "the run has begun")
    with ending(here.ground.start("wait", run_id, cwd=here.cwd)) as waiting:
        here.ground.kill_host()
        assert waiting.wait(20) == 1
    (run,) = here.json("ls")["runs"]
    assert run["status"] == "failed"
    assert "host_lost" in here.ok("show", run_id)
    assert here.run("events", "-f", run_id).code == 1
    assert os.listdir(here.cwd / ".orchestrator" / "runs") == [run_id]
