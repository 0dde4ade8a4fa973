"""Inboxes: numbered, whole, given until they are acknowledged, whoever writes at the same time and whatever is torn."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidArgument, LimitExceeded
from orchestrator.model import new_id
from orchestrator.store import inbox
from orchestrator.store.inbox import Inbox
from orchestrator.store.layout import Workspace


@pytest.fixture
def place(cwd: Path) -> Workspace:
    """A store in a directory of the test's own."""
    workspace = Workspace(cwd)
    workspace.open()
    return workspace


def texts(box: Inbox, after: int = 0) -> list[str]:
    return [letter["parts"] for letter in box.after(after)]


def say(box: Inbox, text: str) -> int:
    return box.append({"from": {}, "parts": text})


def test_messages_are_numbered_and_given_behind_a_number(place: Workspace) -> None:
    box = Inbox(place, None)
    assert box.after(0) == []
    assert [say(box, text) for text in ("one", "two", "three")] == [1, 2, 3]
    assert texts(box) == ["one", "two", "three"]
    assert texts(box, 2) == ["three"]
    assert texts(box, 9) == []
    assert [letter["seq"] for letter in box.after(0)] == [1, 2, 3]


def test_each_session_has_its_own(place: Workspace) -> None:
    one, other = new_id("ses"), new_id("ses")
    say(Inbox(place, one), "one")
    assert texts(Inbox(place, other)) == []
    assert texts(Inbox(place, None)) == []
    with pytest.raises(InvalidArgument):
        Inbox(place, "../caller")


def test_the_cursor_only_goes_forward(place: Workspace) -> None:
    box = Inbox(place, None)
    assert box.acknowledged == 0
    for text in ("one", "two", "three"):
        say(box, text)
    box.acknowledge(3)
    box.acknowledge(2)
    assert Inbox(place, None).acknowledged == 3


@given(st.integers(0, 200))
def test_a_torn_line_is_cut_off_and_its_number_given_anew(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    place = Workspace(tmp_path_factory.mktemp("torn"))
    place.open()
    box = Inbox(place, None)
    say(box, "one")
    whole = box.size
    say(box, "two" * 20)
    path = place.root / "sessions" / "caller.inbox.jsonl"
    torn = min(box.size - 1, whole + cut)
    with path.open("r+b") as file:
        file.truncate(torn)
    assert texts(box) == ["one"]
    assert say(box, "three") == 2
    assert texts(box) == ["one", "three"]


def _append(cwd: Path, name: str) -> list[int]:
    return [say(Inbox(Workspace(cwd), None), f"{name}{number}") for number in range(50)]


def test_processes_that_write_at_the_same_time_lose_nothing(place: Workspace) -> None:
    with ProcessPoolExecutor(3) as pool:
        numbers = [number for part in pool.map(_append, [place.cwd] * 3, "abc") for number in part]
    assert sorted(numbers) == list(range(1, 151))
    assert len(set(texts(Inbox(place, None)))) == 150


def test_what_somebody_else_writes_into_it_harms_nobody(place: Workspace) -> None:
    box = Inbox(place, None)
    say(box, "one")
    with (place.root / "sessions" / "caller.inbox.jsonl").open("ab") as file:
        file.write(b"no json at all\n")
    assert say(box, "two") == 3
    assert texts(box) == ["one", "two"]


def test_what_nobody_sent_cannot_be_acknowledged(place: Workspace) -> None:
    box = Inbox(place, None)
    say(box, "one")
    box.acknowledge(10**9)
    assert box.acknowledged == 1
    assert say(box, "two") == 2
    assert texts(box, box.acknowledged) == ["two"]


@pytest.mark.parametrize("line", [b"{}", b"[]", b'{"from": {}}', b"\xff"])
def test_a_line_that_is_no_message_blocks_nothing(place: Workspace, line: bytes) -> None:
    box = Inbox(place, None)
    say(box, "one")
    with (place.root / "sessions" / "caller.inbox.jsonl").open("ab") as file:
        file.write(line + b"\n")
    say(box, "two")
    assert texts(box) == ["one", "two"]


def test_a_full_one_takes_no_more_until_its_owner_has_it_all(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MAX_BYTES", 200)
    box = Inbox(place, None)
    say(box, "x" * 300)
    with pytest.raises(LimitExceeded, match="is full"):
        say(box, "y")
    box.acknowledge(1)
    assert say(box, "y") == 2, "the numbers go on"
    assert box.size < 300, "what everybody has is gone"
    assert (texts(box), box.last) == (["y"], 2)
    assert say(box, "z") == 3
    assert texts(box, 2) == ["z"]
