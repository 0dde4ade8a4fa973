"""The real interactive Claude Code at a pseudo-terminal: a test presses its keys, reads its screen, and is its model.

Its one MCP server is ours. What both say to each other is noted on the way, for the screen shows only some of that.
When the block ends, so has everything in the agent's session; all that it writes lies under the test's directory.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import psutil
from rich.cells import cell_len

from orchestrator.model import JsonObject
from tests.models.anthropic import AnthropicModel
from tests.system.agents import Place
from tests.system.hosts import Ground, wait_gone

DEADLINE_S = 30.0
NAME = "orchestrator"
ROWS, COLUMNS = 50, 160
DOWN, RIGHT, ENTER, SPACE = "\x1b[B", "\x1b[C", "\r", " "

_LOOK_S = 0.05
"""How often a condition is looked at that nothing on the screen need signal."""
_A_LOOK_S = 0.8
"""How long a person looks at what a key has done; more than a form takes until it is ready."""
_KEY = "sk-ant-api03-scripted-loopback-key-00000000"
_NOTING = 'tee "$0/said" | "$@" | tee "$0/answered"'
_SEQUENCE = re.compile(r"\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)|\[([0-9;:?<>=]*)[ -/]*([@-~])|[^\[\]])")
_TEXT = re.compile(r"[^\x00-\x1f\x7f]+")
_ASKS_WHAT_IT_IS, _A_VT220 = b"\x1b[c", b"\x1b[?62;22c"


class Conversation(AnthropicModel):
    """The scripted model of a conversation that goes on by itself.

    Its script is sent all that the model was told since it spoke last: results, prompts and notifications.
    """

    def heard(self, request: JsonObject) -> str:
        """See `Model.heard`."""
        last = takewhile(lambda message: message["role"] != "assistant", reversed(request["messages"]))
        return "\n".join(_words(message["content"]) for message in reversed(list(last)))


class Wire:
    """What the agent and its MCP server have said to each other so far, from the files in which it was noted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def asked(self, method: str) -> list[JsonObject]:
        """The requests of a method, in order."""
        return [message for message in self._messages("said") if message.get("method") == method]

    def answers(self, method: str) -> list[JsonObject]:
        """The answers to those of a method that were answered, in the order in which they were asked."""
        answers = {m["id"]: m for m in self._messages("answered") if "id" in m and "method" not in m}
        return [answers[request["id"]] for request in self.asked(method) if request["id"] in answers]

    def polls(self, task_id: str) -> list[JsonObject]:
        """What tasks/get gave for a task, in order. None may have failed, and no other task was asked for."""
        assert {request["params"]["taskId"] for request in self.asked("tasks/get")} <= {task_id}
        answers = self.answers("tasks/get")
        assert all("result" in answer for answer in answers), answers
        return [answer["result"] for answer in answers]

    def _messages(self, name: str) -> list[JsonObject]:
        path = self.folder / name
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        return [json.loads(line) for line in whole.splitlines()]


class Screen:
    """What a terminal shows after what was written to it; it knows as much of terminals as this agent makes use of."""

    def __init__(self) -> None:
        self._rows = [[" "] * COLUMNS for _ in range(ROWS)]
        self._row = self._column = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    @property
    def text(self) -> str:
        """The rows from top to bottom, with each stretch of white space as one blank."""
        return "\n".join(filter(None, (" ".join("".join(row).split()) for row in self._rows)))

    def write(self, data: bytes) -> None:
        """Takes in what was written, which may end anywhere."""
        text = self._rest + self._decoder.decode(data)
        place = 0
        while place < len(text):
            if text[place] == "\x1b":
                match = _SEQUENCE.match(text, place)
                if match is None:  # it goes on in the next piece
                    break
                if match[2]:
                    self._do(match[2], match[1])
                place = match.end()
            elif match := _TEXT.match(text, place):
                self._put(match[0])
                place = match.end()
            else:
                self._control(text[place])
                place += 1
        self._rest = text[place:]

    def _put(self, text: str) -> None:
        for character in text:
            width = cell_len(character)
            if width and self._column + width <= COLUMNS:
                self._rows[self._row][self._column : self._column + width] = [character, *[""] * (width - 1)]
                self._column += width

    def _control(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._go(self._row + 1, self._column)
        elif character == "\b":
            self._go(self._row, self._column - 1)

    def _do(self, what: str, words: str) -> None:
        numbers = [int(word) if word.isdigit() else 0 for word in words.split(";")]
        first = max(numbers[0], 1)
        if what == "H":
            self._go(first - 1, max(numbers[1], 1) - 1 if len(numbers) > 1 else 0)
        elif what == "G":
            self._go(self._row, first - 1)
        elif what in "ABCD":
            down, right = {"A": (-1, 0), "B": (1, 0), "C": (0, 1), "D": (0, -1)}[what]
            self._go(self._row + down * first, self._column + right * first)
        elif what == "K" and numbers[0] == 0:
            self._rows[self._row][self._column :] = [" "] * (COLUMNS - self._column)
        elif what == "J" and numbers[0] == 2:
            self._rows = [[" "] * COLUMNS for _ in range(ROWS)]
        else:
            assert what not in "JKLMPSTX@", f"this screen does not know {words}{what}"

    def _go(self, row: int, column: int) -> None:
        self._row, self._column = min(max(row, 0), ROWS - 1), min(max(column, 0), COLUMNS - 1)


class ClaudeTerminal:
    """Claude Code at its terminal. What it writes is read all the time, so that it never waits for its reader."""

    def __init__(self, descriptor: int, wire: Wire) -> None:
        self.wire = wire
        self._descriptor = descriptor
        self._screen = Screen()
        self._written = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def text(self) -> str:
        """What is on the screen."""
        with self._written:
            return self._screen.text

    def until(self, condition: Callable[[], bool], description: str) -> None:
        """Waits for a condition, of the screen or of anything else."""
        if not self._within(DEADLINE_S, condition):
            raise AssertionError(f"waited in vain: {description}; see {self.wire.folder}\n{self.text}")

    def shows(self, *words: str) -> None:
        """Waits until all of these words are on the screen, each within one line."""
        self.until(lambda: all(word in self.text for word in words), f"the screen shows {words}")

    def press(self, key: str, *, shows: str) -> None:
        """Presses a key, and waits until these words are on the screen, which were not there before."""
        assert shows not in self.text, self.text
        self.type(key)
        self.shows(shows)

    def confirm(self, *, gone: str) -> None:
        """Presses Enter until these words are gone.

        A form that has just come takes no Enter, so that nobody answers what they have not read, and shows no sign of
        when it does. One that comes too soon makes it wait again: a person presses the key, looks, and presses again.
        """
        for _ in range(int(DEADLINE_S / _A_LOOK_S)):
            self.type(ENTER)
            if self._within(_A_LOOK_S, lambda: gone not in self.text):
                return
        raise AssertionError(f"{gone!r} stays:\n{self.text}")

    def type(self, keys: str) -> None:
        """Presses keys, and does not wait."""
        os.write(self._descriptor, keys.encode())

    def begin(self, prompt: str) -> None:
        """Gives a prompt, once the agent is there and knows its server's tools."""
        self.until(lambda: bool(self.wire.answers("tools/list")), "the agent knows the tools")
        self.shows("❯")
        self.press(prompt, shows=prompt)  # Enter in the same piece would be a line break of something pasted
        self.type(ENTER)

    def ended(self) -> None:
        """Everybody who could write is gone: reads the rest."""
        self._reader.join(DEADLINE_S)
        assert not self._reader.is_alive()

    def _within(self, most_s: float, condition: Callable[[], bool]) -> bool:
        """Whether a condition comes to hold within a time."""
        deadline = time.monotonic() + most_s
        while not (holds := condition()) and time.monotonic() < deadline:
            with self._written:
                self._written.wait(_LOOK_S)
        return holds

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._descriptor, 2**16)
            except OSError:  # Linux says it so when nobody has the other end any more
                return
            if not piece:
                return
            if _ASKS_WHAT_IT_IS in piece:
                os.write(self._descriptor, _A_VT220)
            with self._written:
                self._screen.write(piece)
                self._written.notify_all()


@contextmanager
def claude_terminal(model: Conversation, ground: Ground, folder: Path) -> Generator[ClaudeTerminal]:
    """Starts Claude Code in the ground's directory, with our server for its home.

    Args:
        folder: where everything is put that the agent writes, and what went to the server and back.
    """
    place, wire = Place(ground.cwd, folder), Wire(folder / "wire")
    command = [sys.executable, "-m", "orchestrator", "mcp", "--scripted"]
    server = {
        "command": "sh",
        "args": ["-c", _NOTING, str(wire.folder), *command],
        "env": {"ORCHESTRATOR_HOME": str(ground.home)},
    }
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [
            _program(),
            *("--mcp-config", json.dumps({"mcpServers": {NAME: server}}), "--strict-mcp-config"),
            *("--setting-sources", "", "--allowedTools", f"mcp__{NAME}"),
        ],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=place.cwd,
        env={**place.env, **_environment(model, _configured(place))},
        start_new_session=True,
    )
    os.close(theirs)
    terminal = ClaudeTerminal(ours, wire)
    try:
        yield terminal
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        left = [other for other in psutil.process_iter() if _session_of(other.pid) == process.pid]
        try:
            wait_gone(*left)
        finally:
            for other in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    other.kill()
            terminal.ended()
            os.close(ours)


def _program() -> str:
    package = find_spec("claude_agent_sdk")  # found, not imported: that takes a second
    assert package is not None
    assert package.origin is not None
    return str(Path(package.origin).with_name("_bundled") / "claude")


def _configured(place: Place) -> Path:
    """The agent's own directory. Everything that it asks a person at its first start is answered there."""
    folder = place.home / ".claude"
    folder.mkdir()
    answered = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "customApiKeyResponses": {"approved": [_KEY[-20:]], "rejected": []},
        "projects": {str(place.cwd): {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}},
    }
    (folder / ".claude.json").write_text(json.dumps(answered))
    return folder


def _environment(model: Conversation, folder: Path) -> dict[str, str]:
    return {
        "ANTHROPIC_API_KEY": _KEY,
        "ANTHROPIC_BASE_URL": model.url,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
        "CLAUDE_CONFIG_DIR": str(folder),
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
        "TERM": "xterm-256color",
    }


def _words(content: str | list[JsonObject]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_words(part["content"]) if "content" in part else part.get("text", "") for part in content)


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:  # it ended, or belongs to somebody else
        return None
