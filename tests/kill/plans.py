"""What runs are asked to do, and what must be told of it if nothing is lost.

A prompt of the scripted agent is a script, so that each run's messages, artifacts and end are known beforehand.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from random import Random
from typing import Literal

Kind = Literal["work", "cancel", "steer"]

LINE = b"line at byte %018d\n"
PIECE = 64 * 1024
ASKED = None
"""Stands in `Plan.said` where the agent says back what it was answered."""


@dataclass(slots=True)
class Plan:
    """One run to be.

    Attributes:
        label: unique; in the prompt, the role of the run, and in everything that the agent says.
        kind: what its caller does, besides answering: nothing, cancelling it, or steering it.
        keyed: it is spawned with an idempotency key; otherwise its caller has to look before trying again.
        said: the agent's messages, in order.
        artifacts: by name, the whole content.
        commands: how many `command_finished` there are; `files`: how many `file_changed`.
        after: the plan in whose session it is queued.
    """

    label: str
    remote: bool
    kind: Kind = "work"
    keyed: bool = True
    script: list[str] = field(default_factory=list[str])
    said: list[str | None] = field(default_factory=list[str | None])
    artifacts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    commands: int = 0
    files: int = 0
    after: Plan | None = None

    @property
    def final(self) -> str:
        """The final response."""
        return f"{self.label} is done"

    @property
    def prompt(self) -> str:
        """The script."""
        return "\n".join([*self.script, f"final {self.final}"])

    def say(self) -> None:
        """One more message."""
        text = f"{self.label} message {len(self.said)}"
        self.script.append(f"say {text}")
        self.said.append(text)

    def ask(self, options: str = "") -> None:
        """One more question; what it is answered is said back."""
        self.script.append(f"ask {self.label} question {len(self.script)}?{options}")
        self.said.append(ASKED)

    def command(self) -> None:
        """One more command."""
        self.script.append(f"command make {self.label} -> 3KB")
        self.commands += 1

    def artifact(self, size: int, *, binary: bool) -> None:
        """One more artifact."""
        name = f"artifact-{len(self.script)}"
        self.script.append(f"{'binary' if binary else 'artifact'} {size}B {name}")
        self.artifacts[name] = bytes_of(size) if binary else text_of(size)

    def act(self, rng: Random) -> None:
        """One more step of any sort."""
        match rng.choice(["say", "say", "burst", "command", "pause", "pause", "ask", "choose", "artifact", "binary"]):
            case "burst":
                for _ in range(15):
                    self.say()
            case "command":
                self.command()
            case "pause":
                self.script.append(f"sleep {rng.uniform(0.01, 0.15):.3f}")
            case "ask":
                self.ask()
            case "choose":
                self.ask(" | red | blue")
            case "artifact":
                self.artifact(rng.randrange(40_000, 600_000), binary=False)
            case "binary":
                self.artifact(rng.randrange(40_000, 300_000), binary=True)
            case _:
                self.say()


def make_plan(rng: Random, label: str, *, remote: bool) -> Plan:
    """A run of some steps; now and then one that is cancelled or, where that is possible, steered."""
    plan = Plan(label, remote)
    plan.script.append(f"file {label}.txt {label}")
    plan.files = 1
    plan.say()
    draw = rng.random()
    if draw < 0.1:
        plan.kind = "cancel"
        plan.script.append("sleep 100")
    elif draw < 0.2 and not remote:
        plan.kind = "steer"
        plan.script.append("listen")
        plan.said.append(ASKED)
    else:
        for _ in range(rng.randrange(4, 10)):
            plan.act(rng)
    plan.say()
    return plan


def make_plans(rng: Random, label: str, count: int, *, keyed: bool) -> list[Plan]:
    """A load: as many remote runs as local ones, and one of each kind queued behind another in its session.

    Args:
        keyed: all are spawned with a key; otherwise some are not.
    """
    plans = [make_plan(rng, f"{label}-{number}", remote=number % 2 == 0) for number in range(count)]
    for plan in plans:
        plan.keyed = keyed or rng.random() < 0.7
    for number in (count, count + 1):
        plan = make_plan(rng, f"{label}-{number}", remote=number % 2 == 0)
        plan.after = plans[number % 2]
        plans.append(plan)
    return plans


def text_of(size: int) -> bytes:
    """What the scripted agent fills a text of this size with: each line names its own offset."""
    return b"".join(LINE % offset for offset in range(0, size + 32, 32))[:size]


def bytes_of(size: int) -> bytes:
    """What the scripted agent fills a binary artifact of this size with."""
    starts = range(0, size, PIECE)
    return b"".join(hashlib.shake_128(str(at).encode()).digest(min(PIECE, size - at)) for at in starts)
