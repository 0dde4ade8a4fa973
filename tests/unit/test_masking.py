"""Proves that credentials never reach the disk, however they are cut, escaped, nested or streamed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from orchestrator.model import JsonObject, Message
from orchestrator.store.layout import Home, read_json
from orchestrator.store.log import RunLog
from orchestrator.store.masking import Mask, secrets_of, without_credentials, without_placeholders
from orchestrator.store.reader import RunReader
from orchestrator.updates import ArtifactChunk
from tests.unit.runs import FAILED, events_of, files_below, new_log, temporary_log, whole_field

_few = st.sampled_from("abcé")
few_secrets = st.sets(st.text(_few, min_size=1, max_size=6), max_size=5)
few_texts = st.text(_few, max_size=80)

_signs = st.one_of(st.sampled_from('\\"/\n\té漢🙂 -_=+'), st.characters(codec="ascii", categories=["L", "N"]))
secrets = st.text(_signs, min_size=12, max_size=30).filter(lambda s: "*" not in s).map(lambda s: f"Q7{s}Z")
"""With ends that make them no word of our own files."""


def _cut(content: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({0, len(content), *(place % (len(content) + 1) for place in places)})
    return [content[start:end] for start, end in pairwise(borders)]


@given(few_secrets, few_texts, st.lists(st.integers(0, 1_000), max_size=30))
@settings(max_examples=300)
@example({"ab", "abab", "babc"}, "ababab" * 5, list(range(40)))
@example({"abc", "bcabcb"}, "abcabcbabcab", [3, 5, 8])
def test_a_masked_stream_is_the_masked_whole_however_it_was_cut(found: set[str], text: str, places: list[int]) -> None:
    mask = Mask(found)
    stream = mask.stream()
    streamed = b"".join(stream.feed(piece) for piece in _cut(text.encode(), places)) + stream.end()
    assert streamed.decode() == mask.text(text)


@given(few_secrets, few_texts)
def test_masking_leaves_no_secret_and_nothing_else_out(found: set[str], text: str) -> None:
    masked = Mask(found).text(text)
    assert not any(secret in part for secret in found for part in masked.split("***"))
    kept = masked.split("***")
    place = 0
    for part in kept:
        place = text.index(part, place) + len(part)


@given(st.sets(secrets, max_size=3), st.dictionaries(secrets, st.lists(secrets)))
def test_a_line_that_holds_a_secret_is_always_found_out(found: set[str], data: JsonObject) -> None:
    mask, line = Mask(found), orjson.dumps(data)
    if mask.value(data) != data:
        assert mask.touches(line)
    if not mask.touches(line):
        assert mask.value(data) == data


@given(secrets)
def test_secrets_are_masked_in_values_and_keys_at_any_depth(secret: str) -> None:
    mask = Mask({secret})
    value: Any = {f"key {secret}": [secret, {"a": f"<{secret}{secret}>"}], "n": 5, "none": None}
    assert mask.value(value) == {"key ***": ["***", {"a": "<******>"}], "n": 5, "none": None}
    assert bool(mask)
    assert not Mask(())
    assert Mask(()).value(value) == value


def _assert_nowhere(secret: str, folder: Path) -> None:
    everything = b"".join(path.read_bytes() for path in files_below(folder))
    assert everything
    for form in (secret, orjson.dumps(secret)[1:-1].decode()):
        assert form.encode() not in everything


@given(secrets, st.integers(0, 5_000), st.lists(st.integers(0, 10**6), max_size=12), st.integers(65_500, 65_560))
@settings(max_examples=40)
async def test_a_secret_reaches_no_file_of_a_run(secret: str, pad: int, places: list[int], before: int) -> None:
    """Neither in a line, nor across the border of two chunks, nor in what is stored beside the line."""
    assume(len(set(secret)) > 3)
    spelled = f"({secret})"
    asked: JsonObject = {
        "message": Message.of_text(f"use {spelled}"),
        "metadata": {"note": spelled},
        "backend_config": {"auth_token": secret},
    }
    with temporary_log(Mask({secret}), **asked) as log:
        await log.append("run_started", {"cwd": "/work", "agent": spelled})
        await log.append("agent_message", {"text": spelled})
        await log.append("command_finished", {"command": spelled, "output": "x" * before + spelled * 5 + "y" * pad})
        await log.append("tool_finished", {"result": {spelled: [spelled, "z" * 3_000 + spelled] * 20}})
        whole = ("w" * pad + spelled) * 20 + spelled[:-3]
        for piece in _cut(whole.encode(), places):
            await log.add_chunk(ArtifactChunk(artifact_id=spelled, name=spelled, content=piece))
        text = "t" * before + spelled
        await log.add_chunk(ArtifactChunk(artifact_id="t", content=text[: before + len(secret) // 2]))
        await log.add_chunk(ArtifactChunk(artifact_id="t", content=text[before + len(secret) // 2 :]))
        await log.append("input_required", {"request": {"request_id": "r", "kind": "approval", "text": spelled}})
        await log.end_artifacts()
        await log.end("run_completed", {"final_response": spelled, "structured_output": [spelled * 1_000]})
        _assert_nowhere(secret, log.dir.path)
        _assert_nowhere(secret, log.dir.workspace.root)
        events = events_of(log.dir)
        output = whole_field(log.dir, events[2], "/output")
        assert output == "x" * before + "(***)" * 5 + "y" * pad
        assert RunReader(log.dir).state().run == log.run


async def test_a_secret_that_comes_later_is_masked_from_then_on(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd)
    log.hide({"late-arrival-1"})
    log.hide(())
    await log.append("agent_message", {"text": "the late-arrival-1 token"})
    await log.end("run_failed", {**FAILED, "message": "late-arrival-1 was refused"})
    assert [event.data.get("text") for event in events_of(log.dir)] == ["the *** token", None]
    _assert_nowhere("late-arrival-1", log.dir.path)
    log.close()


async def test_a_name_by_which_a_run_is_found_again_is_never_masked(tmp_path: Path) -> None:
    """A secret may by chance be the name of a directory."""
    cwd = tmp_path / "my-project-42x"
    cwd.mkdir()
    log = new_log(Home(tmp_path / "home"), cwd, mask=Mask({"my-project-42x", "scripted"}), nickname="scripted")
    log.close()
    spec = RunReader(log.dir).spec()
    assert (spec.cwd, spec.backend, spec.agent_name) == (cwd, "scripted", "scripted")
    after = RunLog.take_over(log.dir, Mask(()))
    assert after.run.cwd == cwd
    after.close()


def test_a_credential_that_is_no_unicode_is_no_reason_to_fail() -> None:
    """A variable of the environment may hold any bytes; they come as half surrogates."""
    mask = Mask(secrets_of({}, {"API_KEY": "abcdefgh1234\udcff"}))
    assert mask.text("abcdefgh1234?") == "***"
    assert mask.text("harmless") == "harmless"


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("OPENAI_API_KEY", "sk-abcdefgh1234", True),
        ("TOKEN", "abcdefgh-1234", True),
        ("db_password", "correct horse 9", True),
        ("AWS_CREDENTIALS", "user:pass-word", True),
        ("CLIENT_SECRET", "12345678901x", True),
        ("API_KEY", "short-one-1", False),
        ("KEY_FILE", "sk-abcdefgh1234", False),
        ("MONKEY", "sk-abcdefgh1234", False),
        ("SSH_KEY", "/home/me/.ssh/id_ed25519", False),
        ("SSH_KEY", "~/.ssh/id_ed25519", False),
        ("SSH_KEY", "C:\\Users\\me\\key", False),
        ("MAX_TOKEN", "123456789012345", False),
        ("LICENSE_KEY", "abcdefghijklmnop", False),
    ],
)
def test_a_variable_counts_by_its_name_and_its_value(name: str, value: str, secret: bool) -> None:
    assert secrets_of({}, {name: value}) == (frozenset({value}) if secret else frozenset())


CONFIG: JsonObject = {
    "auth_token": "token-1234",
    "headers": {"Authorization": "Bearer bearer-5678", "X-Short": "tiny", "X-Number": 5},
    "model": "a-model-name",
    "mcp_servers": {
        "one": {"env": {"A": "envvalue-1"}, "headers": {"h": "headervalue-2"}, "command": "serve", "args": ["--all"]},
        "two": {"url": "https://someuser1:somepass2@example.org:8443/path?key=queryvalue3&x=y#part"},
        "three": "not an object",
    },
}


def test_credentials_of_a_configuration_are_found() -> None:
    assert secrets_of(CONFIG, {}) == {
        "token-1234", "Bearer bearer-5678", "bearer-5678", "envvalue-1", "headervalue-2", "someuser1", "somepass2",
        "queryvalue3",
    }  # fmt: skip


def test_a_stored_configuration_holds_stars_for_credentials_and_is_taken_over_without_them() -> None:
    stored = without_credentials(CONFIG)
    assert stored == {
        "auth_token": "***",
        "headers": {"Authorization": "***", "X-Short": "***", "X-Number": 5},
        "model": "a-model-name",
        "mcp_servers": {
            "one": {"env": {"A": "***"}, "headers": {"h": "***"}, "command": "serve", "args": ["--all"]},
            "two": {"url": "https://***:***@example.org:8443/path?key=***&x=***#part"},
            "three": "not an object",
        },
    }
    kept = without_placeholders(stored)
    assert kept["headers"] == {"X-Number": 5}
    assert kept["model"] == "a-model-name"
    assert "auth_token" not in kept
    assert b"***" not in orjson.dumps(kept)
    assert CONFIG["auth_token"] == "token-1234", "the configuration itself is left alone"


def test_a_spec_is_written_without_credentials_however_short(home: Home, cwd: Path) -> None:
    log = new_log(home, cwd, backend_config={"auth_token": "abc", "headers": {"X": "d"}})
    log.close()
    document = read_json(log.dir.file("spec.json"))
    assert document is not None
    assert document["backend_config"] == {"auth_token": "***", "headers": {"X": "***"}}
