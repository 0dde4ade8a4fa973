"""Some work, and what makes it pointless: whichever comes first."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.races import unless


class Asked:
    """Work and its end, each of which waits for a word, and what became of them."""

    def __init__(self) -> None:
        self.done, self.over = asyncio.Event(), asyncio.Event()
        self.given_up: list[str] = []

    async def work(self) -> str:
        """Gives something when it is told to."""
        return await self._wait("work", self.done)

    async def end(self) -> None:
        """Returns when it is told to."""
        await self._wait("end", self.over)

    async def _wait(self, name: str, event: asyncio.Event) -> str:
        try:
            await event.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # what it leaves behind takes a moment
            self.given_up.append(name)
            raise
        return name


@pytest.mark.parametrize(
    ("first", "given", "given_up"),
    [(("done",), "work", ["end"]), (("over",), None, ["work"]), (("over", "done"), "work", [])],
)
async def test_work_gives_what_it_gives_unless_it_is_pointless_before(
    first: tuple[str, ...], given: str | None, given_up: list[str]
) -> None:
    asked = Asked()
    race = asyncio.ensure_future(unless(asked.end(), asked.work()))
    await asyncio.sleep(0)
    for name in first:
        getattr(asked, name).set()
    assert (await race, asked.given_up) == (given, given_up)


async def test_who_waits_for_a_race_hears_of_its_failure_and_takes_both_along() -> None:
    async def fails() -> str:
        raise LookupError

    asked = Asked()
    with pytest.raises(LookupError):
        await unless(asked.end(), fails())
    race = asyncio.ensure_future(unless(asked.end(), asked.work()))
    for _ in range(3):
        await asyncio.sleep(0)
    race.cancel()
    with pytest.raises(asyncio.CancelledError):
        await race
    assert asked.given_up == ["end", "work", "end"]
