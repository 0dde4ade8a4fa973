"""What is promised, how often it was checked, and where it was found broken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Promise(StrEnum):
    """The promises that no kill may break, in the words of docs/reliability.md."""

    FOUND = "a returned run_id is found by get_run and list_runs"
    READS = "a read is answered, whoever dies meanwhile"
    EVENTS = "an event that a client saw is in the log, unchanged"
    NUMBERS = "the log is whole lines, numbered 1, 2, 3 without gaps"
    ONE_END = "a log has one last event, or a live owner"
    REST = "a run comes to rest: it is over, or waits for its caller"
    TRUTH = "a run ends as it may, and get_run says what the log says"
    ANSWERS = "an acknowledged answer is in the log, and is not asked for again"
    COMMANDS = "an acknowledged cancellation or steering took effect"
    ONCE = "a spawn that is tried again, with its key or after a look at list_runs, makes one run"
    MESSAGES = "what the agent said is told once, in order; all of it when the run completed"
    ACTIONS = "what a re-attached agent did is told once"
    ARTIFACTS = "an artifact is readable whole, with the right bytes"
    RESUMED = "an interrupted run can be resumed"
    INDEX = "sessions, names and the index agree with the runs"
    FILES = "no temporary file, reserve or half an artifact is left with a run that is over"
    PROCESSES = "no process is left"


class Broken(NamedTuple):
    """A promise that was not kept, and how that was seen."""

    promise: Promise
    what: str


@dataclass(slots=True)
class Ledger:
    """The account of one or more campaigns."""

    checked: Counter[Promise] = field(default_factory=Counter[Promise])
    broken: list[Broken] = field(default_factory=list[Broken])

    def check(self, promise: Promise, holds: bool, what: str = "", times: int = 1) -> bool:
        """Books one look at a promise, or several that went well. Returns whether it holds."""
        self.checked[promise] += times
        if not holds:
            self.broken.append(Broken(promise, what))
        return holds

    def add(self, other: Ledger) -> None:
        """Takes another account in."""
        self.checked += other.checked
        self.broken += other.broken
