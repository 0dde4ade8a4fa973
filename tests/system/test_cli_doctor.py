"""`orchestrator doctor`: each fault that it should find is planted, and is found with its fix."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.system.hosts import ROOT, ending, frozen
from tests.system.shell import Shell, shell

pytestmark = pytest.mark.system
MISSING = "run_00000000000000000000ab"


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
    assert "✓ store: " in plain
    assert "\x1b" not in plain


def test_an_open_home_is_found(here: Shell) -> None:
    here.ground.home.chmod(0o777)
    fix = f"chmod 700 {here.ground.home}"
    assert look(here, "home") == (1, "fault", f"{here.ground.home} is open to others", fix)
    assert f"✗ home: {here.ground.home} is open to others" in here.run("doctor").out
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
    for content, named in ((b"max_depth = ", "TOML"), (b"max_dept = 1", "'max_depth'"), (b"\xff", "TOML")):
        file.write_bytes(content)
        code, state, text, fix = look(here, "settings")
        assert (code, state, str(file) in text, named in text, "mend" in fix) == (1, "fault", True, True, True)
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
        assert fixes["Claude Code"] == "pip install 'orchestrator-mcp[claude]'"
        assert fixes["Codex"] == "pip install 'orchestrator-mcp[codex]'"


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
        assert look(place, what)[1] == "ok"


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
