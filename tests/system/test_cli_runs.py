"""Starting and steering runs from the command line: run, wait, answer, say, cancel, each as a process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.system.conftest import agent
from tests.system.hosts import ending, until
from tests.system.shell import Shell, interrupted, shell

pytestmark = pytest.mark.system
MISSING = "run_00000000000000000000ab"


def test_a_run_in_a_pipe_is_told_in_plain_lines(here: Shell) -> None:
    done = here.run(
        "run",
        "-b",
        "scripted",
        "say hello\ncommand ls -> a b\nfile f.txt new\ntodo [x] A; B\nusage 1 2\nfinal all done",
    )
    assert done.code == 0, done
    said = [line.strip() for line in done.out.splitlines()]
    assert said == ["> say hello …", "hello", "$ ls", "a b", "+ f.txt", "+new", "☑ A", "☐ B", "completed", "all done"]
    assert "\x1b" not in done.out + done.err
    assert "used 1 tokens in, 2 out, 1 turns" in done.err


def test_the_exit_code_of_a_run_says_what_became_of_it(here: Shell) -> None:
    scripts = {"final yes": 0, "fail no": 1, "cancel no": 1, "reject no": 1, "crash": 1, "ask Which?": 10, "auth": 10}
    results = here.all([["run", "-b", "scripted", script] for script in scripts])
    assert [done.code for done in results] == list(scripts.values()), results
    waiting = results[5]
    assert "? Which?" in waiting.out
    assert "orchestrator answer run_" in waiting.err


def test_run_json_prints_the_events_and_then_the_run(here: Shell) -> None:
    done, waits = here.all([["run", "-b", "scripted", "--json", words] for words in ("say é\nfinal ok", "ask Now?")])
    *events, run = done.lines
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "run_completed"
    assert run == here.json("show", run["run_id"])
    assert (done.code, done.err, run["result"]["final_response"]) == (0, "", "ok")
    assert (waits.code, waits.err, waits.lines[-1]["pending"][0]["text"]) == (10, "", "Now?")


def test_the_task_comes_from_an_argument_a_file_or_stdin(here: Shell) -> None:
    file = here.cwd / "täsk.txt"
    file.write_text("final from the file ☃", encoding="utf-8")
    assert "from the file ☃" in here.ok("run", "-b", "scripted", "-f", str(file))
    assert "from stdin ☃" in here.ok("run", "-b", "scripted", "-", given="final from stdin ☃")
    assert "as usual" in here.having(ORCHESTRATOR_BACKEND="scripted").ok("run", "final as usual")
    long = "final " + "long " * 40_000  # more than an argument may be
    shown = here.ok("run", "-b", "scripted", "-", given=long)
    where = shown.rpartition("orchestrator artifact ")[2].split()
    assert here.ok("artifact", *where) == long.removeprefix("final ").rstrip()


def test_a_wrong_call_is_refused_in_one_sentence(here: Shell) -> None:
    bad = [
        ["run", "-b", "scripted"],
        ["run", "x"],
        ["run", "-b", "scripted", "x", "-f", "y"],
        ["run", "-b", "scripted", "-f", "missing.txt"],
        ["run", "-b", "scripted", "-f", "."],
        ["run", "-b", "scripted", "x", "--backend-config", "{"],
        ["run", "-b", "scripted", "x", "--backend-config", "missing.json"],
        ["run", "-b", "scripted", "x", "--limits", "{}x"],
        ["run", "-b", "scripted", "x", "--limits", '{"timeout": 1}'],
        ["run", "-b", "scripted", "x", "--metadata", "[]"],
        ["run", "-b", "scripted", "x", "--permission", "all"],
        ["run", "-b", "scripted", "x", "--on-approval", "perhaps"],
        ["run", "-b", "scripted", "x", "--priority", "9"],
        ["run", "-b", "scripted", "x", "--priority", "high"],
        ["run", "-b", "scripted", "x", "--resume", "nobody"],
        ["run", "-b", "scripted", "x", "--fork"],
        ["run", "-b", "scripted", "x", "-C", "/nowhere/at/all"],
        ["ls", "--watch", "--json"],
        ["run", "-b", "scriptd", "x"],
        ["run", "-b", "scripted", ""],
        ["run", "-b", "scripted", "x", "--no-such-option"],
        ["wait"],
        ["wait", "x", "--timeout", "soon"],
        ["events", "x", "--after", "-1"],
        ["ls", "--status", "sleeping"],
        ["ls", "--limit", "0"],
        ["no-such-command"],
    ]
    for words, done in zip(bad, here.all(bad), strict=True):
        assert (done.code, done.out) == (2, ""), (words, done)
        assert done.err.strip(), words
    assert "--schema takes a JSON object\n" in here.run("run", "-b", "scripted", "x", "--schema", "[1]").err
    assert "did you mean 'scripted'" in here.run("run", "-b", "scriptd", "x").err


def test_text_that_is_not_utf8_is_refused(here: Shell) -> None:
    for words, given in (
        (["run", "-b", "scripted", b"say \xff"], None),
        (["run", "-b", "scripted", "-"], b"say \xff"),
        (["run", "-b", "scripted", "x", "--role", b"\xff"], None),
    ):
        done = here.bytes(*words, given=given)
        assert done.returncode == 2, done
        assert b"UTF-8" in done.stderr
    assert here.json("ls")["runs"] == []
    for place in (here, here.having(ORCHESTRATOR_RUN_PASS="x")):  # a caller, and an agent in its own shell
        done = place.bytes("msg", "send", "caller", "-", given=b"\xff")
        assert (done.returncode, b"UTF-8" in done.stderr) == (2, True), done
    assert here.having(ODD=os.fsdecode(b"\xff")).run("run", "-b", "scripted", "final ok").code == 0


def test_what_is_to_be_said_may_come_from_stdin(here: Shell) -> None:
    run_id = here.detached("listen\nlisten\nfinal over")
    until(lambda: here.state(run_id)["status"] == "running", "it listens")
    for words in (f"say {run_id}", f"msg send {run_id}"):
        assert here.piped(f"printf 'a ☃ line\\n' | orchestrator {words} -").code == 0, words
        bad = here.piped(f"printf '\\377' | orchestrator {words} -")
        assert (bad.code, "UTF-8" in bad.err) == (2, True), bad
        for done in (here.piped(f"orchestrator {words} - {nothing}") for nothing in ("<&-", "</dev/null")):
            assert (done.code, "there is nothing to" in done.err) == (2, True), done
    here.ok("cancel", run_id)


def test_what_is_not_there_is_not_found(here: Shell) -> None:
    after = {"answer": ["yes"], "say": ["x"], "artifact": ["1", "/x"]}
    names = "show events wait answer say cancel artifact".split()
    commands = [["show", "nobody"], *([name, MISSING, *after.get(name, ())] for name in names)]
    told = here.all([[*words, *more] for words, more in zip(commands, [[], ["--json"]] * 4, strict=True)])
    for words, done in zip(commands, told, strict=True):
        assert done.code == 4, (words, done)
    assert "no agent 'nobody'" in told[0].err
    assert "see `orchestrator ls`" in told[0].err
    assert "call list_runs" in told[1].json["error"]["message"]
    assert "see `orchestrator ls`" in here.run("show", "../x").err
    failed = here.ok("show", here.over("fail no luck"))
    assert ("`orchestrator" in failed, "continue_run" in failed) == (True, False), failed
    assert [done.json["error"]["code"] for done in told[1::2]] == ["run_not_found"] * 4


def test_a_run_is_left_and_waited_for(here: Shell) -> None:
    first, second = here.detached("listen"), here.detached("final two")
    document = here.json("run", "-b", "scripted", "--detach", "final three")
    assert set(document) >= {"run_id", "session_id", "agent_name"}
    assert here.ok("wait", second).split("\t") == [second, "completed", "two\n"]
    assert here.run("wait", first, second, "--any").code == 0
    late = here.run("wait", first, second, "--all", "--timeout", "0.2", "--json")
    assert late.code == 124
    assert (late.json["done"], late.json["timed_out"]) == (False, True)
    assert here.run("wait", first, "--timeout", "0").code == 124
    for words in (["wait", first], ["msg", "wait"]):
        for seconds in ("-1", "nan", "inf", "-inf"):
            assert here.run(*words, "--timeout", seconds).code == 2, (words, seconds)
    with ending(here.ground.start("wait", first, cwd=here.cwd)) as waiting:
        until(lambda: psutil.Process(waiting.pid).num_threads() > 1, "it reads the files")
        assert interrupted(waiting) == 130
    here.ok("say", first, "go on")
    assert here.run("wait", first, second, "--all", "--timeout", "20").code == 0
    failed = here.detached("fail no")
    assert here.run("wait", failed, second, "--all").code == 1


def test_each_kind_of_answer_reaches_its_run(here: Shell) -> None:
    cases = [
        ("approve rm x", ["approve"], "approved"),
        ("approve rm x", ["yes"], "approved"),
        ("approve rm x", ["deny", "--reason", "not in main"], "denied: not in main"),
        ("ask Which? | red | blue", ["blue"], "the answer is: blue"),
        ("ask Which? | red | blue", ["2"], "the answer is: blue"),
        ("approve rm x", ["a"], "approved"),
        ("approve rm x", ["d"], "denied"),
        ("ask Which?", ["some words ☃"], "the answer is: some words ☃"),
        ("ask Sure?", ["no"], "the answer is: no"),
        ("input a number", ["42"], "the input is: 42"),
        ("auth", ["approve", "--backend-config", '{"auth_token": "s3cret-token"}'], "logged in"),
    ]
    ids = [here.detached(script) for script, _, _ in cases]
    assert here.run("wait", *ids, "--all", "--timeout", "20").code == 10
    answers = here.all([["answer", run_id, *said] for run_id, (_, said, _) in zip(ids, cases, strict=True)])
    assert [done.code for done in answers] == [0] * len(cases), answers
    assert [done.out.strip() for done in answers] == ids
    here.settled(*ids)
    for run_id, (script, _, final) in zip(ids, cases, strict=True):
        assert here.state(run_id)["result"]["final_response"] == final, script
    asks = here.waiting("ask Which?")
    here.ok("answer", asks, "-", given="from stdin")
    here.settled(asks)
    assert here.state(asks)["result"]["final_response"] == "the answer is: from stdin"
    odd = here.waiting("approve ls")
    assert here.run("answer", odd, "looks fine").err.count("approve | deny") == 1
    here.ok("cancel", odd)
    for file in (here.cwd / ".orchestrator").rglob("*"):
        assert not file.is_file() or b"s3cret-token" not in file.read_bytes(), file


def test_one_of_several_requests_is_answered_by_its_id(here: Shell) -> None:
    run_id = here.waiting("asks One? | Two?")
    until(lambda: len(here.state(run_id)["pending"]) == 2, "both are asked")
    one, two = here.state(run_id)["pending"]
    assert here.run("answer", run_id, "x", "--request", "no-such").code == 5
    assert here.run("answer", run_id, "which").code == 3  # of two it must be said which
    done = here.run("answer", run_id, "second", "--request", two["request_id"], "--json")
    assert (done.code, done.json["run_id"]) == (0, run_id)
    assert here.run("answer", run_id, "again", "--request", two["request_id"]).code == 3
    here.ok("answer", run_id, "first", "--request", one["request_id"])
    assert here.run("wait", run_id).code == 0
    assert here.state(run_id)["result"]["final_response"] == "the answers are: first, second"


def test_a_command_in_the_wrong_state_says_so(here: Shell) -> None:
    waiting, over = here.waiting("ask Which? | red | blue"), here.over("final x")
    commands = {
        ("answer", over, "x"): 5,
        ("say", waiting, "x"): 5,
        ("say", over, " "): 2,
        ("answer", waiting): 2,
        ("answer", waiting, "x", "--backend-config", "[]"): 2,
    }
    results = here.all(list(commands))
    assert [done.code for done in results] == list(commands.values()), results
    assert here.run("answer", over, "x", "--json").json["error"]["code"] == "wrong_state"


def test_a_session_is_gone_on_with(here: Shell) -> None:
    first = here.json("run", "-b", "scripted", "--detach", "--name", "nina", "final one")
    here.settled(first["run_id"])
    second = here.ok("say", "nina", "remember\nfinal two").strip()
    here.settled(second)
    assert second != first["run_id"]
    for named in (second, "nina", first["session_id"]):
        assert "earlier prompts" in here.ok("run", "-b", "scripted", "--resume", named, "remember")
    forked = here.run("run", "-b", "scripted", "--resume", "nina", "--fork", "--json", "remember").lines[-1]
    assert forked["session_id"] != first["session_id"]
    assert here.ok("say", "nina", "-", "--json", given="final from stdin").count("\n") == 1


def test_the_options_of_run_reach_the_run(here: Shell) -> None:
    (here.cwd / "schema.json").write_text('{"type": "object", "required": ["a"]}', encoding="utf-8")
    words = "--role reviewer --name olga --permission read_only --on-approval deny --priority 0 --schema schema.json"
    more = ["--limits", '{"timeout_s": 60}', "--metadata", '{"ticket": "T-1"}', "--idempotency-key", "k"]
    done = here.run("run", "-b", "scripted", *words.split(), *more, "--json", 'approve ls\njson {"a": 1}')
    run = done.lines[-1]
    assert done.code == 0, done
    assert (run["role"], run["agent_name"], run["metadata"]) == ("reviewer", "olga", {"ticket": "T-1"})
    assert run["result"]["structured_output"] == {"a": 1}
    assert "denied" in str(done.lines)
    same = here.run("run", "-b", "scripted", *words.split(), *more, "--json", 'approve ls\njson {"a": 1}')
    assert same.lines[-1]["run_id"] == run["run_id"]
    conflict = here.run("run", "-b", "scripted", "--idempotency-key", "k", "another")
    assert conflict.code == 3, conflict
    broken = here.run("run", "-b", "scripted", "--schema", '{"type": "object", "required": ["b"]}', 'json {"a": 1}')
    assert broken.code == 1


def test_no_attempt_to_mend_is_an_answer_too(here: Shell) -> None:
    words = ["--check", "test -e made", "--limits", '{"fix_attempts": 3}', "--fix", "0", "--json", "final x"]
    run = here.run("run", "-b", "scripted", *words).lines[-1]
    assert run["error"]["code"] == "checks_failed"
    profile = here.cwd / "keen.md"
    profile.write_text("---\nname: keen\ndescription: x\nlimits: {fix_attempts: 2}\n---\nmend\n")
    for words, attempts in ((["--fix", "0"], 1), ([], 3)):
        given = ["-b", "scripted", "-p", "keen.md", "--check", "false", *words, "--json", "say x"]
        lines = here.run("run", *given).lines
        assert sum(line.get("type") == "message_added" for line in lines) == attempts, words


def test_what_happens_inside_is_said_when_wanted(here: Shell) -> None:
    here.over("final x")
    done = here.run("--verbose", "run", "-b", "scripted", "--detach", "final x")
    pid = here.json("host", "status")["pid"]
    assert f"the host is process {pid} at " in done.err
    assert re.search(r"spawn_run: \d+ ms to connect, \d+ ms until the answer", done.err), done.err
    assert "just started" not in done.err
    here.ok("host", "stop", "--cancel")
    assert ", just started" in here.run("--verbose", "run", "-b", "scripted", "--detach", "final x").err


def test_a_name_that_is_taken_is_said(here: Shell) -> None:
    first = here.run("run", "-b", "scripted", "-d", "--name", "one", "final x")
    assert first.err == ""
    second = here.run("run", "-b", "scripted", "-d", "--name", "one", "final y")
    name = here.state(second.out.strip())["agent_name"]
    assert f"another agent is called 'one' already; this one is {name}" in second.err
    third = here.run("run", "-b", "scripted", "final z")
    assert third.out.endswith("\nz\n")
    assert here.json("ls")["runs"][0]["run_id"] in third.err


def test_the_place_in_the_queue_is_told(tmp_path: Path) -> None:
    with shell(tmp_path, ORCHESTRATOR_MAX_CONCURRENT_RUNS_LOCAL="1") as here:
        works = here.detached("listen\nfinal x")
        second, third = here.detached("final y"), here.detached("final z")
        until(lambda: here.state(works)["status"] == "running", "the first has begun")
        places = {row["run_id"]: row.get("queue_place") for row in here.json("ls")["runs"]}
        assert places == {works: None, second: 1, third: 2}
        with here.terminal("ls") as terminal:
            assert terminal.ended() == 0
        assert "queued 2." in terminal.text
        with here.terminal("run", "-b", "scripted", "final last") as terminal:
            terminal.expect("place 3 in the queue")
            here.ok("say", works, "go on")
            terminal.expect("last")
            assert terminal.ended() == 0
        here.settled(second, third)


def test_runs_are_cancelled(here: Shell) -> None:
    long, asks, over = here.detached("sleep 60"), here.waiting("ask Which?"), here.over("final x")
    done = here.run("cancel", long, asks, over, "--reason", "enough")
    assert done.code == 0, done
    assert [line.split("\t") for line in done.out.splitlines()] == [
        [long, "cancelled"],
        [asks, "cancelled"],
        [over, "completed"],
    ]
    assert here.state(long)["summary"] == "enough"
    assert here.run("cancel", long, "--json").json["status"] == "cancelled"


def test_an_interrupted_run_in_a_pipe_goes_on(here: Shell) -> None:
    for more in ([], ["--json"]):
        process = here.ground.start("run", "-b", "scripted", *more, "say begun\nlisten", cwd=here.cwd)
        with ending(process):
            assert process.stdout is not None
            while b"begun" not in process.stdout.readline().replace(b"say begun", b""):
                pass
            assert interrupted(process) == 130
            assert process.stderr is not None
            assert b"the run goes on" in process.stderr.read()
    runs = here.json("ls", "--status", "running")["runs"]
    assert len(runs) == 2
    here.ok("cancel", *(run["run_id"] for run in runs))


def test_a_remote_agent_is_run_by_its_url(here: Shell) -> None:
    with agent(here.cwd) as url:
        done = here.run("run", "--agent-url", url, "say hello\nask Which? | red | blue\nfinal done", "--json")
        run = done.lines[-1]
        assert (done.code, run["backend"]) == (10, "remote_a2a")
        here.ok("answer", run["run_id"], "red")
        assert here.run("events", "-f", run["run_id"]).code == 0
        assert here.state(run["run_id"])["result"]["final_response"] == "done"
        config = json.dumps({"agent_url": url})
        assert here.run("run", "--backend-config", config, "final ok").code == 0
    gone = here.run("run", "--agent-url", url, "--limits", '{"timeout_s": 20}', "x")
    assert gone.code == 1, gone


def test_without_a_host_commands_say_so(here: Shell, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (home / "hosts").write_text("in the way")
    nowhere = Shell(type(here.ground)(home, here.cwd), here.cwd)
    done = nowhere.run("run", "-b", "scripted", "x")
    assert done.code == 6, done
    assert nowhere.run("run", "-b", "scripted", "x", "--json").json["error"]["code"] == "host_unavailable"
    assert nowhere.run("ls").code == 0


def test_the_help_has_examples_and_loads_nothing(here: Shell) -> None:
    names = "run ls show events wait answer say cancel artifact gc doctor config clients mcp".split()
    names += ["host start", "host status", "host stop", "host logs", "msg whoami", "msg list"]
    for columns, some in (("80", names[::2]), ("40", names[1::2])):
        place = here.having(COLUMNS=columns)
        for name, done in zip(some, place.all([[*name.split(), "--help"] for name in some]), strict=True):
            assert done.code == 0
            assert max(len(line) for line in done.out.splitlines()) <= int(columns), (name, done.out)
            assert f"orchestrator {name}" in done.out.partition("Options:")[2].replace("\n", " "), name
    top = here.run("--help")
    assert all(f"  {name} " in top.out for name in [*(name for name in names if " " not in name), "host"])
    assert here.run().code in (0, 2)
    assert here.run("host").code in (0, 2)
    assert here.ok("--version").startswith("orchestrator ")
    script = (
        "import sys; from orchestrator.cli.app import main; main(['run', '--help']); print('asyncio' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=here.environment)
    assert out.stdout.splitlines()[-1] == "False", out
