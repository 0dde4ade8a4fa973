"""The MCP prompts: what a person picks in a client's menu, filled in as a good call of our tools. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from orchestrator.errors import InvalidArgument, nearest

Given = Mapping[str, str]


class Prompt(NamedTuple):
    """One prompt. `arguments` are name -> (description, required)."""

    name: str
    title: str
    description: str
    arguments: Mapping[str, tuple[str, bool]]
    text: Callable[[Given, str], str]


_BACKEND = ("the kind of agent: claude_code, codex; default: as the profile says, or you", False)
_FOLLOW = (
    "Then call wait_runs until it is over. If it needs something, look at `pending`: approve what plainly belongs to "
    "the task, and ask me about the rest. At the end call get_run"
)


def fill(name: str, given: Given, cwd: Path) -> str:
    """The text of a prompt.

    Args:
        given: with `backend` if it is needed, for a profile may name one itself.
        cwd: where the client is.

    Raises:
        InvalidArgument: there is no such prompt, or an argument is missing or unknown.
    """
    if name not in PROMPTS:
        raise InvalidArgument(f"no prompt {name!r}{nearest(name, PROMPTS)}")
    prompt = PROMPTS[name]
    for argument in given:
        if argument not in prompt.arguments:
            raise InvalidArgument(f"prompt {name} has no argument {argument!r}{nearest(argument, prompt.arguments)}")
    for argument, (description, required) in prompt.arguments.items():
        if required and not given.get(argument, "").strip():
            raise InvalidArgument(f"prompt {name} needs {argument}: {description}")
    return prompt.text({key: value for key, value in given.items() if value.strip()}, str(cwd))


def _call(tool: str, **arguments: Any) -> str:
    given = {key: value for key, value in arguments.items() if value}
    return f"Call {tool} with\n\n```json\n{orjson.dumps(given, option=orjson.OPT_INDENT_2).decode()}\n```"


def _review(given: Given, cwd: str) -> str:
    task = "Review the latest change set in this repository, fix what is safe to fix, and report."
    if "focus" in given:
        task += f" Look above all at: {given['focus']}"
    call = _call("spawn_run", profile="reviewer-remediator", backend=given.get("backend"), prompt=task, cwd=cwd)
    return (
        f"Have the latest changes reviewed by another agent.\n\n{call}\n\n{_FOLLOW}, read the report that "
        "result.reports names, and tell me: what was reviewed, what was found, what was fixed, and its final status."
    )


def _plan(given: Given, cwd: str) -> str:
    call = _call("spawn_run", profile="planner", backend=given.get("backend"), prompt=given["goal"], cwd=cwd)
    return f"Have a change planned by another agent, which may only read.\n\n{call}\n\n{_FOLLOW} and show me the plan."


def _delegate(given: Given, cwd: str) -> str:
    if "agent_name" in given:
        if "profile" in given:
            raise InvalidArgument("agent_name goes on with an agent that has its profile; leave profile out")
        call = _call("continue_run", agent_name=given["agent_name"], cwd=cwd, text=given["task"])
    else:
        profile = given.get("profile", "worker")
        call = _call("spawn_run", profile=profile, backend=given.get("backend"), prompt=given["task"], cwd=cwd)
    return (
        "Have another agent do this. It knows only what you tell it: before you call, put into the prompt what it "
        f"needs from our conversation (files, decisions, what not to touch).\n\n{call}\n\n{_FOLLOW}, check what it "
        "did, and tell me."
    )


PROMPTS: Mapping[str, Prompt] = {
    prompt.name: prompt
    for prompt in (
        Prompt(
            "review-changes",
            "Review the latest changes",
            "Another agent reviews the latest change set, fixes what is safe, and writes a report.",
            {"backend": _BACKEND, "focus": ("what to look at above all", False)},
            _review,
        ),
        Prompt(
            "plan-change",
            "Plan a change",
            "Another agent reads the code and plans a change; it writes nothing.",
            {"goal": ("what is to be changed, and why", True), "backend": _BACKEND},
            _plan,
        ),
        Prompt(
            "delegate",
            "Delegate a task",
            "Another agent does a task, or one that you already have goes on.",
            {
                "task": ("what is to be done", True),
                "profile": ("a job description by name; default worker", False),
                "backend": _BACKEND,
                "agent_name": ("instead: an agent that you already have", False),
            },
            _delegate,
        ),
    )
}
