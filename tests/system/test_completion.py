"""Being told of runs over MCP: resources that are watched, calls that are tasks, questions to the person at the client.

In process and through the bridge, in both eras, and across the death of hosts.
"""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.doors.tasks import EXTENSION
from orchestrator.model import JsonObject
from tests.system.hosts import Ground, ending, ground, until
from tests.system.lines import NEW_ERA, OLD_ERA, Bridge, document, sentence

pytestmark = pytest.mark.system

CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
WITH_TASKS: JsonObject = {"extensions": {EXTENSION: {}}}
WITH_FORMS: JsonObject = {"elicitation": {"form": {}}}


def declare(client: Bridge, **capabilities: Any) -> None:
    """From now on the client's requests say that it has these."""
    client.always = {"_meta": {**NEW_ERA, CAPABILITIES: capabilities}}


def begin(client: Bridge, **capabilities: Any) -> None:
    """Opens a session of the older era."""
    client.always = {}
    client.request("initialize", **{**OLD_ERA, "capabilities": capabilities})
    client.send({"jsonrpc": "2.0", "method": "notifications/initialized"})


@pytest.fixture
def place(tmp_path: Path) -> Generator[Ground]:
    with ground(tmp_path / "home", tmp_path / "project") as place:
        yield place


@pytest.fixture(params=["in_process", "host"])
def client(request: pytest.FixtureRequest, place: Ground) -> Generator[Bridge]:
    """A client of either door."""
    words = ("--in-process",) if request.param == "in_process" else ()
    with ending(place.start("mcp", "--scripted", *words)) as process:
        yield Bridge(process)


def message_of(client: Bridge, method: str, **params: Any) -> JsonObject:
    """The next message of a method with these parameters, which has come or comes yet; each is given once."""
    while True:
        for index, message in enumerate(client.heard):
            given = message.get("params", {})
            if message.get("method") == method and all(given.get(key) == value for key, value in params.items()):
                return client.heard.pop(index)
        client.message()


def notified(client: Bridge, method: str, **params: Any) -> JsonObject:
    """The parameters of the next such notification."""
    return message_of(client, method, **params)["params"]


def asked(client: Bridge) -> JsonObject:
    """The next request of the server to its client."""
    return message_of(client, "elicitation/create")


def respond(client: Bridge, request: JsonObject, action: str, **content: Any) -> None:
    """Answers what the server asked its client."""
    given = {"content": content} if content else {}
    client.send({"jsonrpc": "2.0", "id": request["id"], "result": {"action": action, **given}})


def task_of(client: Bridge, tool: str, **arguments: Any) -> JsonObject:
    """The task by which a call is answered."""
    result = client.answer(client.ask_tool(tool, **arguments))["result"]
    assert result.get("resultType") == "task", result
    return result


def task_now(client: Bridge, task_id: str) -> JsonObject:
    return client.request("tasks/get", taskId=task_id)


def task_until(client: Bridge, task_id: str, status: str) -> JsonObject:
    """The task once it has a status."""
    until(lambda: task_now(client, task_id)["status"] == status, f"{task_id} is {status}")
    return task_now(client, task_id)


def spawning(place: Ground, *script: str, **more: Any) -> JsonObject:
    return {"backend": "scripted", "cwd": str(place.cwd), "prompt": "\n".join(script), **more}


# ---- resources


def read(client: Bridge, uri: str) -> Any:
    (content,) = client.request("resources/read", uri=uri)["contents"]
    return content


def test_runs_are_resources(client: Bridge, place: Ground) -> None:
    run_id = client.waiting("say hello\nask Well?", place.cwd)
    uris = {resource["uri"] for resource in client.request("resources/list")["resources"]}
    assert uris == {"profiles://", "runs://"}
    templates = {each["uriTemplate"] for each in client.request("resources/templates/list")["resourceTemplates"]}
    assert {"run://{run_id}", "run://{run_id}/events", "run://{run_id}/patch"} <= templates
    assert f'"run_id":"{run_id}"' in read(client, "runs://")["text"]
    assert '"status":"input_required"' in read(client, f"run://{run_id}")["text"]
    assert '"text":"hello"' in read(client, f"run://{run_id}/events")["text"]


@pytest.mark.parametrize(
    "uri", ["run://run_0", "run://run_0/patch", "run://x/y/z", "other://", "profiles://x", "run://"]
)
def test_what_there_is_not_is_neither_read_nor_watched(client: Bridge, uri: str) -> None:
    begin(client)
    for method in ("resources/read", "resources/subscribe"):
        error = client.answer(client.ask(method, uri=uri))["error"]
        assert error["code"] == -32602, error
        assert error["data"]["uri"] == uri


def test_the_patch_of_a_run_is_a_resource(client: Bridge, place: Ground) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=place.cwd, check=True)
    who = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
    subprocess.run(["git", *who, "commit", "--allow-empty", "-qm", "first"], cwd=place.cwd, check=True)
    run_id = client.spawn("file a.txt x", place.cwd)
    client.call("wait_runs", run_ids=[run_id])
    content = read(client, f"run://{run_id}/patch")
    assert content["mimeType"] == "text/x-diff"
    assert "+x" in content["text"]


def test_a_session_hears_of_changes_of_what_it_subscribed_to(client: Bridge, place: Ground) -> None:
    begin(client)
    run_id = client.waiting("ask Well?", place.cwd)
    for uri in (f"run://{run_id}", f"run://{run_id}/events", "runs://"):
        client.request("resources/subscribe", uri=uri)
    client.request("resources/unsubscribe", uri=f"run://{run_id}/events")
    client.call("continue_run", run_id=run_id, text="on")
    notified(client, "notifications/resources/updated", uri=f"run://{run_id}")
    notified(client, "notifications/resources/updated", uri="runs://")
    assert not [m for m in client.heard if m.get("params", {}).get("uri") == f"run://{run_id}/events"]


def test_a_client_of_the_newer_era_listens(client: Bridge, place: Ground) -> None:
    run_id = client.waiting("ask Well?", place.cwd)
    uris = [f"run://{run_id}", f"run://{run_id}/events", "runs://"]
    listening = client.ask("subscriptions/listen", notifications={"resourceSubscriptions": uris, "taskIds": ["x"]})
    heeded = notified(client, "notifications/subscriptions/acknowledged")
    assert heeded["notifications"] == {"resourceSubscriptions": uris}
    client.call("continue_run", run_id=run_id, text="on")
    for uri in uris:
        told = notified(client, "notifications/resources/updated", uri=uri)
        assert told["_meta"] == {"io.modelcontextprotocol/subscriptionId": listening}
    client.cancel(listening)
    client.call("list_runs")
    assert listening not in client.ids()


def test_listening_to_what_there_is_not_is_refused(client: Bridge) -> None:
    asking = client.ask("subscriptions/listen", notifications={"resourceSubscriptions": ["run://run_0"]})
    assert client.answer(asking)["error"]["code"] == -32602


def test_subscriptions_go_on_at_the_next_host(place: Ground) -> None:
    with place.bridge() as old, place.bridge() as new:
        begin(old)
        run_id = old.waiting("ask Well?", place.cwd)
        old.request("resources/subscribe", uri="runs://")
        new.ask("subscriptions/listen", notifications={"resourceSubscriptions": ["runs://"]})
        notified(new, "notifications/subscriptions/acknowledged")
        place.kill_host()
        assert old.call("get_run", run_id=run_id)["error"]["code"] == "host_lost"
        notified(new, "notifications/subscriptions/acknowledged")
        old.spawn("say x", place.cwd)
        notified(old, "notifications/resources/updated", uri="runs://")
        notified(new, "notifications/resources/updated", uri="runs://")


def test_who_only_listens_keeps_no_host(place: Ground) -> None:
    with place.bridge() as client:
        client.ask("subscriptions/listen", notifications={"resourceSubscriptions": ["runs://"]})
        notified(client, "notifications/subscriptions/acknowledged")
        assert place.command("stop").returncode == 0
        until(lambda: place.hosts() == [], "the host ends")
        client.call("list_runs")  # now one is needed, and it is told who listens
        notified(client, "notifications/subscriptions/acknowledged")


def test_a_handshake_that_came_too_late_is_not_made_again(place: Ground) -> None:
    with place.bridge() as client:
        client.call("list_runs")
        late = client.ask("initialize", **OLD_ERA)
        assert "error" in client.answer(late)
        place.kill_host()
        assert client.call("list_runs")["runs"] == []


# ---- tasks


def test_a_spawn_that_waits_is_a_task_of_the_runs_own_id(client: Bridge, place: Ground) -> None:
    declare(client, **WITH_TASKS, **WITH_FORMS)
    task = task_of(client, "spawn_run", **spawning(place, "ask Well?", "final done", wait=True))
    assert task["status"] == "working"
    run_id = task["taskId"]
    (key,) = task_until(client, run_id, "input_required")["inputRequests"]
    answer = {key: {"action": "accept", "content": {"text": "fine"}}}
    assert client.request("tasks/update", taskId=run_id, inputResponses=answer)["resultType"] == "complete"
    over = task_until(client, run_id, "completed")
    assert over["result"]["structuredContent"]["result"]["final_response"] == "done"
    client.request("tasks/update", taskId=run_id, inputResponses=answer)  # it comes late, and nothing happens
    client.request("tasks/cancel", taskId=run_id)
    assert task_now(client, run_id)["status"] == "completed"


def test_a_task_with_nobody_to_ask_ends_for_the_model_to_answer(client: Bridge, place: Ground) -> None:
    declare(client, **WITH_TASKS)
    run_id = task_of(client, "spawn_run", **spawning(place, "ask Well?", "final done", wait=True))["taskId"]
    asking = task_until(client, run_id, "completed")
    assert asking["result"]["structuredContent"]["pending"][0]["text"] == "Well?"
    client.call("continue_run", run_id=run_id, text="on")
    client.call("poll_events", run_id=run_id, types=["run_completed"])
    assert task_now(client, run_id)["status"] == "completed"


def test_a_wait_is_a_task_that_outlives_its_host(place: Ground) -> None:
    with place.bridge() as client, place.bridge() as other:
        declare(client, **WITH_TASKS)
        one = other.waiting("ask Well?", place.cwd)
        run_id = other.spawn("sleep 60", place.cwd)
        task = task_of(client, "wait_runs", run_ids=[one, run_id], until="all")
        place.kill_host()
        over = task_until(client, task["taskId"], "completed")
        rows = over["result"]["structuredContent"]["runs"]
        assert [row["status"] for row in rows] == ["failed", "failed"]


def test_a_wait_that_is_over_stays_what_it_was(client: Bridge, place: Ground) -> None:
    declare(client, **WITH_TASKS)
    run_id = client.spawn("listen\nask Well?\nfinal done", place.cwd)
    client.call("poll_events", run_id=run_id, types=["run_started"])
    task = task_of(client, "wait_runs", run_ids=[run_id])["taskId"]
    client.call("continue_run", run_id=run_id, text="go")
    over = task_until(client, task, "completed")
    assert over["result"]["structuredContent"]["runs"][0]["status"] == "input_required"
    client.call("continue_run", run_id=run_id, text="on")
    client.call("poll_events", run_id=run_id, types=["run_completed"])
    client.request("tasks/cancel", taskId=task)
    assert task_now(client, task) == over


def test_a_wait_with_nothing_to_wait_for_is_answered_at_once(client: Bridge, place: Ground) -> None:
    run_id = client.waiting("ask Well?", place.cwd)
    declare(client, **WITH_TASKS)
    assert client.call("wait_runs", run_ids=[run_id])["done"]
    assert not client.call("wait_runs", run_ids=[client.spawn("sleep 60", place.cwd)], wait_ms=0)["done"]


def test_a_cancelled_task_ends_its_run_and_a_cancelled_wait_does_not(client: Bridge, place: Ground) -> None:
    declare(client, **WITH_TASKS)
    run_id = client.spawn("sleep 60", place.cwd)
    wait = task_of(client, "wait_runs", run_ids=[run_id])["taskId"]
    for _ in range(2):  # known clients send it twice
        client.request("tasks/cancel", taskId=wait)
    assert task_now(client, wait)["status"] == "cancelled"
    assert client.call("get_run", run_id=run_id)["status"] == "running"
    for _ in range(2):
        client.request("tasks/cancel", taskId=run_id)
    assert task_now(client, run_id)["status"] == "cancelled"


def test_tasks_are_for_those_who_declare_them(client: Bridge, place: Ground) -> None:
    run = client.call("spawn_run", **spawning(place, "final done", wait=True))
    assert run["result"]["final_response"] == "done"
    error = client.answer(client.ask("tasks/get", taskId=run["run_id"]))["error"]
    assert (error["code"], error["data"]) == (-32021, {"requiredCapabilities": {"extensions": {EXTENSION: {}}}})
    declare(client, **WITH_TASKS)
    for task_id in ("run_0", "wait_" + "0" * 24, "../../etc/passwd"):
        assert client.answer(client.ask("tasks/get", taskId=task_id))["error"]["code"] == -32602
    refused = client.answer(client.ask_tool("spawn_run", **spawning(place, "x", wait=True, limits={"x": 1})))
    assert sentence(refused).startswith("invalid_argument: no limit 'x'")


def test_a_session_of_the_older_era_has_no_tasks(client: Bridge, place: Ground) -> None:
    begin(client, **WITH_TASKS)
    run = client.call("spawn_run", **spawning(place, "final done", wait=True))
    assert run["status"] == "completed"
    assert client.answer(client.ask("tasks/get", taskId=run["run_id"]))["error"]["code"] == -32601


def test_a_client_that_listens_hears_of_its_tasks(client: Bridge, place: Ground) -> None:
    declare(client, **WITH_TASKS)
    task = task_of(client, "spawn_run", **spawning(place, "ask Well?", wait=True))["taskId"]
    client.ask("subscriptions/listen", notifications={"taskIds": [task]})
    assert notified(client, "notifications/subscriptions/acknowledged")["notifications"] == {"taskIds": [task]}
    client.call("poll_events", run_id=task, types=["input_required"])
    client.call("continue_run", run_id=task, text="on")
    until_over = notified(client, "notifications/tasks", status="completed")
    assert until_over["taskId"] == task


# ---- a person at the client


def test_a_person_is_asked_while_the_call_is_under_way(client: Bridge, place: Ground) -> None:
    begin(client, **WITH_FORMS)
    run_id = client.waiting("ask Which? | red | blue\napprove rm -r x\nfinal end", place.cwd)
    waiting = client.ask_tool("wait_runs", run_ids=[run_id], ask_person=True)
    question = asked(client)
    schema = question["params"]["requestedSchema"]
    assert schema["properties"]["decision"]["enum"] == ["red", "blue"]
    assert "Which?" in question["params"]["message"]
    client.send(
        {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"decision": "red"}}}
    )
    approval = asked(client)
    assert "rm -r x" in approval["params"]["message"]
    respond(client, approval, "decline")
    done = document(client.answer(waiting))
    assert (done["done"], done["runs"][0]["status"]) == (True, "completed")
    said = [
        event["data"]["text"] for event in client.call("poll_events", run_id=run_id, types=["agent_message"])["events"]
    ]
    assert said == ["the answer is: red", "denied: the person at the client declined"]


def test_who_says_nothing_leaves_the_request_to_the_caller(client: Bridge, place: Ground) -> None:
    begin(client, **WITH_FORMS)
    run_id = client.waiting("ask Which?", place.cwd)
    waiting = client.ask_tool("wait_runs", run_ids=[run_id], ask_person=True)
    question = asked(client)
    respond(client, question, "cancel")
    (run,) = document(client.answer(waiting))["runs"]
    assert [request["text"] for request in run["pending"]] == ["Which?"]


def test_in_the_newer_era_the_call_is_made_again_with_the_answers(client: Bridge, place: Ground) -> None:
    declare(client, **WITH_FORMS)
    run_id = client.waiting("ask Which?\nfinal end", place.cwd)
    arguments = {"run_ids": [run_id], "ask_person": True}
    first = client.answer(client.ask_tool("wait_runs", **arguments))["result"]
    assert first["resultType"] == "input_required"
    (key,) = first["inputRequests"]
    answers = {key: {"action": "accept", "content": {"text": "that"}}}
    again = client.ask("tools/call", name="wait_runs", arguments=arguments, inputResponses=answers)
    assert document(client.answer(again))["runs"][0]["status"] == "completed"
    run_id = client.waiting("ask Which?", place.cwd)
    arguments["run_ids"] = [run_id]
    (key,) = client.answer(client.ask_tool("wait_runs", **arguments))["result"]["inputRequests"]
    again = client.ask("tools/call", name="wait_runs", arguments=arguments, inputResponses={key: {"action": "cancel"}})
    assert document(client.answer(again))["runs"][0]["status"] == "input_required"


def test_a_client_that_cannot_ask_gets_what_it_always_got(client: Bridge, place: Ground) -> None:
    run_id = client.waiting("ask Which?", place.cwd)
    assert client.call("wait_runs", run_ids=[run_id], ask_person=True)["runs"][0]["pending"]


def test_a_task_asks_the_person_too(client: Bridge, place: Ground) -> None:
    declare(client, **WITH_TASKS, **WITH_FORMS)
    run_id = client.spawn("ask Which?\nfinal end", place.cwd)
    task = task_of(client, "wait_runs", run_ids=[run_id], ask_person=True)["taskId"]
    (key,) = task_until(client, task, "input_required")["inputRequests"]
    accepted = {"action": "accept", "content": {"text": "this"}}
    answers: JsonObject = {key: accepted, "run_x/1": accepted}
    client.request("tasks/update", taskId=task, inputResponses=answers)
    over = task_until(client, task, "completed")
    assert over["result"]["structuredContent"]["runs"][0]["status"] == "completed"


def test_an_answer_to_a_host_that_died_answers_nothing_else(place: Ground) -> None:
    with place.bridge() as client:
        begin(client, **WITH_FORMS)
        run_id = client.waiting("ask First?", place.cwd)
        waiting = client.ask_tool("wait_runs", run_ids=[run_id], ask_person=True)
        late = asked(client)
        place.kill_host()
        assert document(client.answer(waiting))["runs"][0]["status"] == "failed"
        notified(client, "notifications/cancelled", requestId=late["id"])
        run_id = client.waiting("ask Second?", place.cwd)
        waiting = client.ask_tool("wait_runs", run_ids=[run_id], ask_person=True)
        question = asked(client)
        assert question["id"] != late["id"]
        respond(client, late, "accept", text="to the first")
        respond(client, question, "accept", text="to the second")
        document(client.answer(waiting))
        assert client.call("get_run", run_id=run_id)["result"]["final_response"] == "the answer is: to the second"
