"""What Codex tells besides its work, what is no work at all, and what no Codex would say."""

from __future__ import annotations

from itertools import chain
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.codex.updates import Translation, retry_words
from orchestrator.model import JsonObject
from orchestrator.updates import Update
from tests.unit.codex_messages import CWD, begun, ended, shapes, tell


def told_of(*messages: JsonObject) -> list[tuple[str, JsonObject]]:
    """What is told of some notifications, in short."""
    return shapes(tell(Translation(CWD), *messages))


@pytest.mark.parametrize(
    ("method", "params", "detail"),
    [
        ("error", {"error": {"message": "Reconnecting... 1/2"}, "willRetry": True}, "Reconnecting... 1/2"),
        ("error", {"error": {"message": "over"}, "willRetry": False}, None),
        ("warning", {"message": "careful"}, "careful"),
        ("guardianWarning", {"message": "x" * 600}, "x" * 500),
        ("warning", {"message": ""}, None),
        ("model/rerouted", {"fromModel": "a", "toModel": "b"}, "the model is now b"),
        ("mcpServer/startupStatus/updated", {"name": "m", "status": "failed", "error": "e"}, "MCP server m failed: e"),
        ("mcpServer/startupStatus/updated", {"name": "m", "status": "ready"}, None),
    ],
)
def test_notices_are_told_in_a_line(method: str, params: JsonObject, detail: str | None) -> None:
    told = [data["detail"] for _, data in told_of({"method": method, "params": params})]
    assert told == ([] if detail is None else [detail])


def test_a_conversation_that_was_compacted_is_told() -> None:
    assert told_of(ended("contextCompaction")) == [
        ("status_changed", {"status": "running", "detail": "the conversation was compacted"})
    ]


@pytest.mark.parametrize(
    "method",
    ["", "item/commandExecution/outputDelta", "item/agentMessage/delta", "item/fileChange/patchUpdated", "turn/started",
     "thread/name/updated", "thread/closed", "account/updated", "rawResponseItem/completed", "x/of/the/future"],
)  # fmt: skip
def test_other_notifications_are_passed_over(method: str) -> None:
    item: JsonObject = {"id": "i", "type": "commandExecution", "command": "ls"}
    assert told_of({"method": method, "params": {"item": item, "delta": "x", "message": "m"}}) == []


@pytest.mark.parametrize("kind", ["userMessage", "enteredReviewMode", "exitedReviewMode", "ofTheFuture", None])
def test_other_items_are_passed_over(kind: Any) -> None:
    assert told_of(begun(kind, text="x"), ended(kind, text="x", status="failed")) == []


@pytest.mark.parametrize("kind", [[], {}])
def test_items_whose_kind_is_no_word_are_passed_over(kind: Any) -> None:
    assert told_of(begun(kind), ended(kind)) == []


# ---- anything at all

METHODS = (
    "item/started item/completed turn/plan/updated turn/diff/updated thread/tokenUsage/updated error warning "
    "guardianWarning model/rerouted mcpServer/startupStatus/updated"
).split()
KINDS = (
    "agentMessage plan reasoning commandExecution fileChange contextCompaction mcpToolCall dynamicToolCall webSearch "
    "collabAgentToolCall userMessage"
).split()
FIELDS = (
    "text phase summary content command cwd status exitCode aggregatedOutput changes tool server arguments result "
    "error contentItems"
).split()
NAMES = "item plan diff tokenUsage total last inputTokens error message willRetry status name path kind type".split()

words = st.sampled_from(["", "completed", "failed", "declined", "add", "update", "x", "/a", "ask_caller"])
leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | words | st.text(max_size=3)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=8,
)
items = st.fixed_dictionaries(
    {"id": st.sampled_from(["1", "2"]) | anything, "type": st.sampled_from(KINDS)},
    optional=dict.fromkeys(FIELDS, anything),
)
objects = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=2), anything, max_size=5)
noted = st.tuples(st.sampled_from(METHODS), objects | items.map(lambda item: {"item": item}))


@given(st.lists(noted, max_size=6))
def test_no_json_at_all_makes_it_fail(notes: list[tuple[str, JsonObject]]) -> None:
    told = Translation(CWD)
    updates: list[Update] = list(chain.from_iterable(told.updates(method, params) for method, params in notes))
    updates += [*told.interrupted(), *([patch] if (patch := told.patch("t")) else [])]
    orjson.dumps([update.payload() for update in updates])
    assert retry_words(notes[0][1] if notes else {}) is not None
    assert told.usage.turns is not None
    assert not told.open_commands
