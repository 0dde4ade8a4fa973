"""What Claude Code asks, as a request to the run's caller, and the caller's answer in Claude Code's words. Pure.

Permission prompts, questions and plans all come as "may I use this tool". What a run's permission rules out is denied
here and never asked; everything else waits for the caller, however long it takes.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from claude_agent_sdk import PermissionResultAllow, PermissionResultDeny, PermissionUpdate

from backends.claude_code.options import MODES
from backends.claude_code.updates import WRITING
from orchestrator import questions
from orchestrator.backend import denial
from orchestrator.changes import added, located, shown
from orchestrator.model import Answer, InputRequest, JsonObject, Permission, as_array, as_object
from orchestrator.questions import Question, options_of

QUESTION, PLAN = "AskUserQuestion", "ExitPlanMode"
FOR_SESSION = "approve_session"
"""The option that approves the like of it too, until the agent's process ends."""

_READ_ONLY = (QUESTION, PLAN, "Read", "Glob", "Grep", "NotebookRead", "WebFetch", "WebSearch", "Agent", "Task", "Skill")
"""Tools that a read_only run may use, if the caller agrees where Claude Code asks; and those of MCP servers that the
caller gave it, which are the caller's affair."""

Verdict = PermissionResultAllow | PermissionResultDeny


class Wish(NamedTuple):
    """What Claude Code asks for.

    Attributes:
        reason: why it asks, in its own words, if it says.
        suggestions: rules that would make it ask no more.
    """

    tool: str
    given: JsonObject
    call_id: str
    reason: str | None
    suggestions: Sequence[PermissionUpdate]


def forbidden(tool: str, level: Permission, *, planning: bool) -> str | None:
    """Why a tool is out of the question for a run; None if the caller decides."""
    if level == "read_only" and tool not in _READ_ONLY and not tool.startswith("mcp__"):
        return "this run is read_only"
    if planning and tool not in _READ_ONLY and not tool.startswith("mcp__"):
        return "the plan is not approved yet"
    return None


def writes(tool: str, given: JsonObject) -> bool:
    """Whether a tool writes. Claude Code does not ask for all that do: not for its memory's files, nor a worktree."""
    return tool in WRITING or (tool in ("Agent", "Task") and bool(given.get("isolation")))


def writes_own_file(tool: str, given: JsonObject, cwd: Path, config: Path) -> bool:
    """Whether a tool writes one of Claude Code's own files, for which it does not always ask. Blocks.

    Args:
        config: where these are; what is in cwd as well is the run's.
    """
    if (path := _written(tool, given)) is None:
        return False
    try:
        file = Path(os.path.realpath(cwd / path))
        return file.is_relative_to(os.path.realpath(config)) and not file.is_relative_to(os.path.realpath(cwd))
    except ValueError:  # no path at all
        return True


def denied(reason: str = "") -> PermissionResultDeny:
    """The denial that the model reads."""
    return PermissionResultDeny(message=denial(reason))


def written_file(wish: Wish, cwd: Path) -> Path | None:
    """The file that a wish would change, whose content `request_of` needs for the diff."""
    path = _written(wish.tool, wish.given)
    return None if path is None else located(path, cwd)


def _written(tool: str, given: JsonObject) -> str | None:
    """The path that a tool would write to, as it was given."""
    path = given.get("file_path") or given.get("notebook_path")
    return path if tool in WRITING and isinstance(path, str) else None


def request_of(wish: Wish, cwd: Path, *, plan: str, before: str | None) -> InputRequest:
    """The request for a wish.

    Args:
        plan: the plan that was handed in last.
        before: the content of the file that would be changed; None if there is none.
    """
    if wish.tool == QUESTION:
        return questions.ask(wish.call_id, _questions(wish.given))
    why = f" ({wish.reason})" if wish.reason else ""
    options = [{"id": "approve", "label": "Yes"}, {"id": "deny", "label": "No"}]
    if wish.tool == PLAN:
        text, detail = "Claude Code asks to carry out its plan", {"plan": plan}
    elif wish.tool == "Bash":
        command = str(wish.given.get("command", ""))
        text, detail = f"Claude Code asks to run: {command[:500]}", {"command": command, "cwd": str(cwd)}
    elif (path := written_file(wish, cwd)) is not None:
        name = shown(path, cwd)
        kind = "add" if before is None else "update"
        text = f"Claude Code asks to write {name}"
        detail = {"changes": [{"path": name, "kind": kind, "diff": _diff(wish, before)}]}
    else:
        text, detail = f"Claude Code asks to use {wish.tool}", {"tool": wish.tool, "arguments": wish.given}
    if rules := lasting(wish):
        options.insert(1, {"id": FOR_SESSION, "label": f"Yes, and for this run also {_words(rules)}"})
    return InputRequest(request_id=wish.call_id, kind="approval", text=text + why, options=options, detail=detail)


def verdict_of(wish: Wish, answer: Answer) -> Verdict:
    """The caller's answer, as Claude Code wants it."""
    said = answer.message.text if answer.message else ""
    if answer.decision == "deny":
        return denied(said)
    if wish.tool == QUESTION:
        return PermissionResultAllow(updated_input={**wish.given, "answers": answers_to(wish.given, answer)})
    if answer.decision == FOR_SESSION:
        return PermissionResultAllow(updated_input=wish.given, updated_permissions=lasting(wish))
    return PermissionResultAllow(updated_input=wish.given) if answer.approved else denied(said)


def in_its_mode(wish: Wish, verdict: Verdict, level: Permission) -> Verdict:
    """The approval of a plan, after which the run has the mode of its permission; Claude Code would ask for all."""
    if wish.tool != PLAN or isinstance(verdict, PermissionResultDeny):
        return verdict
    mode = PermissionUpdate(type="setMode", mode=MODES[level], destination="session")
    return replace(verdict, updated_permissions=[mode])


def lasting(wish: Wish) -> list[PermissionUpdate]:
    """The suggested rules, for this process alone: as suggested they would be written into the workspace."""
    return [
        replace(rule, destination="session")
        for rule in wish.suggestions
        if (rule.type == "addDirectories" and rule.directories)
        or (rule.type == "addRules" and rule.behavior == "allow" and rule.rules)
    ]


def _words(rules: Sequence[PermissionUpdate]) -> str:
    words = [
        f"{rule.tool_name}({rule.rule_content})" if rule.rule_content else rule.tool_name
        for update in rules
        for rule in update.rules or ()
    ]
    words += [f"files in {folder}" for update in rules for folder in update.directories or ()]
    return ", ".join(words)[:300]


def _diff(wish: Wish, before: str | None) -> str:
    given = wish.given
    if "content" in given:
        after = str(given["content"])
        return added(after) if before is None else _unified(before, after)
    edits = as_array(given.get("edits")) or [given]
    return "".join(
        _unified(str(edit.get("old_string", "")), str(edit.get("new_string", edit.get("new_source", ""))))
        for edit in map(as_object, edits)
        if edit
    )


def _unified(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=3)
    return "".join(f"{line}\n" for number, line in enumerate(lines) if number > 1)  # without the two lines of names


# ---- questions


def _questions(given: JsonObject) -> list[Question]:
    asked = [as_object(question) or {} for question in as_array(given.get("questions")) or []]
    return [
        Question(
            str(number),
            str(question.get("question", "")),
            str(question.get("header", "")),
            options_of(question.get("options")),
            question.get("multiSelect") is True,
        )
        for number, question in enumerate(asked, 1)
    ]


def answers_to(given: JsonObject, answer: Answer) -> dict[str, str]:
    """The answers by question, as the tool takes them: of several options their labels, with commas."""
    asked = _questions(given)
    answers = questions.answers_to(asked, answer)
    return {question.text: ", ".join(answers[question.question_id]) for question in asked}
