"""How this copy was installed, and so how what it lacks is installed beside it."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import orjson

NAME = "orchestrator-mcp"


def install(extra: str = "") -> str:
    """The command that installs this copy again, with an extra: from the directory, repository or archive that it came
    from, as its `direct_url.json` tells, and else by its name."""
    pip = Path(sys.prefix, "bin", "pip")
    return " ".join(
        (shlex.quote(str(pip)) if pip.exists() else "pip", "install", *_what(f"[{extra}]" if extra else ""))
    )


def _what(extra: str) -> list[str]:
    origin = _origin()
    url = str(origin.get("url", ""))
    if "dir_info" in origin:
        path = Path(unquote(urlsplit(url).path))
        if not path.is_dir():  # it was moved
            return [shlex.quote(NAME + extra)]
        return [*(["-e"] if origin["dir_info"].get("editable") else []), shlex.quote(f"{path}{extra}")]
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        url = f"{vcs.get('vcs')}+{url}@{vcs.get('requested_revision') or vcs.get('commit_id')}"
    return [shlex.quote(f"{NAME}{extra} @ {url}" if url else NAME + extra)]


def _origin() -> dict[str, Any]:
    try:
        document = orjson.loads(distribution(NAME).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return {}
    return cast(dict[str, Any], document) if isinstance(document, dict) else {}
