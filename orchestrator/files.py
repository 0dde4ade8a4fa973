"""Opening files that agents can reach too: what lies in their place is looked at before it is read or written.

An agent may write to its directory, and so to the runs in it. There it could put a link, so that somebody else's file
is read or changed for it, a pipe, which is waited for, or a file of any size.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST = 64 * 2**20
"""Bytes of a file that is read at once."""


def open_file(path: str | Path, flags: int) -> int:
    """A descriptor of a regular file, made for the user alone if the flags say so.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return descriptor


def read_file(path: str | Path, most: int = MOST) -> bytes:
    """What is in a regular file.

    Raises:
        OSError: it cannot be read, is no regular file, or larger than that.
    """
    descriptor = open_file(path, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has over {most:,} bytes", str(path))
    return content
