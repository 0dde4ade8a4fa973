"""Steering: what was accepted is heard, and what would not be heard is not accepted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.engine.steering import LIMIT, Steering
from orchestrator.errors import LimitExceeded, WrongState
from orchestrator.model import Message
from orchestrator.store.layout import Home
from tests.unit.runs import events_of, new_log


async def test_what_is_being_heard_is_heard_before_the_end(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    steering, heard, slow = Steering(log), list[str](), asyncio.Event()

    async def listen() -> None:
        async for message in steering.messages():
            await slow.wait()
            heard.append(message.text)

    listening = asyncio.create_task(listen())
    await steering.say(Message.of_text("one"))
    ending = asyncio.create_task(steering.end(lambda: not heard))
    await asyncio.sleep(0)
    late = asyncio.create_task(steering.say(Message.of_text("two")))
    slow.set()
    assert await ending is False, "there was more to do"
    await late
    assert await steering.end(lambda: heard == ["one", "two"]) is True
    with pytest.raises(WrongState, match="just ending"):
        await steering.say(Message.of_text("three"))
    listening.cancel()
    assert [event.data["text"] for event in events_of(log.dir)] == ["one", "two"]
    log.close()


async def test_too_much_is_refused_and_not_told(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    steering = Steering(log)
    for number in range(LIMIT):
        await steering.say(Message.of_text(str(number)))
    with pytest.raises(LimitExceeded, match="waiting already"):
        await steering.say(Message.of_text("more"))
    assert len(events_of(log.dir)) == LIMIT
    log.close()
