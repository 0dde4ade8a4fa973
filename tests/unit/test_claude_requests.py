"""What Claude Code asks becomes a request, and the caller's answer becomes what Claude Code wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from claude_agent_sdk import PermissionResultAllow, PermissionResultDeny, PermissionUpdate
from claude_agent_sdk.types import PermissionRuleValue
from hypothesis import given
from hypothesis import strategies as st

from backends.claude_code.options import MODES
from backends.claude_code.requests import (
    FOR_SESSION,
    PLAN,
    QUESTION,
    Wish,
    answers_to,
    forbidden,
    in_its_mode,
    lasting,
    request_of,
    verdict_of,
    writes,
    writes_own_file,
    written_file,
)
from orchestrator.model import PERMISSIONS, Answer, InputRequest, JsonObject, Message, Permission

CWD = Path("/work/project")
YES_NO = [{"id": "approve", "label": "Yes"}, {"id": "deny", "label": "No"}]


def wish(tool: str, given: JsonObject, *rules: PermissionUpdate, reason: str | None = None) -> Wish:
    return Wish(tool, given, "call-1", reason, rules)


def asked(one: Wish, *, plan: str = "", before: str | None = None) -> InputRequest:
    request = request_of(one, CWD, plan=plan, before=before)
    orjson.dumps(request.to_json())
    return request


def change(one: Wish, before: str | None) -> JsonObject:
    detail = asked(one, before=before).detail
    assert detail is not None
    (only,) = detail["changes"]
    return only


def said(text: str) -> Answer:
    return Answer(message=Message.of_text(text))


def question(text: str, *labels: str, header: str = "", multi: bool = False) -> JsonObject:
    options = [{"label": label, "description": f"the {label}"} for label in labels]
    return {"question": text, "header": header, "options": options, "multiSelect": multi}


def questions(*asked: JsonObject) -> JsonObject:
    return {"questions": list(asked)}


TWO = questions(question("Which?", "A", "B", header="Kind"), question("How many?", header="Count"))


# ---- what may be asked at all


@pytest.mark.parametrize("level", PERMISSIONS)
@pytest.mark.parametrize("tool", ["Bash", "Write", "Edit", "NotebookEdit", "KillShell", "Workflow", "Monitor", "New"])
def test_a_read_only_run_does_nothing_that_could_write(tool: str, level: Permission) -> None:
    assert forbidden(tool, level, planning=False) == ("this run is read_only" if level == "read_only" else None)


@pytest.mark.parametrize("level", PERMISSIONS)
@pytest.mark.parametrize("tool", ["Read", "Glob", "Grep", "WebFetch", "WebSearch", "mcp__s__t", QUESTION, PLAN])
def test_the_caller_decides_on_what_reads_and_on_its_own_servers(tool: str, level: Permission) -> None:
    assert forbidden(tool, level, planning=False) is None
    assert forbidden(tool, level, planning=True) is None


@pytest.mark.parametrize("tool", ["Write", "Edit", "MultiEdit", "NotebookEdit", "Bash", "Monitor", "Workflow"])
def test_nothing_is_written_before_the_plan_is_approved(tool: str) -> None:
    assert forbidden(tool, "workspace_write", planning=True) == "the plan is not approved yet"
    assert forbidden(tool, "full_access", planning=True) == "the plan is not approved yet"
    assert forbidden(tool, "read_only", planning=True) == "this run is read_only"


@pytest.mark.parametrize(
    ("tool", "given", "expected"),
    [
        ("Write", {}, True),
        ("NotebookEdit", {}, True),
        ("Agent", {"prompt": "look", "isolation": "worktree"}, True),
        ("Task", {"isolation": "worktree"}, True),
        ("Agent", {"prompt": "look"}, False),
        ("Agent", {"isolation": None}, False),
        ("Read", {"file_path": "a"}, False),
        ("mcp__s__t", {"isolation": "x"}, False),
    ],
)
def test_what_writes_is_known_where_nobody_is_asked(tool: str, given: JsonObject, expected: bool) -> None:
    assert writes(tool, given) is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a", False), ("sub/../a", False), ("inside/a", False), ("new/folder/a", False),
        ("../a", True), ("/etc/a", True), ("out/a", True), ("out", True), ("sub/../../a", True), ("out/../a", True),
        ("nowhere", True), (5, False), (None, False),
    ],
)  # fmt: skip
def test_a_file_elsewhere_is_known_by_where_it_really_is(cwd: Path, path: Any, expected: bool) -> None:
    (cwd.parent / "elsewhere").mkdir()
    (cwd / "sub").mkdir()
    (cwd / "inside").symlink_to("sub")
    (cwd / "out").symlink_to(cwd.parent / "elsewhere")
    (cwd / "nowhere").symlink_to("../nothing")
    for tool, key in (("Write", "file_path"), ("Edit", "file_path"), ("NotebookEdit", "notebook_path")):
        assert writes_own_file(tool, {key: path}, cwd, Path("/")) is expected
    assert writes_own_file("Read", {"file_path": path}, cwd, Path("/")) is False


@pytest.mark.parametrize("path", ["a\0b", "loop/a"])
def test_a_path_that_leads_nowhere_raises_nothing(cwd: Path, path: str) -> None:
    (cwd / "loop").symlink_to("loop")
    assert isinstance(writes_own_file("Write", {"file_path": path}, cwd, Path("/")), bool)


# ---- approvals


def test_a_command_is_asked_with_the_place_where_it_runs() -> None:
    request = asked(wish("Bash", {"command": "make all"}, reason="This command requires approval"))
    assert request == InputRequest(
        request_id="call-1",
        kind="approval",
        text="Claude Code asks to run: make all (This command requires approval)",
        options=YES_NO,
        detail={"command": "make all", "cwd": "/work/project"},
    )


def test_a_long_command_is_cut_in_the_text_and_whole_in_the_detail() -> None:
    request = asked(wish("Bash", {"command": "x" * 5000}))
    assert len(request.text) < 600
    assert request.detail == {"command": "x" * 5000, "cwd": "/work/project"}


def test_a_new_file_is_asked_with_its_content() -> None:
    one = wish("Write", {"file_path": "sub/a.txt", "content": "one\ntwo"})
    assert written_file(one, CWD) == CWD / "sub/a.txt"
    assert asked(one).text == "Claude Code asks to write sub/a.txt"
    assert change(one, None) == {"path": "sub/a.txt", "kind": "add", "diff": "+one\n+two"}


def test_a_file_that_is_written_anew_is_asked_with_the_difference() -> None:
    one = wish("Write", {"file_path": "/work/project/a.txt", "content": "one\nTWO\n"})
    expected = "@@ -1,2 +1,2 @@\n one\n-two\n+TWO\n"
    assert change(one, "one\ntwo\n") == {"path": "a.txt", "kind": "update", "diff": expected}
    assert change(one, "") == {"path": "a.txt", "kind": "update", "diff": "@@ -0,0 +1,2 @@\n+one\n+TWO\n"}


def test_lines_that_look_like_the_names_in_a_diff_stay() -> None:
    one = wish("Edit", {"file_path": "a.sql", "old_string": "-- x\n", "new_string": "++ y\n"})
    assert change(one, "-- x\n")["diff"] == "@@ -1 +1 @@\n--- x\n+++ y\n"


def test_an_edit_is_asked_with_what_it_replaces() -> None:
    one = wish("Edit", {"file_path": "/etc/hosts", "old_string": "a", "new_string": "b"})
    assert change(one, "x\na\n") == {"path": "/etc/hosts", "kind": "update", "diff": "@@ -1 +1 @@\n-a\n+b\n"}


def test_several_edits_are_asked_with_all_they_replace() -> None:
    edits = [{"old_string": "a", "new_string": "b"}, None, {"old_string": "c", "new_string": ""}]
    one = wish("MultiEdit", {"file_path": "a.txt", "edits": edits})
    assert change(one, "a\nc\n")["diff"] == "@@ -1 +1 @@\n-a\n+b\n@@ -1 +0,0 @@\n-c\n"


def test_a_cell_of_a_notebook_is_asked_with_its_new_source() -> None:
    one = wish("NotebookEdit", {"notebook_path": "n.ipynb", "cell_id": "c", "new_source": "print(2)"})
    assert change(one, "{}") == {"path": "n.ipynb", "kind": "update", "diff": "@@ -0,0 +1 @@\n+print(2)\n"}


@pytest.mark.parametrize("path", [None, 5, ["a"]])
def test_a_path_that_is_none_is_asked_as_any_tool(path: Any) -> None:
    one = wish("Write", {"file_path": path, "content": "x"})
    assert written_file(one, CWD) is None
    assert asked(one).detail == {"tool": "Write", "arguments": {"file_path": path, "content": "x"}}


@pytest.mark.parametrize("tool", ["WebFetch", "mcp__probe__add", "Skill", "FromTheFuture"])
def test_any_other_tool_is_asked_with_its_arguments(tool: str) -> None:
    request = asked(wish(tool, {"a": [1]}))
    assert (request.text, request.kind) == (f"Claude Code asks to use {tool}", "approval")
    assert request.detail == {"tool": tool, "arguments": {"a": [1]}}
    assert request.options == YES_NO


def test_a_plan_is_asked_with_the_plan() -> None:
    request = asked(wish(PLAN, {}), plan="# The plan")
    assert (request.text, request.detail) == ("Claude Code asks to carry out its plan", {"plan": "# The plan"})
    assert request.options == YES_NO


# ---- rules that last


def rule(tool: str, content: str | None = None, **more: Any) -> PermissionUpdate:
    given: JsonObject = {"type": "addRules", "behavior": "allow", "destination": "localSettings", **more}
    return PermissionUpdate(rules=[PermissionRuleValue(tool, content)], **given)


FOLDER = PermissionUpdate(type="addDirectories", directories=["/data"], destination="userSettings")
MODE = PermissionUpdate(type="setMode", mode="acceptEdits", destination="session")


def test_rules_last_for_this_process_alone_and_only_permit() -> None:
    given = [
        rule("Bash", "make:*"), rule("Bash", "rm", behavior="deny"), rule("Bash", "x", type="replaceRules"),
        rule("Read", destination="projectSettings"), FOLDER, MODE,
        PermissionUpdate(type="removeDirectories", directories=["/"]),
    ]  # fmt: skip
    kept = lasting(wish("Bash", {}, *given))
    assert [update.to_dict() for update in kept] == [
        {"type": "addRules", "behavior": "allow", "destination": "session",
         "rules": [{"toolName": "Bash", "ruleContent": "make:*"}]},
        {"type": "addRules", "behavior": "allow", "destination": "session", "rules": [{"toolName": "Read"}]},
        {"type": "addDirectories", "directories": ["/data"], "destination": "session"},
    ]  # fmt: skip
    assert [update.destination for update in given[:2]] == ["localSettings", "localSettings"], "the wish is left alone"


def test_an_option_says_what_would_not_be_asked_again() -> None:
    request = asked(wish("Bash", {"command": "make"}, rule("Bash", "make:*"), rule("Read"), FOLDER))
    more = {"id": FOR_SESSION, "label": "Yes, and for this run also Bash(make:*), Read, files in /data"}
    assert request.options == [YES_NO[0], more, YES_NO[1]]


def test_without_a_rule_that_lasts_there_is_no_such_option() -> None:
    assert asked(wish("Bash", {"command": "make"}, MODE)).options == YES_NO


@pytest.mark.parametrize("rules", [None, []])
def test_a_rule_that_permits_nothing_is_no_option(rules: list[PermissionRuleValue] | None) -> None:
    empty = PermissionUpdate(type="addRules", rules=rules, behavior="allow", destination="session")
    assert asked(wish("Bash", {"command": "make"}, empty)).options == YES_NO


# ---- answers to approvals


def test_an_approval_lets_the_call_through_as_it_was() -> None:
    one = wish("Bash", {"command": "make"}, rule("Bash", "make:*"))
    verdict = verdict_of(one, Answer(decision="approve"))
    assert verdict == PermissionResultAllow(updated_input={"command": "make"}, updated_permissions=None)


def test_an_approval_for_the_run_adds_the_rules() -> None:
    one = wish("Bash", {"command": "make"}, rule("Bash", "make:*"))
    verdict = verdict_of(one, Answer(decision=FOR_SESSION))
    assert verdict == PermissionResultAllow(updated_input={"command": "make"}, updated_permissions=lasting(one))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(decision="deny"), "The caller denied this."),
        (Answer(decision="deny", message=Message.of_text("not now")), "The caller denied this: not now"),
        (Answer(message=Message.of_text("approve")), "The caller denied this: approve"),
        (Answer(decision="yes"), "The caller denied this."),
        (Answer(), "The caller denied this."),
    ],
)
@pytest.mark.parametrize("tool", ["Bash", "Write", PLAN, "mcp__s__t"])
def test_only_an_explicit_approval_is_one(tool: str, answer: Answer, message: str) -> None:
    verdict = verdict_of(wish(tool, {"command": "make"}), answer)
    assert verdict == PermissionResultDeny(message=message)
    assert isinstance(verdict, PermissionResultDeny)
    assert not verdict.interrupt, "the agent goes on without"


@pytest.mark.parametrize(("level", "mode"), list(MODES.items()))
def test_with_its_plan_a_run_gets_the_mode_of_its_permission(level: Permission, mode: str) -> None:
    plan, answer = wish(PLAN, {"plan": "x"}), Answer(decision="approve")
    verdict = in_its_mode(plan, verdict_of(plan, answer), level)
    assert isinstance(verdict, PermissionResultAllow)
    assert verdict.updated_input == {"plan": "x"}
    updates = [update.to_dict() for update in verdict.updated_permissions or ()]
    assert updates == [{"type": "setMode", "mode": mode, "destination": "session"}]
    denied = PermissionResultDeny(message="no")
    assert in_its_mode(plan, denied, level) == denied
    other = wish("Bash", {"command": "x"})
    assert in_its_mode(other, verdict_of(other, answer), level) == verdict_of(other, answer)


# ---- questions


def test_one_question_is_asked_by_itself() -> None:
    request = asked(wish(QUESTION, questions(question("Which?", "A", "B", header="Kind", multi=True))))
    options = [
        {"id": "A", "label": "A", "description": "the A"},
        {"id": "B", "label": "B", "description": "the B"},
    ]
    whole = {"id": "1", "text": "Which?", "header": "Kind", "options": options, "multi_select": True}
    assert request == InputRequest(
        request_id="call-1", kind="question", text="Which?", options=options, questions=[whole]
    )


def test_several_questions_are_asked_together_and_numbered() -> None:
    request = asked(wish(QUESTION, TWO))
    assert request.text.splitlines()[:2] == ["1. Which?", "2. How many?"]
    assert request.options is None
    assert request.questions is not None
    assert [(one["id"], one["multi_select"]) for one in request.questions] == [("1", False), ("2", False)]


@pytest.mark.parametrize(
    "given", [{}, {"questions": None}, {"questions": [None, "x"]}, {"questions": [{"options": 5}]}]
)
def test_questions_of_odd_shapes_are_still_asked(given: JsonObject) -> None:
    assert asked(wish(QUESTION, given)).kind == "question"
    assert isinstance(verdict_of(wish(QUESTION, given), said("x")), PermissionResultAllow)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (said("A"), {"Which?": "A"}),
        (said("something else"), {"Which?": "something else"}),
        (Answer(decision="B"), {"Which?": "B"}),
        (said('{"1": ["A", "B"]}'), {"Which?": "A, B"}),
        (said('{"Kind": "A"}'), {"Which?": "A"}),
        (said("{not JSON"), {"Which?": "{not JSON"}),
        (said("A\nB"), {"Which?": "A\nB"}),
    ],
)
def test_an_answer_to_one_question(answer: Answer, expected: dict[str, str]) -> None:
    assert answers_to(questions(question("Which?", "A", "B", header="Kind", multi=True)), answer) == expected


@pytest.mark.parametrize("text", ['{"port": 80}', "{}"])
def test_an_answer_that_happens_to_be_json_is_given_as_it_was_said(text: str) -> None:
    assert answers_to(questions(question("Which configuration?")), said(text)) == {"Which configuration?": text}


@pytest.mark.parametrize(
    ("answer", "which", "many"),
    [
        (said("A\n3"), "A", "3"),
        (said("1. A\n\n2. 3\n"), "A", "3"),
        (said('{"1": "A", "2": 3}'), "A", "3"),
        (said('{"Count": 3, "Which?": "B"}'), "B", "3"),
        (said('{"answers": {"2": "3", "1": ["A", "B"]}}'), "A, B", "3"),
        (said('{"2": "3"}'), "", "3"),
        (said("whatever you like"), "whatever you like", "whatever you like"),
        (said("one\ntwo\nthree"), "one\ntwo\nthree", "one\ntwo\nthree"),
        (Answer(message=Message(parts=[{"type": "data", "data": {"1": "A", "Count": "3"}}])), "A", "3"),
        (Answer(message=Message(parts=[{"type": "data", "data": {"answers": {"1": ["A"], "2": "3"}}}])), "A", "3"),
        (Answer(message=Message(parts=[{"type": "data", "data": [1]}, {"type": "text", "text": "A\n3"}])), "A", "3"),
    ],
)
def test_answers_to_several_questions(answer: Answer, which: str, many: str) -> None:
    assert answers_to(TWO, answer) == {"Which?": which, "How many?": many}


def test_a_question_is_answered_in_the_tools_own_input() -> None:
    verdict = verdict_of(wish(QUESTION, TWO), said("A\n3"))
    assert verdict == PermissionResultAllow(updated_input={**TWO, "answers": {"Which?": "A", "How many?": "3"}})


def test_a_question_can_be_declined() -> None:
    verdict = verdict_of(wish(QUESTION, TWO), Answer(decision="deny", message=Message.of_text("ask me later")))
    assert verdict == PermissionResultDeny(message="The caller denied this: ask me later")


@given(st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=3), st.text(max_size=40))
def test_every_question_gets_an_answer_that_is_a_text(texts: list[str], text: str) -> None:
    answers = answers_to(questions(*(question(one) for one in texts)), said(text))
    assert list(answers) == texts
    assert all(type(answer) is str for answer in answers.values())
