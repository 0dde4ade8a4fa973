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
    return [letter["text"] for letter in box.after(after)]


def test_messages_are_numbered_and_given_behind_a_number(place: Workspace) -> None:
    box = Inbox(place, None)
    assert box.after(0) == []
    assert [box.append({"text": text}) for text in ("one", "two", "three")] == [1, 2, 3]
    assert texts(box) == ["one", "two", "three"]
    assert texts(box, 2) == ["three"]
    assert texts(box, 9) == []
    assert [letter["seq"] for letter in box.after(0)] == [1, 2, 3]


def test_each_session_has_its_own(place: Workspace) -> None:
    one, other = new_id("ses"), new_id("ses")
    Inbox(place, one).append({"text": "one"})
    assert texts(Inbox(place, other)) == []
    assert texts(Inbox(place, None)) == []
    with pytest.raises(InvalidArgument):
        Inbox(place, "../caller")


def test_the_cursor_only_goes_forward(place: Workspace) -> None:
    box = Inbox(place, None)
    assert box.acknowledged == 0
    box.acknowledge(3)
    box.acknowledge(2)
    assert Inbox(place, None).acknowledged == 3


@given(st.integers(0, 200))
def test_a_torn_line_is_cut_off_and_its_number_given_anew(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    place = Workspace(tmp_path_factory.mktemp("torn"))
    place.open()
    box = Inbox(place, None)
    box.append({"text": "one"})
    whole = box.size
    box.append({"text": "two" * 20})
    path = place.root / "sessions" / "caller.inbox.jsonl"
    torn = min(box.size - 1, whole + cut)
    with path.open("r+b") as file:
        file.truncate(torn)
    assert texts(box) == ["one"]
    assert box.append({"text": "three"}) == 2
    assert texts(box) == ["one", "three"]


def _append(cwd: Path, name: str) -> list[int]:
    return [Inbox(Workspace(cwd), None).append({"text": f"{name}{number}"}) for number in range(50)]


def test_processes_that_write_at_the_same_time_lose_nothing(place: Workspace) -> None:
    with ProcessPoolExecutor(3) as pool:
        numbers = [number for part in pool.map(_append, [place.cwd] * 3, "abc") for number in part]
    assert sorted(numbers) == list(range(1, 151))
    assert len(set(texts(Inbox(place, None)))) == 150


def test_what_somebody_else_writes_into_it_harms_nobody(place: Workspace) -> None:
    box = Inbox(place, None)
    box.append({"text": "one"})
    with (place.root / "sessions" / "caller.inbox.jsonl").open("ab") as file:
        file.write(b"no json at all\n")
    assert box.append({"text": "two"}) == 3
    assert texts(box) == ["one", "two"]


def test_a_full_one_takes_no_more(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MAX_BYTES", 200)
    box = Inbox(place, None)
    box.append({"text": "x" * 300})
    with pytest.raises(LimitExceeded, match="is full"):
        box.append({"text": "y"})
