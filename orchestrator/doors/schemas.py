"""The tools as their callers see them: names, descriptions, input schemas, and the server's instructions.

Data only. An argument is here when it works, and unknown arguments are refused. Every word costs a caller's context:
`tools/list` of the eight usual ones stays under 10 KB, and what a model sees of it under 6 KB. The others come in sets,
for clients that ask for them: `orchestrator mcp --toolset team`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from orchestrator.model import ON_APPROVAL, PERMISSIONS, SESSION_MODES, JsonObject, Status

INSTRUCTIONS = """\
Runs other coding agents as background runs that you start, follow, answer, steer and cancel.

Loop: spawn_run returns a run_id at once. Then wait_runs(run_ids) until a run is over or needs you (cheap; prefer \
it), or poll_events(run_id, after_seq) to follow in detail, going on with next_after_seq. A wait that times out is \
normal: call again. When a run is input_required or auth_required, read `pending` and answer with continue_run: \
decision approve|deny for an approval, an option id or text for a question. When it is completed, get_run has \
result.final_response; when it failed, error says why and what to do. continue_run with text on a finished run \
resumes its session as a new run; on a running one it steers where the agent can.

Several runs work at the same time: spawn all, then wait_runs(until="all"). Long fields are previews: an event's \
artifact_refs names what get_event_artifact reads in pages. Pass idempotency_key if you may retry a spawn_run. \
Runs are found again with list_runs, in any later session; agent_name means the newest run \
of that agent (in cwd, if not yours).

Do not use it for what you can do yourself in a few steps: each run is a whole agent that knows only its prompt and \
cwd. cancel_run what you no longer need."""


class Tool(NamedTuple):
    """One tool. `read` tools change nothing; `always` asks clients not to defer loading it."""

    name: str
    description: str
    properties: JsonObject
    required: tuple[str, ...] = ()
    read: bool = True
    destructive: bool = False
    idempotent: bool = False
    always: bool = False

    @property
    def input_schema(self) -> JsonObject:
        """JSON Schema of the arguments."""
        schema: JsonObject = {"type": "object", "properties": self.properties, "additionalProperties": False}
        return {**schema, "required": list(self.required)} if self.required else schema


def _s(description: str = "", **more: Any) -> JsonObject:
    return {"type": "string", **({"description": description} if description else {}), **more}


def _i(description: str, default: int, minimum: int, maximum: int) -> JsonObject:
    return {"type": "integer", "description": description, "default": default, "minimum": minimum, "maximum": maximum}


def _o(description: str) -> JsonObject:
    return {"type": "object", "description": description}


_RUN: JsonObject = {"run_id": _s(), "agent_name": _s("or run_id"), "cwd": _s()}
_PAGE: JsonObject = {
    "offset": {"type": "integer", "default": 0, "minimum": 0, "description": "last next_offset"},
    "limit": {"type": "integer", "minimum": 1, "maximum": 262_144, "description": "bytes"},
}
_PARTS = "{parts: [{type: text | data | file, text | data | uri | bytes_base64, mime_type?, name?}], role?, metadata?}"

TOOLS: tuple[Tool, ...] = (
    Tool(
        "spawn_run",
        "Start a run of another agent; returns its run_id at once.",
        {
            "backend": _s("claude_code, codex or remote_a2a"),
            "prompt": _s("the task, complete: the agent knows nothing else"),
            "input_message": _o(f"instead of prompt: {_PARTS}"),
            "cwd": _s("absolute path to work in"),
            "role": _s("label; default worker", maxLength=64),
            "profile": _s("a job description: name or path"),
            "nickname": _s("wished agent_name"),
            "session_mode": {"enum": list(SESSION_MODES)},
            "session_id": _s("to resume or fork"),
            "output_schema": _o("JSON Schema that the final answer must match"),
            "permission": {"enum": list(PERMISSIONS), "description": "default workspace_write"},
            "on_approval": {"enum": list(ON_APPROVAL), "description": "default ask"},
            "workspace": _o(
                "{mode: shared | worktree | clone, base?, branch?, repo?, include_uncommitted?, keep?}; "
                "default shared: cwd"
            ),
            "checks": {"type": "array", "description": "commands that must pass, or {name, run, timeout_s, required}"},
            "acceptance": {"type": "array", "items": _s(), "description": "criteria, each to be answered"},
            "require_changes": {"type": "boolean"},
            "limits": _o(
                "{timeout_s, input_timeout_s, queue_ttl_s, max_turns, max_tokens, max_cost_usd, max_events, "
                "max_artifact_mb, fix_attempts}"
            ),
            "priority": _i("0 goes first", 1, 0, 3),
            "idempotency_key": _s("same key and arguments give the same run", maxLength=512),
            "metadata": _o("your labels"),
            "on_finish": _o("{webhook: URL, command: [argv], message_to: agent_name}"),
            "wait": {"type": "boolean", "description": "until it is over or needs you"},
            "backend_config": _o(
                "model, effort, append_system_prompt, mcp_servers; remote_a2a: agent_url, auth_token | "
                "auth_token_env, headers"
            ),
        },
        ("cwd",),
        read=False,
        always=True,
    ),
    Tool(
        "get_run",
        "Status, summary, pending requests, result or error of a run.",
        _RUN,
        idempotent=True,
        always=True,
    ),
    Tool(
        "poll_events",
        "Events of a run behind after_seq. Waits while there are none; an empty answer is normal.",
        {
            **_RUN,
            "after_seq": {"type": "integer", "default": 0, "minimum": 0, "description": "last next_after_seq"},
            "limit": _i("events at most", 100, 1, 1000),
            "wait_ms": _i("0: do not wait", 20_000, 0, 50_000),
            "types": {"type": "array", "items": _s(), "minItems": 1, "description": "only these"},
            "max_chars": _i("size of the answer", 8_000, 1_000, 200_000),
        },
        idempotent=True,
    ),
    Tool(
        "wait_runs",
        "Wait until any (or all) of these runs is over or needs you; returns a digest of each.",
        {
            "run_ids": {"type": "array", "items": _s(), "minItems": 1, "maxItems": 50},
            "until": {"enum": ["any", "all"], "default": "any"},
            "wait_ms": _i("0: do not wait", 20_000, 0, 50_000),
            "ask_person": {"type": "boolean", "description": "the person at your client may answer"},
        },
        ("run_ids",),
        idempotent=True,
        always=True,
    ),
    Tool(
        "continue_run",
        "Waiting run: answer its request. Running: steer it. Finished: resume its session as a new run.",
        {
            **_RUN,
            "text": _s("what to say; with decision: the reason"),
            "input_message": _o("instead of text, as in spawn_run"),
            "request_id": _s("which pending request; needed if several"),
            "decision": _s("approve | deny | an option's id"),
            "backend_config": _o("credentials, given anew"),
        },
        read=False,
        always=True,
    ),
    Tool(
        "cancel_run",
        "End a run and its agent's processes. A finished run is left as it is.",
        {**_RUN, "reason": _s(maxLength=1000)},
        read=False,
        destructive=True,
        idempotent=True,
    ),
    Tool(
        "list_runs",
        "Runs at or below your directory, newest first.",
        {
            "status": {"enum": list(Status)},
            "backend": _s(),
            "role": _s(),
            "cwd": _s("or * for all; default yours"),
            "session_id": _s(),
            "limit": _i("runs at most", 20, 1, 100),
            "cursor": _s("last next_cursor"),
        },
        idempotent=True,
    ),
    Tool(
        "get_event_artifact",
        "Read a page of any field of an event, as of a preview.",
        {
            **_RUN,
            "seq": {"type": "integer", "minimum": 1},
            "field_path": _s("JSON Pointer in the event's data: /output, /changes/0/diff"),
            **_PAGE,
        },
        ("seq", "field_path"),
        idempotent=True,
    ),
)

_LETTER: JsonObject = {
    "text": _s("what to say"),
    "parts": {"type": "array", "items": {"type": "object"}, "minItems": 1, "description": "instead of text, as in A2A"},
    "reply_to": _s("id of the message that this answers", maxLength=64),
    "deliver": {
        "enum": ["queue", "now", "wake"],
        "description": "default queue: until it is fetched; now: into the work of a running agent; wake: starts a "
        "turn of an agent whose runs are over",
    },
}
_FETCH: JsonObject = {
    "after_seq": {
        "type": "integer",
        "minimum": 0,
        "description": "next_after_seq of the last answer: says that you have those; without it you get again what you "
        "never said so of",
    },
    "wait_ms": _i("how long to wait while there are none", 0, 0, 50_000),
}
_LIST_AGENTS = Tool(
    "list_agents",
    "The agents that you may write to, newest first, and how far they are; `more` counts those left out.",
    {},
    idempotent=True,
)

TOOLSETS: Mapping[str, tuple[Tool, ...]] = {
    "agent": (
        Tool(
            "ask_caller",
            "Ask whoever gave you this task, and wait for the answer, however long it takes. For what only they can "
            "decide or know. If the call times out, ask the same again: nothing is lost.",
            {
                "question": _s("complete: they see nothing else of your work", maxLength=8_000),
                "options": {"type": "array", "items": _s(maxLength=200), "maxItems": 10},
                "context": _s("what they need to know to answer", maxLength=8_000),
            },
            ("question",),
            read=False,
        ),
        Tool(
            "report_progress",
            "Say in a line how far you are; your caller sees it. At each larger step of long work.",
            {"text": _s(maxLength=200), "percent": {"type": "number", "minimum": 0, "maximum": 100}},
            ("text",),
            read=False,
        ),
        Tool(
            "send_message",
            "Write to another agent of your tree, or to your caller.",
            {"to": _s("agent_name, one run_id of it, or caller", maxLength=64), **_LETTER},
            ("to",),
            read=False,
        ),
        Tool("fetch_messages", "Messages that others wrote to you.", _FETCH, read=False, idempotent=True),
        _LIST_AGENTS,
    ),
    "team": (
        Tool(
            "list_profiles",
            "Job descriptions that spawn_run takes by name as profile: reviewers, planners, workers.",
            {"cwd": _s("whose profiles to list besides the user's; default: yours")},
            idempotent=True,
        ),
        Tool(
            "send_agent_message",
            "Write to an agent of this directory.",
            {"to": _s("agent_name, or one run_id of it", maxLength=64), **_LETTER},
            ("to",),
            read=False,
        ),
        Tool(
            "fetch_agent_messages",
            "Messages that agents of this directory wrote to you as their caller.",
            _FETCH,
            read=False,
            idempotent=True,
        ),
        _LIST_AGENTS,
    ),
    "workspace": (
        Tool(
            "get_patch",
            "What a run changed, as a patch in pages.",
            {
                **_RUN,
                **_PAGE,
            },
            idempotent=True,
        ),
        Tool(
            "apply_run",
            "Bring the result of a run that worked in a worktree or clone into the files of its cwd: all of it, or "
            "nothing if it conflicts.",
            {
                **_RUN,
                "mode": {
                    "enum": ["apply", "commit", "branch"],
                    "default": "apply",
                    "description": "apply: change the files; commit: on what is checked out; branch: a commit aside",
                },
                "check_only": {"type": "boolean", "default": False, "description": "only say whether it would"},
                "three_way": {"type": "boolean", "default": False, "description": "merge with what changed meanwhile"},
                "branch": _s("of mode branch; default: the run's own"),
                "message": _s("of the commit", maxLength=8_000),
            },
            read=False,
        ),
        Tool(
            "discard_run",
            "Remove a run's worktree or clone and its branch. Its patch stays with the run.",
            _RUN,
            read=False,
            destructive=True,
        ),
    ),
}
"""Further tools, by the name of their set."""


def offered(toolsets: Iterable[str], *, usual: bool = True) -> list[Tool]:
    """The tools for a client that wants these sets, beside the usual ones."""
    further = {tool.name: tool for name in sorted(toolsets) for tool in TOOLSETS[name]}
    return [*(TOOLS if usual else ()), *further.values()]
