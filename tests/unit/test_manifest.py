"""The manifest of behaviours and the tests agree, in both directions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from tests.manifest import BEHAVIOURS

TESTS = Path(__file__).parents[1]


def names() -> Iterator[str]:
    """Every test as `folder/file::name`."""
    for path in sorted(TESTS.rglob("test_*.py")):
        place = f"{path.parent.relative_to(TESTS)}/{path.stem.removeprefix('test_')}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                yield f"{place}::{node.name.removeprefix('test_')}"


def test_no_behaviour_is_without_a_test() -> None:
    tests = list(names())
    for behaviour in BEHAVIOURS:
        for pattern in behaviour.tests:
            assert any(fnmatchcase(test, pattern) for test in tests), f"{behaviour.id}: nothing matches {pattern}"


def test_no_test_is_without_a_behaviour() -> None:
    patterns = [pattern for behaviour in BEHAVIOURS for pattern in behaviour.tests]
    assert [test for test in names() if not any(fnmatchcase(test, pattern) for pattern in patterns)] == []


def test_behaviours_have_ids_of_their_own_and_sources_that_exist() -> None:
    ids = [behaviour.id for behaviour in BEHAVIOURS]
    assert len(set(ids)) == len(ids)
    for behaviour in BEHAVIOURS:
        assert (TESTS.parent / behaviour.source).is_file(), behaviour
