"""Checks: commands of the caller that the host itself runs where an agent worked, so that "done" is not only its word.

They run outside of any sandbox, in the environment of the run's client, and see what the agent left. Each is told as a
command of the run, with its output.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from orchestrator.engine.command import run_command
from orchestrator.model import JsonObject, compact
from orchestrator.process import MARKER, reap
from orchestrator.updates import CommandFinished, CommandStarted, Update

TOLD_CHARS = 4_000
"""Of the output of each failed check, what its agent is told."""
REMEMBERED = 1_000


class Passed:
    """What passed already, by the tree that was looked at. In memory, where no agent can write."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, JsonObject] = OrderedDict()

    def find(self, key: bytes) -> JsonObject | None:
        """What is known of this check on this tree."""
        return self._known.get(key)

    def add(self, key: bytes, result: JsonObject) -> None:
        """Remembers it; the oldest goes."""
        self._known[key] = result
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


class Checks:
    """The checks of one run.

    Args:
        wanted: as `workspaces.asked` reads them.
        emit: tells an update of the run.
        last_seq: the number of the newest event.
    """

    def __init__(
        self,
        run_id: str,
        wanted: Sequence[JsonObject],
        passed: Passed,
        emit: Callable[[Update], Awaitable[None]],
        last_seq: Callable[[], int],
    ) -> None:
        self._run_id = run_id
        self._wanted = wanted
        self._passed = passed
        self._emit = emit
        self._last_seq = last_seq
        self._round = 0
        self._said: dict[str, str] = {}
        self._failed: dict[bytes, JsonObject] = {}
        """What did not pass, by the tree that was looked at: the agent may have changed nothing since."""

    async def run(self, cwd: Path, folder: str, env: Mapping[str, str], tree: str | None) -> list[JsonObject]:
        """Runs them one after the other. Returns how each went.

        Args:
            folder: where in the tree they run: two runs have the same one in places of their own.
            tree: what the directory holds; what passed on the same tree, in the same environment, is not run again.
        """
        self._round += 1
        own = {**env, MARKER: self._run_id}
        try:
            return [await self._one(check, cwd, folder, own, tree) for check in self._wanted]
        finally:
            await asyncio.to_thread(reap, {self._run_id: None}, at_once=True)

    async def _one(
        self, check: JsonObject, cwd: Path, folder: str, env: Mapping[str, str], tree: str | None
    ) -> JsonObject:
        key = _key(check, env, tree, folder) if tree else b""
        if key and (known := self._passed.find(key) or self._failed.get(key)):
            return {**known, "name": check["name"], "required": check["required"], "memoised": True}
        name, command = f"check:{self._round}:{check['name']}", check["run"]
        await self._emit(CommandStarted(command_id=name, command=command, cwd=str(cwd)))
        ran = await run_command(["/bin/sh", "-c", command], cwd, env, check["timeout_s"])
        passed = ran.exit_code == 0
        output = ran.output if ran.exit_code is not None else f"{ran.output}\n[ended after {check['timeout_s']:g} s]"
        finished = CommandFinished(
            command_id=name, command=command, output=output,
            exit_code=ran.exit_code, status="completed" if passed else "failed",
        )  # fmt: skip
        await self._emit(finished)
        self._said[check["name"]] = output
        status = "passed" if passed else "failed" if ran.exit_code is not None else "timed_out"
        facts = {"exit_code": ran.exit_code, "duration_ms": ran.duration_ms, "seq": self._last_seq()}
        result = compact({"name": check["name"], "status": status, **facts, "required": check["required"]})
        if key and passed:
            self._passed.add(key, {name: value for name, value in result.items() if name != "seq"})
        elif key:
            self._failed[key] = result
        return result

    def mending(self, results: Sequence[JsonObject]) -> str:
        """What the agent is told of the required checks that failed."""
        parts = ["What you did does not pass the checks of this task. Mend it, and say when it is done."]
        for result in results:
            if result["required"] and result["status"] != "passed":
                output = self._said.get(result["name"], "")[-TOLD_CHARS:].strip()
                code = f"exit code {result['exit_code']}" if "exit_code" in result else "it took too long"
                command = next(check["run"] for check in self._wanted if check["name"] == result["name"])
                parts.append(f"## {result['name']}: {code}\n\n`{command}`\n\n```\n{output}\n```")
        return "\n\n".join(parts)


def failed(results: Sequence[JsonObject]) -> list[str]:
    """The names of the required checks that did not pass."""
    return [result["name"] for result in results if result["required"] and result["status"] != "passed"]


def verification_of(results: Sequence[JsonObject]) -> JsonObject:
    """What callers hear of the checks of a run."""
    status = "none" if not results else "failed" if failed(results) else "passed"
    return {"status": status, "checks": list(results)}


def _key(check: JsonObject, env: Mapping[str, str], tree: str, folder: str) -> bytes:
    known: Any = [tree, check["run"], sorted((k, v) for k, v in env.items() if k != MARKER), folder]
    return hashlib.sha256(orjson.dumps(known, default=str)).digest()
