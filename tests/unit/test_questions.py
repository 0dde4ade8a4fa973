"""Several questions in one request, and one answer to all of them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model import Answer, JsonObject, Message
from orchestrator.questions import Question, answers_to, ask, options_of, with_context

COLOURS: list[JsonObject] = [{"id": "red", "label": "red"}, {"id": "blue", "label": "blue"}]
COLOUR = Question("q-colour", "Which colour?", "Colour", COLOURS)
SIZE = Question("q-size", "Which size?", "Size", multi=True)
BOTH = (COLOUR, SIZE)


def said(text: str) -> Answer:
    return Answer(message=Message.of_text(text))


def data(value: Any) -> Answer:
    return Answer(message=Message(parts=[{"type": "data", "data": value}]))


# ---- asking


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["a", "b"], [{"id": "a", "label": "a"}, {"id": "b", "label": "b"}]),
        ([{"label": "a", "description": "the first"}], [{"id": "a", "label": "a", "description": "the first"}]),
        ([{"label": "a", "description": ""}, {"label": "b", "more": 1}],
         [{"id": "a", "label": "a"}, {"id": "b", "label": "b"}]),
        ([1, None], [{"id": "1", "label": "1"}, {"id": "None", "label": "None"}]),
        ([], []), (None, []), ("ab", []), ({"label": "a"}, []),
    ],
)  # fmt: skip
def test_options_are_taken_as_agents_give_them(given: Any, options: list[JsonObject]) -> None:
    assert options_of(given) == options


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"question": "Which?", "context": "for the door"}, "Which?\n\nfor the door"),
        ({"question": "Which?", "context": ""}, "Which?"), ({"question": None, "context": "for"}, "for"),
        ({"question": 1, "options": ["a"]}, "1"), ({}, ""),
    ],
)  # fmt: skip
def test_a_question_is_told_with_its_context(arguments: JsonObject, text: str) -> None:
    assert with_context(arguments) == text


def test_a_question_alone_is_asked_by_itself() -> None:
    request = ask("r", [COLOUR])
    assert (request.request_id, request.kind, request.text) == ("r", "question", "Which colour?")
    assert request.options == COLOURS
    document = {"id": "q-colour", "text": "Which colour?", "header": "Colour", "options": COLOURS}
    assert request.questions == [{**document, "multi_select": False}]
    assert ask("r", [SIZE]).options is None


def test_several_questions_are_numbered_and_have_their_options_each() -> None:
    request = ask("r", BOTH)
    *listed, how = request.text.splitlines()
    assert listed == ["1. Which colour?", "2. Which size?"]
    assert "line" in how
    assert "JSON" in how
    assert request.options is None
    assert [(q["options"], q["multi_select"]) for q in request.questions or []] == [(COLOURS, False), ([], True)]


# ---- answering


@pytest.mark.parametrize(
    "answer",
    [
        data({"1": "red", "2": "L"}),
        data({"q-colour": "red", "q-size": "L"}),
        data({"Colour": "red", "Size": ["L"]}),
        data({"Which colour?": "red", "Which size?": "L"}),
        data({"answers": {"1": "red", "Size": "L"}}),
        data({"1": "red", "q-size": "L", "other": "ignored"}),
        said('{"1": "red", "2": "L"}'),
        said('\n  {"answers": {"Colour": "red", "q-size": "L"}}'),
        said("red\nL"),
        said("\n  red\n\n L \n"),
        said("1. red\n2. L"),
    ],
)
def test_each_question_gets_its_answer(answer: Answer) -> None:
    assert answers_to(BOTH, answer) == {"q-colour": ["red"], "q-size": ["L"]}


def test_several_options_are_several_answers() -> None:
    assert answers_to(BOTH, data({"1": "red", "2": ["S", "L"]})) == {"q-colour": ["red"], "q-size": ["S", "L"]}


def test_what_an_object_does_not_name_is_answered_with_nothing() -> None:
    assert answers_to(BOTH, data({"2": "L"})) == {"q-colour": [""], "q-size": ["L"]}


@pytest.mark.parametrize("text", ["as you like", "one\ntwo\nthree", "{not JSON", "[1, 2]", ""])
def test_any_other_text_is_the_answer_to_each(text: str) -> None:
    assert answers_to(BOTH, said(text)) == {"q-colour": [text], "q-size": [text]}


@pytest.mark.parametrize("text", ["red", "a\nb", "1. red"])
def test_a_question_alone_gets_the_whole_text(text: str) -> None:
    assert answers_to([COLOUR], said(text)) == {"q-colour": [text]}


def test_an_option_is_an_answer() -> None:
    assert answers_to([COLOUR], Answer(decision="red")) == {"q-colour": ["red"]}


def test_an_option_that_comes_with_a_reason_is_heard() -> None:
    answer = Answer(decision="red", message=Message.of_text("it is warmer"))
    ((heard,),) = answers_to([COLOUR], answer).values()
    assert "red" in heard


def test_numbers_and_truths_are_told_as_words() -> None:
    assert answers_to(BOTH, data({"1": 3, "2": [True, None]})) == {"q-colour": ["3"], "q-size": ["True", "None"]}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
answers = st.builds(
    Answer,
    decision=st.none() | st.text(max_size=5),
    backend_config=st.just({}),
    message=st.none() | st.text(max_size=20).map(Message.of_text) | anything.map(lambda value: data(value).message),
)


asked = st.tuples(st.text(max_size=3), st.text(max_size=9), st.text(max_size=3)).map(lambda words: Question(*words))


@given(st.lists(asked, min_size=1, max_size=4), answers)
def test_every_question_has_some_answer(questions: list[Question], answer: Answer) -> None:
    given = answers_to(questions, answer)
    assert given.keys() == {question.question_id for question in questions}
    assert all(isinstance(word, str) for words in given.values() for word in words)
    orjson.dumps(ask("r", questions).to_json())
