"""What Codex does becomes updates: by recordings of the real CLI, and by notifications that no recording has."""

from __future__ import annotations

from typing import Any

import pytest

from backends.codex.updates import Translation, command_of
from orchestrator.model import JsonObject, Usage
from orchestrator.updates import ArtifactAdded, CommandFinished, Reasoning, TodoUpdated, ToolFinished
from tests.unit.codex_messages import CWD, begun, ended, own, played, recordings, shapes, tell

FROM, TO = "/work/project/from.txt", "/work/project/to.txt"


def told_of(*messages: JsonObject) -> list[tuple[str, JsonObject]]:
    """What is told of some notifications, in short."""
    return shapes(tell(Translation(CWD), *messages))


def change(path: str, kind: str, diff: str, **more: Any) -> JsonObject:
    return {"path": path, "kind": {"type": kind, **more}, "diff": diff}


# ---- recordings of the real CLI


def test_a_recorded_run_is_told_in_order() -> None:
    told, updates = played("work")
    names, patched = [kind for kind, _ in shapes(updates)], shapes(updates)[9][1]["changes"]
    todo = [("A", "pending"), ("B", "in_progress"), ("C", "completed")]
    expected: list[tuple[str, JsonObject]] = [
        ("reasoning", {"text": "let me see"}),
        ("agent_message", {"text": "first words"}),
        ("command_started", {"command": "echo 'hi there'"}),
        ("command_finished", {"command": "echo 'hi there'", "output": "hi there\n", "exit_code": 0,
                              "status": "completed"}),
        ("command_started", {"command": "echo 'oh no'; false"}),
        ("command_finished", {"command": "echo 'oh no'; false", "output": "oh no\n", "exit_code": 1,
                              "status": "failed"}),
        ("command_started", {"command": "exit 3"}),
        ("command_finished", {"command": "exit 3", "output": "", "exit_code": 3, "status": "failed"}),
        ("file_changed", {"changes": [{"path": "made.txt", "kind": "add", "diff": "+new\n"}]}),
        ("file_changed", {"changes": patched}),
        ("todo_updated", {"items": [{"text": text, "status": status} for text, status in todo]}),
        ("tool_started", {"tool": "echo", "server": "echo", "arguments": {"text": "back"}}),
        ("tool_finished", {"tool": "echo", "server": "echo", "result": "back"}),
        ("command_started", {"command": "sleep 0.5; echo late"}),
        ("command_finished", {"command": "sleep 0.5; echo late", "output": "late\n", "exit_code": 0,
                              "status": "completed"}),
        ("agent_message", {"text": "done"}),
    ]  # fmt: skip
    assert names == [kind for kind, _ in expected]
    assert shapes(updates) == expected
    assert (told.last_message, told.open_commands, told.changes) == ("done", False, {})
    assert told.usage == Usage(input_tokens=90, cached_input_tokens=0, output_tokens=18, turns=9)


def test_one_patch_may_make_change_move_and_delete_files() -> None:
    told, updates = played("work")
    by_path: JsonObject = {change["path"]: change for change in shapes(updates)[9][1]["changes"]}
    assert by_path["a.txt"] == {"path": "a.txt", "kind": "update", "diff": "@@ -1,2 +1,2 @@\n one\n-two\n+zwei\n"}
    assert by_path["old.txt"] == {"path": "old.txt", "kind": "delete", "diff": "-old\n-lines\n"}
    assert by_path["sub/new.txt"] == {"path": "sub/new.txt", "kind": "add", "diff": "+n\n"}
    assert {name: by_path[name]["kind"] for name in ("from.txt", "to.txt")} == {"from.txt": "delete", "to.txt": "add"}
    names = ("made.txt", "a.txt", "old.txt", "sub/new.txt", "from.txt", "to.txt")
    assert told.touched == {CWD / name for name in names}


@pytest.mark.parametrize("name", sorted(recordings()))
def test_what_begins_in_a_recording_ends_once_and_under_the_same_id(name: str) -> None:
    told, updates = played(name)
    updates += told.interrupted()
    first = [update.payload() for update in updates if update.type in ("command_started", "tool_started")]
    last = [update.payload() for update in updates if isinstance(update, (CommandFinished, ToolFinished))]
    ids = [payload.get("command_id") or payload["tool_id"] for payload in first]
    assert sorted(payload.get("command_id") or payload["tool_id"] for payload in last) == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert list(told.interrupted()) == []


@pytest.mark.parametrize("name", sorted(recordings()))
def test_a_recording_that_is_told_twice_tells_of_each_item_once(name: str) -> None:
    told, updates = played(name)
    again = tell(told, *(message for message in own(name) if message["method"].startswith("item/")))
    assert again == []
    ids = [update.payload()["message_id"] for update in updates if update.type == "agent_message"]
    assert len(set(ids)) == len(ids)


def test_a_stream_that_is_tried_again_repeats_nothing_that_was_told() -> None:
    repeated: list[str] = [m["params"]["item"]["id"] for m in own("retried") if m["method"] == "item/completed"]
    assert len(set(repeated)) < len(repeated)
    told, updates = played("retried")
    lost = "stream disconnected before completion: stream closed before response.completed"
    assert [(kind, data.get("text") or data.get("detail")) for kind, data in shapes(updates)] == [
        ("reasoning", "aa"),
        ("agent_message", "zz"),
        ("status_changed", f"Reconnecting... 1/2 {lost}"),
        ("agent_message", "three"),
        ("command_started", None),
        ("command_finished", None),
        ("agent_message", "end"),
    ]
    assert told.last_message == "end"


@pytest.mark.parametrize("name", ["background", "cancelled"])
def test_a_command_that_was_killed_ends_without_an_exit_code(name: str) -> None:
    told, updates = played(name)
    (finished,) = [update for update in updates if isinstance(update, CommandFinished)]
    assert (finished.output, finished.exit_code) == ("begun\n", None)
    assert finished.status in ("failed", "interrupted")
    assert not told.open_commands


def test_what_the_caller_declined_is_told_with_what_it_would_have_done() -> None:
    changes = [{"path": "/work/outside.txt", "kind": "add", "diff": "+x\n"}]
    _, updates = played("approvals")
    declined = [data["status"] for kind, data in shapes(updates) if kind == "command_finished"]
    assert declined == ["declined"] * 3
    assert ("tool_started", {"tool": "apply_patch", "arguments": {"changes": changes}}) in shapes(updates)
    assert ("tool_finished", {"tool": "apply_patch", "error": "declined"}) in shapes(updates)
    assert "file_changed" not in [update.type for update in updates]


def test_a_question_to_the_caller_is_no_tool_call() -> None:
    _, updates = played("asked")
    assert [update.type for update in updates] == ["agent_message", "agent_message"]


def test_an_mcp_tools_refusal_and_a_server_that_fails_are_told() -> None:
    rejected = {"tool": "echo", "server": "echo", "error": "user rejected MCP tool call"}
    assert ("tool_finished", rejected) in shapes(played("tool_approval")[1])
    ((kind, data), _) = shapes(played("bad_server")[1])
    assert kind == "status_changed"
    assert data["detail"].startswith("MCP server bad failed: MCP client for `bad` failed to start")


def test_a_sub_agent_shows_as_the_call_that_made_it() -> None:
    threads = {m["params"]["threadId"] for m in recordings()["subagent"] if "threadId" in m["params"]}
    assert len(threads) == 2
    _, updates = played("subagent")
    assert [update.type for update in updates[:3]] == ["tool_started", "tool_finished", "agent_message"]
    assert updates[0].payload()["arguments"]["prompt"] == "say from sub\nrun echo sub"
    assert "echo sub" not in [update.payload().get("command") for update in updates]


# ---- commands


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [("completed", 0, ("completed", 0)), ("failed", 2, ("failed", 2)), ("declined", None, ("declined", None)),
     ("failed", -1, ("failed", None)), ("inProgress", None, ("interrupted", None)), (None, "1", ("interrupted", None)),
     ("news", 1, ("interrupted", 1))],
)  # fmt: skip
def test_how_a_command_ended(status: str | None, code: Any, told: tuple[str, int | None]) -> None:
    item: JsonObject = {"command": "/bin/bash -lc 'ls'", "cwd": "/work/project"}
    last: JsonObject = {**item, "status": status, "exitCode": code, "aggregatedOutput": None}
    begin, end = tell(Translation(CWD), begun("commandExecution", **item), ended("commandExecution", **last))
    assert begin.payload() == {"command_id": "i", "command": "ls", "cwd": "/work/project"}
    assert isinstance(end, CommandFinished)
    assert (end.command_id, end.command, end.output, (end.status, end.exit_code)) == ("i", "ls", "", told)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("/bin/bash -lc 'ls -l'", "ls -l"), ("bash -c \"echo 'a b'\"", "echo 'a b'"), ("/bin/zsh -lc true", "true"),
     ("ls -l", "ls -l"), ("/bin/bash -lc 'a' b", "/bin/bash -lc 'a' b"), ("echo 'open", "echo 'open"), ("", ""),
     (None, "")],
)  # fmt: skip
def test_a_command_is_told_as_the_agent_meant_it(given: Any, meant: str) -> None:
    assert command_of({"command": given}) == meant


def test_a_command_that_never_ends_is_told_as_interrupted_once() -> None:
    told = Translation(CWD)
    tell(told, begun("commandExecution", command="sleep 9"), begun("mcpToolCall", "m", tool="t", server="s"))
    tell(told, begun("fileChange", "f"), begun("agentMessage", "a"), begun("dynamicToolCall", "d", tool="ask_caller"))
    assert told.open_commands
    assert shapes(told.interrupted()) == [
        ("command_finished", {"command": "sleep 9", "status": "interrupted"}),
        ("tool_finished", {"tool": "t", "server": "s", "error": "interrupted"}),
    ]
    assert not told.open_commands
    late = ended("commandExecution", command="sleep 9", status="failed", exitCode=-1)
    assert tell(told, late, ended("mcpToolCall", "m", tool="t", server="s", status="completed")) == []


def test_an_end_without_a_beginning_tells_of_both() -> None:
    assert [kind for kind, _ in told_of(ended("commandExecution", command="ls", status="completed", exitCode=0))] == [
        "command_started",
        "command_finished",
    ]


# ---- files


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (change("/work/project/a", "add", "1\n2\n"), {"path": "a", "kind": "add", "diff": "+1\n+2\n"}),
        (change("/work/project/a", "add", ""), {"path": "a", "kind": "add", "diff": ""}),
        (change("/work/project/a", "add", "no end"), {"path": "a", "kind": "add", "diff": "+no end"}),
        (change("/work/project/a", "delete", "1\n"), {"path": "a", "kind": "delete", "diff": "-1\n"}),
        (change("/work/project/a", "update", "@@\n", move_path=None), {"path": "a", "kind": "update", "diff": "@@\n"}),
        (change("/else/a", "update", "@@\n"), {"path": "/else/a", "kind": "update", "diff": "@@\n"}),
        (change("sub/a", "update", "@@\n"), {"path": "sub/a", "kind": "update", "diff": "@@\n"}),
        (change("/work/project/a", "rewrite", "@@\n"), {"path": "a", "kind": "update", "diff": "@@\n"}),
    ],
)
def test_a_changed_file_is_told_as_every_backend_does(given: JsonObject, told: JsonObject) -> None:
    assert told_of(ended("fileChange", changes=[given], status="completed")) == [("file_changed", {"changes": [told]})]


def test_a_file_that_moved_is_gone_there_and_new_here() -> None:
    moved = change(FROM, "update", f"@@ -1 +1 @@\n-2\n+zwei\n\n\nMoved to: {TO}", move_path=TO)
    ((kind, data),) = told_of(ended("fileChange", changes=[moved], status="completed"))
    gone, new = data["changes"]
    assert (kind, gone["path"], gone["kind"], new["path"], new["kind"]) == (
        *("file_changed", "from.txt", "delete"),
        *("to.txt", "add"),
    )
    assert all(line.startswith("+") for line in new.get("diff", "").splitlines())


@pytest.mark.parametrize("status", ["failed", "declined"])
def test_a_change_that_was_not_made_is_no_changed_file(status: str) -> None:
    told = Translation(CWD)
    changes = [change("/work/project/a", "add", "1\n")]
    assert tell(told, begun("fileChange", changes=changes, status="inProgress")) == []
    assert told.changes == {"i": [{"path": "a", "kind": "add", "diff": "+1\n"}]}
    assert shapes(tell(told, ended("fileChange", changes=changes, status=status))) == [
        ("tool_started", {"tool": "apply_patch", "arguments": {"changes": told_changes(changes)}}),
        ("tool_finished", {"tool": "apply_patch", "error": status}),
    ]
    assert (told.changes, told.touched) == ({}, set())


def told_changes(changes: list[JsonObject]) -> list[JsonObject]:
    """The changes in our words."""
    ((_, data),) = told_of(ended("fileChange", changes=changes, status="completed"))
    return data["changes"]


# ---- tools, plans, thoughts, answers


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ({"result": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}, {"result": "a\nb"}),
        ({"result": {"content": [], "structuredContent": 1}}, {"result": {"content": [], "structuredContent": 1}}),
        ({"result": {"x": 1}}, {"result": {"x": 1}}),
        ({"contentItems": [{"type": "inputText", "text": "said"}]}, {"result": "said"}),
        ({"error": {"message": "no"}, "status": "failed"}, {"error": "no"}),
        ({"error": {"code": 1}, "status": "failed"}, {"error": "{'code': 1}"}),
        ({"status": "failed"}, {"error": "failed"}),
        ({"status": "declined", "result": None}, {"error": "declined"}),
        ({"status": "completed", "result": None, "error": None}, {}),
    ],
)
def test_what_a_tool_gave(more: JsonObject, outcome: JsonObject) -> None:
    item: JsonObject = {"tool": "find", "server": "web", "arguments": {"q": 1}, **more}
    assert told_of(begun("mcpToolCall", **item), ended("mcpToolCall", **item)) == [
        ("tool_started", {"tool": "find", "server": "web", "arguments": {"q": 1}}),
        ("tool_finished", {"tool": "find", "server": "web", **outcome}),
    ]


@pytest.mark.parametrize("kind", ["webSearch", "imageView", "imageGeneration", "sleep", "hookPrompt"])
def test_a_tool_of_codex_itself_goes_by_its_kind(kind: str) -> None:
    item: JsonObject = {"query": "x", "path": None, "status": "completed", "durationMs": 3}
    assert told_of(begun(kind, **item), ended(kind, **item)) == [
        ("tool_started", {"tool": kind, "arguments": {"query": "x"}}),
        ("tool_finished", {"tool": kind}),
    ]


def test_the_tool_that_asks_the_caller_is_hidden_and_others_of_its_kind_are_not() -> None:
    asks: JsonObject = {"tool": "ask_caller", "arguments": {"question": "?"}, "contentItems": []}
    other: JsonObject = {**asks, "tool": "other", "contentItems": [{"type": "inputText", "text": "x"}]}
    assert told_of(begun("dynamicToolCall", **asks), ended("dynamicToolCall", **asks)) == []
    assert [data["tool"] for _, data in told_of(ended("dynamicToolCall", **other))] == ["other", "other"]


def test_a_plan_is_told_whole_each_time() -> None:
    steps: list[Any] = [{"step": "A", "status": "completed"}, {"step": "B", "status": "news"}, {}, "junk"]
    (update,) = tell(Translation(CWD), {"method": "turn/plan/updated", "params": {"plan": steps}})
    assert isinstance(update, TodoUpdated)
    texts = [(step["text"], step["status"]) for step in update.items]
    assert texts == [("A", "completed"), ("B", "pending"), ("", "pending"), ("", "pending")]
    assert told_of(ended("plan", text="first A, then B")) == [("agent_message", {"text": "first A, then B"})]


@pytest.mark.parametrize(
    ("summary", "content", "text"), [(["a", "b"], [], "a\n\nb"), ([], ["c"], "c"), ([], [], None), (None, None, None)]
)
def test_thoughts_are_told_by_their_summary(summary: Any, content: Any, text: str | None) -> None:
    updates = tell(Translation(CWD), ended("reasoning", summary=summary, content=content))
    assert updates == ([] if text is None else [Reasoning(text=text)])


@pytest.mark.parametrize(
    ("phases", "answer"),
    [((None, None), 1), (("commentary", "final_answer"), 1), (("final_answer", "commentary"), 0),
     (("final_answer", None), 0), ((None, "commentary"), 0), (("final_answer", "final_answer"), 1),
     (("partial_answer", "commentary"), None)],
)  # fmt: skip
def test_the_answer_is_the_last_message_that_may_be_it(phases: tuple[str | None, ...], answer: int | None) -> None:
    told = Translation(CWD)
    messages = [ended("agentMessage", str(n), text=f"text {n}", phase=phase) for n, phase in enumerate(phases)]
    assert len(tell(told, *messages, ended("agentMessage", "empty", text="", phase="final_answer"))) == len(phases)
    assert told.last_message == ("" if answer is None else f"text {answer}")


# ---- usage, patches, notices


def used(total: JsonObject, last: JsonObject) -> JsonObject:
    return {"method": "thread/tokenUsage/updated", "params": {"tokenUsage": {"total": total, "last": last}}}


def test_usage_is_the_runs_own_where_the_thread_has_a_past() -> None:
    resumed = own("resumed")
    assert any(m["method"] == "thread/tokenUsage/updated" and m not in resumed for m in recordings()["resumed"])
    assert played("resumed")[0].usage == Usage(input_tokens=200, cached_input_tokens=0, output_tokens=40, turns=2)
    told = Translation(CWD)
    assert told.usage == Usage(input_tokens=0, cached_input_tokens=0, output_tokens=0, turns=0)
    tell(told, used({"inputTokens": 107, "outputTokens": 12, "cachedInputTokens": 55}, {"inputTokens": 7}))
    assert told.usage == Usage(input_tokens=7, cached_input_tokens=0, output_tokens=0, turns=1)
    tell(told, used({"inputTokens": 110, "outputTokens": 15, "cachedInputTokens": 56}, {"inputTokens": 3}))
    assert told.usage == Usage(input_tokens=10, cached_input_tokens=1, output_tokens=3, turns=2)


def test_the_patch_of_a_turn_is_told_once() -> None:
    told = Translation(CWD)
    tell(told, *({"method": "turn/diff/updated", "params": {"diff": diff}} for diff in ("one", "both", "both")))
    patch = ArtifactAdded(artifact_id="patch-t1", name="turn.patch", mime="text/x-diff", text="both")
    assert [told.patch("t1"), told.patch("t1"), told.patch("t2")] == [patch, None, None]
    tell(told, {"method": "turn/diff/updated", "params": {"diff": ""}})
    assert told.patch("t3") is None
