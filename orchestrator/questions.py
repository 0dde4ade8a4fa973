"""What agents ask their callers: one question with its context, or several in one request and one answer to them. Pure.

Above: the drivers of local agents, whose tools ask up to four questions at once, each with options or without; and all
who take a call of `ask_caller`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from orchestrator.model import Answer, InputRequest, JsonObject, as_array, as_object


class Question(NamedTuple):
    """One question. Its options are `{id, label, description?}`; `multi` of them may be chosen."""

    question_id: str
    text: str
    header: str = ""
    options: Sequence[JsonObject] = ()
    multi: bool = False

    def to_json(self) -> JsonObject:
        """As the request shows it."""
        return {
            "id": self.question_id,
            "text": self.text,
            "header": self.header,
            "options": list(self.options),
            "multi_select": self.multi,
        }


def with_context(arguments: Mapping[str, Any]) -> str:
    """The text of a question, by the arguments of `ask_caller`, whoever checked them; empty if they hold none."""
    words = (arguments.get(name) for name in ("question", "context"))
    return "\n\n".join(str(word) for word in words if word)


def options_of(given: Any) -> list[JsonObject]:
    """Options as agents give them, `{label, description?}` or words; their labels are their ids."""
    found: list[JsonObject] = []
    for option in as_array(given) or []:
        described = as_object(option) or {"label": option}
        label = str(described.get("label"))
        more = {"description": str(described["description"])} if described.get("description") else {}
        found.append({"id": label, "label": label, **more})
    return found


def ask(request_id: str, questions: Sequence[Question]) -> InputRequest:
    """The request for some questions; one alone is asked by itself."""
    if len(questions) == 1:
        text, options = questions[0].text, list(questions[0].options) or None
    else:
        listed = "\n".join(f"{number}. {question.text}" for number, question in enumerate(questions, 1))
        text, options = f"{listed}\nAnswer each on a line of its own, or as a JSON object by number.", None
    documents = [question.to_json() for question in questions]
    return InputRequest(request_id=request_id, kind="question", text=text, options=options, questions=documents)


def answers_to(questions: Sequence[Question], answer: Answer) -> dict[str, list[str]]:
    """What was answered to each, by the questions' ids: labels of options, or words.

    An answer may be an object (a data part, or JSON as text) by number, id, header or text; as many lines as there are
    questions; or one text, which then is the answer to each.
    """
    named = _by_name(answer)
    known = {name for number, question in enumerate(questions, 1) for name in _names(number, question)}
    if named is not None and known & set(named):  # otherwise it is an answer that happens to be an object
        return {
            question.question_id: _several(
                next((named[name] for name in _names(number, question) if name in named), "")
            )
            for number, question in enumerate(questions, 1)
        }
    said = answer.message.text if answer.message else ""
    if answer.decision is not None:  # an option, perhaps with a reason
        chosen = f"{answer.decision} ({said})" if said else answer.decision
        return {question.question_id: [chosen] for question in questions}
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if len(questions) > 1 and len(lines) == len(questions):
        pairs = enumerate(zip(questions, lines, strict=True), 1)
        return {question.question_id: [line.removeprefix(f"{number}.").strip()] for number, (question, line) in pairs}
    return {question.question_id: [said] for question in questions}


def _names(number: int, question: Question) -> tuple[str, ...]:
    return str(number), question.question_id, question.header, question.text


def _by_name(answer: Answer) -> Mapping[str, Any] | None:
    """The answers that came as an object."""
    parts = answer.message.parts if answer.message else []
    given = next((as_object(part.get("data")) for part in parts if part.get("type") == "data"), None)
    if given is None and answer.text.lstrip().startswith("{"):
        try:
            given = as_object(orjson.loads(answer.text))
        except orjson.JSONDecodeError:
            return None
    if given is None:
        return None
    return as_object(given.get("answers")) or given


def _several(value: Any) -> list[str]:
    values = as_array(value)
    return [str(value)] if values is None else [str(one) for one in values]
