"""Profiles as files: what is read of one, and the sentence for everything that is wrong."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidArgument, LimitExceeded, OrchestratorError
from orchestrator.profiles import MAX_BYTES, NAME, Fault, Profile, find, listed

EVERYTHING = """\
---
name: reviewer
description: Looks at
  changes.
role: reviewer
backend: codex
model: some-model
permission: read_only
on_approval: deny
output_schema: {type: object, properties: {n: {type: integer}}}
checks: [make test, {run: make lint}]
limits: {timeout_s: 600, max_turns: 3}
tools: [Read, "Bash(git diff:*)"]
version: 1.5
---

You review.
"""
FOR_CLAUDE_CODE = r"""---
name: code-reviewer
description: Use this agent when code was written. Examples:\n\n<example>\nContext: done.\nuser: "Review it"\n</example>
model: inherit
color: red
---

You are an expert reviewer.
"""


def write(path: Path, text: str | bytes = "You help.") -> Path:
    """Writes a profile, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(cwd: Path, text: str | bytes) -> Profile:
    """What a file of the project with this content says."""
    return find("mine", write(cwd / "profiles" / "mine.md", text).parents[1], cwd / "home")


def claude(cwd: Path, text: str, name: str = "mine") -> Profile:
    """What a file made for Claude Code with this content says."""
    write(cwd / ".claude" / "agents" / f"{name}.md", text)
    return find(name, cwd, cwd / "home")


def front(cwd: Path, lines: str) -> Profile:
    """What a file of the project with this front matter says."""
    return read(cwd, f"---\n{lines}\n---\nYou help.\n")


# ---- reading ----


def test_every_key_is_read_and_the_body_is_the_job_description(cwd: Path) -> None:
    profile = read(cwd, EVERYTHING)
    assert (profile.name, profile.description, profile.text) == ("reviewer", "Looks at changes.", "You review.")
    assert profile.fields == {
        "role": "reviewer",
        "backend": "codex",
        "model": "some-model",
        "permission": "read_only",
        "on_approval": "deny",
        "output_schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
        "checks": ("make test", "make lint"),
        "limits": {"timeout_s": 600, "max_turns": 3},
        "tools": ("Read", "Bash"),
        "version": "1.5",
    }
    assert profile.path == cwd / "profiles" / "mine.md"
    assert profile.sha256 == hashlib.sha256(EVERYTHING.encode()).hexdigest()
    assert profile.notices == ()


def test_a_file_without_front_matter_is_a_job_description_and_named_by_its_file(cwd: Path) -> None:
    profile = read(cwd, "# You\n\nYou help.\n")
    assert (profile.name, profile.text, profile.fields) == ("mine", "# You\n\nYou help.", {})


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf" + EVERYTHING.encode(), EVERYTHING.replace("\n", "\r\n").encode()])
def test_a_mark_of_windows_and_its_line_ends_change_nothing_that_is_said(cwd: Path, text: bytes) -> None:
    profile = read(cwd, text)
    assert (profile.name, profile.text, profile.fields["checks"]) == (
        "reviewer",
        "You review.",
        ("make test", "make lint"),
    )
    assert profile.sha256 == hashlib.sha256(text).hexdigest(), "the digest is that of the file"


def test_three_dashes_inside_of_the_body_are_a_part_of_it(cwd: Path) -> None:
    assert read(cwd, "---\nrole: a\n---\nOne.\n\n---\n\nTwo.\n").text == "One.\n\n---\n\nTwo."
    assert read(cwd, "One.\n\n---\n\nTwo.\n").text == "One.\n\n---\n\nTwo."


def test_empty_front_matter_says_nothing(cwd: Path) -> None:
    assert read(cwd, "---\n---\nYou help.").fields == {}
    assert read(cwd, "---\n# a comment\n---\nYou help.").fields == {}


@pytest.mark.parametrize(
    ("lines", "key", "value"),
    [
        ("tools: Read, Bash(git add:*, git commit:*), Grep", "tools", ("Read", "Bash", "Grep")),
        ("checks: make test", "checks", ("make test",)),
        ("checks: {run: make test}", "checks", ("make test",)),
        ("version: 2", "version", "2"),
        ("version: v2", "version", "v2"),
        ("version: 2026-01-31", "version", "2026-01-31"),
    ],
)
def test_a_value_has_several_spellings(cwd: Path, lines: str, key: str, value: Any) -> None:
    assert front(cwd, lines).fields == {key: value}


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("permision: read_only", "no key 'permision' in the front matter; did you mean 'permission'"),
        ("effort: high", "no key 'effort'"),  # what only files for Claude Code may say
        ("name: two words", "name 'two words' must be letters, digits"),
        ("name: ../evil", "name '../evil' must be letters"),
        ("name: " + "x" * 65, "at most 64"),
        ("name: 7", "takes for no text; put it in quotes"),
        ("name:", "takes for no text; put it in quotes"),
        ("description: ''", "description must be a string that is not empty"),
        ("role: " + "r" * 65, "role is over 64 characters"),
        ("backend: -x", "backend must not begin with '-'"),
        ("model: --dangerous", "model must not begin with '-'"),
        ("model: [a]", "model must be a string"),
        ("permission: write", "permission is 'write'; it takes read_only, workspace_write, full_access"),
        ("permission: [read_only]", "it takes read_only, workspace_write, full_access"),
        ("on_approval: never", "on_approval is 'never'; it takes ask, deny, allow"),
        ("on_approval: no", "on_approval is False; it takes ask"),  # YAML 1.1: no is false
        ("output_schema: object", "output_schema must be a JSON Schema, written as YAML"),
        ("output_schema: {type: objekt}", "output_schema is not a valid JSON Schema, at $.type"),
        ("limits: 600", "limits must be keys with numbers, as `timeout_s: 600`"),
        ("limits: {timeout: 600}", "limits: no limit 'timeout'; did you mean 'timeout_s'"),
        ("limits: {timeout_s: soon}", "limits.timeout_s must be a positive number of seconds, not 'soon'"),
        ("limits: {timeout_s: yes}", "limits.timeout_s must be a positive number of seconds, not True"),
        ("limits: {timeout_s: .inf}", "limits.timeout_s must be a positive number of seconds"),
        ("limits: {max_turns: 1.5}", "limits.max_turns must be a whole number, not 1.5"),
        ("tools: 3", "tools must be names of tools, as `Read, Grep`"),
        ("tools: [Read, 3]", "tools must be names of tools"),
        ("tools: [--all]", "tools must not begin with '-'"),
        ("checks: [3]", "checks must be a string"),
        ("checks: [{do: x}]", "checks must be a string"),
        ("- name", "it must be keys with values"),
        ("just words", "it must be keys with values"),
        ("description: a: b", "mapping values are not allowed here"),
        ("name: [", "the front matter cannot be used"),
        ("a: &x [1]\nb: *x", "it has an alias, which could make much of little; write the value out"),
        ("a: &x {k: 1}\nb: {<<: *x}", "it has an alias"),
        ("1: x", "the front matter cannot be used"),
        ("on: x", "the front matter cannot be used"),  # YAML 1.1: on is true
        ("? [a]\n: b", "found unhashable key"),
        ("version: !!binary aGk=", "the front matter cannot be used"),
        ("version: !!set {a}", "the front matter cannot be used"),
        ("version: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ('version: "\\ud800"', "the front matter cannot be used"),
        ("version: 2026-13-45", "month must be in 1..12"),
        ("version: " + "9" * 5000, "the front matter cannot be used"),
        ("version: 99999999999999999999", "the front matter cannot be used"),
        ("version: \x07", "the front matter cannot be used"),
    ],
)
def test_front_matter_that_is_wrong_is_refused_with_the_file_the_key_and_what_it_takes(
    cwd: Path, lines: str, sentence: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        front(cwd, lines)
    assert str(refused.value).startswith(f"profile {cwd}/profiles/mine.md")
    assert sentence in str(refused.value)


@pytest.mark.parametrize("head", ["a: " + "[" * 300, "a: " + "[" * 300 + "]" * 300, "- " * 3000 + "x"])
def test_front_matter_that_is_nested_too_deeply_is_refused(cwd: Path, head: str) -> None:
    with pytest.raises(InvalidArgument, match="the front matter cannot be used"):
        front(cwd, head)


@pytest.mark.parametrize(
    "value", ['!!int ""', '!!float ""', "!!bool maybe", "!!timestamp soon", '"\\UFFFFFFFF"', '!!int "_"']
)
def test_a_value_that_the_yaml_library_itself_stumbles_over_is_refused_in_words(cwd: Path, value: str) -> None:
    with pytest.raises(InvalidArgument, match="the front matter cannot be used"):
        front(cwd, f"version: {value}")


def test_one_file_that_nobody_can_read_hides_no_other(cwd: Path) -> None:
    write(cwd / "profiles" / "a.md", '---\nversion: !!int ""\n---\nx')
    write(cwd / "profiles" / "b.md", "---\nname: wanted\n---\nx")
    assert find("wanted", cwd, cwd / "home").path.name == "b.md"
    assert "a" in [row.name for row in listed(cwd, cwd / "home") if isinstance(row, Fault)]


@pytest.mark.parametrize("text", ["---\nrole: x\n", "---", "---\nYou help, and nothing closes this.\n"])
def test_front_matter_without_an_end_is_refused(cwd: Path, text: str) -> None:
    with pytest.raises(InvalidArgument, match="the front matter that begins with --- has no second ---"):
        read(cwd, text)


@pytest.mark.parametrize("text", ["", " \n\t\n", "---\nrole: x\n---\n", "---\nrole: x\n---\n \n", b"\xef\xbb\xbf"])
def test_an_empty_profile_is_refused(cwd: Path, text: str | bytes) -> None:
    with pytest.raises(InvalidArgument, match="is empty: write what the agent is to do, below the front matter"):
        read(cwd, text)


def test_front_matter_below_blank_lines_is_not_taken_for_a_part_of_the_text(cwd: Path) -> None:
    with suppress(InvalidArgument):  # refusing it is as good
        assert read(cwd, "\n---\npermission: read_only\n---\nYou help.").fields == {"permission": "read_only"}


def test_nothing_of_a_file_is_left_out_in_silence(cwd: Path) -> None:
    with suppress(InvalidArgument):
        assert "Never delete" in read(cwd, "---title\nNever delete.\n---\nrole: x\n---\nYou help.").text


def test_a_text_that_no_agent_can_be_given_is_refused_when_it_is_read(cwd: Path) -> None:
    with pytest.raises(InvalidArgument, match="profile"):
        read(cwd, "You \0 help.")


@pytest.mark.parametrize("text", [b"You \xff help.", "You help.".encode("utf-16"), b"---\nname: \xc3\n---\nx"])
def test_what_is_no_utf_8_is_refused_with_its_place(cwd: Path, text: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"is no UTF-8 text \(.* at byte \d+\)"):
        read(cwd, text)


def test_a_profile_may_have_256_kb_and_no_byte_more(cwd: Path) -> None:
    assert len(read(cwd, "x" * MAX_BYTES).text) == MAX_BYTES == 262_144
    with pytest.raises(LimitExceeded, match="has over 262,144 bytes; shorten it"):
        read(cwd, "x" * (MAX_BYTES + 1))


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(cwd: Path, kind: str) -> None:
    path = cwd / "profiles" / "mine.md"
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(InvalidArgument, match="is no file; give the path of a Markdown file"):
        find(str(path), cwd, cwd / "home")
    assert [row.name for row in listed(cwd, cwd / "home") if isinstance(row, Fault)] == ["mine"]


def test_a_link_is_followed_and_one_that_leads_nowhere_is_no_profile(cwd: Path) -> None:
    target = write(cwd / "texts" / "target.md")
    (cwd / "profiles").mkdir()
    (cwd / "profiles" / "linked.md").symlink_to(target)
    (cwd / "profiles" / "broken.md").symlink_to(cwd / "gone.md")
    (cwd / "profiles" / "round.md").symlink_to(cwd / "profiles" / "round.md")
    profile = find("linked", cwd, cwd / "home")
    assert (profile.name, profile.path) == ("linked", cwd / "profiles" / "linked.md")
    for name in ("broken", "round"):
        with pytest.raises(InvalidArgument, match=f"profiles/{name}.md cannot be read: "):
            find(name, cwd, cwd / "home")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(cwd: Path) -> None:
    write(cwd / "profiles" / "mine.md").chmod(0)
    with pytest.raises(InvalidArgument, match="cannot be read: Permission denied"):
        find("mine", cwd, cwd / "home")


# ---- files made for Claude Code ----


def test_a_sub_agent_of_claude_code_works_as_it_is(cwd: Path) -> None:
    profile = claude(cwd, FOR_CLAUDE_CODE, "code-reviewer")
    assert (profile.name, profile.text) == ("code-reviewer", "You are an expert reviewer.")
    assert profile.fields == {"backend": "claude_code"}
    assert profile.description.startswith("Use this agent when code was written. Examples:")
    assert profile.notices == ()
    assert find(".claude/agents/code-reviewer.md", cwd, cwd / "home").fields == profile.fields


def test_its_own_keys_are_put_into_our_words_and_the_others_told_of(cwd: Path) -> None:
    keys = "tools: Read, Grep\ndisallowedTools: Bash\nmaxTurns: 7\npermissionMode: plan\neffort: high\nmodel: opus\n"
    profile = claude(cwd, f"---\n{keys}hooks: {{}}\ncolor: blue\n---\nx")
    assert profile.fields == {
        "backend": "claude_code",
        "tools": ("Read", "Grep"),
        "disallowed_tools": ("Bash",),
        "limits": {"max_turns": 7},
        "permission": "read_only",
        "effort": "high",
        "model": "opus",
    }
    assert profile.notices == ("not used: hooks",)


def test_a_mode_that_would_permit_more_is_not_taken_over(cwd: Path) -> None:
    profile = claude(cwd, "---\npermissionMode: bypassPermissions\n---\nx")
    assert (profile.fields, profile.notices) == ({"backend": "claude_code"}, ("not used: permissionMode",))


def test_a_name_that_is_none_gives_way_to_that_of_the_file(cwd: Path) -> None:
    profile = claude(cwd, "---\nname: Code Reviewer\n---\nx")
    assert (profile.name, profile.notices) == ("mine", ("not used: name (the file's counts)",))


@pytest.mark.parametrize("line", ["tools:", "model:", "description:", "tools: []"])
def test_a_key_of_claude_code_without_a_value_is_as_if_it_were_not_there(cwd: Path, line: str) -> None:
    fields = claude(cwd, f"---\nname: mine\n{line}\n---\nx").fields
    assert {key: value for key, value in fields.items() if value} == {"backend": "claude_code"}


@pytest.mark.parametrize("tools", ['["Read", "Grep"]', "\n  - Read\n  - Grep", "Read, Grep", '"Read, Grep"'])
def test_beside_a_description_that_is_no_yaml_the_other_keys_mean_what_they_say(cwd: Path, tools: str) -> None:
    profile = claude(cwd, f'---\ndescription: Use it: always: so\ntools: {tools}\nmodel: "opus" # the best\n---\nx')
    assert profile.description == "Use it: always: so"
    assert (profile.fields["tools"], profile.fields["model"]) == (("Read", "Grep"), "opus")


def test_only_files_for_claude_code_may_have_front_matter_that_is_no_yaml(cwd: Path) -> None:
    with pytest.raises(InvalidArgument, match="the front matter cannot be used"):
        read(cwd, FOR_CLAUDE_CODE)


# ---- whatever it is ----


@given(content=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode(errors="replace")))
def test_whatever_stands_in_a_file_it_is_a_profile_or_refused(cwd: Path, content: bytes) -> None:
    for text in (content, b"---\n" + content + b"\n---\nx"):
        for folder in (cwd / "profiles", cwd / ".claude" / "agents"):
            write(folder / "any.md", text)
            with suppress(OrchestratorError):
                profile = find(str(folder / "any.md"), cwd, cwd / "home")
                assert NAME.fullmatch(profile.name)
                assert profile.text
