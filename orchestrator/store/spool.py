"""Artifacts that arrive in pieces: each goes through a `Spool`, which becomes the artifact directory of its event.

Above: the log, which numbers the event. What is stored here is read like any other field, by `artifacts`.
"""

from __future__ import annotations

import os
import shutil

from orchestrator.model import JsonObject
from orchestrator.store.artifacts import (
    CHUNK_BYTES,
    LEAF_BYTES,
    PREVIEW_BYTES,
    Ref,
    chunk_name,
    preview,
    write_manifest,
)
from orchestrator.store.layout import RunDir, make_directory, write_new
from orchestrator.store.masking import Mask


class Spool:
    """An artifact that arrives in pieces: masked across their borders, on disk from the first full chunk on.

    Not for two tasks at once. Every method may block on the disk.
    """

    def __init__(self, run: RunDir, number: int, mask: Mask, cap: int, *, binary: bool) -> None:
        self._run, self._cap, self.binary = run, cap, binary
        self._suffix = ".bin" if binary else ".txt"
        self._folder = run.path / "artifacts" / f".incoming-{os.getpid()}-{number}"
        self._mask = mask.stream()
        self._buffer = bytearray()
        self._count = 0
        self._total = 0
        self.truncated = False

    def feed(self, content: bytes) -> None:
        """Takes one more piece. What goes over the cap is dropped, and `truncated` says so."""
        self._take(self._mask.feed(content))

    def hide(self, mask: Mask) -> None:
        """Uses another mask for what is still to come."""
        self._mask = mask.stream(self._mask.held)

    def _take(self, content: bytes) -> None:
        room = self._cap - self._total
        if len(content) > room:
            content, self.truncated = content[:room], True
        self._total += len(content)
        self._buffer += content
        while len(self._buffer) >= CHUNK_BYTES:
            self._flush(CHUNK_BYTES)

    def _flush(self, size: int) -> None:
        if not self._count:
            make_directory(self._folder)
        write_new(str(self._folder / chunk_name("content", self._count, self._suffix)), bytes(self._buffer[:size]))
        del self._buffer[:size]
        self._count += 1

    def end(self) -> bytes | None:
        """The whole if it is small and on no disk yet, otherwise None: then `settle` gives the directory its place."""
        self._take(self._mask.end())
        if not self._count and not self.binary and len(self._buffer) <= LEAF_BYTES:
            return bytes(self._buffer)
        if self._buffer or not self._count:
            self._flush(len(self._buffer))
        return None

    def settle(self, seq: int, field_path: str, mime: str) -> JsonObject:
        """Moves the chunks to the directory of their event. Returns the event's `artifact_refs`."""
        folder = self._run.artifact_dir(seq, "artifact_added")
        if folder.exists():
            shutil.rmtree(folder)
        self._folder.rename(folder)
        self._folder = folder
        ref = Ref(
            field_path=field_path,
            relpath=str((folder / chunk_name("content", 0, self._suffix)).relative_to(self._run.path)),
            mime=mime,
            encoding="base64" if self.binary else "utf-8",
            total_bytes=self._total,
            chunk_count=self._count,
            truncated=self.truncated,
        )
        refs = {field_path: ref.to_json()}
        write_manifest(folder, seq, "artifact_added", refs)
        return refs

    @property
    def total_bytes(self) -> int:
        """The size so far, masked."""
        return self._total

    def edges(self) -> str:
        """A preview of a stored text: head and tail."""
        # the last chunk alone may be shorter than the tail to show
        shown = sorted({0, max(0, self._count - 2), self._count - 1})
        chunks = [(self._folder / chunk_name("content", index, self._suffix)).read_bytes() for index in shown]
        return preview(b"".join(chunks), PREVIEW_BYTES, self._total)

    def discard(self) -> None:
        """Forgets the artifact."""
        self._buffer.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def discard_unfinished(run: RunDir) -> None:
    """Removes the artifacts that an owner had begun when it died; the next may have its pid."""
    for folder in (run.path / "artifacts").glob(".incoming-*"):
        shutil.rmtree(folder, ignore_errors=True)
