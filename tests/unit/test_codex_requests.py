"""What Codex asks becomes a request, and the caller's answer becomes what Codex wants to hear."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.codex.client import Request
from backends.codex.requests import (
    ASK_CALLER,
    COMMAND,
    ELICITATION,
    FILES,
    PERMISSIONS,
    QUESTIONS,
    TOOL,
    Reply,
    forbidden,
    reply_to,
    request_id_of,
    request_of,
)
from orchestrator.model import PERMISSIONS as LEVELS
from orchestrator.model import Answer, InputRequest, JsonObject, Message, Permission
from tests.unit.codex_messages import asked as recorded

ONCE = [{"id": "approve", "label": "Yes"}, {"id": "deny", "label": "No"}]
LASTING = [
    {"id": "approve", "label": "Yes"},
    {"id": "approve_session", "label": "Yes, and for this run also the like of it"},
    {"id": "deny", "label": "No"},
    {"id": "cancel", "label": "No, and stop the run"},
]
CHANGES: list[JsonObject] = [{"path": "/work/outside.txt", "kind": "add", "diff": "+x\n"}]
WANTED: JsonObject = {"network": {"enabled": True}, "fileSystem": {"write": ["/work/w"]}}


def asks(method: str, **params: Any) -> Request:
    return Request(7, method, params)


def asked(request: Request, changes: list[JsonObject] | None = None) -> InputRequest:
    """The request to the caller, which there must be."""
    found = request_of(request, changes)
    assert found is not None
    orjson.dumps(found.to_json())
    return found


def decided(decision: str, text: str = "") -> Answer:
    return Answer(decision=decision, message=Message.of_text(text) if text else None)


def said(text: str) -> Answer:
    return Answer(message=Message.of_text(text))


def data(value: Any) -> Answer:
    return Answer(message=Message(parts=[{"type": "data", "data": value}]))


DENIED, WHY = decided("deny"), decided("deny", "not that")


# ---- commands and files


def test_a_recorded_command_is_asked_with_its_reason_and_as_the_agent_meant_it() -> None:
    command, *_ = recorded("approvals")
    assert asked(command) == InputRequest(
        request_id="call_0_0_4_0",
        kind="approval",
        text="Codex asks to run: touch /work/x (it has to be so)",
        options=LASTING,
        detail={"command": "touch /work/x", "cwd": "/work/project"},
    )


def test_a_command_is_asked_whole_however_long() -> None:
    long = "echo " + "x" * 2000
    request = asked(asks(COMMAND, itemId="i", command=f"/bin/bash -lc '{long}'", cwd="/c", reason=None))
    assert request.text == f"Codex asks to run: {long[:500]}"
    assert request.detail == {"command": long, "cwd": "/c"}


def test_a_connection_is_asked_by_what_it_is() -> None:
    request = asked(asks(COMMAND, itemId="i", approvalId="a", networkApprovalContext={"host": "example.org"}))
    assert (request.request_id, request.kind) == ("a", "approval")
    assert "example.org" in request.text
    assert request.detail is not None
    assert "example.org" in request.detail["command"]


def test_a_recorded_file_change_is_asked_with_the_changes_that_its_item_told() -> None:
    request = asked(recorded("approvals")[3], CHANGES)
    assert (request.request_id, request.options) == ("call_3_1_15_3", LASTING)
    assert request.text == "Codex asks to write /work/outside.txt"
    assert request.detail == {"changes": CHANGES}


def test_a_file_change_of_which_nothing_is_known_is_not_asked_as_if_it_were_nothing() -> None:
    request = request_of(recorded("approvals")[3], None)
    assert request is None or "None" not in request.text


def test_a_folder_that_is_to_be_written_to_is_named() -> None:
    assert "/work/other" in asked(asks(FILES, itemId="i", grantRoot="/work/other", reason="for all"), []).text


@pytest.mark.parametrize("method", [COMMAND, FILES])
@pytest.mark.parametrize(
    ("answer", "decision", "told"),
    [
        (decided("approve"), "accept", ""),
        (decided("approve", "with care"), "accept", ""),
        (decided("approve_session"), "acceptForSession", ""),
        (decided("cancel"), "cancel", ""),
        (DENIED, "decline", "The caller denied this."),
        (WHY, "decline", "The caller denied this: not that"),
        (said("yes please"), "decline", "The caller denied this: yes please"),
        (decided("nonsense"), "decline", "The caller denied this."),
        (Answer(), "decline", "The caller denied this."),
    ],
)
def test_an_approval_is_given_by_its_word_alone(method: str, answer: Answer, decision: str, told: str) -> None:
    assert reply_to(asks(method, itemId="i"), answer) == Reply({"decision": decision}, told)


# ---- permissions


def test_more_permissions_are_asked_with_all_that_is_wanted_and_for_this_turn_alone() -> None:
    (request,) = recorded("permissions")
    found = asked(request)
    assert (found.kind, found.text, found.options) == ("approval", "Codex asks for more permissions (to write)", ONCE)
    assert found.detail == {"permissions": request.params["permissions"], "cwd": "/work/project"}
    granted = {"permissions": request.params["permissions"], "scope": "turn"}
    assert reply_to(request, decided("approve")) == Reply(granted)
    nothing: JsonObject = {"permissions": {}, "scope": "turn"}
    assert reply_to(request, WHY) == Reply(nothing, "The caller denied this: not that")
    assert reply_to(request, decided("approve_session")).result == nothing


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("method", [COMMAND, FILES, PERMISSIONS])
def test_a_read_only_run_declines_all_that_could_write_without_asking(method: str, level: Permission) -> None:
    reply = forbidden(asks(method, itemId="i", permissions=WANTED), level)
    if level != "read_only":
        assert reply is None
        return
    assert reply is not None
    assert reply.say == "The caller denied this: this run is read_only"
    nothing: JsonObject = {"permissions": {}, "scope": "turn"}
    assert reply.result == (nothing if method == PERMISSIONS else {"decision": "decline"})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("method", [QUESTIONS, TOOL, ELICITATION, "attestation/generate"])
def test_questions_are_forbidden_to_nobody(method: str, level: Permission) -> None:
    assert forbidden(asks(method), level) is None


# ---- questions

TWO = recorded("questions")[0]


def test_recorded_questions_are_asked_in_one_request() -> None:
    request = asked(TWO)
    assert (request.request_id, request.kind, request.options) == ("call_0_0_4_0", "question", None)
    assert request.text.startswith("1. Which database?\n2. Cache?\n")
    assert [(q["id"], q["header"], [o["id"] for o in q["options"]]) for q in request.questions or []] == [
        ("db", "DB", ["SQLite", "Postgres"]),
        ("cache", "C", ["yes", "no"]),
    ]


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        (said("SQLite\nno"), {"db": ["SQLite"], "cache": ["no"]}),
        (said("1. SQLite\n2. no\n"), {"db": ["SQLite"], "cache": ["no"]}),
        (said('{"db": "SQLite", "2": "no"}'), {"db": ["SQLite"], "cache": ["no"]}),
        (data({"answers": {"DB": ["SQLite", "Postgres"], "Cache?": "no"}}),
         {"db": ["SQLite", "Postgres"], "cache": ["no"]}),
        (said("whatever you like"), {"db": ["whatever you like"], "cache": ["whatever you like"]}),
    ],
)  # fmt: skip
def test_several_questions_are_answered_at_once(answer: Answer, given: dict[str, list[str]]) -> None:
    assert reply_to(TWO, answer) == Reply({"answers": {name: {"answers": words} for name, words in given.items()}})


def test_a_question_alone_is_answered_by_an_option_or_in_words() -> None:
    options = [{"label": "red", "description": "warm"}, {"label": "blue"}]
    one = asks(QUESTIONS, itemId="i", questions=[{"id": "c", "question": "Which?", "options": options}])
    request = asked(one)
    assert (request.text, request.kind) == ("Which?", "question")
    assert request.options == [
        {"id": "red", "label": "red", "description": "warm"},
        {"id": "blue", "label": "blue"},
    ]
    assert reply_to(one, decided("red")).result == {"answers": {"c": {"answers": ["red"]}}}
    assert reply_to(one, said("green")).result == {"answers": {"c": {"answers": ["green"]}}}


def test_questions_that_are_denied_have_no_answers() -> None:
    assert reply_to(TWO, WHY) == Reply({"answers": {}}, "The caller denied this: not that")


def test_the_tool_of_ours_asks_one_question() -> None:
    (call,) = recorded("asked")
    request = asked(call)
    assert (request.request_id, request.kind, request.text) == ("call_0_0_4_0", "question", "Which?")
    assert [option["id"] for option in request.options or []] == ["red", "blue"]
    assert call.params["tool"] == ASK_CALLER["name"]


@pytest.mark.parametrize(
    ("answer", "text", "success"),
    [(decided("red"), "red", True), (said("a\nb"), "a\nb", True),
     (data({"1": "red"}), "red", True), (data({"1": ["red", "blue"]}), "red, blue", True),
     (DENIED, "The caller denied this.", False), (WHY, "The caller denied this: not that", False)],
)  # fmt: skip
def test_the_answer_to_it_is_what_the_tool_gives(answer: Answer, text: str, success: bool) -> None:
    given = {"contentItems": [{"type": "inputText", "text": text}], "success": success}
    assert reply_to(recorded("asked")[0], answer) == Reply(given)


def test_the_tool_of_ours_takes_a_question_without_options() -> None:
    request = asked(asks(TOOL, callId="c", tool="ask_caller", arguments={"question": "Why?"}))
    assert (request.request_id, request.text, request.options) == ("c", "Why?", None)


# ---- what an MCP server asks


def test_the_use_of_an_mcp_tool_is_an_approval() -> None:
    first, second = recorded("tool_approval")
    request = asked(first)
    assert (request.kind, request.options) == ("approval", ONCE)
    assert request.text.startswith("Codex asks to use a tool of echo")
    assert request.detail is not None
    assert request.detail["server"] == "echo"
    assert request.detail["arguments"] == {"text": "back"}
    assert request.request_id != asked(second).request_id
    accepted: JsonObject = {"action": "accept", "content": {}, "_meta": None}
    declined: JsonObject = {"action": "decline", "content": None, "_meta": None}
    assert reply_to(first, decided("approve")) == Reply(accepted)
    for answer in (DENIED, decided("approve_session"), said("yes")):
        assert reply_to(first, answer).result == declined


def test_the_approval_of_an_mcp_tool_names_the_tool() -> None:
    detail = asked(recorded("tool_approval")[0]).detail or {}
    assert detail["tool"] == "echo"


def test_the_reason_for_which_an_mcp_tool_is_denied_is_said() -> None:
    assert reply_to(recorded("tool_approval")[0], WHY).say == "The caller denied this: not that"


def form(**properties: Any) -> Request:
    schema = {"type": "object", "properties": properties}
    return asks(ELICITATION, serverName="s", mode="form", message="Who?", requestedSchema=schema)


def test_a_form_is_asked_with_its_schema() -> None:
    request = asked(form(name={"type": "string"}))
    assert (request.kind, request.text, request.options) == ("input", "s asks: Who?", None)
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    assert request.detail == {"server": "s", "schema": schema}


@pytest.mark.parametrize(
    ("answer", "action", "content"),
    [
        (said('{"name": "Ada", "age": 3}'), "accept", {"name": "Ada", "age": 3}),
        (data({"name": "Ada"}), "accept", {"name": "Ada"}),
        (said("Ada"), "accept", {"name": "Ada"}),
        (said("{Ada"), "accept", {"name": "{Ada"}),
        (DENIED, "decline", None),
        (WHY, "decline", None),
    ],
)
def test_a_form_is_filled_in_by_an_object_or_its_first_field_by_words(
    answer: Answer, action: str, content: JsonObject | None
) -> None:
    reply = reply_to(form(name={"type": "string"}, age={"type": "integer"}), answer)
    assert reply.result == {"action": action, "content": content, "_meta": None}


def test_a_form_without_fields_is_accepted_by_any_word() -> None:
    assert reply_to(form(), said("fine")).result == {"action": "accept", "content": {}, "_meta": None}


def test_a_page_to_visit_is_a_login() -> None:
    page = asks(ELICITATION, serverName="s", mode="url", message="log in", url="https://x", elicitationId="e")
    request = asked(page)
    assert (request.request_id, request.kind) == ("e", "auth")
    assert request.text == "s wants you to go to https://x: log in"
    assert request.detail == {"url": "https://x", "server": "s"}
    assert reply_to(page, decided("approve")).result == {"action": "accept", "content": None, "_meta": None}
    assert reply_to(page, DENIED).result == {"action": "decline", "content": None, "_meta": None}


# ---- all others


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("account/chatgptAuthTokens/refresh", {}),
        ("attestation/generate", {}),
        ("currentTime/read", {}),
        ("applyPatchApproval", {"callId": "c"}),
        ("execCommandApproval", {"callId": "c", "command": ["ls"]}),
        ("of/the/future", {"itemId": "i"}),
        (TOOL, {"callId": "c", "tool": "another", "arguments": {}}),
        (ELICITATION, {"serverName": "s", "mode": "telepathy", "message": "m"}),
        (ELICITATION, {}),
    ],
)
def test_what_is_not_supported_is_not_asked(method: str, params: JsonObject) -> None:
    assert request_of(Request(1, method, params), None) is None


@pytest.mark.parametrize(
    ("params", "name"),
    [({"approvalId": "a", "itemId": "i"}, "a"), ({"itemId": "i", "callId": "c"}, "i"), ({"callId": "c"}, "c"),
     ({"elicitationId": "e"}, "e"), ({"approvalId": None}, "request-7"), ({}, "request-7")],
)  # fmt: skip
def test_a_request_has_the_same_name_when_it_is_asked_again(params: JsonObject, name: str) -> None:
    assert request_id_of(Request(7, ELICITATION, params)) == name


leaves = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4)
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
names = st.sampled_from(
    "itemId command cwd reason permissions questions arguments tool serverName mode message requestedSchema _meta "
    "grantRoot".split()
)
params = st.dictionaries(names, anything | st.sampled_from(["form", "url", "ask_caller"]), max_size=6)
answers = st.builds(
    Answer,
    decision=st.sampled_from([None, "approve", "deny", "cancel"]),
    message=st.none()
    | st.text(max_size=5).map(Message.of_text)
    | st.just(Message(parts=[{"type": "data", "data": 1}])),
)
methods = st.sampled_from([COMMAND, FILES, PERMISSIONS, QUESTIONS, TOOL, ELICITATION])


@given(methods, params, answers)
def test_whatever_it_asks_has_an_answer(method: str, given: JsonObject, answer: Answer) -> None:
    request = Request(0, method, given)
    if (found := request_of(request, None)) is not None:
        orjson.dumps(found.to_json())
        reply = reply_to(request, answer)
        orjson.dumps(reply.result)
        assert isinstance(reply.say, str)
