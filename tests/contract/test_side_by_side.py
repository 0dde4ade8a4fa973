"""The same task on every backend is told in the same words; `docs/backends.md` has what differs, and all of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.contract import side_by_side
from tests.models.player import Player


@pytest.mark.timeout(180)
async def test_all_backends_tell_the_same_task_in_the_same_words(tmp_path: Path, models: Mapping[str, Player]) -> None:
    columns = await side_by_side.columns_of(tmp_path, models)
    assert side_by_side.document(columns) == side_by_side.DOCUMENT.read_text(encoding="utf-8")
    for kind in ("a2a_1.0", "a2a_claude", "a2a_codex"):
        local = "local" if kind == "a2a_1.0" else kind.removeprefix("a2a_")
        assert columns[kind] == columns[local], kind
