"""Dying at every step: a process is killed before each change that it makes to a file, and in the middle of each write.

`python -m tests.kill.steps FOLDER work|recovery|remote` prints one JSON object per step, with what the next process
found broken. What random kills meet once in a thousand times is met here every time. Everything is imported once, and
each process is a fork of this one.

work: a local run from its spawn to its end. recovery: the next owner of such a run. remote: a run of an A2A agent, at
each write of its log; such runs take longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Coroutine, Generator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from backends import BACKENDS, SCRIPTED, Backends
from orchestrator.doors.tools import Tools
from orchestrator.engine.engine import Caller, Engine
from orchestrator.errors import AlreadyAnswered, OrchestratorError, WrongState
from orchestrator.model import TERMINAL, JsonObject
from orchestrator.store.layout import Home
from tests.kill.store import Damaged, is_end, leftovers, read_document, read_log

PROMPT = "say one\nartifact 70000B text\nask Which?\nsay two\ncommand make it -> 3KB\nfinal done"
KEY = "key"
FIRST, SECOND = "this", "that"
"""What the first process answers, and what those after it answer, if they are asked."""
CHANGES = frozenset({"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate"})
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
WITHIN_S = 20.0

Say = Callable[[JsonObject], None]


class Fuse:
    """Kills this process before its n-th change to a file below a directory. Installed for the life of the process."""

    def __init__(self, root: Path, at: int, say: Say, *, only_logs: bool) -> None:
        self._root, self._at, self._say, self._only_logs = str(root), at, say, only_logs
        self._count = 0
        sys.addaudithook(self._audit)
        write, ftruncate = os.write, os.ftruncate

        def torn_write(descriptor: int, content: bytes) -> int:
            if self._counts(descriptor) and self._burns():
                write(descriptor, content[: len(content) // 2])
                self._die("half a write")
            return write(descriptor, content)

        def no_truncate(descriptor: int, length: int) -> None:
            if self._counts(descriptor):
                self._step("ftruncate")
            ftruncate(descriptor, length)

        os.write, os.ftruncate = torn_write, no_truncate  # pyright: ignore[reportAttributeAccessIssue]

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not (isinstance(flags, int) and flags & WRITING):
                return
        elif event in CHANGES:
            path = args[0]
        else:
            return
        if not self._only_logs and isinstance(path, (str, bytes, os.PathLike)):
            name = os.fsdecode(path)  # pyright: ignore[reportUnknownArgumentType]
            if name.startswith(self._root) or not name.startswith("/"):
                self._step(f"{event} {name.removeprefix(self._root)}")

    def _counts(self, descriptor: int) -> bool:
        facts = os.fstat(descriptor)
        if self._only_logs:
            return any(log.stat().st_ino == facts.st_ino for log in Path(self._root).rglob("events.jsonl"))
        return not stat.S_ISFIFO(facts.st_mode) and not stat.S_ISSOCK(facts.st_mode)

    def _step(self, where: str) -> None:
        if self._burns():
            self._die(where)

    def _burns(self) -> bool:
        self._count += 1
        return self._count == self._at

    def _die(self, where: str) -> None:
        self._say({"where": where})
        os.kill(os.getpid(), signal.SIGKILL)


class Place(NamedTuple):
    """Where one attempt happens."""

    root: Path
    agent_url: str | None

    @property
    def home(self) -> Path:
        """The home."""
        return self.root / "home"

    @property
    def cwd(self) -> Path:
        """The workspace."""
        return self.root / "project"

    @property
    def caller(self) -> Caller:
        """A client that is here."""
        return Caller(cwd=self.cwd, env={"PATH": "/bin"})

    def tools(self, engine: Engine) -> Tools:
        """The tools for it."""
        return Tools(engine, self.caller)

    def spawn(self) -> JsonObject:
        """What `spawn_run` is called with, each time the same."""
        backend: JsonObject = {"backend": "scripted"}
        if self.agent_url is not None:
            backend = {"backend": "remote_a2a", "backend_config": {"agent_url": self.agent_url}}
        return {**backend, "prompt": PROMPT, "cwd": str(self.cwd), "idempotency_key": KEY}

    def engine(self) -> Engine:
        """An engine like that of a host."""
        return Engine(Home(self.home), Backends({**BACKENDS, **SCRIPTED}).load, socket="nobody listens here")


async def work(place: Place, say: Say) -> None:
    """A whole run, telling at once what its caller is told."""
    async with place.engine() as engine:
        tools = place.tools(engine)
        spawned = await tools.call("spawn_run", place.spawn())
        say({"run_id": spawned["run_id"]})
        run = {"run_id": spawned["run_id"]}
        await tools.call("wait_runs", {"run_ids": [spawned["run_id"]]})
        say({"events": (await tools.call("poll_events", {**run, "max_chars": 200_000}))["events"]})
        await tools.call("continue_run", {**run, "text": FIRST})
        say({"answer": FIRST})
        while not (await tools.call("wait_runs", {"run_ids": [spawned["run_id"]]}))["done"]:
            pass
        page = await tools.call("poll_events", {**run, "max_chars": 200_000, "types": ["run_completed"]})
        say({"events": page["events"], "over": True})


async def wait_for_death(place: Place, say: Say) -> None:
    """A run that waits, and one queued behind it, when their owner is killed."""
    async with place.engine() as engine:
        tools = place.tools(engine)
        spawned = await tools.call("spawn_run", place.spawn())
        await tools.call("wait_runs", {"run_ids": [spawned["run_id"]]})
        session = {"session_mode": "resume", "session_id": spawned["session_id"]}
        await tools.call("spawn_run", {"backend": "scripted", "prompt": "say two", "cwd": str(place.cwd), **session})
        say({"run_id": spawned["run_id"]})
        os.kill(os.getpid(), signal.SIGKILL)


async def recover(place: Place, say: Say) -> None:
    """What the next owner does."""
    async with place.engine() as engine:
        with engine.lives.client(place.caller):
            await engine.recovery.recover()
            await _settle_all(place.tools(engine))


async def look(place: Place, told: JsonObject, say: Say) -> None:
    """The next process: tells what it finds broken."""
    broken: list[str] = []
    async with place.engine() as engine:
        tools = place.tools(engine)
        with engine.lives.client(place.caller):
            try:
                async with asyncio.timeout(WITHIN_S):
                    await engine.recovery.recover()
                    again = await tools.call("spawn_run", place.spawn())
                    if told.get("run_id", again["run_id"]) != again["run_id"]:
                        broken.append("the key leads to another run")
                    rows, answered = await _settle_all(tools)
            except (OrchestratorError, TimeoutError) as error:
                say({"broken": [*broken, f"{type(error).__name__}: {error}"]})
                return
    if answered and "answer" in told:
        broken.append("an answered request was asked again")
    told = {**told, "run_id": again["run_id"]} | ({"answer": SECOND} if answered else {})
    asked = [row for row in rows if read_document(_run(place, row) / "spec.json").get("session_mode") == "new"]
    if len(asked) != 1:
        broken.append(f"one key made {len(asked)} runs")
    broken += _files(place, told, {row["run_id"]: row["status"] for row in rows})
    say({"broken": broken})


async def _settle_all(tools: Tools) -> tuple[list[JsonObject], bool]:
    """Answers whatever waits, until all runs are over. Returns them, and whether an answer was taken."""
    answered = False
    while True:
        rows = (await tools.call("list_runs", {"limit": 100}))["runs"]
        left = [row for row in rows if row["status"] not in TERMINAL]
        if not left:
            return rows, answered
        for row in left:
            if row["status"] == "input_required":
                with contextlib.suppress(AlreadyAnswered, WrongState):
                    await tools.call("continue_run", {"run_id": row["run_id"], "text": SECOND})
                    answered = True
        await tools.call("wait_runs", {"run_ids": [row["run_id"] for row in left], "until": "all", "wait_ms": 5000})


def _files(place: Place, told: JsonObject, rows: JsonObject) -> list[str]:
    """What the files show."""
    broken: list[str] = []
    store = place.cwd / ".orchestrator"
    for run in sorted((store / "runs").iterdir()):
        if not (run / "spec.json").exists():
            continue
        try:
            log = read_log(run)
        except Damaged as damaged:
            broken.append(str(damaged))
            continue
        if [event["seq"] for event in log] != list(range(1, len(log) + 1)):
            broken.append(f"numbers {[event['seq'] for event in log]}")
        if [event["seq"] for event in log if is_end(event)] != [len(log)] or run.name not in rows:
            broken.append(f"a run of {len(log)} events has not its one end, or is in no list")
        broken += [f"left in a run: {name.split('.')[0]}" for name in leftovers(run)]
        if run.name == told.get("run_id"):
            broken += [f"event {seen['seq']} was changed" for seen in told["events"] if seen not in log]
            broken += _story(place, told, log)
    if live := [path for path in (place.home / "live").iterdir() if not path.name.endswith(".tmp")]:
        broken.append(f"{len(live)} in the index of live runs")
    return broken


def _story(place: Place, told: JsonObject, log: list[JsonObject]) -> list[str]:
    """What the log of the one run tells."""
    broken: list[str] = []
    answer, end = told.get("answer"), log[-1]
    if any("resolved" in event["data"] for event in log):  # also one that nobody lived to acknowledge
        given = [event["data"]["text"] for event in log if "request_id" in event["data"]]
        answer = answer or given[-1]
    elif answer:
        broken.append("the answer is lost")
    if told.get("over") and end["type"] != "run_completed":
        broken.append("the end is lost")
    said = [event["data"]["text"] for event in log if event["type"] == "agent_message"]
    script = ["one", f"the answer is: {answer}", "two"]
    reached = any("remote_ref" in event["data"] for event in log)
    if (end["type"] == "run_completed" and said != script) or said != script[: len(said)]:
        broken.append(f"the agent said {said} instead of {script}")
    if place.agent_url and end["type"] != "run_completed" and (reached or end["data"].get("code") != "lost_contact"):
        broken.append(f"a remote run ended with {end['type']} {end['data'].get('message')}")
    return broken


def _run(place: Place, row: JsonObject) -> Path:
    return place.cwd / ".orchestrator" / "runs" / row["run_id"]


def forked(play: Callable[[Say], Coroutine[Any, Any, None]], prepare: Callable[[Say], object] | None = None) -> Any:
    """Plays in a process of its own. Returns what it said, as one object, and whether it was killed."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            write = os.write

            def say(said: JsonObject) -> None:
                write(writer, json.dumps(said).encode() + b"\n")

            if prepare is not None:
                prepare(say)
            asyncio.run(play(say))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        lines = [json.loads(line) for line in pipe]
    told: JsonObject = {"events": []}
    for said in lines:
        told |= {**said, "events": told["events"] + said.get("events", [])}
    status = os.waitpid(pid, 0)[1]
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        raise SystemExit(f"a process failed by itself: {told}")
    return told, os.WIFSIGNALED(status)


def attempt(place: Place, phase: str, at: int) -> JsonObject | None:
    """Kills at one step, and tells what came of it; None when there are no more steps."""
    place.cwd.mkdir(parents=True)
    told: JsonObject = {}
    if phase == "recovery":
        told, _ = forked(lambda say: wait_for_death(place, say))
    play = recover if phase == "recovery" else work
    heard, killed = forked(
        lambda say: play(place, say), lambda say: Fuse(place.root, at, say, only_logs=phase == "remote")
    )
    if not killed:
        return None
    told = {**heard, **told}
    found, _ = forked(lambda say: look(place, told, say))
    shutil.rmtree(place.root)
    return {"step": at, "where": heard["where"], "broken": found["broken"]}


def main() -> None:
    """Tries every step there is."""
    root, phase = Path(sys.argv[1]), sys.argv[2]
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_agent()) if phase == "remote" else None
        step = 0
        while result := attempt(Place(root / str(step), url), phase, step := step + 1):
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()


@contextlib.contextmanager
def _agent() -> Generator[str]:
    import_module("backends.remote_a2a.updates")  # takes a second, which is not to be spent in each fork
    command = [sys.executable, "-m", "test_agents", "scripted"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["agent_url"]
        finally:
            process.kill()


if __name__ == "__main__":
    main()
