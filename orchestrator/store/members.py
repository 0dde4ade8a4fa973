"""The runs of a tree: in a file of the root's directory, so that they are known across processes and restarts."""

from __future__ import annotations

import os

from orchestrator.store.layout import RunDir, write_all

MEMBERS = "tree"


def members(root: RunDir) -> int:
    """How many runs a tree has had, with its root."""
    try:
        with open(root.file(MEMBERS), "rb") as file:  # noqa: PTH123
            return 1 + file.read().count(b"\n")
    except FileNotFoundError:
        return 1


def member_ids(root: RunDir) -> list[str]:
    """The runs of a tree, the root first."""
    try:
        with open(root.file(MEMBERS), encoding="ascii") as file:  # noqa: PTH123
            return [root.run_id, *file.read().split()]
    except (OSError, UnicodeDecodeError):  # none, or something odd that an agent put there
        return [root.run_id]


def add_member(root: RunDir, run_id: str) -> None:
    """Notes a new member of a tree."""
    descriptor = os.open(root.file(MEMBERS), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, f"{run_id}\n".encode())
    finally:
        os.close(descriptor)
