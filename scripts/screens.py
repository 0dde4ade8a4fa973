"""Plays scenes in a tmux window with a home of their own, and draws what the window shows."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 92, 24
DEADLINE_S = 20.0

SCRIPT = """\
todo [>] look around; change the greeting; run the tests
command ls -> greeting.py  tests/
say I found greeting.py. I would like to clean the build first.
approve rm -r build
todo [x] look around; [>] change the greeting; run the tests
file greeting.py print("Bonjour!")
command pytest -> 2 passed
usage 1200 340 0.01
final The greeting is French now, and the tests pass."""


class Window:
    """A terminal of our own."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-L", f"screens-{os.getpid()}", "-f", "/dev/null"]
        env = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(folder),
            "ORCHESTRATOR_HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "COLORTERM": "truecolor",
            "TERM": "tmux-256color",
            "PS1": "$ ",
            "HISTFILE": "/dev/null",
        }
        given = [f"{name}={value}" for name, value in env.items()]
        shell = shlex.join(["env", "-i", *given, "bash", "--norc", "--noprofile"])
        size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
        self._run("new-session", "-d", *size, "-c", str(folder / "shop"), shell)
        self._run("set", "-g", "status", "off")

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], check=True, capture_output=True, text=True).stdout

    def type(self, text: str) -> None:
        """Types a line."""
        self._run("send-keys", "-l", text)
        self._run("send-keys", "Enter")

    def until(self, words: str) -> None:
        """Waits until the window shows something."""
        end = time.monotonic() + DEADLINE_S
        while words not in self._run("capture-pane", "-p"):
            if time.monotonic() > end:
                raise SystemExit(f"the window never showed {words!r}:\n{self._run('capture-pane', '-p')}")
            time.sleep(0.05)

    def draw(self, path: Path, title: str) -> None:
        """Draws the window as it is now."""
        shown = self._run("capture-pane", "-e", "-p").rstrip("\n")
        console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
        console.print(Text.from_ansi(shown), soft_wrap=True)
        path.parent.mkdir(exist_ok=True)
        path.write_text(console.export_svg(title=title), encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")

    def close(self) -> None:
        """Ends the terminal."""
        self._run("kill-server")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="screens-") as name:
        folder = Path(name)
        (folder / "shop").mkdir()
        (folder / "task.txt").write_text(SCRIPT, encoding="utf-8")
        window = Window(folder)
        try:
            window.type("clear; orchestrator run -b scripted --name greeter --file ../task.txt")
            window.until("[a]pprove")
            window.draw(ROOT / "docs" / "screens" / "run.svg", "orchestrator run")
            window.type("a")
            window.until("the tests pass")
            window.until("tokens in")
            for agent, task in (
                ("reviewer", "ask Merge it now? | yes | no"),
                ("builder", "sleep 60"),
                ("writer", "fail no disk"),
            ):
                window.type(f"orchestrator run -d -b scripted --name {agent} {task!r} >/dev/null")
            window.type("clear; orchestrator wait reviewer >/dev/null; orchestrator ls; orchestrator show reviewer")
            window.until("question: yes | no")
            window.draw(ROOT / "docs" / "screens" / "ls.svg", "orchestrator ls")
        finally:
            window.type("clear; orchestrator host stop --cancel")
            window.until("the host is gone")
            window.close()


if __name__ == "__main__":
    main()
