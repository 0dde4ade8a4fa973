"""Telling others that a run is over: by webhook, by a command, by a message; again and again until they have it."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from backends import BACKENDS, SCRIPTED, Backends
from orchestrator.doors.tools import Tools
from orchestrator.engine.caller import Caller as EngineCaller
from orchestrator.engine.engine import Engine
from orchestrator.engine.outbox import DELAYS, delivery_id
from orchestrator.errors import OrchestratorError
from orchestrator.host.agents import agents_door
from orchestrator.model import JsonObject
from orchestrator.store.deliveries import Deliveries
from orchestrator.store.layout import Home, Workspace
from orchestrator.webhook import check_secret, new_secret
from tests.conftest import open_tools, wait_until
from tests.receiver import Receiver


class Caller:
    """Tools over the scripted agent, for a client that is told of ends."""

    def __init__(self, tools: Any, cwd: Path) -> None:
        self.tools = tools
        self.cwd = cwd

    async def spawn(self, *script: str, **more: Any) -> str:
        arguments = {"backend": "scripted", "cwd": str(self.cwd), "prompt": "\n".join(script), **more}
        return (await self.tools.call("spawn_run", arguments))["run_id"]

    async def finished(self, *script: str, **more: Any) -> str:
        run_id = await self.spawn(*script, **more)
        await self.tools.call("wait_runs", {"run_ids": [run_id]})
        return run_id

    def events(self, run_id: str) -> list[JsonObject]:
        return Deliveries(Home.default(), run_id).events()

    async def told(self, run_id: str, *types: str) -> list[JsonObject]:
        """What became of the deliveries, once the last one is of these types."""
        await wait_until(lambda: [e["type"] for e in self.events(run_id)] == list(types), f"{types} of {run_id}")
        return [event["data"] for event in self.events(run_id)]


@pytest.fixture(autouse=True)
def soon(home: Home) -> None:
    """Nobody waits long before the second attempt."""
    home.path.mkdir(parents=True, exist_ok=True)
    (home.path / "config.toml").write_text("delivery_retry_s = 0.01\n")


@pytest.fixture
async def caller(cwd: Path) -> AsyncGenerator[Caller]:
    async with open_tools(cwd, MARK="here", PATH=os.environ["PATH"]) as tools:
        yield Caller(tools, cwd)


async def test_a_webhook_gets_the_end_of_a_run_signed(caller: Caller, home: Home) -> None:
    with Receiver() as receiver:
        run_id = await caller.finished("say hello", "final done", on_finish={"webhook": receiver.url})
        (data,) = await caller.told(run_id, "delivered")
        (delivery,) = receiver.deliveries
    assert data == {"channel": "webhook", "id": delivery_id(run_id), "attempt": 1, "http_status": 200}
    secret = (home.path / "webhook_secret").read_text().strip()
    assert Webhook(secret).verify(delivery.body, delivery.headers)
    message = delivery.message
    assert (message["type"], delivery.message_id) == ("run.completed", delivery_id(run_id))
    assert message["data"]["run_id"] == run_id
    assert message["data"]["result"]["final_response"] == "done"
    assert (home.path / "webhook_secret").stat().st_mode & 0o777 == 0o600
    await wait_until(lambda: home.owing() == [], "nothing is owed")
    run = await caller.tools.call("get_run", {"run_id": run_id})
    assert [(told["channel"], told["status"], told["attempts"]) for told in run["told"]] == [
        ("webhook", "delivered", 1)
    ]


@pytest.mark.parametrize(
    ("script", "event"),
    [("fail why", "run.failed"), ("reject why", "run.rejected"), ("cancel why", "run.cancelled")],
)
async def test_every_end_is_told(caller: Caller, script: str, event: str) -> None:
    with Receiver() as receiver:
        await caller.told(await caller.finished(script, on_finish={"webhook": receiver.url}), "delivered")
        assert receiver.deliveries[0].message["type"] == event


async def test_a_receiver_that_fails_or_redirects_gets_it_again_under_the_same_id(caller: Caller) -> None:
    with Receiver([500, 302, 429]) as receiver:
        run_id = await caller.finished("say x", on_finish={"webhook": receiver.url})
        told = await caller.told(run_id, *["delivery_failed"] * 3, "delivered")
        assert {delivery.message_id for delivery in receiver.deliveries} == {delivery_id(run_id)}
        assert len(receiver.deliveries) == 4
    assert [data.get("error", "").split(" ")[-1] for data in told[:1]] != [""]
    assert [data["attempt"] for data in told] == [1, 2, 3, 4]


async def test_a_receiver_that_is_down_for_a_while_gets_it_later(caller: Caller) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_id = await caller.finished("say x", on_finish={"webhook": f"http://127.0.0.1:{port}/"})
    await wait_until(lambda: len(caller.events(run_id)) >= 2, "two attempts")
    with Receiver(port=port) as receiver:
        await wait_until(lambda: caller.events(run_id)[-1]["type"] == "delivered", "it is delivered")
        assert len(receiver.deliveries) == 1


async def test_a_receiver_that_is_gone_is_not_asked_again_and_reported(caller: Caller, home: Home) -> None:
    with Receiver([410]) as receiver:
        run_id = await caller.finished("say x", on_finish={"webhook": receiver.url})
        (data,) = await caller.told(run_id, "delivery_given_up")
    assert "410" in data["error"]
    run = await caller.tools.call("get_run", {"run_id": run_id})
    assert (run["status"], run["told"][0]["status"]) == ("completed", "failed")
    await wait_until(lambda: home.owing() == [], "nothing is owed")


async def test_one_who_never_takes_it_is_given_up_in_the_end(caller: Caller) -> None:
    with Receiver([503] * 99) as receiver:
        run_id = await caller.spawn("say x", on_finish={"webhook": receiver.url})
        await wait_until(lambda: len(caller.events(run_id)) >= 3, "three attempts")
        assert all(event["type"] == "delivery_failed" for event in caller.events(run_id)[:3])
    assert sum(DELAYS) * 5 > 12 * 3600


async def test_a_command_is_told_on_its_stdin(caller: Caller) -> None:
    script = (
        "import os, sys; open('told.json', 'w').write(sys.stdin.read()); open('env', 'w').write(repr(dict(os.environ)))"
    )
    run_id = await caller.finished("final done", on_finish={"command": [sys.executable, "-c", script]})
    (data,) = await caller.told(run_id, "delivered")
    assert data["exit_code"] == 0
    assert json.loads((caller.cwd / "told.json").read_text())["data"]["run_id"] == run_id
    environment = (caller.cwd / "env").read_text()
    assert f"'ORCHESTRATOR_DELIVERY_ID': '{delivery_id(run_id)}'" in environment
    assert "'MARK': 'here'" in environment
    assert "ORCHESTRATOR_RUN_ID" not in environment


async def test_a_command_that_fails_is_run_again(caller: Caller) -> None:
    shell = "echo x >> tries; test $(wc -l < tries) -ge 3 || { echo not yet; exit 7; }"
    run_id = await caller.finished("say x", on_finish={"command": ["/bin/sh", "-c", shell]})
    told = await caller.told(run_id, "delivery_failed", "delivery_failed", "delivered")
    assert told[0]["error"] == "/bin/sh ended with exit code 7"


async def test_a_program_that_is_not_there_is_reported(caller: Caller) -> None:
    run_id = await caller.spawn("say x", on_finish={"command": ["/nowhere/at-all"]})
    await wait_until(lambda: bool(caller.events(run_id)), "an attempt")
    assert "cannot be started" in caller.events(run_id)[0]["data"]["error"]


async def test_an_agent_that_works_hears_of_it_in_its_work(caller: Caller) -> None:
    boss = await caller.spawn("listen", nickname="boss")
    await caller.tools.call("poll_events", {"run_id": boss, "types": ["run_started"]})
    run_id = await caller.finished("final done", on_finish={"message_to": "boss"})
    await caller.told(run_id, "delivered")
    await caller.tools.call("wait_runs", {"run_ids": [boss]})
    run = await caller.tools.call("get_run", {"run_id": boss})
    assert f"{run_id} of " in run["result"]["final_response"]
    assert "is completed: done" in run["result"]["final_response"]


async def test_an_agent_that_does_not_work_finds_it_in_its_inbox_once(cwd: Path) -> None:
    async with open_tools(cwd) as tools:
        caller = Caller(tools, cwd)
        await caller.finished("say x", nickname="boss")
        run_id = await caller.finished("final done", on_finish={"message_to": "boss"})
        await caller.told(run_id, "delivered")
        (inbox,) = (cwd / ".orchestrator/sessions").glob("ses_*.inbox.jsonl")
        letter = json.loads(inbox.read_text())
    assert letter["id"] == delivery_id(run_id)
    assert letter["from"]["run_id"] == run_id
    assert (await _told_again(cwd, run_id)) == [letter]


async def _told_again(cwd: Path, run_id: str) -> list[JsonObject]:
    """The inbox after the record of the delivery was lost, as by a crash just before it."""
    home, run_dir = Home.default(), Workspace(cwd).run(run_id)
    home.deliveries(run_id).unlink()
    home.add(run_dir, live=False, owing=True)
    async with open_tools(cwd) as tools:
        await tools._engine.recovery.recover()  # pyright: ignore[reportPrivateUsage]
        await wait_until(lambda: home.owing() == [], "it is told again")
    (inbox,) = (cwd / ".orchestrator/sessions").glob("ses_*.inbox.jsonl")
    return [json.loads(line) for line in inbox.read_text().splitlines()]


async def test_the_callers_own_inbox_takes_it_too(caller: Caller) -> None:
    run_id = await caller.finished("final done", on_finish={"message_to": "caller"})
    await caller.told(run_id, "delivered")
    assert run_id in (caller.cwd / ".orchestrator/sessions/caller.inbox.jsonl").read_text()


async def test_nobody_of_that_name_is_reported(caller: Caller) -> None:
    run_id = await caller.spawn("say x", on_finish={"message_to": "nobody"})
    await wait_until(lambda: bool(caller.events(run_id)), "an attempt")
    assert caller.events(run_id)[0]["data"]["error"].startswith("agent_not_found: no agent 'nobody'")


async def test_one_channel_does_not_wait_for_another(caller: Caller) -> None:
    with Receiver([0]) as receiver:
        run_id = await caller.spawn("say x", on_finish={"webhook": receiver.url, "message_to": "caller"})
        await wait_until(lambda: any(e["type"] == "delivered" for e in caller.events(run_id)), "one is told")
        assert len(receiver.deliveries) <= 1


@pytest.mark.parametrize("secret", ["", "hunter2", "whsec_"])
async def test_a_secret_that_is_none_is_reported_and_harms_no_other(caller: Caller, home: Home, secret: str) -> None:
    (home.path / "webhook_secret").write_text(secret)
    with Receiver() as receiver:
        run_id = await caller.spawn("say x", on_finish={"webhook": receiver.url, "message_to": "caller"})
        await wait_until(lambda: len(caller.events(run_id)) >= 2, "both were tried")
        assert receiver.deliveries == []
    by_channel = {event["data"]["channel"]: event for event in reversed(caller.events(run_id))}
    assert by_channel["message_to"]["type"] == "delivered"
    assert by_channel["webhook"]["data"]["error"].startswith("webhook_secret cannot be used")


def test_one_secret_is_made_however_many_want_it(home: Home) -> None:
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(home.webhook_secret, [new_secret] * 64))
    assert len(secrets) == 1
    check_secret(secrets.pop())
    assert [path.name for path in home.path.iterdir() if "secret" in path.name] == ["webhook_secret"]


def test_what_several_write_at_the_same_time_is_all_there(home: Home) -> None:
    deliveries = Deliveries(home, "run_0")
    assert deliveries.open()
    assert not Deliveries(home, "run_0").open(), "one delivers"
    with ThreadPoolExecutor(8) as pool:
        failures: list[JsonObject] = [{"channel": f"{number}", "error": "x"} for number in range(64)]
        list(pool.map(deliveries.add, ["delivery_failed"] * 64, failures))
    deliveries.close()
    assert [event["seq"] for event in deliveries.events()] == list(range(1, 65))
    assert len(deliveries.told()) == 64


async def test_what_an_agent_puts_beside_its_run_changes_nothing(cwd: Path, home: Home, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with Receiver() as receiver:
        async with open_tools(cwd) as tools:
            caller = Caller(tools, cwd)
            run_id = await caller.spawn("ask Well?", on_finish={"webhook": receiver.url})
            await tools.call("wait_runs", {"run_ids": [run_id]})
            own = Workspace(cwd).run(run_id).path
            (own / "deliveries.jsonl").symlink_to(victim)
            (own / "tree").mkdir()
            spec = (own / "spec.json").read_text()
            own.rename(own.with_name("elsewhere"))
            assert home.find(run_id) is None
            own.with_name("elsewhere").rename(own)
            (own / "spec.json").write_text(spec.replace('"webhook"', '"message_to"').replace(receiver.url, "caller"))
            await tools.call("continue_run", {"run_id": run_id, "text": "on"})
            await caller.told(run_id, "delivered")
            assert (await tools.call("list_runs", {}))["runs"][0]["run_id"] == run_id
        assert len(receiver.deliveries) == 1
    assert victim.read_text() == "precious"


async def test_a_message_reaches_nobody_of_another_tree(cwd: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    load = Backends({**BACKENDS, **SCRIPTED}).load
    async with Engine(Home.default(), load) as engine, agents_door(engine, scripted=True):
        there = Caller(Tools(engine, EngineCaller(cwd=other, env={})), other)
        boss = await there.finished("say x", nickname="boss")
        here = Caller(Tools(engine, EngineCaller(cwd=cwd, env={})), cwd)
        child = {"backend": "scripted", "cwd": str(cwd), "prompt": "x", "on_finish": {"message_to": "boss"}}
        script = ("ask Ready?", f"call spawn_run {json.dumps(child)}")
        root = await here.spawn(*script, backend_config={"delegate": True})
        await here.tools.call("wait_runs", {"run_ids": [root]})
        (Workspace(cwd).run(root).path / "tree").write_text(f"{boss}\n")
        await here.tools.call("continue_run", {"run_id": root, "text": "on"})
        await here.tools.call("wait_runs", {"run_ids": [root]})
        said = (await here.tools.call("get_run", {"run_id": root}))["result"]["final_response"]
        spawned = json.loads(said)["run_id"]
        await wait_until(lambda: bool(here.events(spawned)), "an attempt")
        assert "agent_not_found" in here.events(spawned)[0]["data"]["error"]
    assert not list((other / ".orchestrator/sessions").glob("*.inbox.jsonl"))


async def test_a_run_whose_spec_was_changed_tells_nobody(cwd: Path, home: Home) -> None:
    with Receiver([0]) as receiver:
        async with open_tools(cwd) as tools:
            run_id = await Caller(tools, cwd).finished("say x", on_finish={"webhook": receiver.url})
            await wait_until(lambda: len(receiver.deliveries) == 1, "the first attempt")
        path = Workspace(cwd).run(run_id).path / "spec.json"
        path.write_text(path.read_text().replace('"webhook"', '"message_to"').replace(receiver.url, "caller"))
        async with open_tools(cwd) as tools:
            await tools._engine.recovery.recover()  # pyright: ignore[reportPrivateUsage]
            await wait_until(lambda: home.owing() == [], "it is dropped")
        assert len(receiver.deliveries) == 1
    assert not (cwd / ".orchestrator/sessions/caller.inbox.jsonl").exists()


# ---- who may ask for what


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"webhok": "http://a/"}, "on_finish has no key 'webhok'; did you mean 'webhook'"),
        ({"webhook": "ftp://a/"}, "on_finish.webhook"),
        ({"webhook": "http://169.254.169.254/"}, "on_finish.webhook names an address that is link-local"),
        ({"command": "echo x"}, "on_finish.command must be an array of strings"),
        ({"command": []}, "on_finish.command must be an array of strings"),
        ({"command": [1]}, "on_finish.command must be an array of strings"),
        ({"message_to": "a/b"}, "not a valid on_finish.message_to"),
        ({"message_to": 1}, "on_finish.message_to must be a string"),
    ],
)
async def test_what_makes_no_sense_is_refused(caller: Caller, given: JsonObject, words: str) -> None:
    with pytest.raises(OrchestratorError) as refused:
        await caller.spawn("say x", on_finish=given)
    assert words in str(refused.value)
    assert not (caller.cwd / ".orchestrator/runs").exists()


async def test_the_users_settings_say_who_is_told_of_every_run(cwd: Path, home: Home) -> None:
    with Receiver() as receiver:
        (home.path / "config.toml").write_text(f'on_finish_webhook = "{receiver.url}"\ndelivery_retry_s = 0.01\n')
        (cwd / ".orchestrator.toml").write_text('on_finish_command = ["/bin/sh", "-c", "touch hacked"]\n')
        async with open_tools(cwd, ORCHESTRATOR_ON_FINISH_COMMAND="/bin/false") as tools:
            caller = Caller(tools, cwd)
            await caller.told(await caller.finished("say x"), "delivered")
        assert len(receiver.deliveries) == 1
    assert not (cwd / "hacked").exists()


async def test_a_resumed_session_tells_the_same(caller: Caller) -> None:
    with Receiver() as receiver:
        run_id = await caller.finished("say x", on_finish={"webhook": receiver.url})
        again = await caller.tools.call("continue_run", {"run_id": run_id, "text": "say y"})
        await caller.told(again["run_id"], "delivered")
        assert len(receiver.deliveries) == 2


@pytest.mark.parametrize(
    ("given", "level", "refused"),
    [
        ({"command": ["/bin/true"]}, "workspace_write", "on_finish.command leads out of what"),
        ({"webhook": "http://127.0.0.1:1/"}, "workspace_write", "on_finish.webhook leads out of what"),
        ({"message_to": "caller"}, "workspace_write", None),
        ({"command": ["/bin/true"]}, "full_access", None),
    ],
)
async def test_an_agent_tells_nobody_whom_it_could_not_tell_itself(
    cwd: Path, given: JsonObject, level: str, refused: str | None
) -> None:
    child = {"backend": "scripted", "cwd": str(cwd), "prompt": "final done", "on_finish": given}
    async with (
        Engine(Home.default(), Backends({**BACKENDS, **SCRIPTED}).load) as engine,
        agents_door(engine, scripted=True),
    ):
        caller = Caller(Tools(engine, EngineCaller(cwd=cwd, env={"PATH": os.environ["PATH"]})), cwd)
        run_id = await caller.finished(
            f"call spawn_run {json.dumps(child)}", permission=level, backend_config={"delegate": True}
        )
        said = (await caller.tools.call("get_run", {"run_id": run_id}))["result"]["final_response"]
        if refused:
            assert said.startswith("permission_ceiling: ")
            assert refused in said
        else:
            await caller.told(json.loads(said)["run_id"], "delivered")
