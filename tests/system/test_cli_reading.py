"""Reading runs from the command line: ls, show, events, artifact, in pipes and under unkind circumstances."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.hosts import ending, until
from tests.system.shell import Shell

pytestmark = pytest.mark.system


def test_where_nothing_ran_lists_are_empty(here: Shell) -> None:
    for words in (["ls"], ["ls", "--tree"], ["ls", "--status", "failed"]):
        assert here.run(*words) == (0, "", "")
    assert here.json("ls") == {"runs": []}
    assert here.run("gc").code == 0
    assert here.run("gc", "--json").lines == []
    assert not (here.cwd / ".orchestrator").exists()


def test_what_a_tree_used_is_shown(here: Shell) -> None:
    limits = ("--limits", '{"max_cost_usd": 5}')
    root = here.detached("spend 2000 500 0.5\nask Ready?", "--name", "boss", *limits)
    here.run("wait", root)
    low = here.having(ORCHESTRATOR_RUN_ID=root).detached("spend 1000 500 0.25\nfinal low", "--name", "low")
    here.settled(low)
    assert here.state(low)["parent_run_id"] == root
    together = "2 runs together 3,000 tokens in, 1,000 out, 2 turns, $0.7500"
    assert f"2,000 tokens in, 500 out, 1 turns, $0.5000; {together}" in here.ok("show", "boss")
    row = next(row for row in here.json("ls")["runs"] if row["run_id"] == root)
    assert row["tree"]["usage"]["cost_usd"] == 0.75
    here.ok("answer", "boss", "on")
    here.settled(root)


def test_who_was_told_is_shown_and_who_was_not_is_found_by_doctor(here: Shell) -> None:
    run_id = here.over("final x", "--on-finish", '{"message_to": "caller"}')
    until(lambda: "told  message_to: delivered, 1 attempts" in here.ok("show", run_id), "it is told")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    run_id = here.over("final x", "--webhook", url)
    until(lambda: "told  webhook: pending" in here.ok("show", run_id), "it is not told yet")
    found = [finding for finding in here.json("doctor")["findings"] if finding["what"] == "deliveries"]
    assert [finding["state"] for finding in found] == ["note"]
    assert "connection refused" in found[0]["text"]
    assert here.ok("gc", "--keep", "0").count("run_") == 1, "what somebody is still to be told of stays"
    assert "on_finish.webhook" in here.run("run", "-b", "scripted", "x", "--webhook", "ftp://x").err


def test_runs_are_listed_and_filtered(here: Shell) -> None:
    ids = [here.detached("final one", "--role", "reviewer"), here.detached("fail no"), here.waiting("ask Which?")]
    here.settled(*ids)
    below = here.at(here.cwd / "below")
    lower = below.over("final low")
    rows = [line.split("\t") for line in here.ok("ls").splitlines()]
    assert [row[0] for row in rows] == [lower, *reversed(ids)]
    assert [row[1] for row in rows] == ["completed", "input_required", "failed", "completed"]
    assert all(len(row) == 6 for row in rows)
    expected = {
        ("--status", "failed"): [ids[1]],
        ("--status", "input_required"): [ids[2]],
        ("--role", "reviewer"): [ids[0]],
        ("--backend", "remote_a2a"): [],
        ("--limit", "2"): [lower, ids[2]],
        ("--session", here.state(ids[0])["session_id"]): [ids[0]],
        ("-C", str(below.cwd)): [lower],
    }
    for words, found in expected.items():
        assert [run["run_id"] for run in here.json("ls", *words)["runs"]] == found, words
    assert here.json("ls", "--limit", "2")["next_cursor"] == ids[2]
    assert {run["run_id"] for run in below.json("ls", "--all")["runs"]} >= {*ids, lower}


def test_a_mistyped_directory_or_kind_of_agent_is_refused(here: Shell) -> None:
    run_id, typo = here.over("final x"), str(here.cwd / "typo")
    (here.cwd / "file").write_text("x")
    commands = (["ls"], ["gc"], ["doctor"], ["config"], ["show", run_id], ["clients", "vscode", "--install", "--yes"])
    for done in here.all([[*words, "-C", place] for words in commands for place in (typo, "file", "x" * 300)]):
        assert (done.code, done.out, "invalid_argument: --cwd" in done.err) == (2, "", True), done
    assert typo in here.run("ls", "-C", typo, "--json").json["error"]["message"]
    assert not Path(typo).exists()
    done = here.run("ls", "--backend", "codx")
    assert (done.code, done.out, "'codex'" in done.err) == (2, "", True), done
    for file in (here.cwd / ".orchestrator" / "runs" / run_id).glob("*.json"):
        file.write_bytes(file.read_bytes().replace(b"scripted", b"bespoken"))  # by a backend that is not known here
    assert [run["run_id"] for run in here.json("ls", "--backend", "bespoken")["runs"]] == [run_id]
    assert here.at(here.cwd / "below").json("ls", "--backend", "bespoken") == {"runs": []}


def test_a_list_is_kept_up_to_date_at_a_terminal_alone(here: Shell) -> None:
    done = here.run("ls", "--watch")
    assert (done.code, done.out, "--watch needs a terminal" in done.err) == (2, "", True), done


def test_one_run_is_shown(here: Shell) -> None:
    run_id = here.over("say hi\nusage 1 2\nfinal the end ☃", "--name", "nina")
    assert here.json("show", run_id) == here.json("show", "nina")
    text = here.ok("show", "nina")
    assert all(
        words in text for words in (run_id, "nina", "completed", "scripted", "the end ☃", "used", "1 tokens in, 2 out")
    )
    failed = here.over("fail no luck")
    assert "agent_error: no luck" in here.ok("show", failed)
    asks = here.waiting("ask Which? | red | blue")
    assert "red | blue" in here.ok("show", asks)


def test_events_are_printed_filtered_and_followed(here: Shell) -> None:
    run_id = here.detached("say one\ncommand ls -> a\nsay two\nlisten\nfinal end")
    with ending(here.ground.start("events", "-f", "--json", run_id, cwd=here.cwd)) as following:
        assert following.stdout is not None
        seen = [json.loads(following.stdout.readline())]
        while seen[-1]["data"].get("text") != "two":
            seen.append(json.loads(following.stdout.readline()))
        here.ok("say", run_id, "go")
        seen += [json.loads(line) for line in following.stdout]
        assert following.wait(20) == 0
    every = here.run("events", run_id, "--json").lines
    assert seen == every
    assert [event["seq"] for event in every] == list(range(1, len(every) + 1))
    some = here.run("events", run_id, "--json", "--types", "command_started, command_finished").lines
    assert [event["type"] for event in some] == ["command_started", "command_finished"]
    assert here.run("events", run_id, "--json", "--after", str(len(every) - 1)).lines == every[-1:]
    assert here.run("events", run_id, "--after", "99") == (0, "", "")
    plain = here.ok("events", run_id)
    assert plain.count("\n") >= len(every)
    assert here.ok("events", "-f", run_id) == plain
    failed = here.detached("fail no")
    assert here.run("events", "-f", failed).code == 1


def test_an_unknown_type_of_event_is_refused(here: Shell) -> None:
    run_id = here.over("say hi")
    done = here.run("events", run_id, "--types", "agent_message,comand_started")
    assert (done.code, done.out) == (2, "")
    assert "'comand_started'; did you mean 'command_started'" in done.err
    every = {event["type"] for event in here.run("events", run_id, "--json").lines}
    assert here.run("events", run_id, "--types", ",".join(every), "--json").lines[0]["seq"] == 1


def test_where_the_directory_is_gone_commands_say_so(here: Shell) -> None:
    for words in ("ls", "ls --json", "clients", "show x", "config", "doctor", "gc", "msg list"):
        done = here.piped(f"mkdir gone && cd gone && rmdir ../gone && orchestrator {words}")
        assert (done.code, "is gone" in done.err + done.out) == (2, True), (words, done)
    complete = "_ORCHESTRATOR_COMPLETE=complete_bash COMP_CWORD=2 COMP_WORDS='orchestrator show '"
    done = here.piped(f"mkdir gone && cd gone && rmdir ../gone && export {complete} && orchestrator")
    assert (done.code, done.out.strip(), done.err) == (0, "", "")


def test_what_cannot_be_read_is_said_beside_a_list(here: Shell) -> None:
    damaged, whole = here.over("final a"), here.over("final b")
    folder = here.cwd / ".orchestrator" / "runs" / damaged
    (folder / "events.jsonl").write_bytes(b"\x00 not json\n" * 3)
    (folder / "run.json").unlink()
    done = here.run("ls")
    assert ([line.split("\t")[0] for line in done.out.splitlines()], done.code) == ([whole], 0)
    assert f"{damaged} cannot be read: " in done.err
    faults = [finding for finding in here.run("doctor", "--json").json["findings"] if finding["state"] == "fault"]
    assert [finding["what"] for finding in faults] == ["store"]
    assert damaged in faults[0]["text"]


def test_a_list_refuses_a_store_that_it_does_not_know(here: Shell) -> None:
    here.over("final a")
    store = here.cwd / ".orchestrator"
    (store / "VERSION").write_text("999\n")
    for words in (["ls"], ["ls", "--tree"]):
        done = here.run(*words)
        assert (done.code, "store_version" in done.err) == (1, True), (words, done)
    with here.terminal("ls", "--watch") as terminal:
        assert (terminal.ended(), "store_version" in terminal.text) == (1, True)
    assert here.run("ls", "--json").json["error"]["code"] == "store_version"
    assert here.run("ls", "--all").code == 0
    store.rename(here.cwd / "elsewhere")
    store.write_text("in the way")
    for words in (["ls"], ["doctor"]):
        done = here.run(*words)
        assert (done.code, f"{store} is in the way of the store" in done.out + done.err) == (1, True), (words, done)


def test_an_artifact_comes_whole_to_stdout_or_a_file(here: Shell) -> None:
    run_id = here.over("binary 700KB b\nartifact 300KB t\nsay é☃\ncommand ls -> 20KB")
    fields = [
        (event["seq"], pointer, ref["total_bytes"])
        for event in here.run("events", run_id, "--json").lines
        for pointer, ref in event["data"].get("artifact_refs", {}).items()
    ]
    assert {size for _, _, size in fields} >= {700 * 1024, 300 * 1024, 20 * 1024}
    for seq, pointer, size in fields:
        target = here.cwd / f"{seq}.bin"
        whole = here.bytes("artifact", run_id, str(seq), pointer).stdout
        assert len(whole) == size
        assert here.run("artifact", run_id, str(seq), pointer, "-o", str(target)).code == 0
        assert target.read_bytes() == whole
        page = here.json("artifact", run_id, str(seq), pointer)
        assert (page["total_bytes"], page["has_more"]) == (size, True)
    binary, pointer, _ = fields[0]
    with here.terminal("artifact", run_id, str(binary), pointer) as terminal:
        assert terminal.ended() == 2
        assert "--output" in terminal.text
    with here.terminal("artifact", run_id, str(binary), pointer, "-o", "x.bin") as terminal:
        assert terminal.ended() == 0
        assert "716.8/716.8 kB" in terminal.text
    line = f"{sys.executable} -m orchestrator artifact {run_id} {binary} {pointer} | wc -c"
    with here.terminal("-c", line, program=["sh"]) as terminal:
        assert terminal.ended() == 0
        assert "716.8/716.8 kB" in terminal.text
    kept = here.cwd / "kept.txt"
    kept.write_text("mine")
    for words in (["99", "/x"], ["0", "/x"], [str(binary), "/nowhere"]):
        assert here.run("artifact", run_id, *words, "-o", str(kept)).code == 4
    assert kept.read_text() == "mine"
    for bad in ("/nowhere/at/all", str(here.cwd)):
        assert here.run("artifact", run_id, str(binary), pointer, "-o", bad).code == 2
    assert here.run("artifact", run_id, "one", "/x").code == 2


def test_a_program_reads_an_artifact_in_pages(here: Shell) -> None:
    run_id = here.over("binary 10KB b\nfinal x")
    event = next(e for e in here.run("events", run_id, "--json").lines if "artifact_refs" in e["data"])
    field = [run_id, str(event["seq"]), next(iter(event["data"]["artifact_refs"]))]
    first, second = (here.json("artifact", *field, "--offset", at, "--limit", "60") for at in ("0", "30"))
    assert (second["offset"], second["returned_bytes"], second["next_offset"]) == (30, 60, 90)
    assert base64.b64decode(first["content"])[30:] == base64.b64decode(second["content"])[:30]
    for more in (["--json", "-o", "no.bin"], ["--offset", "1"], ["--limit", "1"], ["--json", "--limit", "0"]):
        assert here.run("artifact", *field, *more).code == 2, more
    assert not (here.cwd / "no.bin").exists()


def test_a_thousand_runs_are_listed(here: Shell) -> None:
    first = here.over("final first of all")
    runs = here.cwd / ".orchestrator" / "runs"
    letters = "0123456789abcdefghjkmnpqrstvwxyz"
    for number in range(1000):
        run_id = first[:-2] + letters[number // 32] + letters[number % 32]
        if run_id == first:
            continue
        shutil.copytree(runs / first, runs / run_id)
        for file in (runs / run_id).iterdir():
            if file.suffix in (".json", ".jsonl"):
                file.write_bytes(file.read_bytes().replace(first.encode(), run_id.encode()))
    assert len(here.json("ls", "--limit", "5000")["runs"]) >= 999
    assert here.ok("ls").count("\n") == 20
    for line, count in {
        "ls -n 5000 | head -1": 1,
        "gc --keep 0 | head -2": 2,
    }.items():
        done = here.piped(f"orchestrator {line}")
        assert (done.code, done.out.count("\n")) == (0, count), done
        assert "BrokenPipe" not in done.err
    with here.terminal("ls", "-n", "5000", columns=40) as terminal:
        assert terminal.ended() == 0
        terminal.fits()
        assert terminal.text.count("\n") >= 1000


def test_a_reader_that_goes_away_ends_a_command_in_silence(here: Shell) -> None:
    run_id = here.over("events 20 3000\nartifact 200KB a\nfinal x")
    seq = next(e["seq"] for e in here.run("events", run_id, "--json").lines if e["type"] == "artifact_added")
    for words in (
        ["ls"],
        ["ls", "--json"],
        ["show", run_id],
        ["events", run_id],
        ["events", "-f", run_id, "--json"],
        ["wait", run_id],
        ["artifact", run_id, str(seq), "/text"],
        ["config"],
        ["doctor", "--json"],
        ["clients"],
        ["gc", "--keep", "0"],
        ["--help"],
        ["run", "-b", "scripted", "--json", "events 20 3000"],
    ):
        source, sink = os.pipe()
        os.close(source)
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.PIPE,
            cwd=here.cwd,
            env=here.environment,
            timeout=20,
        )
        os.close(sink)
        assert b"Broken" not in done.stderr, (words, done.stderr)
        assert b"Traceback" not in done.stderr, (words, done.stderr)
        assert done.returncode in ((0, 1) if words == ["--help"] else (0,)), (words, done)


def test_a_full_disk_or_a_missing_stream_is_no_defect(here: Shell) -> None:
    run_id = here.over("say hi\nfinal x")
    for words in (f"show {run_id}", f"events {run_id} --json", "ls", "config", f"artifact {run_id} 3 /text"):
        if Path("/dev/full").exists():
            full = here.piped(f"orchestrator {words} >/dev/full")
            assert (full.code, "No space left" in full.err) == (1, True), (words, full)
        closed = here.piped(f"orchestrator {words} >&-")
        assert closed.code == 0, (words, closed)
    for words in ("ls", f"show {run_id}"):
        assert here.piped(f"orchestrator {words} <&- 2>&-").code == 0
    assert here.piped("orchestrator run -b scripted 'ask Which?' <&- >&- 2>&-").code == 10
    assert here.piped("orchestrator show nobody 2>&-").code == 4
    assert here.piped("orchestrator run -b scripted - <&-").code == 2


def test_words_of_another_language_pass_in_any_locale(here: Shell) -> None:
    for env in ({"LANG": "C", "LC_ALL": "C"}, {"LANG": "", "LC_ALL": "POSIX"}, {"PYTHONIOENCODING": "ascii"}):
        place = here.having(**env)
        done = place.bytes("run", "-b", "scripted", "say 漢字 ☃\ntodo é\nfinal ü")
        assert done.returncode == 0, done
        if "PYTHONIOENCODING" not in env:
            assert "漢字 ☃".encode() in done.stdout
        assert "漢字 ☃".encode() in place.bytes("events", "--json", here.json("ls")["runs"][0]["run_id"]).stdout
