"""How hypothesis runs here, with few examples and no deadline; tools for one caller; an agent that misbehaves."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from orchestrator.doors.tools import Tools
from tests.conftest import open_tools
from tests.fake_agent import FakeAgent, fake_agent

settings.register_profile(
    "unit",
    max_examples=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("unit")


@pytest.fixture
async def agent() -> AsyncGenerator[FakeAgent]:
    """A listening agent that does what the test says, however wrong."""
    async with fake_agent() as agent:
        yield agent


@pytest.fixture
async def tools(cwd: Path) -> AsyncGenerator[Tools]:
    """The tools of one caller, with a token in its environment."""
    async with open_tools(cwd, AGENT_TOKEN="a-token-of-the-environment") as tools:
        yield tools
