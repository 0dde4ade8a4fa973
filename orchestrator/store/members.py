"""The runs of a tree: in a file of the root's directory, so that they are known across processes and restarts."""

from __future__ import annotations

import os

from orchestrator.files import open_file, read_file
from orchestrator.store.layout import RunDir, write_all

MEMBERS = "tree"


def members(root: RunDir) -> int:
    """How many runs a tree has had, with its root."""
    try:
        return 1 + read_file(root.file(MEMBERS)).count(b"\n")
    except FileNotFoundError:
        return 1


def member_ids(root: RunDir) -> list[str]:
    """The runs of a tree, the root first."""
    try:
        return [root.run_id, *read_file(root.file(MEMBERS)).decode("ascii").split()]
    except (OSError, UnicodeDecodeError):  # none, or something odd that an agent put there
        return [root.run_id]


def add_member(root: RunDir, run_id: str) -> None:
    """Notes a new member of a tree."""
    descriptor = open_file(root.file(MEMBERS), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        write_all(descriptor, f"{run_id}\n".encode())
    finally:
        os.close(descriptor)
