"""What MCP clients are offered beside tools: prompts, resources, completion, and further sets of tools; in process and
through the host."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from pathlib import Path

import pytest

from orchestrator.doors.schemas import TOOLSETS
from orchestrator.host import place as host_place
from orchestrator.model import JsonObject
from tests.system.conftest import Server, running, server
from tests.system.hosts import ground

pytestmark = pytest.mark.system


@pytest.fixture(params=["in_process", "host"])
def client(request: pytest.FixtureRequest, cwd: Path, tmp_path: Path) -> Generator[Server]:
    """A client of either door, which wants the team's tools too."""
    if request.param == "in_process":
        with server(cwd, "--toolset", "team") as mcp:
            yield mcp
    else:
        with ground(tmp_path / "home", cwd) as place:
            words = ("orchestrator", "mcp", "--scripted", "--toolset", "team")
            with running(*words, cwd=cwd, **place.environment) as process:
                yield Server(process)


def prompt(client: Server, name: str, **arguments: str) -> str:
    answer = client.request("prompts/get", name=name, arguments=arguments)
    return answer["messages"][0]["content"]["text"]


def call_in(text: str) -> JsonObject:
    """The call that a prompt has filled in."""
    match = re.search(r"```json\n(.*?)\n```", text, re.DOTALL)
    assert match, text
    return json.loads(match[1])


def completed(client: Server, argument: str, begun: str, **ref: str) -> list[str]:
    answer = client.request("completion/complete", ref=ref, argument={"name": argument, "value": begun})
    return answer["completion"]["values"]


def test_prompts_fill_in_calls_that_work(client: Server, cwd: Path) -> None:
    offered = {each["name"] for each in client.request("prompts/list")["prompts"]}
    assert offered == {"review-changes", "plan-change", "delegate"}
    review = call_in(prompt(client, "review-changes", focus="the locks"))
    assert review["profile"] == "reviewer-remediator"
    assert review["cwd"] == str(cwd)
    assert "the locks" in review["prompt"]
    assert call_in(prompt(client, "plan-change", goal="less code"))["profile"] == "planner"
    given = call_in(prompt(client, "delegate", task="final done", profile="worker", backend="scripted"))
    run_id = client.call("spawn_run", **given)["run_id"]
    assert client.call("wait_runs", run_ids=[run_id])["runs"][0]["status"] == "completed"
    name = client.call("get_run", run_id=run_id)["agent_name"]
    again = call_in(prompt(client, "delegate", task="say more", agent_name=name))
    assert client.call("continue_run", **again)["mode"] == "resume"


def test_a_prompt_that_lacks_something_says_what(client: Server) -> None:
    for name, arguments, why in (
        ("plan-change", {}, "prompt plan-change needs goal"),
        ("plan-chnage", {}, "no prompt 'plan-chnage'; did you mean 'plan-change'?"),
        ("delegate", {"task": "x", "profil": "y"}, "no argument 'profil'; did you mean 'profile'?"),
    ):
        error = client.error("prompts/get", name=name, arguments=arguments)
        assert error["code"] == -32602
        assert why in error["message"]


def test_profiles_and_runs_are_resources(client: Server, cwd: Path) -> None:
    (cwd / "profiles").mkdir()
    (cwd / "profiles" / "mine.md").write_text("You are mine.\n")
    assert [each["uri"] for each in client.request("resources/list")["resources"]] == ["profiles://", "runs://"]
    (listed,) = client.request("resources/read", uri="profiles://")["contents"]
    rows = json.loads(listed["text"])["profiles"]
    assert {"mine", "planner"} <= {row["name"] for row in rows}
    assert client.call("list_profiles")["profiles"] == rows
    templates = {each["uriTemplate"] for each in client.request("resources/templates/list")["resourceTemplates"]}
    assert templates == {"profile://{profile}", "run://{run_id}", "run://{run_id}/events", "run://{run_id}/patch"}
    (text,) = client.request("resources/read", uri="profile://mine")["contents"]
    assert (text["mimeType"], text["text"]) == ("text/markdown", "You are mine.")
    run_id = client.call("spawn_run", backend="scripted", cwd=str(cwd), prompt="final done")["run_id"]
    client.call("wait_runs", run_ids=[run_id])
    (run,) = client.request("resources/read", uri=f"run://{run_id}")["contents"]
    assert json.loads(run["text"]) == client.call("get_run", run_id=run_id)


def test_what_is_no_resource_is_refused(client: Server) -> None:
    names = (
        "profile://../../etc/passwd",
        "profile:///etc/passwd",
        "run://nothing",
        "file:///etc/passwd",
        "profiles",
        "",
    )
    for uri in names:
        error = client.error("resources/read", uri=uri)
        assert (error["code"], error["data"]) == (-32602, {"uri": uri})


def test_names_are_completed(client: Server, cwd: Path) -> None:
    spawned = client.call("spawn_run", backend="scripted", cwd=str(cwd), prompt="final done", nickname="tom")
    delegate = {"type": "ref/prompt", "name": "delegate"}
    assert completed(client, "profile", "rev", **delegate) == ["reviewer-remediator"]
    assert completed(client, "agent_name", "t", **delegate) == ["tom"]
    run = {"type": "ref/resource", "uri": "run://{run_id}"}
    assert completed(client, "run_id", "run_", **run) == [spawned["run_id"]]
    assert completed(client, "run_id", "x", **run) == []
    assert completed(client, "task", "x", **delegate) == []


def test_a_set_of_tools_is_for_who_asks_for_it(client: Server, cwd: Path) -> None:
    assert "list_profiles" in {tool["name"] for tool in client.request("tools/list")["tools"]}
    with server(cwd) as plain:
        assert "list_profiles" not in {tool["name"] for tool in plain.request("tools/list")["tools"]}
        assert "`orchestrator mcp --toolset team`" in plain.refusal("list_profiles")
    assert set(host_place.TOOLSETS) == set(TOOLSETS)


def test_an_unknown_set_of_tools_is_an_error_at_once(cwd: Path) -> None:
    for words in (["--toolset", "teem"], ["--in-process", "--toolset", "team,teem"]):
        with running("orchestrator", "mcp", *words, cwd=cwd) as process:
            assert process.wait(20) == 2
