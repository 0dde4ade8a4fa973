"""`orchestrator doctor`: each fault that it should find is planted, and is found with its fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.system.hosts import ROOT, ending, frozen
from tests.system.lines import DEADLINE_S
from tests.system.shell import Shell, shell

pytestmark = pytest.mark.system
MISSING, HALF = "run_00000000000000000000ab", "run_00000000000000000000cd"


@pytest.fixture
def here(tmp_path: Path) -> Generator[Shell]:
    """A shell with a home of the test's own, for the faults are planted there."""
    with shell(tmp_path) as place:
        yield place


def look(here: Shell, what: str, *options: str) -> tuple[int, str, str, str]:
    """The exit code, and of the first finding on something that is not well (or else the first): state, text, fix."""
    done = here.run("doctor", "--json", *options)
    found = [finding for finding in done.json["findings"] if finding["what"] == what]
    worst = next((finding for finding in found if finding["state"] != "ok"), found[0])
    return done.code, worst["state"], worst["text"], worst.get("fix", "")


def test_where_all_is_well_doctor_says_so(here: Shell) -> None:
    here.ok("run", "-b", "scripted", "final x")
    done = here.run("doctor", "--json")
    assert (done.code, {f["state"] for f in done.json["findings"]} <= {"ok", "note"}) == (0, True), done
    wanted = {"Python", "Orchestrator", "mcp", "a2a-sdk", "home", "settings", "host", "store", "processes"}
    assert {finding["what"] for finding in done.json["findings"]} >= wanted
    assert all(finding["state"] == "ok" or finding["fix"] for finding in done.json["findings"])
    assert "1 runs" in look(here, "store")[2]
    plain = here.ok("doctor")
    assert "✓ store:" in plain
    assert "\x1b" not in plain


def test_an_open_home_is_found(here: Shell) -> None:
    here.ground.home.chmod(0o777)
    fix = f"chmod 700 {here.ground.home}"
    assert look(here, "home") == (1, "fault", f"{here.ground.home} is open to others", fix)
    assert f"✗ home: {here.ground.home} is open to others" in " ".join(here.run("doctor").out.split())
    subprocess.run(fix.split(), check=True)
    assert look(here, "home")[:2] == (0, "ok")


def test_a_home_that_is_no_directory_is_found(here: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        code, state, _, fix = look(here.having(ORCHESTRATOR_HOME=str(home)), "home")
        assert (code, state, "ORCHESTRATOR_HOME" in fix) == (1, "fault", True), home
    assert look(here.having(ORCHESTRATOR_HOME=str(tmp_path / "new" / "home")), "home")[:2] == (0, "ok")
    assert not (tmp_path / "new").exists()


def test_a_foreign_file_in_the_hosts_place_is_found(here: Shell) -> None:
    sock = here.ground.file("sock")
    sock.parent.mkdir(parents=True, mode=0o700)
    sock.write_text("in the way")
    assert look(here, "host") == (1, "fault", f"{sock} is in the way of the host's socket", f"rm {sock}")
    sock.unlink()
    assert look(here, "host")[:2] == (0, "ok")


def test_a_store_of_an_unknown_version_is_found(here: Shell) -> None:
    here.ok("run", "-b", "scripted", "final x")
    (here.cwd / ".orchestrator" / "VERSION").write_text("999\n")
    code, state, text, fix = look(here, "store")
    assert (code, state, "'999'" in text, "upgrade" in fix) == (1, "fault", True, True)


def test_broken_settings_are_found(here: Shell) -> None:
    file, project = here.ground.home / "config.toml", here.cwd / ".orchestrator.toml"
    for content, named in (
        *((b"max_depth = ", "TOML"), (b"max_dept = 1", "'max_depth'"), (b"\xff", "TOML")),
        *((b"a = " + b"[" * 50_000, "nested too deeply"), (b'backend = "x"', "one of claude_code")),
    ):
        file.write_bytes(content)
        code, state, text, fix = look(here, "settings")
        assert (code, state, str(file) in text, named in text, "mend" in fix) == (1, "fault", True, True, True)
    file.write_text(f'trusted_dirs = ["{here.cwd}", "/nowhere/at/all"]')
    code, state, text, fix = look(here, "settings")
    assert (code, state, "/nowhere/at/all" in text, str(file) in text, bool(fix)) == (0, "note", True, True, True)
    file.write_text('on_finish_webhook = "http://169.254.169.254/"')
    code, state, text, fix = look(here, "settings")
    assert (code, state, f"{file}: on_finish_webhook" in text, bool(fix)) == (1, "fault", True, True)
    file.unlink()
    project.write_text("max_runs_per_tree = 9999")
    assert look(here, "settings")[:2] == (0, "note")
    assert look(here, "settings", "--strict")[:2] == (1, "note")
    code, state, text, _ = look(here.having(ORCHESTRATOR_MAX_DEPTH="deep"), "settings")
    assert (code, state, "ORCHESTRATOR_MAX_DEPTH" in text) == (1, "fault", True)


def test_a_process_that_was_left_behind_is_found_and_no_other(here: Shell) -> None:
    over, live = here.over("final x"), here.detached("sleep 60")
    strangers = {
        **here.environment,
        "ORCHESTRATOR_HOME": str(here.cwd / "another-home"),
        "ORCHESTRATOR_RUN_ID": MISSING,
    }
    sleep = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    environments = [{**here.environment, "ORCHESTRATOR_RUN_ID": run_id} for run_id in (over, MISSING, live)]
    processes = [
        subprocess.Popen(sleep, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        for env in (*environments, strangers)
    ]
    with ending(processes[0]), ending(processes[1]), ending(processes[2]), ending(processes[3]):
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        done = here.run("doctor", "--json")
        fixes = {finding.get("fix") for finding in done.json["findings"] if finding["what"] == "processes"}
        assert fixes == {f"kill {processes[0].pid}", f"kill {processes[1].pid}"}
        assert done.code == 1
        inside = here.having(ORCHESTRATOR_RUN_ID=over).run("doctor", "--json")  # an agent asks
        assert len([f for f in inside.json["findings"] if f["what"] == "processes"]) == 2
    assert look(here, "processes")[1] == "ok"


def test_a_stopped_host_is_found(here: Shell) -> None:
    here.ok("host", "start")
    assert "process" in look(here, "host")[2]
    with frozen(here.ground.host()):
        code, state, text, fix = look(here, "host")
        assert (code, state, "does not answer" in text) == (1, "fault", True)
        assert "host stop --cancel" in fix
    assert look(here, "host")[1] == "ok"


def test_missing_agents_are_noted_and_only_strictly_a_fault(here: Shell, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("claude_agent_sdk", "openai_codex", "codex_cli", "__editable__", "_orchestrator")):
            (packages / path.name).symlink_to(path)
    place = here.having(PATH=str(tmp_path), PYTHONPATH=f"{packages}:{ROOT}")
    for options, code in (((), 0), (("--strict",), 1)):
        words = [sys.executable, "-S", "-m", "orchestrator", "doctor", "--json", *options]
        done = subprocess.run(words, capture_output=True, text=True, cwd=here.cwd, env=place.environment, timeout=20)
        assert done.returncode == code, done
        fixes = {f["what"]: f.get("fix", "") for f in json.loads(done.stdout)["findings"] if f["state"] == "note"}
        assert fixes["Claude Code"].endswith(f" install -e '{ROOT}[claude]'")
        assert fixes["Codex"].endswith(f" install -e '{ROOT}[codex]'")


def test_agents_and_their_logins_are_looked_at(here: Shell, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in (("claude", "echo 9.9.9 '(Claude Code)'"), ("codex", "exit 3")):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    place = here.having(PATH=f"{tools}:/usr/bin:/bin")
    assert "9.9.9" in look(place, "Claude Code")[2]
    assert "exit code 3" in look(place, "Codex")[2]
    for what, file, variable, counts in (
        ("Claude Code login", ".claude/.credentials.json", "ANTHROPIC_API_KEY", True),
        ("Codex login", ".codex/auth.json", "OPENAI_API_KEY", False),
    ):
        code, state, _, fix = look(place, what)
        assert (code, state, variable in fix) == (0, "note", True)
        assert (look(place.having(**{variable: "k"}), what)[1] == "ok") == counts
        (here.home / file).parent.mkdir()
        (here.home / file).write_text("{}")
        code, state, text, _ = look(place, what)
        assert (code, state, "holds no token" in text) == (0, "note", True)


@pytest.mark.parametrize(
    ("claude", "codex", "state"),
    [
        ({"accessToken": "SECRET", "expiresAt": 9e15}, {"OPENAI_API_KEY": "SECRET", "tokens": None}, "ok"),
        (
            {"accessToken": "SECRET", "expiresAt": 1, "refreshToken": "SECRET"},
            {"OPENAI_API_KEY": None, "tokens": {"access_token": "SECRET"}},
            "ok",
        ),
        ({"accessToken": "SECRET", "expiresAt": 1, "refreshToken": ""}, {"tokens": {"id_token": "SECRET"}}, "note"),
        ({"accessToken": ""}, {"OPENAI_API_KEY": " ", "tokens": {"access_token": ""}}, "note"),
        (1, ["SECRET"], "note"),
    ],
)
def test_a_login_counts_if_it_holds_a_token_that_can_be_used(
    here: Shell, tmp_path: Path, claude: Any, codex: Any, state: str
) -> None:
    agent = tmp_path / "agent"  # a small one, for the real ones take seconds
    agent.write_text("#!/bin/sh\necho 9\n")
    agent.chmod(0o755)
    (here.ground.home / "config.toml").write_text(f'claude_cli = "{agent}"\ncodex_cli = "{agent}"\n')
    logins = {".claude/.credentials.json": {"claudeAiOauth": claude}, ".codex/auth.json": codex}
    for file, content in logins.items():
        (here.home / file).parent.mkdir(parents=True)
        (here.home / file).write_text(json.dumps(content))
    done = here.run("doctor", "--json")
    found = {f["what"]: f["state"] for f in done.json["findings"] if f["what"].endswith("login")}
    assert found == {"Claude Code login": state, "Codex login": state}, done
    assert "SECRET" not in done.out + done.err


def test_a_home_of_codex_that_is_not_there_is_found(here: Shell, tmp_path: Path) -> None:
    gone = tmp_path / "no home"
    code, state, text, fix = look(here.having(CODEX_HOME=str(gone)), "Codex login")
    assert (code, state, str(gone) in text, fix) == (1, "fault", True, f"unset CODEX_HOME, or mkdir -p '{gone}'")
    gone.mkdir()
    assert look(here.having(CODEX_HOME=str(gone)), "Codex login")[:2] == (0, "note")


def test_a_process_whose_host_was_killed_is_found_and_ended_by_the_fix(here: Shell) -> None:
    run_id = here.detached("sleep 60")
    sleep = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    env = {**here.environment, "ORCHESTRATOR_RUN_ID": run_id}
    with ending(subprocess.Popen(sleep, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert look(here, "processes")[1] == "ok"
        here.ground.kill_host()
        code, state, text, fix = look(here, "processes")
        assert (code, state, fix) == (1, "fault", f"orchestrator show {run_id}")
        assert f"process {process.pid} is of {run_id}, whose owner is gone" in text
        here.run(*fix.split()[1:])
        assert process.wait(DEADLINE_S) != 0
    assert look(here, "processes")[1] == "ok"


def test_a_run_without_its_spec_is_found(here: Shell) -> None:
    lost, new, half = (here.cwd / ".orchestrator" / "runs" / name for name in (here.over("final x"), MISSING, HALF))
    (lost / "spec.json").unlink()
    new.mkdir()
    half.mkdir()
    for folder in (lost, half):
        os.utime(folder, (0, 0))
    done = here.run("doctor", "--json")
    found = {f["state"]: f["text"] for f in done.json["findings"] if f["what"] == "store" and f.get("fix")}
    assert (done.code, set(found)) == (1, {"note", "fault"})
    assert f"{lost.name} has lost its spec.json" in found["fault"]
    assert f"{half.name} was never made whole" in found["note"]
    refused = here.run("show", lost.name)
    assert (refused.code, "did you mean" in refused.err) == (4, False), refused


def test_a_profile_that_cannot_be_read_is_found(here: Shell) -> None:
    for folder, state, code in ((here.cwd, "note", 0), (here.ground.home, "fault", 1)):
        (folder / "profiles").mkdir(parents=True)
        (folder / "profiles" / "bad.md").write_text("---\nnonsense: 1\n---\nx\n")
        found = look(here, "profiles")
        assert found[:2] == (code, state)
        assert ("bad.md" in found[2], "profiles check" in found[3]) == (True, True)
        (folder / "profiles" / "bad.md").unlink()


def test_a_missing_git_is_noted(here: Shell, tmp_path: Path) -> None:
    assert look(here, "git")[1] == "ok"
    code, state, text, fix = look(here.having(PATH=str(tmp_path)), "git")
    assert (code, state, "worktree" in text, "PATH" in fix) == (0, "note", True, True)


def test_what_the_agents_can_keep_in_bounds_is_looked_at(here: Shell, tmp_path: Path) -> None:
    code, state, text, _ = look(here, "Codex sandbox")
    assert (code, state) == (0, "ok"), text
    assert "none" in look(here, "Claude Code sandbox")[2]
    broken = tmp_path / "codex"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] && echo codex 9 && exit\necho no namespaces here >&2\nexit 1\n")
    broken.chmod(0o755)
    (here.ground.home / "config.toml").write_text(f'codex_cli = "{broken}"')
    code, state, text, fix = look(here, "Codex sandbox")
    assert (code, state, "no namespaces here" in text, "bubblewrap" in fix) == (0, "note", True, True)


def test_an_agent_that_does_not_run_is_a_fault_of_the_setting_that_names_it(here: Shell, tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexit 3\n")
    silent.chmod(0o755)
    for what, setting in (("Claude Code", "claude_cli"), ("Codex", "codex_cli")):
        for path in ("/nowhere/agent", "/etc/passwd", str(silent)):
            (here.ground.home / "config.toml").write_text(f'{setting} = "{path}"')
            code, state, text, fix = look(here, what)
            assert (code, state, path in text, fix) == (1, "fault", True, f"mend the setting {setting}"), (what, path)
    looked = {finding["what"] for finding in here.run("doctor", "--json").json["findings"]}
    assert "Codex sandbox" not in looked
