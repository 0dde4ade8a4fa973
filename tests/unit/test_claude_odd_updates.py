"""What Claude Code does becomes updates: messages of shapes that were not recorded, and of any shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.claude_code.updates import SYNTHETIC, Told, Translation
from orchestrator.model import JsonObject
from tests.unit.claude_messages import CWD, assistant, call, ended, payloads, returned, shape, shapes, system, tell


def over(name: str, given: JsonObject, *back: Any, **more: Any) -> list[Told]:
    """What the end of one call tells."""
    told = Translation(CWD)
    tell(told, assistant(call(name, given)))
    return tell(told, returned(*back, **more))


def test_each_answer_of_the_model_counts_once() -> None:
    told = Translation(CWD)
    text: JsonObject = {"type": "text", "text": "x"}
    tell(told, assistant(text, message_id="1"), assistant(text, message_id="1"), assistant(text, message_id="2"))
    tell(told, assistant(text, message_id="3", model=SYNTHETIC))
    assert told.model_calls == {"1", "2"}


@pytest.mark.parametrize("result", ["Error: Exit code 3", ["a"], None, 5, {"stdout": "x", "stderr": ""}])
def test_the_exit_code_of_a_failed_command_is_in_its_text(result: Any) -> None:
    assert shapes(over("Bash", {"command": "x"}, "Exit code 3\nout\nerr", result, failed=True)) == [
        ("command_finished", ended("x", "out\nerr", 3, "failed"))
    ]


def test_a_command_that_says_that_it_was_interrupted_is_told_as_interrupted() -> None:
    (payload,) = payloads(over("Bash", {"command": "x"}, "", {"stdout": "a", "interrupted": True}), "command_finished")
    assert (payload["output"], payload["status"]) == ("a", "interrupted")


@pytest.mark.parametrize("name", ["StructuredOutput", "AskUserQuestion", "ExitPlanMode", "EnterPlanMode", "ToolSearch"])
@pytest.mark.parametrize("failed", [False, True])
def test_what_the_cli_uses_for_itself_is_not_told(name: str, failed: bool) -> None:
    told = Translation(CWD)
    assert tell(told, assistant(call(name, {"a": 1})), returned("text", "text", failed=failed)) == []
    assert tell(told, assistant(call(name, {"a": 1}))) == list(told.interrupted()) == []


@pytest.mark.parametrize(
    ("tool", "named"),
    [
        ("mcp__s__t", {"server": "s", "tool": "t"}),
        ("mcp__a_b__c__d", {"server": "a_b", "tool": "c__d"}),
        ("mcp__s", {"server": "s", "tool": ""}),
        ("Read", {"tool": "Read"}),
    ],
)
def test_names_of_tools(tool: str, named: JsonObject) -> None:
    told = Translation(CWD)
    assert shapes(tell(told, assistant(call(tool)))) == [("tool_started", {**named, "arguments": {}})]
    assert shapes(tell(told, returned("r"))) == [("tool_finished", {**named, "result": "r"})]


def test_what_is_unknown_is_passed_over() -> None:
    told = Translation(CWD)
    blocks: list[JsonObject] = [{"type": "from_the_future"}, {"type": "thinking", "thinking": "", "signature": ""}]
    raw = [
        assistant(*blocks),
        returned("of a call that nobody saw", call_id="never"),
        {"type": "user", "message": {"content": "plain text"}},
        {"type": "user", "message": {"content": [{"type": "image"}]}},
        *(system(subtype) for subtype in ("from_the_future", "session_state_changed", "status", "ui_invalidate")),
        system("status", status="requesting"),
        {"type": "conversation_reset", "new_conversation_id": "n", "uuid": "u", "session_id": "s"},
        {"type": "rate_limit_event", "rate_limit_info": {"status": "allowed"}, "uuid": "u", "session_id": "s"},
    ]
    assert tell(told, *raw) == []


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        (system("status", status="compacting"), "compacting"),
        (system("compact_boundary"), "the conversation was compacted"),
        (system("permission_denied", tool_name="Bash"), "not permitted: Bash"),
        (system("init", mcp_servers=[{"name": "s", "status": "failed"}]), "MCP server s is failed"),
        (system("task_started", task_id="t", description="look"), "look"),
        ({"type": "rate_limit_event", "rate_limit_info": {"status": "rejected"}, "uuid": "u", "session_id": "s"},
         "rate limit: rejected"),
    ],
)  # fmt: skip
def test_progress_is_one_line(raw: JsonObject, detail: str) -> None:
    assert shapes(tell(Translation(CWD), raw)) == [("status_changed", {"status": "running", "detail": detail})]


def test_todo_items_of_odd_shapes_are_pending() -> None:
    todos = [{"content": "a", "status": "someday"}, {"status": "completed"}, None, "b"]
    assert payloads(over("TodoWrite", {"todos": todos}, "ok"), "todo_updated") == [
        {"items": [{"text": "a", "status": "pending"}, {"text": "", "status": "completed"},
                   {"text": "", "status": "pending"}, {"text": "", "status": "pending"}]}
    ]  # fmt: skip
    assert over("TodoWrite", {"todos": todos}, "no", failed=True) != []


@pytest.mark.parametrize("result", ["text", ["a"], None, {}, {"filePath": 5}])
def test_a_change_without_its_file_is_not_told(result: Any) -> None:
    told = Translation(CWD)
    assert tell(told, assistant(call("Edit", {})), returned("done", result)) == []
    assert told.touched == set()


def test_a_file_elsewhere_is_told_by_its_whole_path() -> None:
    patch = [{"oldStart": 1, "oldLines": 0, "newStart": 1, "newLines": 1, "lines": ["+x"]}]
    result = {"type": "update", "filePath": "/etc/x", "structuredPatch": patch}
    assert shapes(over("MultiEdit", {}, "done", result)) == [
        ("file_changed", {"changes": [{"path": "/etc/x", "kind": "update", "diff": "@@ -1,0 +1,1 @@\n+x\n"}]})
    ]


def test_a_sub_agent_is_heard_but_for_what_it_is_told() -> None:
    told = Translation(CWD)
    text: JsonObject = {"type": "text", "text": "x"}
    prompt = {"type": "user", "message": {"content": [text]}, "parent_tool_use_id": "p"}
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    assert shapes(tell(told, prompt, assistant(text, thought, parent="p"))) == [
        ("message_added", {"role": "agent", "text": "x"}),
        ("reasoning", {"text": "hm"}),
    ]


def test_interrupting_ends_what_was_told_to_have_begun_and_nothing_else() -> None:
    told = Translation(CWD)
    names = {"b": "Bash", "m": "mcp__s__t", "w": "Write", "t": "TodoWrite", "q": "AskUserQuestion"}
    tell(told, assistant(*(call(name, {"command": "x"}, call_id) for call_id, name in names.items())))
    assert shapes(told.interrupted()) == [
        ("command_finished", {"command": "x", "status": "interrupted"}),
        ("tool_finished", {"server": "s", "tool": "t", "error": "interrupted"}),
    ]
    assert list(told.interrupted()) == []
    assert tell(told, *(returned("late", call_id=call_id) for call_id in names)) == []


# ---- any shape


def _wild(words: str) -> st.SearchStrategy[Any]:
    """Any JSON, in which the words that the translation looks for are frequent."""
    names = st.sampled_from(words.split()) | st.text(max_size=3)
    leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | names
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6), max_leaves=12
    )


def _wild_objects(words: str) -> st.SearchStrategy[JsonObject]:
    return st.dictionaries(st.sampled_from(words.split()) | st.text(max_size=3), _wild(words), max_size=8)


TOOLS = st.sampled_from(
    "Bash Write Edit MultiEdit NotebookEdit TodoWrite TaskCreate TaskUpdate TaskList Read mcp__s__t mcp__ ExitPlanMode "
    "StructuredOutput Agent".split()
)
GIVEN = "command plan todos content status taskId subject deleted completed file_path description"
RESULT = (
    "stdout stderr interrupted backgroundTaskId returnCodeInterpretation persistedOutputPath filePath notebook_path "
    "type create structuredPatch lines oldStart oldLines newStart newLines content task id subject taskId statusChange "
    "to deleted completed success"
)
PARTS = st.none() | st.text(max_size=9) | st.lists(st.dictionaries(st.sampled_from(["type", "text"]), _wild("text")))


def _all(told: Translation, *raw: JsonObject) -> Iterator[Told]:
    yield from tell(told, *raw)
    yield from told.interrupted()


@given(TOOLS, _wild_objects(GIVEN), PARTS, _wild(RESULT) | _wild_objects(RESULT), st.sampled_from([None, False, True]))
@example("TaskUpdate", {}, None, {"taskId": [], "statusChange": {"to": []}}, False)
@example("Edit", {}, "x", {"filePath": "a", "structuredPatch": [None, {"lines": [None]}]}, False)
def test_no_input_and_no_result_of_a_tool_is_too_odd(
    tool: str, given: JsonObject, content: Any, result: Any, failed: bool | None
) -> None:
    told = Translation(CWD)
    for update in _all(told, assistant(call(tool, given)), returned(content, result, failed=failed)):
        json.dumps(shape(update))


@given(TOOLS, _wild(GIVEN), st.lists(_wild("text type"), max_size=3))
@example("Bash", [], [])
@example("Read", {}, ["text"])
def test_no_input_that_is_no_object_and_no_odd_part_of_a_result_raises(
    tool: str, given: Any, content: list[Any]
) -> None:
    list(_all(Translation(CWD), assistant(call(tool, given)), returned(content)))


SYSTEM = "error_status retry_delay_ms error attempt mcp_servers name status state tool_name patch"


@given(
    st.sampled_from("api_retry init status permission_denied task_started task_updated task_notification".split()),
    _wild_objects(SYSTEM), _wild("c completed"), _wild("completed"), _wild("exit code 1"),
)  # fmt: skip
@example("api_retry", {"retry_delay_ms": "soon"}, None, None, None)
@example("task_started", {}, "c", None, None)
@example("task_notification", {}, "c", [], "")
def test_no_system_message_is_too_odd(
    subtype: str, data: JsonObject, tool_use_id: Any, status: Any, words: Any
) -> None:
    told = Translation(CWD)
    tell(told, assistant(call("Bash", {"command": "x"})))
    task = {"task_id": "t", "description": words, "summary": words, "output_file": "/f", "status": status}
    tell(told, system(**{**task, **data, "tool_use_id": tool_use_id, "subtype": subtype}))
