"""Looks at everything after a kill, and books what holds and what does not.

It reads the files by itself, and asks the tools through a client: both must tell the same, and no less than callers
were told before.
"""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path

from orchestrator.model import TERMINAL, WAITING, JsonObject
from tests.kill.arena import Arena
from tests.kill.client import Refused
from tests.kill.drive import Told
from tests.kill.ledger import Ledger, Promise
from tests.kill.plans import ASKED, text_of
from tests.kill.store import Damaged, is_end, is_locked, leftovers, read_document, read_log, read_text

Ends = frozenset[tuple[str, str]]
"""How runs may end: status and error code."""

COMPLETED: Ends = frozenset({("completed", "")})
LOST_HOST: Ends = COMPLETED | {("failed", "host_lost")}
LOST_AGENT: Ends = COMPLETED | {
    ("failed", "lost_contact"),
    ("failed", "agent_error"),
    ("failed", "backend_unavailable"),
}
PAGE = 262_144
COMMAND_BYTES = 3 * 1024
CALM_MS = 5_000


class Oracle:
    """Judges the runs of one arena.

    Args:
        local: how runs of local agents may end.
        remote: how runs of remote agents may end, after the kills that there were.
        ledger: where to book, if not in the arena's own.
    """

    def __init__(self, arena: Arena, local: Ends, remote: Ends, ledger: Ledger | None = None) -> None:
        self._arena = arena
        self._ledger = ledger or arena.ledger
        self._local = local
        self._remote = remote

    async def judge(self, told: Told) -> None:
        """One run, by its files and by the tools."""
        check, run_id = self._ledger.check, told.run_id
        if not check(Promise.FOUND, bool(run_id), f"{told.plan.label} was never spawned"):
            return
        log = self._read(self._arena.runs / run_id)
        try:
            document = await self._arena.seats[-1].read("get_run", run_id=run_id)
        except Refused as refused:
            check(Promise.FOUND, False, f"{run_id}: {refused}")
            return
        check(Promise.FOUND, document["run_id"] == run_id, f"get_run of {run_id} told {document}")
        self._judge_log(told, log)
        self._judge_end(told, log, document)
        self._judge_answers(told, log)
        self._judge_messages(told, log, document["status"] == "completed")
        await self._judge_artifacts(told, log, document["status"] == "completed")
        for late in told.late:
            await self.judge(late)

    def _read(self, run: Path) -> list[JsonObject]:
        """The log of a run; one that cannot be read is a broken promise, and empty."""
        try:
            return read_log(run)
        except Damaged as damaged:
            self._ledger.check(Promise.NUMBERS, False, str(damaged))
            return []

    def _judge_log(self, told: Told, log: list[JsonObject]) -> None:
        check, run = self._ledger.check, self._arena.runs / told.run_id
        numbers = [event["seq"] for event in log]
        check(Promise.NUMBERS, numbers == list(range(1, len(log) + 1)), f"{run.name} has the numbers {numbers}")
        kept = {event["seq"]: event for event in log}
        for seq, seen in told.events.items():
            same = "clipped" in seen or kept.get(seq) == seen
            check(Promise.EVENTS, same, f"{run.name}: a client saw {seen}, the log has {kept.get(seq)}")
        ends = [event["seq"] for event in log if is_end(event)]
        if ends:
            check(Promise.ONE_END, ends == numbers[-1:], f"{run.name} ends at {ends} of {len(log)}")
        else:
            check(Promise.ONE_END, is_locked(run), f"{run.name} neither ended nor has an owner")

    def _judge_end(self, told: Told, log: list[JsonObject], document: JsonObject) -> None:
        check, run_id, status = self._ledger.check, told.run_id, document["status"]
        tail = [(event["type"], event["data"]) for event in log[-3:]]
        if not check(Promise.REST, status in TERMINAL or status in WAITING, f"{run_id} is still {status}: {tail}"):
            return
        check(Promise.TRUTH, document["last_seq"] == len(log), f"{run_id}: {document['last_seq']} of {len(log)}")
        if status in WAITING or not check(Promise.TRUTH, bool(log), f"{run_id} is {status} and has no log"):
            return
        last, error = log[-1], document.get("error", {})
        told_by_log = last["data"].get("code") == error.get("code") and is_end(last)
        check(Promise.TRUTH, told_by_log, f"{run_id}: get_run says {document}, the log {last}")
        result = read_document(self._arena.runs / run_id / "result.json")
        check(Promise.TRUTH, result.get("type") == last["type"], f"{run_id}: result.json says {result.get('type')}")
        if status == "completed":
            final = document["result"]["final_response"]
            check(Promise.TRUTH, final == told.plan.final, f"{run_id}: the final response is {final!r}")
        ends = self._ends_of(told, log)
        check(Promise.TRUTH, (status, error.get("code", "")) in ends, f"{run_id} ended as {status}: {error}")
        if status == "failed" and _begun(log):
            check(Promise.RESUMED, error["resumable"], f"{run_id} began and is not resumable: {error}")

    def _ends_of(self, told: Told, log: list[JsonObject]) -> Ends:
        ends = self._remote if told.plan.remote else self._local
        if told.plan.kind == "cancel" and told.tried:
            ends |= {("cancelled", "")}
        if told.plan.kind == "cancel" and told.commanded:
            ends = frozenset({("cancelled", "")})
        reached = any("remote_ref" in event["data"] for event in log)
        if reached:
            ends -= {("failed", "backend_unavailable")}
        elif told.plan.remote and self._local == LOST_HOST:
            ends |= {("failed", "lost_contact")}  # a prompt of which nobody knows whether it arrived is not sent again
        return ends

    def _judge_answers(self, told: Told, log: list[JsonObject]) -> None:
        check, run_id = self._ledger.check, told.run_id
        resolved = Counter(event["data"]["resolved"]["request_id"] for event in log if "resolved" in event["data"])
        for name, count in resolved.items():
            check(Promise.ANSWERS, count == 1, f"{run_id}: {name!r} is resolved {count} times")
        for name, words in told.taken.items():
            check(Promise.ANSWERS, name in resolved, f"{run_id}: the answer {words!r} to {name!r} is not in the log")
            found = any(words in _words(event) for event in log)
            check(Promise.ANSWERS, found, f"{run_id}: the log does not have the answer {words!r} to {name!r}")
        if told.plan.kind == "steer" and told.commanded:
            found = any(f"{told.plan.label}-late" in _words(event) for event in log)
            check(Promise.COMMANDS, found, f"{run_id}: the steering is not in the log")
        if told.plan.kind == "cancel" and told.commanded:
            over = log[-1]["data"].get("status") == "cancelled"
            check(Promise.COMMANDS, over, f"{run_id} was cancelled, and its log ends with {log[-1]}")

    def _judge_messages(self, told: Told, log: list[JsonObject], completed: bool) -> None:
        run_id = told.run_id
        said = [event["data"]["text"] for event in log if event["type"] == "agent_message"]
        wanted = list(told.plan.said)
        questions = [event["data"]["request"]["request_id"] for event in log if event["type"] == "input_required"]
        if len(said) > len(wanted) or (completed and len(said) < len(wanted)):
            self._ledger.check(Promise.MESSAGES, False, f"{run_id} said {said}, its script {wanted}")
            return
        for text, want in zip(said, wanted, strict=False):
            if want is ASKED and told.plan.kind == "steer":
                holds = text.startswith(f"heard: final {told.plan.label}-late-")
            elif want is ASKED:
                holds = bool(questions) and text in _echoes(told, questions.pop(0))
            else:
                holds = text == want
            self._ledger.check(Promise.MESSAGES, holds, f"{run_id} said {text!r} instead of {want!r}: {said}")
        counted = Counter(event["type"] for event in log)
        for kind, count in (("command_finished", told.plan.commands), ("file_changed", told.plan.files)):
            holds = counted[kind] == count if completed else counted[kind] <= count
            self._ledger.check(Promise.ACTIONS, holds, f"{run_id} has {counted[kind]} {kind} of {count}")

    # ---- artifacts ----

    async def _judge_artifacts(self, told: Told, log: list[JsonObject], completed: bool) -> None:
        check, run_id = self._ledger.check, told.run_id
        met: list[str] = []
        for event in log:
            data = event["data"]
            for pointer, ref in data.get("artifact_refs", {}).items():
                try:
                    content = await self._read_whole(run_id, event["seq"], pointer)
                except Refused as refused:
                    check(Promise.ARTIFACTS, False, f"{run_id}: {event['seq']}{pointer}: {refused}")
                    continue
                check(Promise.ARTIFACTS, len(content) == ref["total_bytes"], f"{run_id}: {event['seq']}{pointer}")
                if event["type"] == "command_finished":
                    check(Promise.ARTIFACTS, content == text_of(COMMAND_BYTES), f"{run_id}: {event['seq']}{pointer}")
                elif event["type"] == "artifact_added":
                    want = told.plan.artifacts.get(data["name"], b"")
                    # an agent that is killed leaves a part, and that must be a true one
                    holds = content == want if completed else want.startswith(content)
                    check(Promise.ARTIFACTS, holds, f"{run_id}: {data['name']} has other bytes, {len(content)}")
                    met.append(data["name"])
        once = sorted(met) == sorted(told.plan.artifacts) if completed else len(met) == len(set(met))
        check(Promise.ARTIFACTS, once, f"{run_id} has the artifacts {met}")

    async def _read_whole(self, run_id: str, seq: int, pointer: str) -> bytes:
        pieces: list[bytes] = []
        offset: int | None = 0
        while offset is not None:
            page = await self._arena.seats[-1].read(
                "get_event_artifact", run_id=run_id, seq=seq, field_path=pointer, offset=offset, limit=PAGE
            )
            whole = page["content"]
            pieces.append(base64.b64decode(whole) if page["encoding"] == "base64" else whole.encode())
            offset = page.get("next_offset")
        return b"".join(pieces)

    # ---- the workspace ----

    async def judge_workspace(self, told: list[Told]) -> None:
        """All runs together: the lists, the sessions, the index, and what lies about."""
        check, arena = self._ledger.check, self._arena
        promised = {one.run_id: one for each in told for one in (each, *each.late) if one.run_id}
        for one in promised.values():
            self._judge_log(one, self._read(arena.runs / one.run_id))
        try:
            rows = {row["run_id"]: row for row in await self._calm()}
        except Refused as refused:
            check(Promise.FOUND, False, f"list_runs was refused: {refused}")
            return
        for run_id in promised:
            check(Promise.FOUND, run_id in rows, f"{run_id} is not in list_runs")
        labels: Counter[str] = Counter()
        alive: set[str] = set()
        for run in sorted(arena.runs.iterdir()):
            spec = read_document(run / "spec.json")
            if not spec:
                check(Promise.FILES, not promised.get(run.name), f"{run.name} was promised and has no spec.json")
                continue
            if "resumed_from_run_id" not in spec:
                labels[spec["role"]] += 1
            if self._judge_run(run, rows.get(run.name, {}).get("status", "")):
                alive.add(run.name)
            self._judge_session(run, spec)
        for plan in (one.plan for one in told if labels[one.plan.label]):
            times, how = labels[plan.label], "with a key" if plan.keyed else "without a key"
            check(Promise.ONCE, times == 1, f"{plan.label} was asked for once, {how}, and became {times} runs")
        live = {path.name for path in arena.home.live.iterdir() if not path.name.endswith(".tmp")}
        check(
            Promise.INDEX,
            live == alive,
            f"the index has {sorted(live - alive)} too much, {sorted(alive - live)} too little",
        )

    async def _calm(self) -> list[JsonObject]:
        """All rows of list_runs, once nothing works any more: also runs that nobody was told of had their time."""
        rows = await self._arena.all_runs()
        busy = [row["run_id"] for row in rows if row["status"] not in TERMINAL | WAITING]
        if not busy:
            return rows
        await self._arena.seats[-1].read("wait_runs", run_ids=busy[:50], until="all", wait_ms=CALM_MS)
        return await self._arena.all_runs()

    def _judge_run(self, run: Path, status: str) -> bool:
        """What holds for every run, promised or not. Returns whether it is not over."""
        check = self._ledger.check
        if not check(Promise.FOUND, bool(status), f"{run.name} has a spec and is not in list_runs"):
            return False
        log = self._read(run)
        over = bool(log) and is_end(log[-1])
        check(Promise.TRUTH, over == (status in TERMINAL), f"{run.name} is {status}, its log ends with {log[-1:]}")
        if over:
            left = leftovers(run)
            check(Promise.FILES, not left, f"{run.name} is over and has {left}")
        return not over

    def _judge_session(self, run: Path, spec: JsonObject) -> None:
        check, root = self._ledger.check, self._arena.cwd / ".orchestrator"
        session = read_document(root / "sessions" / f"{spec['session_id']}.json")
        names = {key: session.get(key) for key in ("agent_name", "backend")}
        wanted = {key: spec[key] for key in ("agent_name", "backend")}
        check(Promise.INDEX, names == wanted, f"{run.name}: its session says {session}")
        if _begun(self._read(run)):
            check(Promise.INDEX, bool(session.get("native_session_id")), f"{run.name} began, its session is {session}")
        name = root / "names" / spec["agent_name"]
        check(Promise.INDEX, read_text(name) == spec["session_id"], f"{name} does not name {spec['session_id']}")
        entry = self._arena.home.runs / run.name
        check(Promise.INDEX, read_text(entry).partition("\0")[0] == str(run), f"{entry} does not lead to {run}")


def _begun(log: list[JsonObject]) -> bool:
    return any(event["type"] == "run_started" for event in log)


def _words(event: JsonObject) -> str:
    """What an event has of a caller's words: a text, or a decision."""
    data = event["data"]
    if event["type"] == "message_added":
        return data["text"]
    return str(data.get("resolved", {}).get("decision", ""))


def _echoes(told: Told, request_id: str) -> list[str]:
    """What the agent may say to the answer that it got: the acknowledged one, or else any that was tried."""
    answers = [told.taken[request_id]] if request_id in told.taken else told.attempts.get(request_id, [])
    return [f"the answer is: {words}" for words in answers]
