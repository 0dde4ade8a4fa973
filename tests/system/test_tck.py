"""The script of the A2A compatibility kit, replayed over HTTP against the agent as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from email.utils import parsedate_to_datetime
from itertools import count
from pathlib import Path

import httpx
import pytest

from orchestrator.model import JsonObject
from tests.system.conftest import agent

pytestmark = pytest.mark.system

URL = "https://example.com/output.txt"
FILE = {"raw": "dGNr", "mediaType": "text/plain", "filename": "output.txt"}

TASKS: dict[str, tuple[str, list[JsonObject]]] = {
    "tck-complete-task": ("COMPLETED", []),
    "tck-input-required": ("INPUT_REQUIRED", []),
    "tck-reject-task": ("REJECTED", []),
    "tck-artifact-text": ("COMPLETED", [{"text": "Generated text content"}]),
    "tck-artifact-file": ("COMPLETED", [FILE]),
    "tck-artifact-file-url": ("COMPLETED", [{"url": URL, "mediaType": "text/plain", "filename": "output.txt"}]),
    "tck-artifact-data": (
        "COMPLETED",
        [{"data": {"key": "value", "count": 42}, "mediaType": "application/json"}],
    ),
}
"""What a message with a prefix leads to: the state of its task, and the parts of its artifact."""

STREAMS: dict[str, tuple[list[str], list[list[JsonObject]]]] = {
    "tck-stream-001": (["WORKING", "COMPLETED"], [[{"text": "Stream hello from TCK"}]]),
    "tck-stream-002": (["COMPLETED"], []),
    "tck-stream-003": (["WORKING", "COMPLETED"], [[{"text": "Stream task lifecycle"}]]),
    "tck-stream-ordering-001": (["WORKING", "COMPLETED"], [[{"text": "Ordered output"}]]),
    "tck-stream-artifact-text": (["WORKING", "COMPLETED"], [[{"text": "Streamed text content"}]]),
    "tck-stream-artifact-file": (["WORKING", "COMPLETED"], [[FILE]]),
    "tck-stream-artifact-chunked": (["WORKING", "COMPLETED"], [[{"text": "chunk-1 "}], [{"text": "chunk-2"}]]),
}
"""What a stream shows: the states that follow on the task, and the parts of each artifact update between them."""


class Caller:
    """Speaks JSON-RPC with the agent as the kit does."""

    def __init__(self, base: str, http: httpx.Client) -> None:
        self.base = base
        self.http = http
        self.rpc = self.card().json()["supportedInterfaces"][0]["url"]
        self._ids = count(1)

    def card(self) -> httpx.Response:
        """The card, with its headers."""
        return self.http.get(f"{self.base}/.well-known/agent-card.json")

    def body(self, method: str, params: JsonObject) -> JsonObject:
        """A request."""
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}

    def answer(self, method: str, params: JsonObject, slash: str = "/") -> JsonObject:
        """The answer to a request; the kit puts a slash behind the URL of the card."""
        return self.http.post(self.rpc + slash, json=self.body(method, params)).json()

    def send(self, message_id: str, **more: str) -> JsonObject:
        """The result of a message."""
        answer = self.answer("SendMessage", {"message": message(message_id, **more)})
        assert "error" not in answer, answer
        return answer["result"]

    def stream(self, method: str, params: JsonObject) -> Generator[JsonObject]:
        """The events of a stream, as they come."""
        with self.http.stream("POST", self.rpc + "/", json=self.body(method, params)) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))["result"]


def message(message_id: str, **more: str) -> JsonObject:
    return {"messageId": f"{message_id}-7f3a", "role": "ROLE_USER", "parts": [{"text": "from the kit"}], **more}


def state(of: JsonObject) -> str:
    return of["status"]["state"].removeprefix("TASK_STATE_")


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Generator[Caller]:
    """A caller of an agent that plays the script."""
    folder = tmp_path_factory.mktemp("agent")
    headers = {"A2A-Version": "1.0"}
    with (
        agent(folder, "--tck", "--default-cwd", str(folder)) as base,
        httpx.Client(headers=headers, timeout=30, trust_env=False) as http,
    ):
        yield Caller(base, http)


@pytest.mark.parametrize("prefix", TASKS)
def test_each_prefix_leads_to_its_state_and_artifact(caller: Caller, prefix: str) -> None:
    task = caller.send(prefix)["task"]
    expected_state, parts = TASKS[prefix]
    assert state(task) == expected_state
    assert [artifact["parts"] for artifact in task.get("artifacts", [])] == ([parts] if parts else [])
    assert [said["messageId"] for said in task["history"]] == [message(prefix)["messageId"]]
    again = caller.answer("GetTask", {"id": task["id"]})["result"]
    assert again == task


@pytest.mark.parametrize(("prefix", "text"), [("tck-complete-task", "Hello from TCK"), ("tck-reject-task", "rejected")])
def test_the_last_status_says_why(caller: Caller, prefix: str, text: str) -> None:
    said = caller.send(prefix)["task"]["status"]["message"]
    assert said["parts"] == [{"text": text}]
    assert said["role"] == "ROLE_AGENT"


def test_a_message_is_answered_with_a_message_without_a_task(caller: Caller) -> None:
    result = caller.send("tck-message-response")
    assert result.keys() == {"message"}
    assert result["message"]["parts"] == [{"text": "Direct message response"}]
    assert result["message"]["role"] == "ROLE_AGENT"
    assert "taskId" not in result["message"]


@pytest.mark.parametrize("prefix", STREAMS)
def test_each_stream_begins_with_its_task_and_shows_its_events_in_order(caller: Caller, prefix: str) -> None:
    events = list(caller.stream("SendStreamingMessage", {"message": message(prefix)}))
    states, artifacts = STREAMS[prefix]
    first, *rest = events
    assert state(first["task"]) == "SUBMITTED"
    updates = [event["artifactUpdate"] for event in rest if "artifactUpdate" in event]
    assert [update["artifact"]["parts"] for update in updates] == artifacts
    assert [update.get("append", False) for update in updates] == [index > 0 for index in range(len(updates))]
    assert [update.get("lastChunk", False) for update in updates] == [update is updates[-1] for update in updates]
    assert len({update["artifact"]["artifactId"] for update in updates}) == min(1, len(updates))
    assert [state(event["statusUpdate"]) for event in rest if "statusUpdate" in event] == states
    order = [*rest[0].keys(), *rest[-1].keys()]
    assert order == ["statusUpdate", "statusUpdate"]
    ids = {next(iter(event.values())).get("taskId", first["task"]["id"]) for event in events}
    assert ids == {first["task"]["id"]}


def test_a_task_that_needs_input_takes_it_without_its_context_and_completes(caller: Caller) -> None:
    task = caller.send("tck-input-required")["task"]
    waiting = caller.send("tck-input-required-again", taskId=task["id"])["task"]
    assert state(waiting) == "INPUT_REQUIRED"
    done = caller.send("tck-complete-task-then", taskId=task["id"])["task"]
    assert state(done) == "COMPLETED"
    assert done["contextId"] == task["contextId"]
    refused = caller.answer("SendMessage", {"message": message("tck-complete-task", taskId=task["id"])})
    assert refused["error"]["code"] == -32004


def test_a_task_that_needs_input_can_be_cancelled_once(caller: Caller) -> None:
    task = caller.send("tck-input-required")["task"]
    assert state(caller.answer("CancelTask", {"id": task["id"]})["result"]) == "CANCELED"
    assert caller.answer("CancelTask", {"id": task["id"]})["error"]["code"] == -32002


def test_a_stream_that_was_left_is_taken_up_again_where_the_task_is(caller: Caller) -> None:
    first = caller.stream("SendStreamingMessage", {"message": message("test-resubscribe-message-id")})
    task = next(first)["task"]
    assert state(next(first)["statusUpdate"]) == "WORKING"
    first.close()
    snapshot, *rest = caller.stream("SubscribeToTask", {"id": task["id"]})
    assert state(snapshot["task"]) == "WORKING"
    assert [state(event["statusUpdate"]) for event in rest] == ["COMPLETED"]


def test_what_is_not_in_the_script_goes_to_the_agent_itself(caller: Caller) -> None:
    task = caller.send("tck-something-else")["task"]
    assert state(task) == "COMPLETED"
    assert [artifact["parts"] for artifact in task["artifacts"]] == [[{"text": "You said: from the kit"}]]


@pytest.mark.parametrize("slash", ["", "/"])
def test_requests_are_served_with_and_without_a_slash(caller: Caller, slash: str) -> None:
    answer = caller.answer("SendMessage", {"message": message("tck-complete-task")}, slash)
    assert state(answer["result"]["task"]) == "COMPLETED"


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=utf-8", "multipart/form-data"])
def test_a_request_that_is_not_json_is_refused_with_the_code_for_it(caller: Caller, kind: str) -> None:
    body = json.dumps(caller.body("SendMessage", {"message": message("tck-complete-task")}))
    answer = caller.http.post(caller.rpc, content=body, headers={"content-type": kind}).json()
    assert answer["error"]["code"] == -32005
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", None)


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/a2a+json"])
def test_every_spelling_of_json_is_taken(caller: Caller, kind: str) -> None:
    body = json.dumps(caller.body("SendMessage", {"message": message("tck-complete-task")}))
    answer = caller.http.post(caller.rpc, content=body, headers={"content-type": kind}).json()
    assert state(answer["result"]["task"]) == "COMPLETED"


def test_the_card_says_how_old_it_is_and_how_long_it_holds(caller: Caller) -> None:
    first, second = caller.card(), caller.card()
    assert first.headers["last-modified"] == second.headers["last-modified"]
    assert parsedate_to_datetime(first.headers["last-modified"]) <= parsedate_to_datetime(first.headers["date"])
    assert "max-age=" in first.headers["cache-control"]


def test_the_script_is_off_unless_asked_for(cwd: Path) -> None:
    with agent(cwd, "--default-cwd", str(cwd)) as base, httpx.Client(headers={"A2A-Version": "1.0"}) as http:
        task = Caller(base, http).send("tck-input-required")["task"]
        assert state(task) == "COMPLETED"


def test_the_script_needs_a_directory() -> None:
    command = [sys.executable, "-m", "test_agents", "scripted", "--tck"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert out.returncode == 2
    assert "--tck needs --default-cwd" in out.stderr
