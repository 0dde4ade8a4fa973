"""What a run asks of a person: shown whole, for nobody should approve what they saw a part of, and what they type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.text import Text

from orchestrator.cli.lines import DIFF_STYLES, cut_line
from orchestrator.cli.output import one_line
from orchestrator.errors import OrchestratorError
from orchestrator.model import Decision, JsonObject, as_array, as_object
from orchestrator.store.artifacts import whole_data
from orchestrator.store.layout import RunDir
from orchestrator.store.reader import RunReader

MOST_LINES, MOST_CHARS = 400, 20_000
"""Of one text at a terminal; a longer one is cut, and the command that writes the whole is named."""
_MOST_BYTES = 2**20
_YES, _NO = ("a", "approve", "y", "yes"), ("d", "deny", "n", "no")


class Asked(NamedTuple):
    """A request as it was asked.

    Attributes:
        told: its text as the event tells it, which may be the beginning alone.
        cut: pointers into its event of what is not whole here.
    """

    request: JsonObject
    told: str
    cut: list[str]


def whole_of(run_dir: RunDir, request: JsonObject) -> Asked:
    """A pending request, which a list may have cut, as its event and what is stored beside that hold it. Blocks."""
    try:
        event = RunReader(run_dir).event(request["seq"]) if request.get("seq") else None
        refs: JsonObject = (event.data.get("artifact_refs") if event else None) or {}
        told = as_object(event.data.get("request")) if event else None
        if event and told and sum(ref["total_bytes"] for ref in refs.values()) <= _MOST_BYTES:
            whole = as_object(whole_data(run_dir, event).get("request")) or told
            return Asked({**request, **whole, "seq": request["seq"]}, str(told.get("text", "")), [])
        if event and told:
            return Asked({**request, **told, "seq": request["seq"]}, str(told.get("text", "")), sorted(refs))
    except (OrchestratorError, OSError, KeyError, TypeError, AttributeError):
        pass  # damaged: what the list has is all there is
    return Asked(request, request["text"], [f"/request{pointer}" for pointer in request.get("clipped") or ()])


def detail_lines(run_id: str, asked: Asked) -> list[Text]:
    """All that a request is about: the command, the changes, the plan, the tool with its arguments, and whatever else.

    Args:
        asked: a harmless one.
    """
    lines: list[Text] = []
    for part in _parts(as_object(asked.request.get("detail")) or {}):
        shown, whole = _bounded(part.text)
        for number, line in enumerate(shown):
            style = DIFF_STYLES.get(line[:1], "dim") if part.style == "diff" else part.style
            lines.append(Text.assemble((" " * len(part.first) if number else part.first, "bold cyan"), (line, style)))
        if not whole and not asked.cut:
            lines.append(cut_line(run_id, asked.request.get("seq"), f"/request/detail/{part.pointer}"))
    return lines + [cut_line(run_id, asked.request.get("seq"), pointer) for pointer in asked.cut]


class _Part(NamedTuple):
    """Something that a request is about: where it stands in `detail`, and what it is shown behind."""

    pointer: str
    text: str
    first: str
    style: str = ""


def _parts(detail: JsonObject) -> Iterator[_Part]:
    for name, value in detail.items():
        if name == "command":
            yield _Part(name, str(value), "  $ ", "yellow")
        elif name == "plan":
            yield _Part(name, str(value), "  ")
        elif name == "tool":
            server = f"{detail['server']}." if detail.get("server") else ""
            yield _Part(name, f"{server}{value}", "  ⚙ ", "cyan")
        elif name == "changes" and (changes := as_array(value)):
            for number, item in enumerate(changes):
                change = as_object(item) or {"path": _in_words(item)}  # remote agents may say anything
                yield _Part(f"changes/{number}", str(change.get("path")), "  ~ ", "green")
                yield _Part(f"changes/{number}/diff", str(change.get("diff") or ""), "  ", "diff")
        elif name == "arguments" and (arguments := as_object(value)):
            for key, one in arguments.items():
                yield _Part(name, _in_words(one), f"    {one_line(key)}: ")
        elif value not in (None, "", [], {}) and not (name == "server" and "tool" in detail):
            yield _Part(name, _in_words(value), f"  {one_line(name)}: ", "dim")


def text_lines(run_id: str, asked: Asked, first: str = "") -> list[Text]:
    """The text of a request."""
    shown, whole = _bounded(str(asked.request["text"]))
    lines = [
        Text.assemble((first if not number else "", "bold magenta"), (line, "magenta"))
        for number, line in enumerate(shown or [""])
    ]
    cut = not whole and not asked.cut
    return [*lines, cut_line(run_id, asked.request.get("seq"), "/request/text")] if cut else lines


def option_lines(options: Sequence[JsonObject] | None, indent: str = "  ") -> list[Text]:
    """The options of a request or of a question, numbered, each with its label, its id and what it means."""
    lines: list[Text] = []
    for number, option in enumerate(options or (), 1):
        label, more = str(option.get("label") or option["id"]), str(option.get("description") or "")
        named = "" if label == str(option["id"]) else f"  ({option['id']})"
        lines.append(Text.assemble(f"{indent}{number}  {label}", (named, "dim"), (f"  {more}" if more else "", "dim")))
    return lines


def questions_of(request: JsonObject) -> list[JsonObject]:
    """The questions of a request that asks several; empty for one that asks one thing."""
    questions: list[JsonObject] = request.get("questions") or []
    return questions if len(questions) > 1 or any(question.get("multi_select") for question in questions) else []


def question_lines(number: int, question: JsonObject) -> list[Text]:
    """One of several questions, with its options."""
    several = "  (several, with commas)" if question.get("multi_select") else ""
    head = Text.assemble((f"{number}. ", "bold magenta"), (str(question.get("text", "")), "magenta"), (several, "dim"))
    return [head, *option_lines(question.get("options"), "     ")]


def prompt_of(request: JsonObject) -> str:
    """What a person is asked for."""
    options = _ids(request)
    if request["kind"] == "approval":
        more = ", or one of these by its number" if set(options) - {"approve", "deny"} else ""
        return f"[a]pprove or [d]eny (with a reason){more}? "
    return "your choice: " if options else "your answer: "


def answer_of(request: JsonObject, said: str) -> JsonObject | None:
    """The arguments of the answer that a person typed; None if it is none."""
    options = _ids(request)
    if said in options:
        return {"decision": said}
    word, _, rest = said.partition(" ")
    reason: dict[str, Any] = {"text": rest} if rest else {}
    if request["kind"] in ("approval", "auth") and (decision := _decision(word)):
        return {"decision": decision, **reason}
    if request["kind"] == "approval":
        chosen = word if word in options else _numbered(options, word)
        return {"decision": chosen, **reason} if chosen else None
    if chosen := _numbered(options, said):
        return {"decision": chosen}
    return {"text": said} if said else None


def choice_of(question: JsonObject, said: str) -> str | list[str] | None:
    """What a person typed as the answer to one of several questions; None if it is none."""
    options = _ids(question)
    if question.get("multi_select"):
        words = [word.strip() for word in said.split(",") if word.strip()]
        return [_numbered(options, word) or word for word in words] or None
    return (said if said in options else _numbered(options, said)) or said or None


def answers(given: dict[str, str | list[str]]) -> JsonObject:
    """The arguments of the answer to several questions, by their numbers."""
    return {"text": json.dumps(given, ensure_ascii=False)}


def _decision(word: str) -> Decision | None:
    """What a word says to an approval; None if it is neither yes nor no."""
    return "approve" if word.lower() in _YES else "deny" if word.lower() in _NO else None


def _ids(asked: JsonObject) -> list[str]:
    return [str(option["id"]) for option in asked.get("options") or ()]


def _numbered(options: list[str], word: str) -> str | None:
    return options[int(word) - 1] if word.isdecimal() and len(word) < 4 and 0 < int(word) <= len(options) else None


def _bounded(text: str) -> tuple[list[str], bool]:
    """The lines of a text that are shown, and whether they are all."""
    lines = text[:MOST_CHARS].splitlines()
    return lines[:MOST_LINES], len(text) <= MOST_CHARS and len(lines) <= MOST_LINES


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
