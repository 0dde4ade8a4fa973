"""What a client may read, watch and complete beside the tools: the profiles, runs, and names of both."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import orjson

from orchestrator import profiles
from orchestrator.doors.tools import Tools
from orchestrator.engine import profiled
from orchestrator.errors import InvalidArgument
from orchestrator.model import JsonObject
from orchestrator.store.layout import Workspace

PROFILES, RUNS = "profiles://", "runs://"
JSON, MARKDOWN, DIFF = "application/json", "text/markdown", "text/x-diff"
EVENTS, EVENTS_CHARS = 200, 40_000
"""Of a run's events, the newest that a resource shows; `poll_events` has all of them."""
PATCH_BYTES = 1_000_000
LEAST_S, LOOK_S = 0.25, 1.0
"""How soon a change of a run is told after the last one, and how often the list of runs is looked at."""
MOST = 100
"""Completions in one answer, as the protocol has it."""


class Template(NamedTuple):
    """A kind of resource, one for each value of the variable in its address."""

    name: str
    uri: str
    description: str
    mime: str


TEMPLATES = (
    Template("run", "run://{run_id}", "one run: what get_run says", JSON),
    Template("events", "run://{run_id}/events", "its newest events", JSON),
    Template("patch", "run://{run_id}/patch", "what it changed, once it is over", DIFF),
    Template("profile", "profile://{profile}", "one profile: the job description", MARKDOWN),
)


class Content(NamedTuple):
    """What a resource holds."""

    mime: str
    text: str


async def read(tools: Tools, uri: str) -> Content:
    """A resource.

    Raises:
        OrchestratorError: there is none of that name.
    """
    tools.check_live()
    scheme, _, name = uri.partition("://")
    match scheme:
        case "profiles" if uri == PROFILES:
            return Content(JSON, _json(await tools.list_profiles({})))
        case "runs" if uri == RUNS:
            return Content(JSON, _json(await tools.call("list_runs", {})))
        case "run":
            return await _read_run(tools, uri)
        case "profile":
            if not profiles.NAME.fullmatch(name):
                raise InvalidArgument(f"{name[:80]!r} is no name of a profile; read {PROFILES}")
            return Content(MARKDOWN, await asyncio.to_thread(_text_of, tools, name))
        case _:
            known = ", ".join((PROFILES, RUNS, *(template.uri for template in TEMPLATES)))
            raise InvalidArgument(f"no resource {uri[:200]!r}; known: {known}")


async def _read_run(tools: Tools, uri: str) -> Content:
    run_id, part = _run_and_part(uri)
    run = await tools.call("get_run", {"run_id": run_id})
    if part == "events":
        more = {"after_seq": max(0, run["last_seq"] - EVENTS), "limit": EVENTS, "max_chars": EVENTS_CHARS, "wait_ms": 0}
        return Content(JSON, _json(await tools.call("poll_events", {"run_id": run_id, **more})))
    if part == "patch":
        return Content(DIFF, await tools.patch(run_id, PATCH_BYTES))
    return Content(JSON, _json(run))


def _run_and_part(uri: str) -> tuple[str, str]:
    run_id, _, part = uri.removeprefix("run://").partition("/")
    if part not in ("", "events", "patch"):
        raise InvalidArgument(f"a run has no resource {part[:80]!r}; it has events and patch")
    return run_id, part


class Mark(NamedTuple):
    """How a resource is, as far as it matters to who watches it."""

    seen: object
    last_seq: int = 0
    final: bool = False
    """It cannot change any more."""


async def mark(tools: Tools, uri: str) -> Mark:
    """How a resource is now.

    Raises:
        OrchestratorError: there is none of that name, or it cannot be watched.
    """
    if uri == RUNS:
        return Mark([(run["run_id"], run["status"], run["summary"]) for run in await tools.rows()])
    if not uri.startswith("run://"):
        raise InvalidArgument(f"{uri[:200]!r} cannot be watched; {RUNS} and the resources of runs can")
    run_id, part = _run_and_part(uri)
    run = await tools.run(run_id)
    if part == "patch":
        return Mark(run.terminal, run.last_seq, run.terminal)
    seen = run.last_seq if part else (run.status, run.detail, run.summary, run.progress, len(run.pending))
    return Mark(seen, run.last_seq, run.terminal)


async def change(tools: Tools, uri: str, known: Mark) -> Mark:
    """How the resource is once it may have changed; not much sooner than anybody could read it."""
    if uri == RUNS:
        await asyncio.sleep(LOOK_S)
    else:
        await tools.run_past(_run_and_part(uri)[0], known.last_seq)
        await asyncio.sleep(LEAST_S)
    return await mark(tools, uri)


def _text_of(tools: Tools, name: str) -> str:
    profile = profiles.find(name, tools.caller.cwd, tools.home.path)
    trusted = profiled.is_trusted(profile, tools.caller.settings)
    profiled.check_reach(profile, tools.caller.cwd, None, trusted=trusted)
    return profile.text


def _json(document: JsonObject) -> str:
    return orjson.dumps(document).decode()


async def complete(tools: Tools, argument: str, begun: str) -> list[str]:
    """The values of an argument, of a prompt or of a template, that begin like that; the likeliest first."""
    return [value for value in await asyncio.to_thread(_values, tools, argument) if value.startswith(begun)]


def _values(tools: Tools, argument: str) -> list[str]:
    tools.check_live()
    workspace = Workspace(tools.caller.cwd)
    if tools.caller.bound and argument in ("agent_name", "run_id"):  # for agents there is list_agents
        return []
    match argument:
        case "profile":
            rows = profiles.listed(workspace.cwd, tools.home.path)
            return [row.name for row in rows if isinstance(row, profiles.Profile)]
        case "agent_name":
            return workspace.agent_names()
        case "run_id":
            return workspace.run_ids()
        case "backend":
            return sorted(tools.caller.backends or ())
        case _:
            return []
