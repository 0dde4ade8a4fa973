"""`orchestrator profiles`: what profiles there are, what one says, whether they are right, and a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from orchestrator.cli.output import DONE, FAILED, console, harmless, one_line, print_fact, print_json, say, tell
from orchestrator.cli.reach import Reach
from orchestrator.errors import Conflict, InvalidArgument, OrchestratorError, StoreError
from orchestrator.home import make_directory
from orchestrator.profiles import NAME, Fault, Profile, find, listed
from orchestrator.store.layout import write_new

if TYPE_CHECKING:
    from rich.text import Text

_NEW = """\
---
name: "{name}"
description: One line that says when to use it.
# role: worker                      a label
# backend: claude_code              or codex; otherwise the caller says
# permission: workspace_write       read_only, workspace_write or full_access
# on_approval: ask                  deny, ask or allow
# limits: {{timeout_s: 1800}}
---

You are ... Say here what the agent is, what it does and in which order, what it must not do, and what its last
message has to say. It knows nothing else but its task and the directory it works in.
"""


def ls(reach: Reach, *, as_json: bool) -> int:
    """Lists the profiles that a run in this directory takes by name."""
    rows = listed(reach.cwd, reach.home.path)
    if as_json:
        print_json({"profiles": [row.to_json() for row in rows]})
        return DONE
    from orchestrator.cli.tables import Column, show_rows

    columns = {"profile": Column("bold", most=40), "from": Column("dim", most=12), "description": Column()}
    show_rows(columns, [[row.name, row.source, _described(row)] for row in rows], whole=True)
    return DONE


def _described(row: Profile | Fault) -> str | Text:
    from rich.text import Text

    return Text(one_line(str(row.why)), "red") if isinstance(row, Fault) else row.description


def show(reach: Reach, given: str, *, as_json: bool) -> int:
    """Prints one profile."""
    profile = find(given, reach.cwd, reach.home.path)
    facts = {
        **profile.to_json(),
        "sha256": profile.sha256,
        **profile.fields,
        "notices": list(profile.notices),
    }
    if as_json:
        print_json({**facts, "text": profile.text})
        return DONE
    from rich.text import Text

    out = console()
    for key, value in harmless(facts).items():
        if value not in ("", [], False):
            words = value if isinstance(value, str) else orjson.dumps(value).decode()
            print_fact(out, Text(f"{key:>16}  ", style="dim") + Text(words))
    out.print(Text("\n" + harmless(profile.text)))
    return DONE


def check(reach: Reach, given: list[str], *, as_json: bool) -> int:
    """Checks the named profiles, or all. Returns 1 if one is wrong."""
    rows = [_found(reach, name) for name in given] if given else listed(reach.cwd, reach.home.path)
    wrong = [row for row in rows if isinstance(row, Fault)]
    if as_json:
        print_json({"profiles": [row.to_json() for row in rows]})
    else:
        for row in rows:
            tell(f"{row.name}: {one_line(str(row.why)) if isinstance(row, Fault) else 'right'}")
            for notice in () if isinstance(row, Fault) else row.notices:
                tell(f"  {one_line(notice)}")
    return FAILED if wrong else DONE


def _found(reach: Reach, given: str) -> Profile | Fault:
    try:
        return find(given, reach.cwd, reach.home.path)
    except OrchestratorError as why:
        return Fault(given, reach.cwd / given, "path", why)


def new(reach: Reach, name: str, *, own: bool, as_json: bool = False) -> int:
    """Writes the beginning of a profile.

    Args:
        own: among the user's, for all directories; otherwise for this one.

    Raises:
        InvalidArgument: it is no name.
        Conflict: there is one already.
    """
    if not NAME.fullmatch(name):
        raise InvalidArgument(f"{name[:80]!r} is no name: letters, digits, '.', '_' and '-', at most 64")
    folder = reach.home.path / "profiles" if own else reach.cwd / "profiles"
    path = folder / f"{name}.md"
    try:
        if own:
            make_directory(folder)
        else:
            folder.mkdir(exist_ok=True)
        if not write_new(str(path), _NEW.format(name=name).encode(), exist_ok=True):
            raise Conflict(f"{path} exists; edit it, or choose another name")
        if not own:
            path.chmod(0o644)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    if as_json:
        print_json({"path": str(path)})
        return DONE
    print(path)
    say("edit it, then: orchestrator profiles check " + name)
    return DONE
