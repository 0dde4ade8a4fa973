"""Claude Code at work: what it does is told, with its files and outputs as they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from tests.models.claude_player import ClaudePlayer
from tests.models.player import agent_environment
from tests.system.desk import Desk, desk

pytestmark = [pytest.mark.system]


@pytest.fixture(scope="module")
def model() -> Iterator[ClaudePlayer]:
    """The model of all runs here."""
    with ClaudePlayer() as player:
        yield player


@pytest.fixture
async def claude(model: ClaudePlayer, cwd: Path, tmp_path: Path) -> AsyncGenerator[Desk]:
    """A desk at which Claude Code works."""
    async with desk("claude_code", cwd, agent_environment(model, tmp_path)) as place:
        yield place


async def test_an_edit_is_told_with_its_diff(claude: Desk) -> None:
    (claude.cwd / "a.txt").write_text("one\ntwo\nthree\n")
    run = await claude.finished("read a.txt", "edit a.txt two -> zwei", "say done")
    assert run["status"] == "completed", run
    (changed,) = await claude.events(run["run_id"], "file_changed")
    assert changed["data"]["changes"] == [
        {"path": "a.txt", "kind": "update", "diff": "@@ -1,3 +1,3 @@\n one\n-two\n+zwei\n three\n"}
    ]
    assert (claude.cwd / "a.txt").read_text() == "one\nzwei\nthree\n"


async def test_what_a_shell_command_does_to_files_is_found(claude: Desk) -> None:
    (claude.cwd / "old.txt").write_text("old\n")
    run = await claude.finished("file own.txt own", "run touch new.txt", "run rm old.txt", "say done")
    changes = [
        change for event in await claude.events(run["run_id"], "file_changed") for change in event["data"]["changes"]
    ]
    assert changes == [
        {"path": "own.txt", "kind": "add", "diff": "+own\n"},
        {"path": "new.txt", "kind": "add", "diff": ""},
        {"path": "old.txt", "kind": "delete"},
    ]


async def test_the_tools_that_are_named_are_all_that_it_is_offered(claude: Desk, model: ClaudePlayer) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    run = await claude.finished('json {"n": 1}', backend_config={"tools": ["Read", "Bash"]}, output_schema=schema)
    assert run["result"]["structured_output"] == {"n": 1}, run
    assert {tool["name"] for tool in model.requests[-1]["tools"]} == {"Read", "Bash", "StructuredOutput"}
