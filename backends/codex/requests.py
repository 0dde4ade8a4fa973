"""What Codex asks, as a request to the run's caller, and the caller's answer as Codex wants it. Pure.

What a run's permission rules out is declined here and never asked. Codex takes no reason with a refusal, so a reason is
said to the agent as a message of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from backends.codex.client import Request
from backends.codex.updates import ASK_TOOL, command_of
from orchestrator import questions
from orchestrator.backend import denial
from orchestrator.model import Answer, InputRequest, JsonObject, Permission, as_array, as_object
from orchestrator.questions import Question, options_of, with_context

COMMAND, FILES = "item/commandExecution/requestApproval", "item/fileChange/requestApproval"
PERMISSIONS, QUESTIONS = "item/permissions/requestApproval", "item/tool/requestUserInput"
TOOL, ELICITATION = "item/tool/call", "mcpServer/elicitation/request"

FOR_SESSION, STOP = "approve_session", "cancel"
"""Options of an approval besides yes and no: the like of it too until the process ends; the turn is stopped."""

ASK_CALLER: JsonObject = {
    "type": "function",
    "name": ASK_TOOL,
    "description": (
        "Ask the person or agent that gave you this task, and wait for the answer. Use it when you need a decision or "
        "information that you cannot find yourself."
    ),
    "inputSchema": {
        "type": "object",
        "properties": {
            "question": {"type": "string"},
            "options": {"type": "array", "items": {"type": "string"}, "description": "short answers to choose from"},
            "context": {"type": "string", "description": "what they need to know to answer"},
        },
        "required": ["question"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What to tell Codex.

    Attributes:
        result: the answer to its request.
        say: what to say to the agent besides; empty for nothing.
    """

    result: JsonObject
    say: str = ""


def request_id_of(request: Request) -> str:
    """A name for a request that is the same if it is asked again."""
    params = request.params
    name = params.get("approvalId") or params.get("itemId") or params.get("callId") or params.get("elicitationId")
    return str(name) if name else f"{request.method.rsplit('/', 1)[-1]}-{request.request_id}"


def forbidden(request: Request, level: Permission) -> Reply | None:
    """The refusal of what a run's permission rules out; None if the caller decides."""
    if level != "read_only" or request.method not in (COMMAND, FILES, PERMISSIONS):
        return None
    refusal: JsonObject = (
        {"permissions": {}, "scope": "turn"} if request.method == PERMISSIONS else _decision("decline")
    )
    return Reply(refusal, denial("this run is read_only"))


def request_of(request: Request, changes: list[JsonObject] | None) -> InputRequest | None:
    """The request to the caller; None for what is not supported.

    Args:
        changes: of a file change that asks for its approval, as its item told them.
    """
    params, request_id = request.params, request_id_of(request)
    match request.method:
        case "item/commandExecution/requestApproval":
            command = command_of(params) or str(params.get("networkApprovalContext") or "something")
            detail = {"command": command, "cwd": str(params.get("cwd") or "")}
            return _approval(request_id, f"Codex asks to run: {command[:500]}", params, detail)
        case "item/fileChange/requestApproval":
            names = ", ".join(change["path"] for change in changes or ())[:500]
            names = names or str(params.get("grantRoot") or "files, and does not say which")
            return _approval(request_id, f"Codex asks to write {names}", params, {"changes": changes or []})
        case "item/permissions/requestApproval":
            return _approval(request_id, "Codex asks for more permissions", params, _wanted(params), lasting=False)
        case "item/tool/requestUserInput":
            return questions.ask(request_id, _questions(params))
        case "item/tool/call" if params.get("tool") == ASK_TOOL:
            return questions.ask(request_id, [_asked(params)])
        case "mcpServer/elicitation/request":
            return _elicited(request_id, params)
        case _:
            return None


def reply_to(request: Request, answer: Answer) -> Reply:
    """The caller's answer, as Codex wants it."""
    said = answer.message.text if answer.message else ""
    denied = answer.decision == "deny"
    match request.method:
        case "item/commandExecution/requestApproval" | "item/fileChange/requestApproval":
            words = {"approve": "accept", FOR_SESSION: "acceptForSession", STOP: "cancel"}
            decision = words.get(answer.decision or "", "decline")
            return Reply(_decision(decision), denial(said) if decision == "decline" else "")
        case "item/permissions/requestApproval":
            granted = as_object(request.params.get("permissions")) if answer.approved else {}
            return Reply({"permissions": granted, "scope": "turn"}, "" if answer.approved else denial(said))
        case "item/tool/requestUserInput":
            answers = {} if denied else questions.answers_to(_questions(request.params), answer)
            given = {question_id: {"answers": values} for question_id, values in answers.items()}
            return Reply({"answers": given}, denial(said) if denied else "")
        case "item/tool/call":
            asked = _asked(request.params)
            text = denial(said) if denied else ", ".join(questions.answers_to([asked], answer)[asked.question_id])
            return Reply({"contentItems": [{"type": "inputText", "text": text}], "success": not denied})
        case _:
            return _elicitation_reply(request.params, answer, said)


def _decision(word: str) -> JsonObject:
    return {"decision": word}


def _approval(
    request_id: str, text: str, params: JsonObject, detail: JsonObject, *, lasting: bool = True
) -> InputRequest:
    reason = params.get("reason")
    options = [{"id": "approve", "label": "Yes"}, {"id": "deny", "label": "No"}]
    if lasting:
        options.insert(1, {"id": FOR_SESSION, "label": "Yes, and for this run also the like of it"})
        options.append({"id": STOP, "label": "No, and stop the run"})
    return InputRequest(
        request_id=request_id,
        kind="approval",
        text=f"{text} ({reason})" if reason else text,
        options=options,
        detail=detail,
    )


def _wanted(params: JsonObject) -> JsonObject:
    return {"permissions": params.get("permissions"), "cwd": str(params.get("cwd") or "")}


def _questions(params: JsonObject) -> list[Question]:
    asked = [as_object(question) or {} for question in as_array(params.get("questions")) or []]
    return [
        Question(
            str(question.get("id")),
            str(question.get("question", "")),
            str(question.get("header", "")),
            options_of(question.get("options")),
        )
        for question in asked
    ]


def _asked(params: JsonObject) -> Question:
    given = as_object(params.get("arguments")) or {}
    return Question("1", with_context(given), options=options_of(given.get("options")))


# ---- what an MCP server asks


_TOOL_NAME = re.compile(r'tool "([^"]+)"')


def _is_tool_approval(params: JsonObject) -> bool:
    return (as_object(params.get("_meta")) or {}).get("codex_approval_kind") == "mcp_tool_call"


def _elicited(request_id: str, params: JsonObject) -> InputRequest | None:
    server, text = params.get("serverName"), str(params.get("message", ""))
    if _is_tool_approval(params):
        named = _TOOL_NAME.search(text)
        arguments = (as_object(params.get("_meta")) or {}).get("tool_params")
        detail = {"tool": named[1] if named else text, "server": server, "arguments": arguments}
        return _approval(request_id, f"Codex asks to use a tool of {server}: {text}", params, detail, lasting=False)
    match params.get("mode"):
        case "url":
            return InputRequest(
                request_id=request_id,
                kind="auth",
                text=f"{server} wants you to go to {params.get('url')}: {text}",
                detail={"url": str(params.get("url")), "server": server},
            )
        case "form":
            schema = params.get("requestedSchema")
            return InputRequest(
                request_id=request_id,
                kind="input",
                text=f"{server} asks: {text}",
                detail={"server": server, "schema": schema},
            )
        case _:
            return None


def _elicitation_reply(params: JsonObject, answer: Answer, said: str) -> Reply:
    if _is_tool_approval(params):
        if answer.approved:
            return Reply(_elicitation("accept", {}))
        return Reply(_elicitation("decline", None), denial(said))
    if answer.decision == "deny":
        return Reply(_elicitation("decline", None))
    content = None if params.get("mode") == "url" else _content(params, answer, said)
    return Reply(_elicitation("accept", content))


def _elicitation(action: str, content: Any) -> JsonObject:
    return {"action": action, "content": content, "_meta": None}


def _content(params: JsonObject, answer: Answer, said: str) -> JsonObject:
    """The form's content: an object as it came, otherwise the words for the form's first field."""
    parts = answer.message.parts if answer.message else []
    given = next((as_object(part.get("data")) for part in parts if part.get("type") == "data"), None)
    if given is None and said.lstrip().startswith("{"):
        try:
            given = as_object(orjson.loads(said))
        except orjson.JSONDecodeError:
            given = None
    if given is not None:
        return given
    fields = list(as_object((as_object(params.get("requestedSchema")) or {}).get("properties")) or {})
    return {fields[0]: said or answer.text} if fields else {}
