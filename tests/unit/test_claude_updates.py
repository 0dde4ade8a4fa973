"""What Claude Code does becomes updates: by recordings of the real CLI."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.claude_code.updates import Stored
from orchestrator.model import JsonObject
from orchestrator.updates import CommandFinished, ToolFinished
from tests.unit.claude_messages import CWD, ended, payloads, played, recordings, shapes

_OUTPUT = "/work/root/home/.claude/projects/-work-project/uuid-2/tool-results/output.txt"
_TASK_OUTPUT = "/work/root/tmp/claude-0/-work-project/uuid-2/tasks/task-1.output"
_LATE = "python3 -c \"import time; time.sleep(1); print('late')\""


def test_a_recorded_conversation_is_told_in_order() -> None:
    _, updates = played("work")
    absent = "<tool_use_error>String to replace not found in file.\nString: absent</tool_use_error>"
    edit: JsonObject = {"file_path": "made.txt", "old_string": "absent", "new_string": "x", "replace_all": False}
    here = "File does not exist. Note: your current working directory is /work/project."
    assert shapes(updates)[:-2] == [
        ("reasoning", {"text": "let me see"}),
        ("agent_message", {"text": "first words"}),
        ("command_started", {"command": "echo 'hi there'"}),
        ("command_finished", ended("echo 'hi there'", "hi there", 0, "completed")),
        ("command_started", {"command": "echo 'oh no'; false"}),
        ("command_finished", ended("echo 'oh no'; false", "oh no", 1, "failed")),
        ("command_started", {"command": "grep nothing /dev/null"}),
        ("command_finished", ended("grep nothing /dev/null", "", None, "completed")),
        ("file_changed", {"changes": [{"path": "made.txt", "kind": "add", "diff": "+new text\n"}]}),
        ("file_changed", {"changes": [{"path": "made.txt", "kind": "update",
                                       "diff": "@@ -1,1 +1,2 @@\n-new text\n+other\n+text\n"}]}),
        ("tool_started", {"tool": "Read", "arguments": {"file_path": "made.txt"}}),
        ("tool_finished", {"tool": "Read", "result": "1\tother\n2\ttext\n3\t"}),
        ("file_changed", {"changes": [{"path": "made.txt", "kind": "update",
                                       "diff": "@@ -1,2 +1,2 @@\n-other\n+changed\n text\n"}]}),
        ("tool_started", {"tool": "Edit", "arguments": edit}),
        ("tool_finished", {"tool": "Edit", "error": absent}),
        ("tool_started", {"tool": "Read", "arguments": {"file_path": "missing.txt"}}),
        ("tool_finished", {"tool": "Read", "error": here}),
        ("tool_started", {"tool": "ListAgents", "arguments": {}}),
    ]  # fmt: skip
    assert [kind for kind, _ in shapes(updates)[-2:]] == ["tool_finished", "agent_message"]


@pytest.mark.parametrize("name", sorted(recordings()))
def test_what_begins_in_a_recording_ends_once_and_under_the_same_id(name: str) -> None:
    told, updates = played(name)
    updates += told.interrupted()
    plain = [update.update if isinstance(update, Stored) else update for update in updates]
    begun = [update.payload() for update in plain if update.type in ("command_started", "tool_started")]
    over = [update.payload() for update in plain if isinstance(update, (CommandFinished, ToolFinished))]
    ids = [payload.get("command_id") or payload["tool_id"] for payload in begun]
    assert sorted(payload.get("command_id") or payload["tool_id"] for payload in over) == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert list(told.interrupted()) == []


def test_commands_are_told_with_all_their_output_and_their_exit_code() -> None:
    missing = "Bash failed due to the following issue:\nThe required parameter `command` is missing"
    assert payloads(played("both")[1], "command_finished") == [
        ended("printf out; printf err >&2", "outerr", 0, "completed"),
        ended("printf out; printf err >&2; exit 7", "outerr", 7, "failed"),
        ended("true", "", 0, "completed"),
        ended("false", "", 1, "failed"),
        ended("kill -9 $$", "", 1, "failed"),
        ended("", "", 0, "completed"),
        ended("", f"<tool_use_error>InputValidationError: {missing}</tool_use_error>", None, "failed"),
    ]


def test_a_file_has_one_name_however_the_agent_named_it() -> None:
    told, updates = played("paths")
    paths = [change["path"] for payload in payloads(updates, "file_changed") for change in payload["changes"]]
    assert paths == ["/work/beside.txt", "made.txt", "node_modules/m.js"]
    assert told.touched == {Path("/work/beside.txt"), CWD / "made.txt", CWD / "node_modules/m.js"}


def test_an_output_that_is_in_a_file_is_told_by_that_file() -> None:
    (stored,) = (update for update in played("large")[1] if isinstance(update, Stored))
    assert str(stored.path) == _OUTPUT
    assert (stored.update.exit_code, stored.update.status) == (0, "completed")


@pytest.mark.parametrize(
    ("name", "command", "code", "status"),
    [("background", _LATE, 0, "completed"), ("background_fails", f"{_LATE}; exit 4", 4, "failed")],
)
def test_a_command_in_the_background_goes_on_until_its_own_end(name: str, command: str, code: int, status: str) -> None:
    updates = played(name)[1]
    (last,) = payloads(updates, "command_finished")
    assert last == ended(command, None, code, status, stored=_TASK_OUTPUT)
    kinds = [kind for kind, _ in shapes(updates)]
    assert kinds[:3] == ["command_started", "command_updated", "command_updated"]
    assert kinds.index("command_finished") > kinds.index("agent_message"), "the agent had gone on meanwhile"


def test_a_command_that_takes_long_is_told_to_have_ended_once() -> None:
    kinds = [kind for kind, _ in shapes(played("slow")[1])]
    assert kinds == ["command_started", "command_updated", "command_finished", "agent_message"]


def test_a_denied_command_is_told_from_a_failed_one() -> None:
    updates = played("declined_quietly")[1]
    denied = "The caller denied this."
    assert payloads(updates, "command_finished") == [ended("rm -rf /nowhere", denied, None, "declined")]
    assert payloads(updates, "tool_finished") == [{"tool": "Write", "error": denied}]


@pytest.mark.parametrize("name", ["interrupted", "interrupted_asking"])
def test_an_interrupted_command_is_told_as_interrupted(name: str) -> None:
    (payload,) = payloads(played(name)[1], "command_finished")
    assert payload["status"] == "interrupted"


def test_what_has_no_end_of_its_own_is_ended_by_us_once() -> None:
    told, updates = played("interrupted_background")
    assert payloads(updates, "command_finished") == []
    assert [payload["status"] for payload in payloads(told.interrupted(), "command_finished")] == ["interrupted"]
    assert list(told.interrupted()) == []


def test_questions_and_plans_are_not_told_as_tools() -> None:
    assert [kind for kind, _ in shapes(played("question")[1])] == ["agent_message", "agent_message"]
    told, updates = played("plan")
    assert told.plan == "# The plan\ndo it"
    assert [kind for kind, _ in shapes(updates, "tool_started", "tool_finished")] == []


def test_structured_output_is_not_told_and_its_misfit_is_kept_until_it_fits() -> None:
    told, updates = played("structured")
    assert (shapes(updates), told.misfit) == ([], "")
    told, updates = played("never_fits")
    assert (shapes(updates), told.misfit) == ([], "Output does not match required schema: /n: must be integer")


def test_a_sub_agents_words_are_no_message_of_the_agent() -> None:
    updates = played("subagent")[1]
    assert payloads(updates, "message_added") == [{"role": "agent", "text": "hello from below"}]
    assert payloads(updates, "agent_message") == [{"text": "ok"}]
    assert [payload["tool"] for payload in payloads(updates, "tool_finished")] == ["Agent"]


def test_a_sub_agents_command_is_told_with_its_output() -> None:
    assert payloads(played("subagent")[1], "command_finished") == [ended("echo sub", "sub", 0, "completed")]


def test_a_sub_agents_files_are_told_as_it_writes_them() -> None:
    told, updates = played("subagent_work")
    changes = [change for payload in payloads(updates, "file_changed") for change in payload["changes"]]
    assert [(change["path"], change["kind"]) for change in changes] == [("sub.txt", "add"), ("sub.txt", "update")]
    assert told.touched == {CWD / "sub.txt"}


def test_a_sub_agents_items_are_on_the_todo_list() -> None:
    *_, last = payloads(played("subagent_work")[1], "todo_updated")
    assert [item["text"] for item in last["items"]] == ["A", "B"]


def test_a_sub_agents_command_in_the_background_ends_when_it_is_stopped() -> None:
    (last,) = payloads(played("subagent_background_command")[1], "command_finished")
    assert last["status"] == "interrupted"


def test_a_sub_agents_command_that_is_moved_to_the_background_goes_on() -> None:
    command = "python3 -c \"import time; time.sleep({}); print('{}')\"".format
    updates = played("subagent_slow_timeout")[1]
    assert payloads(updates, "command_finished") == [
        ended(command(12, "slow"), None, 0, "completed", stored=_TASK_OUTPUT.replace("task-1", "task-3")),
        ended(command(8, "x"), "x", 0, "completed"),
    ]


def test_a_tool_of_an_mcp_server_is_told_with_its_server() -> None:
    updates = played("mcp")[1]
    assert payloads(updates, "tool_started") == [
        {"tool": "add", "server": "probe", "arguments": {"a": 1, "b": 2}},
        {"tool": "boom", "server": "probe", "arguments": {}},
    ]
    added, failed = payloads(updates, "tool_finished")
    assert added == {"tool": "add", "server": "probe", "result": '{"result":3}'}
    assert failed["error"].startswith("Error executing tool boom")


def test_the_todo_list_of_tasks_is_told_whole_after_each_change() -> None:
    lists = [[(item["text"], item["status"]) for item in payload["items"]]
                 for payload in payloads(played("todo_tasks")[1], "todo_updated")]  # fmt: skip
    assert lists[:7] == [
        [("A", "pending")],
        [("A", "pending"), ("B", "pending")],
        [("A", "pending"), ("B", "pending"), ("C", "pending")],
        [("A", "pending"), ("B", "pending"), ("C", "completed")],
        [("A", "pending"), ("B", "in_progress"), ("C", "completed")],
        [("B", "in_progress"), ("C", "completed")],
        [("B2", "completed"), ("C", "completed")],
    ]


def test_a_change_of_a_task_that_is_not_there_changes_nothing() -> None:
    *_, last = payloads(played("todo_tasks")[1], "todo_updated")
    assert [item["text"] for item in last["items"]] == ["B2", "C"]


def test_the_todo_list_that_is_written_whole_is_told_whole() -> None:
    assert payloads(played("todo_write")[1], "todo_updated") == [
        {"items": [{"text": "A", "status": "pending"}, {"text": "B", "status": "in_progress"}]},
        {"items": [{"text": "A", "status": "completed"}]},
    ]


def test_notebooks_and_pictures_are_told_without_their_content() -> None:
    told, updates = played("notebook")
    assert payloads(updates, "file_changed") == [{"changes": [{"path": "n.ipynb", "kind": "update"}]}]
    assert told.touched == {CWD / "n.ipynb"}
    assert payloads(played("image")[1], "tool_finished") == [{"tool": "Read", "result": "[image]"}]


def test_what_the_cli_says_itself_is_told_as_progress_or_not_at_all() -> None:
    assert payloads(played("retry")[1], "status_changed") == [
        {"status": "running", "detail": "overloaded (529): try 1 of 1, in 0.5 s"}
    ]
    for name in ("error", "error_billing", "model_404"):
        told, updates = played(name)
        assert (updates, told.model_calls) == ([], set())
    (reminder,) = payloads(played("not_structured")[1], "status_changed")
    assert reminder["detail"].startswith("[structured-output-enforce]")
