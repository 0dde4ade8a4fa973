"""What a request is about, as lines for a person: whatever its agent put there."""

from __future__ import annotations

import pytest

from orchestrator.cli.requests import MOST_LINES, Asked, answer_of, detail_lines
from orchestrator.model import JsonObject

OPTIONS = [{"id": "approve", "label": "Yes"}, {"id": "stop", "label": "No, and stop"}, {"id": "deny", "label": "No"}]


def shown(detail: object, *cut: str) -> str:
    """The lines for a request about this."""
    request: JsonObject = {"request_id": "r", "kind": "approval", "text": "May I?", "seq": 7, "detail": detail}
    return "\n".join(line.plain for line in detail_lines("run_x", Asked(request, "May I?", list(cut))))


@pytest.mark.parametrize(
    ("detail", "words"),
    [
        ({"changes": "all"}, "changes: all"),
        ({"changes": ["x.txt", 5, {"path": "y"}]}, "~ x.txt"),
        ({"arguments": "raw", "tool": "t", "server": "s"}, "⚙ s.t"),
        ({"arguments": {"a": {"b": [1]}}}, '"b"'),
        ({"permissions": {"network": True}, "cwd": "/x"}, '"network": true'),
        ({"command": ["rm", "x"]}, "['rm', 'x']"),
        ({"plan": None, "tool": 3}, "⚙ 3"),
        (["odd"], ""),
        (None, ""),
    ],
)
def test_whatever_a_request_is_about_is_shown(detail: object, words: str) -> None:
    assert words in shown(detail)


def test_what_is_too_long_names_the_command_that_writes_it() -> None:
    diff = "\n".join(f"+{number}" for number in range(MOST_LINES + 1))
    text = shown({"changes": [{"path": "x", "diff": diff}]})
    assert "orchestrator artifact run_x 7 /request/detail/changes/0/diff" in text
    assert f"+{MOST_LINES - 1}" in text
    assert "orchestrator artifact run_x 7 /request" in shown({"command": "ls…"}, "/request")


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("a", {"decision": "approve"}),
        ("d not now", {"decision": "deny", "text": "not now"}),
        ("stop", {"decision": "stop"}),
        ("2 enough of it", {"decision": "stop", "text": "enough of it"}),
        ("9", None),
        ("perhaps", None),
        ("", None),
    ],
)
def test_an_approval_takes_each_of_its_options(said: str, answer: JsonObject | None) -> None:
    assert answer_of({"kind": "approval", "options": OPTIONS}, said) == answer
