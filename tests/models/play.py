"""The words of the scripted agent, as a model would follow them: each is something said, or the call of a tool.

Pure. A real agent whose model plays a script does what the scripted agent pretends to do, so both can be held to the
same contract. A script is followed anew for each request, through all that the conversation holds, so nothing need be
remembered between requests, processes and sessions.

    say TEXT, think TEXT, final TEXT, events COUNT
    command [N] CMD -> OUTPUT   a shell command that prints OUTPUT and exits N
    run CMD                     any shell command
    run+ CMD                    the same, and the script goes on while the command runs as long as the agent lets it
    runs CMD // CMD             several shell commands, called in one answer
    file PATH TEXT              writes a file by the agent's own tool
    edit PATH OLD -> NEW        changes it by that tool
    read PATH                   reads a file by the agent's own tool
    tool NAME -> RESULT         a tool that is neither
    call NAME JSON [// ...]     a tool by the name and with the arguments that its agent's model knows, or several
    todo A; [>] B; [x] C        the todo list
    ask QUESTION [| A | B]      asks, and says the answer
    asks QUESTION | QUESTION    asks all at once, and says the answers
    approve CMD                 a command that needs an approval, and says what became of it
    json JSON                   structured output
    listen                      works in small steps until it is told something, and says it
    sleep SECONDS               thinks for so long
    remember                    says how many scripts this conversation had before
    env NAME                    says an environment variable of its commands
    heard                       says what the last tool gave
    system WORD                 says whether the word is in the agent's instructions, or in a job description before
                                the script
    usage IN OUT                what the model says that it used
    auth, fail WHY, http CODE   no answer, but an error; `auth` until it is told something
    limited CODE [WHY]          the same error until it is told something
    flaky COUNT CODE [WHY]      so many errors, and then the script goes on
    breaks COUNT [CODE WHY]     so many answers that break off here, or say here that they failed
    hang                        begins to answer, and never goes on
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from orchestrator.model import JsonObject
from test_agents.scripted import told_apart

WORDS = frozenset(
    "say think final events command run run+ runs file edit read tool call todo ask asks approve json listen sleep "
    "remember env heard system usage auth fail crash http limited flaky breaks hang".split()
)


class Tool(NamedTuple):
    """The call of a tool, in words that every agent's tools have."""

    kind: str
    arguments: JsonObject


@dataclass(slots=True)
class Answer:
    """One answer of the model: what it says, in order, and how the answer is sent."""

    thinking: list[str] = field(default_factory=list[str])
    acts: list[str | Tool] = field(default_factory=list["str | Tool"])
    delay_s: float = 0.0
    usage: tuple[int, int] = (1, 1)
    error: tuple[int, str] | None = None
    hang: bool = False
    broken: tuple[str, str] | None = None
    """How an answer fails that had begun: a code and why, both empty where the connection is cut."""


class Heard(NamedTuple):
    """What came back for an answer: what the tools gave, in order, and what a person said meanwhile."""

    results: Sequence[str]
    said: Sequence[str]


class Past(NamedTuple):
    """A conversation up to now, as an API's request tells it."""

    script: str
    """The newest message that is a script."""
    earlier: int
    """How many scripts there were before it."""
    heard: Sequence[Heard]
    """For each answer since."""
    instructions: str
    said: Sequence[str]
    """What a person said since, that is no script."""
    refused: int = 0
    """How often this very request was answered with an error."""


def is_script(text: str) -> bool:
    """Whether a message is one of ours."""
    lines = [line.strip() for line in told_apart(text)[1].splitlines() if line.strip()]
    return bool(lines) and all(line.split(" ")[0] in WORDS for line in lines)


def next_answer(past: Past) -> Answer:
    """What the model answers now."""
    play = _Play(past).answers()
    answer = next(play)
    for heard in past.heard:
        try:
            answer = play.send(heard)
        except StopIteration:
            return Answer(acts=["The script is over."])
    return answer


Answers = Generator[Answer, Heard, None]


class _Play:
    """One script, followed from its beginning."""

    def __init__(self, past: Past) -> None:
        self._past = past
        self._answer = Answer()
        self._given = 0
        self._last: Heard = Heard((), ())

    def answers(self) -> Answers:
        """Yields each answer, and is sent what came back for it. The last one calls no tool."""
        for line in told_apart(self._past.script)[1].splitlines():
            word, _, rest = line.strip().partition(" ")
            if word:
                yield from getattr(self, "_do_" + word.replace("+", "_on"))(rest.strip())
        yield self._answer

    def _call(self, *tools: Tool) -> Answers:
        """Ends the answer with calls, and begins the next one."""
        self._answer.acts += tools
        self._last = yield self._answer
        self._given += 1
        self._answer = Answer(usage=self._answer.usage)

    def _say(self, text: str) -> Answers:
        self._answer.acts.append(text)
        yield from ()

    def _do_say(self, rest: str) -> Answers:
        return self._say(rest)

    _do_final = _do_say

    def _do_events(self, rest: str) -> Answers:
        self._answer.acts += ["x" * 200] * int(rest.split()[0])
        yield from ()

    def _do_think(self, rest: str) -> Answers:
        self._answer.thinking.append(rest)
        yield from ()

    def _do_command(self, rest: str) -> Answers:
        command, _, output = rest.partition(" -> ")
        code = 0
        if match := re.match(r"\[(\d+)\]\s+", command):
            code, command = int(match[1]), command[match.end() :]
        yield from self._call(Tool("pretend", {"name": command, "output": output, "code": code}))

    def _do_run(self, rest: str) -> Answers:
        return self._call(Tool("shell", {"command": rest}))

    def _do_run_on(self, rest: str) -> Answers:
        return self._call(Tool("shell_on", {"command": rest}))

    def _do_runs(self, rest: str) -> Answers:
        return self._call(*(Tool("shell", {"command": command.strip()}) for command in rest.split(" // ")))

    def _do_call(self, rest: str) -> Answers:
        calls = (call.strip().partition(" ") for call in rest.split(" // "))
        return self._call(*(Tool("own", {"name": name, "arguments": json.loads(given)}) for name, _, given in calls))

    def _do_file(self, rest: str) -> Answers:
        path, _, text = rest.partition(" ")
        yield from self._call(Tool("write", {"path": path, "text": text + "\n"}))
        if refused := _denial(self._last):
            self._answer.acts.append(f"{path} was not written: {refused}")

    def _do_edit(self, rest: str) -> Answers:
        path, _, change = rest.partition(" ")
        old, _, new = change.partition(" -> ")
        yield from self._call(Tool("edit", {"path": path, "old": old, "new": new}))

    def _do_read(self, rest: str) -> Answers:
        return self._call(Tool("read", {"path": rest}))

    def _do_tool(self, rest: str) -> Answers:
        name, _, result = rest.partition(" -> ")
        yield from self._call(Tool("other", {"name": name, "result": result}))

    def _do_todo(self, rest: str) -> Answers:
        marks = {"[>]": "in_progress", "[x]": "completed"}
        items = [item.strip() for item in rest.split(";") if item.strip()]
        todo = [(item.removeprefix(item[:3]).strip() if item[:3] in marks else item,
                 marks.get(item[:3], "pending")) for item in items]  # fmt: skip
        yield from self._call(Tool("todo", {"items": todo}))

    def _do_ask(self, rest: str) -> Answers:
        yield from self._call(_question(rest))
        yield from self._say("the answer is: " + _answer_in(self._last.results[0]))

    def _do_asks(self, rest: str) -> Answers:
        yield from self._call(*(_question(part) for part in rest.split("|")))
        yield from self._say("the answers are: " + ", ".join(map(_answer_in, self._last.results)))

    def _do_approve(self, rest: str) -> Answers:
        yield from self._call(Tool("shell_ask", {"command": rest}))
        if (refused := _denial(self._last)) is None:
            yield from self._say("approved")
        else:
            yield from self._say(f"denied: {refused}".rstrip(": "))

    def _do_json(self, rest: str) -> Answers:
        yield from self._call(Tool("structured", {"value": json.loads(rest)}))

    def _do_listen(self, _rest: str) -> Answers:
        while not self._last.said:
            self._answer.delay_s = 0.05
            yield from self._call(Tool("pretend", {"name": "true", "output": "", "code": 0}))
        yield from self._say(f"heard: {self._last.said[-1]}")

    def _do_sleep(self, rest: str) -> Answers:
        self._answer.delay_s += float(rest)
        yield from ()

    def _do_remember(self, _rest: str) -> Answers:
        return self._say(f"{self._past.earlier} earlier prompts")

    def _do_env(self, rest: str) -> Answers:
        yield from self._call(Tool("shell", {"command": f"echo {rest}=${rest}"}))
        yield from self._say(self._last.results[0].strip())

    def _do_heard(self, _rest: str) -> Answers:
        return self._say("".join(self._last.results))

    def _do_system(self, rest: str) -> Answers:
        told = self._past.instructions + told_apart(self._past.script)[0]
        return self._say(f"{rest} is {'' if rest in told else 'not '}there")

    def _do_usage(self, rest: str) -> Answers:
        numbers = rest.split()
        self._answer.usage = (int(numbers[0]), int(numbers[1]))
        yield from ()

    def _do_auth(self, _rest: str) -> Answers:
        if not self._past.said:
            yield from self._fail(401, "invalid credentials")

    def _do_fail(self, rest: str) -> Answers:
        return self._fail(400, rest or "the script says so")

    _do_crash = _do_fail

    def _do_http(self, rest: str) -> Answers:
        code, _, why = rest.partition(" ")
        return self._fail(int(code), why or "the script says so")

    def _do_limited(self, rest: str) -> Answers:
        if not self._past.said:
            yield from self._do_http(rest)

    def _do_flaky(self, rest: str) -> Answers:
        count, code, *why = rest.split(" ", 2)
        if self._given == len(self._past.heard) and self._past.refused < int(count):
            yield from self._fail(int(code), why[0] if why else "the script says so")

    def _do_breaks(self, rest: str) -> Answers:
        count, code, why, *_ = (*rest.split(" ", 2), "", "")
        if self._given == len(self._past.heard) and self._past.refused < int(count):
            yield replace(self._answer, error=(200, "it breaks"), broken=(code, why))

    def _fail(self, code: int, why: str) -> Answers:
        yield Answer(error=(code, why))

    def _do_hang(self, _rest: str) -> Answers:
        self._answer.hang = True
        yield from self._call()


def _question(rest: str) -> Tool:
    text, *labels = (word.strip() for word in rest.split("|"))
    return Tool("ask", {"question": text, "options": labels})


_ANSWERED = re.compile(r'"[^"]*"="(?P<one>[^"]*)"')
_DENIED = re.compile(r"denied this(?:: (?P<why>[^\n]*))?")


def _answer_in(result: str) -> str:
    """The answer in what a question's tool gave; Claude Code puts it in a sentence of its own."""
    match = _ANSWERED.search(result)
    return match["one"] if match else result


def _denial(heard: Heard) -> str | None:
    """Why the call before was denied, if it was; the words are those by which a backend of ours says so."""
    for text in (*heard.results, *heard.said):
        if match := _DENIED.search(text):
            return match["why"] or ""
    return None


def as_text(content: Any) -> str:
    """The text of what an API has as a string or as a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [] if isinstance(part, dict))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType]
