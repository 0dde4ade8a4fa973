"""`orchestrator run`: from options to a run, followed or left to the host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson

from orchestrator import config
from orchestrator.cli.output import DONE, print_json, say
from orchestrator.cli.reach import Reach
from orchestrator.errors import InvalidArgument, NotFound
from orchestrator.model import JsonObject, as_object
from orchestrator.store.layout import SESSION_ID
from orchestrator.store.reader import RunReader


async def run(reach: Reach, given: dict[str, Any], *, detach: bool) -> int:
    """Spawns a run, and follows it unless it is to be left alone."""
    arguments = spawn_arguments(reach, given)
    spawned = await reach.command("spawn_run", **arguments)
    if not given["as_json"]:
        _tell_name(spawned, given["name"], detach=detach)
    if detach:
        if given["as_json"]:
            print_json(spawned)
        else:
            print(spawned["run_id"])
        return DONE
    from orchestrator.cli.live import Watcher

    return await Watcher(reach, reach.find(spawned["run_id"]), as_json=given["as_json"]).watch()


def _tell_name(spawned: JsonObject, wanted: str | None, *, detach: bool) -> None:
    """Says whom one may speak to; of who is left alone only what cannot be known."""
    name: str = spawned["agent_name"]
    if wanted and name.lower() != wanted.lower():
        say(f"another agent is called {wanted!r} already; this one is {name}")
    if not detach:
        say(f"{name}, {spawned['run_id']}")


def spawn_arguments(reach: Reach, given: dict[str, Any]) -> JsonObject:
    """The arguments of `spawn_run` for the options of the command.

    Raises:
        InvalidArgument: an option is wrong or missing.
    """
    if given["fork"] and not given["resume"]:
        raise InvalidArgument("--fork goes with --resume, which names the session to copy")
    backend_config = json_of("--backend-config", given["backend_config"]) or {}
    backend_config |= {name: given[name] for name in ("model", "agent_url") if given[name]}
    backend = given["backend"] or ("remote_a2a" if "agent_url" in backend_config else None)
    if not backend and not (given["profile"] and _names_backend(reach, given["profile"])):
        backend = _usual(reach)
        if not backend:
            raise InvalidArgument("say which agent: --backend NAME, or `backend` in the settings")
    arguments: JsonObject = {
        "backend": backend,
        "profile": given["profile"],
        "prompt": _prompt(given["prompt"], given["file"]),
        "cwd": str(reach.cwd),
        "role": given["role"],
        "nickname": given["name"],
        "permission": given["permission"],
        "on_approval": given["on_approval"],
        "output_schema": json_of("--schema", given["schema"]),
        "workspace": _workspace(given),
        "checks": given["check"] or None,
        "acceptance": given["accept"] or None,
        "require_changes": given["require_changes"] or None,
        "limits": _limits(given),
        "on_finish": _on_finish(given),
        "metadata": json_of("--metadata", given["metadata"]),
        "priority": given["priority"],
        "idempotency_key": given["idempotency_key"],
        "backend_config": backend_config or None,
    }
    if given["resume"]:
        arguments |= {"session_mode": "fork" if given["fork"] else "resume"}
        arguments["session_id"] = _session(reach, given["resume"])
    return {key: value for key, value in arguments.items() if value is not None}


def _workspace(given: dict[str, Any]) -> JsonObject | None:
    workspace = json_of("--workspace", given["workspace"])
    return {"mode": "worktree", **(workspace or {})} if given["worktree"] else workspace


def _limits(given: dict[str, Any]) -> JsonObject | None:
    limits = json_of("--limits", given["limits"])
    return limits if given["fix"] is None else {**(limits or {}), "fix_attempts": given["fix"]}


def _on_finish(given: dict[str, Any]) -> JsonObject | None:
    wanted = json_of("--on-finish", given["on_finish"])
    return {**(wanted or {}), "webhook": given["webhook"]} if given["webhook"] else wanted


def _names_backend(reach: Reach, profile: str) -> bool:
    from orchestrator.profiles import find

    return "backend" in find(profile, reach.cwd, reach.home.path).fields


def _usual(reach: Reach) -> str:
    import os

    return config.load(reach.home.path, reach.cwd, os.environ).settings.backend


def _prompt(given: str | None, file: Path | None) -> str:
    if (given is None) == (file is None):
        raise InvalidArgument("give the task as an argument, by --file, or - for stdin")
    if file is not None and str(file) != "-":
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"cannot read {file}: {error}") from error
    return sys.stdin.read() if given in (None, "-") else given


def _session(reach: Reach, named: str) -> str:
    if SESSION_ID.fullmatch(named):
        return named
    try:
        return RunReader(reach.find(named)).spec().session_id
    except NotFound as error:
        raise InvalidArgument(f"--resume takes a run, an agent or a session: {error}") from error


def json_of(option: str, given: str | None) -> JsonObject | None:
    """A JSON object that was given as text or as the name of a file that holds it.

    Raises:
        InvalidArgument: it is neither.
    """
    if given is None:
        return None
    try:
        text = given if given.lstrip()[:1] in ("{", "[", '"') else Path(given).read_text(encoding="utf-8")
        document = as_object(orjson.loads(text))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{option} takes a JSON object or a file that holds one: {error}") from error
    if document is None:
        raise InvalidArgument(f"{option} takes a JSON object")
    return document
