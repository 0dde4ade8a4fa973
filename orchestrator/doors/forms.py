"""What a run waits for, as a form that a client shows to its person, and the person's answer as our own. Pure.

The form is that of MCP's elicitation: a flat object. A login is never asked for in this way, for a form is no place for
secrets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from orchestrator.model import JsonObject, as_array, as_object

KEY_SEPARATOR = "/"
MESSAGE_CHARS = 4_000
MOST_FORMS = 16
"""Known clients show no more of one task."""


class Form(NamedTuple):
    """What a person is asked. `key` names the request among those of all runs."""

    key: str
    message: str
    schema: JsonObject


def forms_of(runs: list[JsonObject]) -> list[Form]:
    """A form for each request that a person may answer.

    Args:
        runs: documents with `run_id` and `pending`, as `wait_runs` and `get_run` have them.
    """
    return [
        Form(f"{run['run_id']}{KEY_SEPARATOR}{request['request_id']}", _message(run, request), _schema(request))
        for run in runs
        for request in run.get("pending", ())
        if request.get("kind") != "auth"
    ]


def answer_of(key: str, action: str, content: Any) -> JsonObject | None:
    """The arguments of the `continue_run` that an answer means; None if it means none, and the request stays open.

    Args:
        action: `accept`, `decline` or `cancel`. Who declines an approval denies it; who cancels has said nothing.
    """
    run_id, _, request_id = key.partition(KEY_SEPARATOR)
    given = as_object(content) or {}
    about: JsonObject = {"run_id": run_id, "request_id": request_id}
    if action == "decline":
        return {**about, "decision": "deny", "text": "the person at the client declined"}
    if action != "accept":
        return None
    decision, text = given.get("decision"), given.get("text")
    said = {"text": text} if isinstance(text, str) and text.strip() else {}
    if isinstance(decision, str) and decision:
        return {**about, "decision": decision, **said}
    return {**about, **said} if said else None


def run_of(key: str) -> str:
    """The run whose request a key names."""
    return key.partition(KEY_SEPARATOR)[0]


def requests_of(forms: list[Form]) -> JsonObject:
    """Forms as requests of elicitation, by their keys."""
    params = {f.key: {"mode": "form", "message": f.message, "requestedSchema": f.schema} for f in forms[:MOST_FORMS]}
    return {key: {"method": "elicitation/create", "params": given} for key, given in params.items()}


def _message(run: JsonObject, request: JsonObject) -> str:
    agent = run.get("agent_name") or run["run_id"]
    what = {"approval": "wants your approval", "question": "asks", "input": "needs something"}
    words = f"{agent} {what.get(str(request.get('kind')), 'asks')}: {request.get('text', '')}"
    for name, value in (as_object(request.get("detail")) or {}).items():
        words += f"\n\n{name}: {value if isinstance(value, str) else orjson.dumps(value).decode()}"
    if request.get("clipped") or len(words) > MESSAGE_CHARS:
        words = f"{words[:MESSAGE_CHARS]}\n(This is not all of it: look at the run before you approve.)"
    return words


def _schema(request: JsonObject) -> JsonObject:
    options = [option for given in as_array(request.get("options")) or [] if (option := as_object(given))]
    properties: JsonObject = {}
    approval = request.get("kind") == "approval"
    if approval and not options:
        options = [{"id": "approve", "label": "Yes"}, {"id": "deny", "label": "No"}]
    if options:
        properties["decision"] = {
            "type": "string",
            "title": "Decision" if approval else "Answer",
            "enum": [str(option.get("id")) for option in options],
            "enumNames": [str(option.get("label") or option.get("id")) for option in options],
        }
    title = "Reason" if approval else "In your own words" if options else "Answer"
    properties["text"] = {"type": "string", "title": title}
    required = ["decision"] if approval else [] if options else ["text"]
    return {"type": "object", "properties": properties, "required": required}
