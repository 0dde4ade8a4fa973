"""Each packaged profile with each real agent: the agent is told who it is, may do what the profile says, and answers in
its structure."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.model import JsonObject, as_object
from orchestrator.profiles import PACKAGED, Profile, read
from tests.models.player import Player, agent_environment
from tests.system.desk import Desk, desk

pytestmark = [pytest.mark.system]

PROFILES = {path.stem: read(path, "packaged") for path in sorted(PACKAGED.glob("*.md")) if path.stem != "README"}
DECIDERS = [name for name, profile in PROFILES.items() if "output_schema" in profile.fields]


@pytest.fixture(params=["claude_code", "codex"])
async def agent(
    request: pytest.FixtureRequest, models: Mapping[str, Player], cwd: Path, tmp_path: Path
) -> AsyncGenerator[Desk]:
    """A desk of either agent."""
    async with desk(request.param, cwd, agent_environment(models[request.param], tmp_path)) as place:
        yield place


def test_all_that_are_promised_are_there() -> None:
    assert set(PROFILES) == {
        *("reviewer-remediator", "planner", "worker"),
        *("diff-planner", "test-planner", "policy-decider", "risk-assessor", "schema-summarizer", "finder"),
    }
    assert all(profile.description and profile.fields["version"] for profile in PROFILES.values())
    assert set(PROFILES) - set(DECIDERS) == {"planner", "worker"}


@pytest.mark.parametrize("name", DECIDERS)
def test_a_schema_is_one_that_strict_services_take(name: str) -> None:
    def objects(schema: Any) -> Iterator[JsonObject]:
        if isinstance(schema, list):
            for item in schema:  # pyright: ignore[reportUnknownVariableType]
                yield from objects(item)
        elif (found := as_object(schema)) is not None:
            if found.get("type") == "object":
                yield found
            for item in found.values():
                yield from objects(item)

    for found in objects(PROFILES[name].fields["output_schema"]):
        assert found["additionalProperties"] is False
        assert found["required"] == list(found["properties"])


@pytest.mark.parametrize("name", PROFILES)
async def test_the_agent_is_told_and_answers_as_it_should(agent: Desk, name: str) -> None:
    profile = PROFILES[name]
    own = next(line for line in profile.text.splitlines() if len(line) > 40)
    schema = profile.fields.get("output_schema")
    last = f"json {json.dumps(example(schema))}" if schema else "say done"
    run = await agent.finished(f"system {own}", "file made.txt made", last, profile=name)
    said = [event["data"]["text"] for event in await agent.events(run["run_id"], "agent_message")]
    assert said[0] == f"{own} is there"
    assert (agent.cwd / "made.txt").exists() == (_may_write(profile)), said
    assert run["status"] == "completed", run
    if schema:
        assert run["result"]["structured_output"] == example(schema)
    assert run["role"] == profile.fields["role"]


def _may_write(profile: Profile) -> bool:
    return profile.fields["permission"] != "read_only"


def example(schema: JsonObject) -> Any:
    """A value that matches: each object and array has something in it."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema["type"]:
        case "object":
            return {key: example(value) for key, value in schema["properties"].items()}
        case "array":
            return [example(schema["items"])]
        case "string" | ["string", "null"]:
            return "some text"
        case "integer":
            return 7
        case _:
            return True
