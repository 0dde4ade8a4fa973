"""What a client may read and complete beside the tools: the profiles, runs, and names of both."""

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

PROFILES = "profiles://"
JSON, MARKDOWN = "application/json", "text/markdown"
MOST = 100
"""Completions in one answer, as the protocol has it."""


class Template(NamedTuple):
    """A kind of resource, one for each value of its variable."""

    uri: str
    variable: str
    description: str
    mime: str


TEMPLATES = (
    Template("run://{run_id}", "run_id", "one run: what get_run says", JSON),
    Template("profile://{profile}", "profile", "one profile: the job description", MARKDOWN),
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
    scheme, _, name = uri.partition("://")
    match scheme:
        case "profiles" if uri == PROFILES:
            return Content(JSON, _json(await tools.list_profiles({})))
        case "run":
            return Content(JSON, _json(await tools.call("get_run", {"run_id": name})))
        case "profile":
            if not profiles.NAME.fullmatch(name):
                raise InvalidArgument(f"{name[:80]!r} is no name of a profile; read {PROFILES}")
            return Content(MARKDOWN, await asyncio.to_thread(_text_of, tools, name))
        case _:
            known = ", ".join((PROFILES, *(template.uri for template in TEMPLATES)))
            raise InvalidArgument(f"no resource {uri[:200]!r}; known: {known}")


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
