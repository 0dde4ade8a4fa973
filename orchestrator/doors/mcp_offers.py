"""What the MCP door offers beside tools: prompts, resources, and the completion of their arguments.

Here values become the SDK's types; what they say stands in `prompts` and `resources`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError

from orchestrator.doors import resources
from orchestrator.doors.prompts import PROMPTS, Prompt, fill
from orchestrator.doors.tools import Tools
from orchestrator.errors import OrchestratorError
from orchestrator.profiles import find

DEFAULT_BACKEND = "claude_code"
_Page = types.PaginatedRequestParams | None


class Offers:
    """The handlers for one client, as the SDK's low-level Server takes them."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def list_prompts(self, _ctx: Any, _params: _Page) -> types.ListPromptsResult:
        """All of them on one page."""
        return types.ListPromptsResult(prompts=[_listed(prompt) for prompt in PROMPTS.values()])

    async def get_prompt(self, _ctx: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        """One message of the user."""
        with as_protocol_errors():
            given = await asyncio.to_thread(self._with_backend, params.arguments or {})
            text = fill(params.name, given, self._tools.caller.cwd)
        said = types.PromptMessage(role="user", content=types.TextContent(type="text", text=text))
        return types.GetPromptResult(description=PROMPTS[params.name].description, messages=[said])

    def _with_backend(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """What was given, with a backend where neither that nor the profile names one."""
        with contextlib.suppress(OrchestratorError):
            profile = find(given.get("profile") or "worker", self._tools.caller.cwd, self._tools.home.path)
            if "backend" in profile.fields:
                return given
        return {"backend": DEFAULT_BACKEND, **given}

    async def list_resources(self, _ctx: Any, _params: _Page) -> types.ListResourcesResult:
        """The lists of profiles and of runs; single ones have templates."""
        known = {
            "profiles": (resources.PROFILES, "the profiles that spawn_run takes by name"),
            "runs": (resources.RUNS, "the runs at or below your directory, newest first"),
        }
        shown = [
            types.Resource(name=name, uri=uri, description=what, mime_type=resources.JSON)
            for name, (uri, what) in known.items()
        ]
        return types.ListResourcesResult(resources=shown)

    async def list_templates(self, _ctx: Any, _params: _Page) -> types.ListResourceTemplatesResult:
        """One for each kind of resource."""
        known = [
            types.ResourceTemplate(
                name=template.name,
                uri_template=template.uri,
                description=template.description,
                mime_type=template.mime,
            )
            for template in resources.TEMPLATES
        ]
        return types.ListResourceTemplatesResult(resource_templates=known)

    async def read_resource(self, _ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        """One resource, whole."""
        with as_protocol_errors(uri=params.uri):
            content = await resources.read(self._tools, params.uri)
        text = types.TextResourceContents(uri=params.uri, mime_type=content.mime, text=content.text)
        return types.ReadResourceResult(contents=[text])

    async def complete(self, _ctx: Any, params: types.CompleteRequestParams) -> types.CompleteResult:
        """The likeliest values of an argument."""
        with as_protocol_errors():
            values = await resources.complete(self._tools, params.argument.name, params.argument.value)
        some = values[: resources.MOST]
        completion = types.Completion(values=some, total=len(values), has_more=len(values) > len(some))
        return types.CompleteResult(completion=completion)


@contextlib.contextmanager
def as_protocol_errors(**about: str) -> Generator[None]:
    """What is no tool has no error results: a refusal is an error of the protocol, with the same sentence."""
    try:
        yield
    except OrchestratorError as error:
        raise MCPError(types.INVALID_PARAMS, error.sentence, about or None) from error


def _listed(prompt: Prompt) -> types.Prompt:
    arguments = [
        types.PromptArgument(name=name, description=description, required=required)
        for name, (description, required) in prompt.arguments.items()
    ]
    return types.Prompt(name=prompt.name, title=prompt.title, description=prompt.description, arguments=arguments)
