"""`orchestrator clients`: other programs' files are changed with care, or not at all."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.system.shell import Shell, shell

pytestmark = pytest.mark.system
FILES = {
    "claude": ("project/.mcp.json", "mcpServers"),
    "claude-user": (".claude.json", "mcpServers"),
    "codex": (".codex/config.toml", "mcp_servers"),
    "gemini": (".gemini/settings.json", "mcpServers"),
    "cursor": (".cursor/mcp.json", "mcpServers"),
    "vscode": ("project/.vscode/mcp.json", "servers"),
}
TOML = """# mine
model = "x"  # a model

[mcp_servers.other]
command = "o"

[mcp_servers.orchestrator]
command = "/old/orchestrator"
args = ["mcp"]

# about the third
[mcp_servers.third]
command = "t"
"""


@pytest.fixture(scope="module")
def home_of_all(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shell]:
    """No host is ever started here."""
    with shell(tmp_path_factory.mktemp("clients")) as place:
        yield place


@pytest.fixture
def here(home_of_all: Shell, tmp_path: Path) -> Shell:
    """A shell in an empty HOME with a project."""
    return home_of_all.having(HOME=str(tmp_path)).at(tmp_path / "project")


def parsed(path: Path) -> dict[str, Any]:
    """A client's configuration."""
    text = path.read_text(encoding="utf-8")
    return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)


def backups(file: Path) -> list[str]:
    """What the backups of a file hold."""
    return [path.read_text(encoding="utf-8") for path in sorted(file.parent.glob(f"{file.name}.*.bak"))]


def test_the_configuration_is_printed_and_nothing_written(here: Shell, tmp_path: Path) -> None:
    every, one = here.ok("clients"), here.ok("clients", "codex")
    assert all(f"# {name}: " in every and Path(file).name in every for name, (file, _) in FILES.items())
    entry = tomllib.loads(one)["mcp_servers"]["orchestrator"]
    assert (entry["args"], Path(entry["command"]).name) == (["mcp"], "orchestrator")
    assert [path.name for path in tmp_path.rglob("*")] == ["project"]


def test_a_wrong_name_is_refused(here: Shell) -> None:
    for words in (["clients", "codx"], ["clients", "--install"], ["clients", "codx", "--install", "--yes"]):
        assert here.run(*words).code == 2
    assert "'codex'" in here.run("clients", "codx").err


@pytest.mark.parametrize("before", [None, "", "others"])
def test_every_client_is_installed_for(here: Shell, tmp_path: Path, before: str | None) -> None:
    others: dict[str, str] = {}
    for name, (file, key) in FILES.items():
        path = tmp_path / file
        if before is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            json_text = json.dumps({"é": [1, {"x": None}], key: {"other": {"command": "o", "env": {"A": "b"}}}})
            others[name] = before and (TOML if path.suffix == ".toml" else json_text)
            path.write_text(others[name], encoding="utf-8")
            path.chmod(0o600)
    done = here.all([["clients", name, "--install", "--yes"] for name in FILES])
    assert [one.code for one in done] == [0] * len(FILES), done
    for name, (file, key) in FILES.items():
        path = tmp_path / file
        servers = parsed(path)[key]
        assert (servers["orchestrator"]["args"], Path(servers["orchestrator"]["command"]).is_absolute()) == (
            ["mcp"],
            True,
        )
        if before:
            assert servers["other"]["command"] == "o"
            assert backups(path) == [others[name]]
            assert path.stat().st_mode & 0o777 == 0o600
        if before and path.suffix == ".json":
            assert parsed(path)["é"] == [1, {"x": None}]
        assert not list(path.parent.glob("*.tmp"))
    if not before:
        return
    again = here.all([["clients", name, "--install"] for name in FILES])
    assert all(one.code == 0 and "has it already" in one.err for one in again), again
    assert all(len(backups(tmp_path / file)) == 1 for file, _ in FILES.values())


def test_comments_of_others_and_settings_of_ones_own_stay(here: Shell, tmp_path: Path) -> None:
    codex, cursor = tmp_path / ".codex" / "config.toml", tmp_path / ".cursor" / "mcp.json"
    codex.parent.mkdir()
    cursor.parent.mkdir()
    codex.write_text(TOML, encoding="utf-8")
    cursor.write_text('{"mcpServers": {"orchestrator": {"command": "/old", "env": {"A": "b"}}}}', encoding="utf-8")
    here.ok("clients", "codex", "--install", "--yes")
    here.ok("clients", "cursor", "--install", "--yes")
    text = codex.read_text(encoding="utf-8")
    assert [line for line in TOML.splitlines() if "#" in line and line not in text] == []
    assert text.index("# about the third") == text.index("[mcp_servers.third]") - len("# about the third\n")
    assert set(parsed(codex)["mcp_servers"]) == {"other", "orchestrator", "third"}
    assert "/old" not in text
    entry = parsed(cursor)["mcpServers"]["orchestrator"]
    assert (entry["env"], entry["args"]) == ({"A": "b"}, ["mcp"])


def test_a_file_that_is_no_configuration_is_left_as_it_is(here: Shell, tmp_path: Path) -> None:
    broken = {
        "cursor": ["{", "[]", '{"mcpServers": []}', "// a comment\n{}", '{"a": "\\ud800"}', "\udcff", "null"],
        "codex": ["[", 'mcp_servers = "x"', '[mcp_servers]\norchestrator = {command = "x"}', "\udcff"],
    }
    for name, texts in broken.items():
        path = tmp_path / FILES[name][0]
        path.parent.mkdir(parents=True)
        for text in texts:
            content = text.encode(errors="surrogateescape")
            path.write_bytes(content)
            done = here.run("clients", name, "--install", "--yes")
            assert done.code == 2, (text, done)
            assert "left as it is" in done.err
            assert (path.read_bytes(), len(list(path.parent.iterdir()))) == (content, 1)
    (tmp_path / FILES["cursor"][0]).unlink()
    (tmp_path / FILES["cursor"][0]).mkdir()
    assert here.run("clients", "cursor", "--install", "--yes").code == 2


def test_what_is_not_changed_here_can_be_added_by_hand(here: Shell, tmp_path: Path) -> None:
    deep = '{"a":' * 50_000 + "1" + "}" * 50_000
    texts = {"vscode": '{\n  // mine\n  "servers": {},\n}', "claude": deep, "codex": "[mcp_servers]\norchestrator = {}"}
    for name, text in texts.items():
        file, key = FILES[name]
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        done = here.run("clients", name, "--install", "--yes")
        assert (done.code, "left as it is" in done.err, "by hand" in done.err) == (2, True, True), done
        entry = tomllib.loads(done.out) if path.suffix == ".toml" else json.loads(done.out)
        assert entry[key]["orchestrator"]["args"] == ["mcp"]
        error = here.run("clients", name, "--install", "--yes", "--json").json["error"]
        assert (error["code"], str(path) in error["message"]) == ("invalid_argument", True)
        assert (path.read_text(), backups(path), len(error["message"]) < 1000) == (text, [], True)
    assert "comments" in here.run("clients", "vscode", "--install", "--yes").err


def test_files_that_a_team_shares_name_a_path_of_this_machine(here: Shell) -> None:
    for name in FILES:
        said = [here.run("clients", name).err, here.run("clients", name, "--install", "--yes").err]
        assert ["path on this machine" in words for words in said] == [name in ("claude", "vscode")] * 2, said
    assert here.run("clients", "--json").err == ""


def test_a_link_stays_a_link(here: Shell, tmp_path: Path) -> None:
    dotfiles = tmp_path / "dotfiles"
    dotfiles.mkdir()
    (dotfiles / "gemini.json").write_text('{"theme": "x"}')
    link = tmp_path / ".gemini" / "settings.json"
    link.parent.mkdir()
    link.symlink_to(dotfiles / "gemini.json")
    here.ok("clients", "gemini", "--install", "--yes")
    assert link.is_symlink()
    assert set(parsed(dotfiles / "gemini.json")) == {"theme", "mcpServers"}


def test_it_is_not_written_unless_a_person_agrees(here: Shell, tmp_path: Path) -> None:
    path = tmp_path / FILES["gemini"][0]
    done = here.run("clients", "gemini", "--install", given="y\n")
    assert (done.code, path.exists()) == (1, False)
    assert "--yes" in done.err
    assert '+    "orchestrator": {' in done.out
    for answer, code in (("n\n", 1), ("\x04", 1), ("\x03", 130), ("\n", 1), ("y\n", 0)):
        with here.terminal("clients", "gemini", "--install") as terminal:
            shown = terminal.expect("[y/N]")
            assert '"orchestrator"' in shown
            terminal.press(answer) if answer != "\x03" else terminal.interrupt()
            assert terminal.ended() == code, answer
        assert path.exists() == (code == 0)


def test_what_its_user_set_stays_when_it_is_installed_again(here: Shell, tmp_path: Path) -> None:
    codex, vscode = tmp_path / ".codex" / "config.toml", here.cwd / ".vscode" / "mcp.json"
    for path in (codex, vscode):
        path.parent.mkdir()
    own = ["mcp", "--toolset", "team"]
    codex.write_text(
        "[mcp_servers.orchestrator]\n# mine\ncommand = '/old'  # which\n"
        'args = ["mcp", "--toolset", "team"]\ntool_timeout_sec = 600\n\n[mcp_servers.orchestrator.env]\nA = "b"\n'
    )
    entry = {"command": "/old", "args": own, "type": "stdio", "dev": {"watch": "x"}}
    vscode.write_text(json.dumps({"servers": {"orchestrator": entry}}))
    here.ok("clients", "codex", "--install", "--yes")
    here.ok("clients", "vscode", "--install", "--yes")
    mine = parsed(codex)["mcp_servers"]["orchestrator"]
    assert (mine["args"], mine["tool_timeout_sec"], mine["env"]) == (own, 600, {"A": "b"})
    assert (mine["startup_timeout_sec"], Path(mine["command"]).name) == (30, "orchestrator")
    assert "# mine\n" in codex.read_text()
    assert "  # which\n" in codex.read_text()
    again = parsed(vscode)["servers"]["orchestrator"]
    assert again == {**entry, "command": again["command"]}
    assert again["command"] != "/old"


def test_the_homes_that_agents_are_told_count(here: Shell, tmp_path: Path) -> None:
    place = here.having(CODEX_HOME=str(tmp_path / "c"), CLAUDE_CONFIG_DIR=str(tmp_path / "d"))
    rows = {row["name"]: row["file"] for row in place.json("clients")["clients"]}
    assert (rows["codex"], rows["claude-user"]) == (
        str(tmp_path / "c" / "config.toml"),
        str(tmp_path / "d" / ".claude.json"),
    )
    done = place.json("clients", "codex", "--install", "--yes")
    assert done == {"file": rows["codex"], "written": True}
    assert parsed(tmp_path / "c" / "config.toml")["mcp_servers"]["orchestrator"]["args"] == ["mcp"]
    assert place.json("clients", "codex", "--install", "--yes") == {"file": rows["codex"], "written": False}
    assert place.run("clients", "codex", "--install", "--json").json["error"]["code"] == "invalid_argument"
    assert not (tmp_path / ".codex").exists()
