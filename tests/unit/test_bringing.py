"""Results that are brought into repositories which changed meanwhile: in whole, or not at all and with the files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.errors import Conflict, InvalidArgument, OrchestratorError, WrongState
from orchestrator.model import RunSpec
from orchestrator.workspaces import git as commands
from orchestrator.workspaces.git import Git, GitError
from orchestrator.workspaces.places import Place
from orchestrator.workspaces.results import Result
from tests.unit.test_odd_repositories import bring, env, filled, goes, repo, told_by
from tests.unit.test_snapshots import dir_of, files_in, git, mine, spec_of

__all__ = ["env", "repo"]  # fixtures

MODES = ("apply", "commit", "branch")


def lines(path: Path, **changed: str) -> None:
    """Writes a file of twenty lines, some of them others."""
    own = (f"{path.name} {number}" for number in range(20))
    path.write_text("".join(changed.get(f"line{number}", line) + "\n" for number, line in enumerate(own)))


def edited(top: Path) -> None:
    """Two files are changed and one is new."""
    lines(top / "a.txt", line3="of the agent")
    lines(top / "in/c.txt", line3="of the agent")
    (top / "new [x].txt").write_text("of the agent\n")


def ran(repo: Path, env: dict[str, str], work: Callable[[Path], None] = edited, *, folder: str = "") -> RunSpec:
    """A run that is over: it changed three files."""
    spec = spec_of(repo / folder, env)
    place = Place(dir_of(spec), spec, env)
    place.prepare()
    work(place.path)
    assert told_by(place)["files"] == 3
    assert goes(place)
    return spec


def refused(
    repo: Path, env: dict[str, str], spec: RunSpec, why: str, kind: type[OrchestratorError] = Conflict,
    *, mode: str = "apply", three_way: bool = False, branch: str | None = None,
) -> str:  # fmt: skip
    """The words of a refusal that changed nothing, whether it was only asked or not."""
    before, said = mine(repo), ""
    for check_only in (True, False):
        with pytest.raises(kind, match=why) as error:
            bring(spec, env, mode=mode, three_way=three_way, check_only=check_only, branch=branch)
        assert mine(repo) == before
        said = str(error.value)
    return said


def with_filter(repo: Path, env: dict[str, str], files: str, **programs: str) -> dict[str, str]:
    """A client whose own configuration has a filter for these files."""
    config = repo.parent / "gitconfig"
    for key, value in programs.items():
        git(repo, "config", "--file", str(config), f"filter.own.{key}", value)
    (repo / ".git/info").mkdir(exist_ok=True)
    (repo / ".git/info/attributes").write_text(f"{files} filter=own\n")
    return {**env, "GIT_CONFIG_GLOBAL": str(config)}


# ---- conflicts


@pytest.mark.parametrize("mode", ["apply", "commit"])
@pytest.mark.parametrize("three_way", [False, True])
def test_files_that_conflict_are_named_and_nothing_is_changed(
    repo: Path, env: dict[str, str], mode: str, three_way: bool
) -> None:
    spec = ran(repo, env)
    for name in ("a.txt", "in/c.txt"):
        lines(repo / name, line3="of the user")
    (repo / "b.txt").write_text("of the user too\n")
    if mode == "commit":
        git(repo, "commit", "-q", "-a", "-m", "of the user")
    said = refused(repo, env, spec, "nothing was changed", mode=mode, three_way=three_way)
    assert "a.txt" in said
    assert "in/c.txt" in said
    assert "b.txt" not in said
    assert "new [x].txt" not in said


@pytest.mark.parametrize("mode", ["apply", "commit"])
def test_a_file_in_the_way_is_named(repo: Path, env: dict[str, str], mode: str) -> None:
    spec = ran(repo, env)
    (repo / "new [x].txt").write_text("of the user\n")
    assert "new [x].txt" in refused(repo, env, spec, "nothing was changed", mode=mode)


@pytest.mark.parametrize("three_way", [True, False])
def test_what_is_not_committed_in_its_files_is_in_the_way_of_a_commit(
    repo: Path, env: dict[str, str], three_way: bool
) -> None:
    spec = ran(repo, env)
    lines(repo / "a.txt", line18="of the user")
    assert "a.txt" in refused(repo, env, spec, "nothing was changed", mode="commit", three_way=three_way)


@pytest.mark.parametrize("three_way", [True, False])
def test_what_is_staged_in_its_files_stays_staged_and_out_of_the_commit(
    repo: Path, env: dict[str, str], three_way: bool
) -> None:
    spec = ran(repo, env)
    lines(repo / "a.txt", line18="of the user")
    git(repo, "add", "a.txt")
    bring(spec, env, mode="commit", three_way=three_way)
    assert "of the user" not in git(repo, "show", "HEAD:a.txt")
    assert git(repo, "status", "--porcelain") == "M  a.txt"
    assert (repo / "a.txt").read_text().count("of the ") == 2


def test_what_was_brought_in_is_not_brought_in_twice(repo: Path, env: dict[str, str]) -> None:
    spec = ran(repo, env)
    bring(spec, env, mode="commit")
    for mode in ("apply", "commit"):
        refused(repo, env, spec, "a.txt", mode=mode)


# ---- merged


def test_what_does_not_overlap_is_merged_into_the_files(repo: Path, env: dict[str, str]) -> None:
    spec = ran(repo, env)
    lines(repo / "a.txt", line18="of the user", line4="a.txt 4")
    (repo / "b.txt").write_text("staged\n")
    git(repo, "add", "b.txt")
    before = mine(repo)
    assert bring(spec, env, three_way=True)["files"] == 3
    text = (repo / "a.txt").read_text()
    assert "of the agent" in text
    assert "of the user" in text
    assert (repo / "b.txt").read_text() == "staged\n"
    assert mine(repo)[1:5] == before[1:5], "index, branch, stash and refs"


def test_a_neighbouring_change_needs_a_merge_and_gets_one(repo: Path, env: dict[str, str]) -> None:
    spec = ran(repo, env)
    lines(repo / "a.txt", line5="of the user")
    git(repo, "commit", "-q", "-a", "-m", "of the user")
    assert "a.txt" in refused(repo, env, spec, "try three_way", mode="commit")
    done = bring(spec, env, mode="commit", three_way=True)
    assert git(repo, "rev-parse", "HEAD") == done["commit"]
    assert git(repo, "status", "--porcelain") == ""
    assert (repo / "a.txt").read_text().count("of the ") == 2


def test_a_renamed_file_gets_what_the_run_did_to_it(repo: Path, env: dict[str, str]) -> None:
    spec = ran(repo, env)
    git(repo, "mv", "a.txt", "renamed.txt")
    git(repo, "commit", "-q", "-m", "renamed")
    bring(spec, env, mode="commit", three_way=True)
    assert "of the agent" in (repo / "renamed.txt").read_text()
    assert not (repo / "a.txt").exists()


def test_a_merge_driver_that_the_agent_defines_is_never_run(repo: Path, env: dict[str, str], tmp_path: Path) -> None:
    spec = spec_of(repo, env)
    place = Place(dir_of(spec), spec, env)
    place.prepare()
    git(place.cwd, "config", "merge.evil.driver", f"touch '{tmp_path}/ran'; false")
    (repo / ".git/info").mkdir(exist_ok=True)
    (repo / ".git/info/attributes").write_text("*.txt merge=evil\n")
    lines(place.cwd / "a.txt", line3="of the agent")
    told_by(place)
    lines(repo / "a.txt", line18="of the user")
    before = mine(repo)
    with suppress(Conflict):
        bring(spec, env, three_way=True)
        before = mine(repo)
    assert not (tmp_path / "ran").exists()
    assert mine(repo) == before


# ---- commits and branches


def test_a_commit_keeps_what_else_is_staged_and_what_is_not(repo: Path, env: dict[str, str]) -> None:
    spec = ran(repo, env)
    (repo / "b.txt").write_text("staged\n")
    git(repo, "add", "b.txt")
    (repo / "out/d.txt").write_text("not staged\n")
    done = bring(spec, env, mode="commit")
    assert git(repo, "log", "-1", "--format=%H %B").split() == [done["commit"], "Title", "Body"]
    assert git(repo, "show", "--format=", "--name-only", "HEAD").splitlines() == ["a.txt", "in/c.txt", "new [x].txt"]
    assert git(repo, "status", "--porcelain").splitlines() == ["M  b.txt", " M out/d.txt"]


def test_a_detached_head_moves_with_the_commit(repo: Path, env: dict[str, str]) -> None:
    spec = ran(repo, env)
    git(repo, "checkout", "-q", "--detach")
    done = bring(spec, env, mode="commit")
    assert git(repo, "rev-parse", "HEAD") == done["commit"]
    assert git(repo, "rev-parse", "main") == git(repo, "rev-parse", "HEAD^")


def test_a_head_that_moves_meanwhile_is_not_moved_back(
    repo: Path, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LOCKED_S", 0.0)
    spec = ran(repo, env)
    other = git(repo, "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "of somebody else")
    # a filter of the user's own is what runs while files are written: it commits
    smudge = f"git update-ref refs/heads/main {other}; cat"
    env = with_filter(repo, env, "new*", smudge=smudge)
    files = files_in(repo)
    with pytest.raises(Conflict, match="in the same moment; try again"):
        bring(spec, env, mode="commit")
    assert git(repo, "rev-parse", "HEAD") == other
    assert files_in(repo) == files
    assert git(repo, "status", "--porcelain") == ""


def test_a_ref_that_is_another_is_not_waited_for(
    repo: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(_: float) -> None:
        pytest.fail("it waits for what nobody will release")

    monkeypatch.setattr("time.sleep", waits)
    head = git(repo, "rev-parse", "HEAD")
    with pytest.raises(GitError, match="expected"):
        Git(repo, env).run("update-ref", "refs/heads/main", head, "1" * 40)
    with pytest.raises(GitError, match="exists"):
        Git(repo, env).run("update-ref", "refs/heads/main/below", head, "0" * 40)


@pytest.mark.parametrize("mode", ["apply", "commit"])
def test_what_fails_halfway_changes_nothing(repo: Path, env: dict[str, str], mode: str) -> None:
    spec = ran(repo, env)
    env = with_filter(repo, env, "c.txt", clean="cat", smudge="false", required="true")
    before = mine(repo)
    with pytest.raises(OrchestratorError):
        bring(spec, env, mode=mode)
    assert mine(repo) == before


def test_without_an_identity_no_commit_is_made(repo: Path, env: dict[str, str]) -> None:
    spec = ran(repo, env)
    git(repo, "config", "user.useConfigOnly", "true")
    nobody = {key: value for key, value in env.items() if not key.endswith(("_NAME", "_EMAIL"))}
    before = mine(repo)
    for mode in ("commit", "branch"):
        with pytest.raises(WrongState, match="git makes no commit here"):
            bring(spec, nobody, mode=mode)
    assert mine(repo) == before


def test_a_branch_takes_the_result_whatever_is_in_the_files(repo: Path, env: dict[str, str]) -> None:
    spec = ran(repo, env)
    base = git(repo, "rev-parse", "HEAD")
    lines(repo / "a.txt", line3="of the user")
    git(repo, "commit", "-q", "-a", "-m", "of the user")
    (repo / "b.txt").write_text("not committed\n")
    before = mine(repo)
    own = bring(spec, env, mode="branch")
    assert own["branch"].startswith("orchestrator/tom-")
    assert git(repo, "rev-parse", f"{own['branch']}^") == base
    assert git(repo, "show", f"{own['branch']}:new [x].txt") == "of the agent"
    assert mine(repo) == before
    chosen = bring(spec, env, mode="branch", branch="chosen")
    assert git(repo, "rev-parse", "chosen") == chosen["commit"]
    assert mine(repo)[:4] == before[:4]


@pytest.mark.parametrize(("branch", "why", "kind"), [
    ("main", "is checked out; use mode 'commit'", Conflict),
    ("taken", "exists already; choose another", Conflict),
    ("taken/below", "taken", OrchestratorError),
    ("a..b", "is no name that git takes", InvalidArgument),
    ("-x", "is no name that git takes", InvalidArgument),
])  # fmt: skip
def test_a_branch_that_cannot_take_the_result_is_refused(
    repo: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, branch: str, why: str,
    kind: type[OrchestratorError],
) -> None:  # fmt: skip
    monkeypatch.setattr(commands, "LOCKED_S", 0.0)
    git(repo, "branch", "taken")
    refused(repo, env, ran(repo, env), why, kind, mode="branch", branch=branch)


# ---- in the middle of something


def _other(repo: Path) -> None:
    git(repo, "checkout", "-q", "-b", "other")
    (repo / "b.txt").write_text("of other\n")
    git(repo, "commit", "-q", "-a", "-m", "other")
    git(repo, "checkout", "-q", "main")
    (repo / "b.txt").write_text("of main\n")
    git(repo, "commit", "-q", "-a", "-m", "main")


@pytest.mark.parametrize("command", ["merge", "rebase", "cherry-pick"])
def test_in_the_middle_of_a_merge_or_rebase_nothing_is_committed(repo: Path, env: dict[str, str], command: str) -> None:
    _other(repo)
    spec = ran(repo, env)
    git(repo, command, "other", check=False)
    assert git(repo, "ls-files", "-u")
    refused(repo, env, spec, "in the middle of a merge or rebase", WrongState, mode="commit")
    assert bring(spec, env)["files"] == 3, "its files take it, for nobody else works on them"
    assert "of the agent" in (repo / "a.txt").read_text()


def test_a_result_of_a_folder_is_brought_in_at_the_top(repo: Path, env: dict[str, str]) -> None:
    spec = ran(repo, env, folder="in")
    assert bring(spec, env)["files"] == 3
    assert "of the agent" in (repo / "a.txt").read_text()
    assert (repo / "new [x].txt").exists()


def test_asking_changes_nothing_and_tells_what_would_be(repo: Path, env: dict[str, str]) -> None:
    spec = ran(repo, env)
    before = mine(repo)
    for mode in MODES:
        for three_way in (False, True):
            told = bring(spec, env, mode=mode, three_way=three_way, check_only=True)
            assert (told["applied"], told["files"]) == (False, 3)
    assert mine(repo) == before


def _removed_base(repo: Path) -> None:
    git(repo, "checkout", "-q", "--orphan", "fresh")
    git(repo, "commit", "-q", "-m", "fresh")
    git(repo, "branch", "-q", "-D", "main")
    git(repo, "reflog", "expire", "--expire=now", "--all")
    git(repo, "gc", "-q", "--prune=now")


def _reset(repo: Path) -> None:
    git(repo, "commit", "-q", "--allow-empty", "-m", "another")
    git(repo, "checkout", "-q", "--detach")


@pytest.mark.parametrize(("meanwhile", "modes"), [(_removed_base, MODES[:2]), (_reset, MODES)])
def test_a_head_elsewhere_takes_the_result_where_it_applies(
    repo: Path, env: dict[str, str], meanwhile: Callable[[Path], None], modes: tuple[str, ...]
) -> None:
    spec = ran(repo, env)
    meanwhile(repo)
    if "branch" not in modes:
        refused(repo, env, spec, "fetch it first", WrongState, mode="branch")
    for mode in modes[::-1]:
        assert bring(spec, env, mode=mode, check_only=mode == "apply")["files"] == 3
        if mode == "commit":
            git(repo, "reset", "-q", "--hard", "HEAD^")
    assert Result(dir_of(spec), spec, env).patch().stat().st_size


def test_a_directory_that_is_no_repository_any_more_is_refused(cwd: Path, env: dict[str, str]) -> None:
    spec = ran(filled(cwd), env)
    (cwd / ".git").rename(cwd / "git")
    with pytest.raises(WrongState, match="is in no git repository"):
        bring(spec, env)
