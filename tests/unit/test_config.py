"""Settings: three sources, of which only one can widen a cap."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends import BACKENDS, SCRIPTED
from orchestrator.config import FIELDS, Settings, load, table
from orchestrator.errors import InvalidArgument
from orchestrator.on_finish import on_finish_of
from orchestrator.store.layout import Home


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def user(home: Home, text: str) -> None:
    write(home.path / "config.toml", text)


def test_without_any_source_all_is_default(home: Home, cwd: Path) -> None:
    effective = load(home.path, cwd, {})
    assert effective.settings == Settings()
    assert {origin.source for origin in effective.origins.values()} == {"default"}


def test_the_users_file_may_do_anything(home: Home, cwd: Path) -> None:
    user(
        home, 'max_depth = 9\nmax_permission = "read_only"\ntrusted_dirs = ["/x"]\n[max_concurrent_runs]\nlocal = 20\n'
    )
    settings = load(home.path, cwd, {}).settings
    assert (settings.max_depth, settings.max_permission, settings.max_concurrent_runs_local) == (9, "read_only", 20)
    assert settings.trusted_dirs == ("/x",)


@pytest.mark.parametrize("source", ["project", "environment"])
def test_a_project_and_an_environment_only_narrow(home: Home, cwd: Path, source: str) -> None:
    user(home, 'max_depth = 5\nenv_deny = ["A_*"]\n')
    env: dict[str, str] = {}
    if source == "project":
        text = (
            'max_depth = 9\nmax_permission = "read_only"\ntrusted_dirs = ["/"]\nenv_deny = ["B"]\nenv_allow = ["C"]\n'
        )
        write(cwd / ".orchestrator.toml", text)
    else:
        given = {
            "max_depth": "9",
            "max_permission": "read_only",
            "trusted_dirs": "/",
            "env_deny": "B",
            "env_allow": "C",
        }
        env = {f"ORCHESTRATOR_{name.upper()}": value for name, value in given.items()}
    effective = load(home.path, cwd, env)
    settings = effective.settings
    assert (settings.max_depth, settings.max_permission) == (5, "read_only")
    assert (settings.trusted_dirs, settings.env_allow) == ((), ())
    assert settings.env_deny == ("A_*", "B")
    assert len(effective.notices) == 3
    assert any("max_depth to 9" in notice and "stays 5" in notice for notice in effective.notices)


def test_what_is_no_cap_the_environment_decides(home: Home, cwd: Path) -> None:
    user(home, 'backend = "codex"\n')
    effective = load(home.path, cwd, {"ORCHESTRATOR_BACKEND": "claude_code", "ORCHESTRATOR_HOME": "/x", "OTHER": "y"})
    assert effective.settings.backend == "claude_code"
    assert effective.origins["backend"].source == "ORCHESTRATOR_BACKEND"


def test_what_a_command_of_on_finish_finds_in_its_environment_is_no_setting(home: Home, cwd: Path) -> None:
    env = {"ORCHESTRATOR_DELIVERY_ID": "end_0", "ORCHESTRATOR_MAX_DEPTH": "1"}
    for place in (cwd, None):
        assert load(home.path, place, env).settings.max_depth == 1


def test_what_is_the_hosts_comes_from_the_users_file_and_its_own_environment(home: Home, cwd: Path) -> None:
    user(home, "host_idle_s = 5\n[max_concurrent_runs]\nlocal = 4\n")
    write(cwd / ".orchestrator.toml", 'log_level = "debug"\n[max_concurrent_runs]\nlocal = 1\n')
    env = {"ORCHESTRATOR_HOST_IDLE_S": "7.5", "ORCHESTRATOR_MAX_CONCURRENT_RUNS_LOCAL": "2"}
    effective = load(home.path, cwd, env)
    settings = effective.settings
    assert (settings.max_concurrent_runs_local, settings.host_idle_s, settings.log_level) == (4, 5.0, "info")
    assert effective.origins["max_concurrent_runs_local"].source == str(home.path / "config.toml")
    told = "\n".join(effective.notices)
    assert told.count("the host's, which serves all directories; set it in") == 2
    assert told.count("it counts only for a host that is started with it") == 2
    own = load(home.path, None, env)
    assert (own.settings.max_concurrent_runs_local, own.settings.host_idle_s, own.notices) == (2, 7.5, [])


def test_a_file_of_settings_is_looked_at_before_it_is_read(home: Home, cwd: Path, tmp_path: Path) -> None:
    project = cwd / ".orchestrator.toml"
    project.symlink_to("/dev/zero")
    with pytest.raises(InvalidArgument, match="it is a link"):
        load(home.path, cwd, {})
    project.unlink()
    os.mkfifo(project)
    with pytest.raises(InvalidArgument, match="no regular file"):
        load(home.path, cwd, {})
    project.unlink()
    write(project, "# " + "x" * 2**16)
    with pytest.raises(InvalidArgument, match="over 65,536 bytes"):
        load(home.path, cwd, {})
    project.unlink()
    write(tmp_path / "dotfiles" / "orchestrator.toml", "max_depth = 1\n")
    (home.path / "config.toml").symlink_to(tmp_path / "dotfiles" / "orchestrator.toml")
    assert load(home.path, cwd, {}).settings.max_depth == 1


def test_below_the_top_of_a_repository_each_file_on_the_way_narrows(home: Home, cwd: Path) -> None:
    sub = cwd / "a" / "b"
    (cwd / ".git").mkdir()
    write(cwd.parent / ".orchestrator.toml", "max_depth = 0\n")  # beyond the repository
    write(cwd / ".orchestrator.toml", 'max_permission = "read_only"\nenv_deny = ["A"]\nbackend = "codex"\n')
    write(
        sub.parent / ".orchestrator.toml", 'max_permission = "full_access"\nenv_deny = ["B"]\nbackend = "claude_code"\n'
    )
    write(sub / ".orchestrator.toml", 'max_depth = 1\nenv_deny = ["A"]\n')
    effective = load(home.path, sub, {})
    settings = effective.settings
    assert (settings.max_permission, settings.max_depth, settings.backend) == ("read_only", 1, "claude_code")
    assert settings.env_deny == ("A", "B")
    outer, inner = (str(folder / ".orchestrator.toml") for folder in (cwd, sub.parent))
    names = ("max_permission", "env_deny", "backend", "max_depth")
    sources = [outer, f"{outer}, {inner}", inner, str(sub / ".orchestrator.toml")]
    assert [effective.origins[name].source for name in names] == sources
    assert effective.notices == [f"{inner} may not set max_permission to full_access; it stays read_only"]


def test_links_and_repositories_within_say_which_files_count(home: Home, cwd: Path, tmp_path: Path) -> None:
    sub, link = cwd / "sub", tmp_path / "link"
    write(cwd / ".orchestrator.toml", "max_depth = 1\n")
    sub.mkdir()
    link.symlink_to(sub)
    assert load(home.path, sub, {}).settings.max_depth == 3, "without a repository cwd counts alone"
    (cwd / ".git").write_text("gitdir: elsewhere\n")  # as in a worktree
    for place in (sub, link, cwd / "sub" / ".." / "sub", cwd / "gone" / "away"):
        assert load(home.path, place, {}).settings.max_depth == 1, place
    (sub / ".git").mkdir()
    assert load(home.path, link, {}).settings.max_depth == 3, "a repository within another one is its own"
    with pytest.raises(InvalidArgument, match="is no directory"):
        load(home.path, Path("/a\0b"), {})


def test_on_approval_is_narrowed_from_allow_to_deny(home: Home, cwd: Path) -> None:
    env = {"ORCHESTRATOR_MAX_ON_APPROVAL": "deny"}
    assert load(home.path, cwd, env).settings.max_on_approval == "deny"
    user(home, 'max_on_approval = "ask"\n')
    assert load(home.path, cwd, {"ORCHESTRATOR_MAX_ON_APPROVAL": "allow"}).settings.max_on_approval == "ask"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_dept = 1", "no setting 'max_dept'; did you mean 'max_depth'"),
        ('max_depth = "many"', "max_depth is 'many'; it takes a"),
        ("max_depth = -1", "it takes a whole number"),
        ("max_depth = 1.5", "it takes a whole number"),
        ("max_depth = true", "it takes a whole number"),
        ("max_runs_per_tree = inf", "it takes a whole number from 1 on"),
        ("max_depth = nan", "it takes a whole number"),
        ("host_idle_s = inf", "it takes a number"),
        ("rate_limit_wait_s = nan", "it takes a number"),
        ('host_idle_s = "1e999"', "it takes a number"),
        ("max_concurrent_runs_local = 0", "it takes a whole number from 1 on"),
        ('max_permission = "root"', "one of read_only, workspace_write, full_access"),
        ("trusted_dirs = [1]", "a list of strings"),
        (
            'trusted_dirs = ["/x", "work"]',
            "trusted_dirs has 'work'; it takes absolute paths, or such that begin with ~/",
        ),
        ('trusted_dirs = ["~no-such-user/x"]', "trusted_dirs has '~no-such-user/x'"),
        ('trusted_dirs = ["/a\\u0000b"]', "trusted_dirs has"),
        ("backend = 3", "one of claude_code, codex, remote_a2a, scripted"),
        ('backend = "clade"', "backend is 'clade'; it takes one of claude_code"),
        ('on_finish_webhook = "ftp://x"', "on_finish_webhook has 'ftp://x'; it takes a URL that begins with https://"),
        ('on_finish_webhook = "https:///x"', "on_finish_webhook has"),
        ("= broken", "cannot be read as TOML"),
        ("a = " + "[" * 50_000, "cannot be read as TOML: it is nested too deeply"),
        ("a = " + "{a = " * 10_000, "cannot be read as TOML: it is nested too deeply"),
        (".".join("a" * 1_002) + " = 1", "cannot be read as TOML: it has over 1,000 dots"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_named(home: Home, cwd: Path, text: str, words: str) -> None:
    user(home, text)
    with pytest.raises(InvalidArgument) as refused:
        load(home.path, cwd, {})
    assert words in str(refused.value)
    assert "config.toml" in str(refused.value)


def test_a_variable_that_is_no_setting_is_named() -> None:
    with pytest.raises(InvalidArgument, match="ORCHESTRATOR_MAX_DEPHT: no setting 'max_depht'; did you mean"):
        load(Path("/nowhere"), None, {"ORCHESTRATOR_MAX_DEPHT": "1"})


def test_a_backend_that_can_be_set_is_one_that_there_is() -> None:
    assert {*BACKENDS, *SCRIPTED} == set(FIELDS["backend"].metadata["choices"])


def test_a_default_may_be_written_down(home: Home, cwd: Path) -> None:
    user(home, 'backend = ""\non_finish_webhook = ""\ntrusted_dirs = []\n')
    assert load(home.path, cwd, {"ORCHESTRATOR_BACKEND": ""}).settings == Settings()


def test_a_webhook_to_which_nothing_is_sent_is_refused_by_the_name_of_the_setting() -> None:
    with pytest.raises(InvalidArgument, match=r"the setting on_finish_webhook: .* link-local"):
        on_finish_of({}, Settings(on_finish_webhook="http://169.254.169.254/"))


def test_a_folder_is_trusted_by_where_it_really_lies(cwd: Path, tmp_path: Path) -> None:
    link, out = tmp_path / "link", cwd / "out"
    link.symlink_to(cwd)
    out.symlink_to(tmp_path / "elsewhere")
    for trusted in (cwd, link):
        settings = Settings(trusted_dirs=(str(trusted),))
        assert [settings.trusts(folder) for folder in (cwd, link, cwd / "sub", out, tmp_path)] == [True] * 3 + [
            False
        ] * 2
    assert not Settings(trusted_dirs=("relative", "~no-such-user/x")).trusts(cwd)


def test_the_documented_table_is_that_of_the_model() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    assert table() in readme.read_text(encoding="utf-8")
    assert all(f"`{name}`" in table() for name in FIELDS)
