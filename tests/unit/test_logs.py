"""The log: one JSON object a line, with the run's id wherever a run is worked for."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from pathlib import Path

import pytest

from orchestrator.backend import RunContext
from orchestrator.ends import Outcome
from orchestrator.logs import JsonLines, Plain
from orchestrator.model import JsonObject
from tests.unit.agents import Agent, desk, nothing


def written(formatter: logging.Formatter) -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("of a test")
    logger.addHandler(handler)
    return logger, stream


def test_a_record_is_one_line_whatever_is_in_it() -> None:
    logger, stream = written(JsonLines())
    logger.warning("two\nlines, %s", "é\u2028")
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("failed")
    first, second = (json.loads(line) for line in stream.getvalue().split("\n") if line.startswith("{"))
    assert (first["level"], first["logger"], first["message"]) == ("warning", "of a test", "two\nlines, é\u2028")
    assert first["ts"].endswith("Z")
    assert "ValueError: broken" in second["error"]
    assert "run_id" not in first


@pytest.mark.parametrize("formatter", [JsonLines(), Plain()])
async def test_what_is_logged_for_a_run_names_it(cwd: Path, formatter: logging.Formatter) -> None:
    logger, stream = written(formatter)

    async def act(ctx: RunContext) -> Outcome:
        await asyncio.create_task(asyncio.to_thread(logger.warning, "at work"))
        return await nothing(ctx)

    async with desk(cwd, Agent(act)) as tools:
        runs: list[JsonObject] = [await tools.finished() for _ in range(2)]
        logger.warning("not for a run")
    lines = stream.getvalue().splitlines()
    assert [run["run_id"] in line for run, line in zip(runs, lines, strict=False)] == [True, True]
    assert "run_" not in lines[2]


async def test_the_beginning_and_the_end_of_a_run_are_logged(cwd: Path, caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    lives = logging.getLogger("orchestrator.engine.lives")
    lives.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "orchestrator.engine.lives"):
            async with desk(cwd, Agent(nothing)) as tools:
                run = await tools.finished()
    finally:
        lives.removeHandler(handler)
    begun, ended = (json.loads(line) for line in stream.getvalue().splitlines())
    assert begun["run_id"] == ended["run_id"] == run["run_id"]
    assert begun["message"].startswith(f"run {run['run_id']} on ")
    assert ended["message"] == f"run {run['run_id']} is completed"
