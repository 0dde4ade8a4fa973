"""Commands that act on a run: answer, say, cancel."""

from __future__ import annotations

import sys

from orchestrator.cli.output import DONE, exit_code_of, print_json, say
from orchestrator.cli.reach import Reach
from orchestrator.cli.requests import answer_of
from orchestrator.errors import InvalidArgument, WrongState
from orchestrator.model import JsonObject
from orchestrator.store.layout import RunDir


async def answer(
    reach: Reach,
    run_dir: RunDir,
    said: str,
    *,
    reason: str | None,
    request: str | None,
    config: JsonObject | None,
    as_json: bool,
) -> int:
    """Answers a waiting run: approve, deny, an option's id, or words."""
    run = await reach.queries.get_run(run_dir)
    pending: list[JsonObject] = run.get("pending", [])
    if not pending:
        raise WrongState(f"{run['run_id']} is {run['status']} and waits for no answer")
    chosen = next((r for r in pending if request in (None, r["request_id"])), pending[0])
    given = {"decision": "deny"} if said == "deny" else answer_of(chosen, said) or {"text": said or None}
    if reason and "decision" in given:
        given["text"] = reason
    document = await reach.command(
        "continue_run", run_id=run["run_id"], request_id=request, backend_config=config, **given
    )
    return _told(document, f"answered {chosen['request_id']}", as_json=as_json)


async def speak(reach: Reach, run_dir: RunDir, text: str, *, as_json: bool) -> int:
    """Says something to a run: steers it while it works, resumes its session when it is over."""
    if not text.strip():
        raise InvalidArgument("there is nothing to say")
    run = await reach.queries.get_run(run_dir)
    if run.get("pending"):
        raise WrongState(f"{run['run_id']} waits for an answer; use `orchestrator answer`")
    document = await reach.command("continue_run", run_id=run["run_id"], text=text)
    words = {"steer": "told the agent", "resume": "a new run goes on in the same session"}
    return _told(document, words[document["mode"]], as_json=as_json)


async def cancel(reach: Reach, run_dirs: list[RunDir], *, reason: str | None, as_json: bool) -> int:
    """Cancels runs. Runs that are over are left as they are."""
    code = DONE
    for run_dir in run_dirs:
        document = await reach.command("cancel_run", run_id=run_dir.run_id, reason=reason)
        if document["status"] != "cancelled":
            code = max(code, DONE if document["status"] == "completed" else exit_code_of(document["status"]))
        if as_json:
            print_json(document)
        else:
            print(document["run_id"], document["status"], sep="  " if sys.stdout.isatty() else "\t")
    return code


def _told(document: JsonObject, words: str, *, as_json: bool) -> int:
    if as_json:
        print_json(document)
    else:
        print(document["run_id"])
        say(f"{words}: {document['run_id']} is {document['status']}")
    return DONE
