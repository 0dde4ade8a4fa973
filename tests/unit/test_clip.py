"""Proves that a document is made to fit a number of characters, and that what was cut is named."""

from __future__ import annotations

from typing import Any, cast

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.clip import clip, json_chars
from orchestrator.model import JsonObject
from orchestrator.store.artifacts import resolve

words = st.text(st.characters(codec="utf-8"), max_size=12)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), words, st.builds(str.__mul__, words, st.integers(1, 200))
)
values: st.SearchStrategy[Any] = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(words, inner, max_size=10), max_leaves=40
)
documents = st.dictionaries(st.sampled_from(["a", "b", "/~", "d"]), values, min_size=1)


def _assert_cut_only_at(pointers: list[str], short: Any, whole: Any, place: str = "") -> None:
    """Types stay; a text keeps its beginning, an array its first items; what differs lies at a named place."""
    if short == whole:
        return
    assert type(short) is type(whole)
    named = place in pointers or any(place.startswith(pointer + "/") for pointer in pointers)
    if isinstance(whole, str):
        assert named
        assert short.endswith("…")
        assert whole.startswith(short.rstrip("…"))
    elif isinstance(whole, list):
        items = cast(list[Any], whole)
        assert len(short) == len(items) or named
        for index, item in enumerate(short):
            _assert_cut_only_at(pointers, item, items[index], f"{place}/{index}")
    else:
        assert isinstance(whole, dict)
        fields = cast(JsonObject, whole)
        assert list(short) == list(fields) or (named and list(short) == list(fields)[: len(short)])
        for key, item in short.items():
            _assert_cut_only_at(pointers, item, fields[key], f"{place}/{key.replace('~', '~0').replace('/', '~1')}")


@given(documents, st.integers(600, 3_000))
@settings(max_examples=150)
@example({"a": {str(number): number for number in range(2_000)}}, 1_000)
@example({"a": [[{"x": "y" * 70}] * 50] * 3}, 600)
@example({"a": ["x" * 300] * 50, "b": {"k": "x" * 81}}, 600)
@example({"a": "…" * 2_000}, 600)
@example({"a": {"k" * 3_000: 1}}, 600)
def test_a_clipped_document_fits_and_names_what_was_cut(document: JsonObject, limit: int) -> None:
    before = orjson.dumps(document)
    short, pointers = clip(document, limit)
    assert orjson.dumps(document) == before, "the document itself is left alone"
    assert json_chars(short) <= limit
    assert (pointers == []) is (short == document)
    assert len(set(pointers)) == len(pointers)
    for pointer in pointers:
        assert resolve(short, pointer, pointer) != resolve(document, pointer, pointer)
    _assert_cut_only_at(pointers, short, document)


def test_what_fits_is_returned_as_it_is() -> None:
    document: JsonObject = {"a": "x" * 100}
    value, pointers = clip(document, json_chars(document))
    assert value is document
    assert pointers == []


def test_a_lone_long_text_keeps_as_much_as_fits() -> None:
    value, pointers = clip({"id": "run_1", "text": "word " * 4_000, "n": 5}, 8_000)
    assert pointers == ["/text"]
    assert (value["id"], value["n"]) == ("run_1", 5)
    assert 6_000 < json_chars(value) <= 8_000


def test_texts_are_cut_before_items_are_dropped() -> None:
    value, pointers = clip({"rows": [1, 2, 3], "text": "x" * 5_000}, 1_000)
    assert value["rows"] == [1, 2, 3]
    assert pointers == ["/text"]


def test_items_are_dropped_from_the_end() -> None:
    value, pointers = clip({"rows": list(range(2_000))}, 1_000)
    assert value["rows"] == list(range(len(value["rows"])))
    assert pointers == ["/rows"]
    assert len(value["rows"]) > 50


@pytest.mark.parametrize("text", ["", "é", "漢🙂", '"\\', "\x00"])
def test_sizes_are_those_of_compact_json_in_characters(text: str) -> None:
    assert json_chars({"a": [text, None]}) == len(orjson.dumps({"a": [text, None]}).decode())
