"""`orchestrator msg`: messages between a person and agents, and, in an agent's own shell, between agents."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.cli.output import DONE, TIMED_OUT, harmless, print_json
from orchestrator.cli.reach import command
from orchestrator.errors import HostUnavailable, InvalidArgument
from orchestrator.model import JsonObject

AGENT, TEAM = "agent", "team"
_TOOLS = {
    AGENT: {"send": "send_message", "fetch": "fetch_messages"},
    TEAM: {"send": "send_agent_message", "fetch": "fetch_agent_messages"},
}
WAIT_MS = 50_000


class Post:
    """Sends and fetches as whoever this process is: the agent of a run, by its pass, or a caller."""

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self.who = AGENT if "ORCHESTRATOR_RUN_PASS" in os.environ else TEAM

    async def call(self, what: str, **arguments: object) -> JsonObject:
        """Calls the tool for that; arguments that are None are left out."""
        given = {key: value for key, value in arguments.items() if value is not None}
        tool = _TOOLS[self.who].get(what, what)
        if self.who == TEAM:
            return await command(tool, given, self._cwd, toolsets=[TEAM])
        return await _as_agent(tool, given)


async def _as_agent(tool: str, arguments: JsonObject) -> JsonObject:
    from orchestrator.host.client import exchange
    from orchestrator.host.launch import connect_to
    from orchestrator.host.place import SOCKET_VARIABLE, HostError, hello
    from orchestrator.store.serial import well_formed

    if any(well_formed(str(value)) != str(value) for value in arguments.values()):
        raise InvalidArgument("what was given is not valid UTF-8")
    try:
        path, first = os.environ.get(SOCKET_VARIABLE, ""), hello(toolsets=[AGENT])
        connection, _ = connect_to(path, first)  # in no thread: in a sandbox none could say that it is done
    except (HostError, OSError) as error:
        raise HostUnavailable(
            f"your sandbox, or the end of your run, keeps this command from the run's owner ({error}); use the tool "
            f"{tool} of the MCP server orchestrator instead"
        ) from error
    return await exchange(connection, tool, arguments)


async def whoami(post: Post, *, as_json: bool) -> int:
    """Says as whom messages are sent."""
    if post.who == TEAM:
        about: JsonObject = {"who": "caller"}
    else:
        rows: list[JsonObject] = (await post.call("list_agents"))["agents"]
        me = [row for row in rows if row.get("you")]
        about = {"who": me[0]["agent_name"], "run_id": me[0]["run_id"]} if me else {"who": AGENT}
    if as_json:
        print_json(about)
    else:
        print(about["who"])
    return DONE


async def ls(post: Post, *, as_json: bool) -> int:
    """Lists whom one may write to."""
    document = await post.call("list_agents")
    if as_json:
        print_json(document)
        return DONE
    from orchestrator.cli.tables import Column, show_rows

    columns = {"agent": Column("bold", most=24), "status": Column(most=14), "run": Column("dim", 80, 26)}
    keys = ("agent_name", "status", "run_id", "summary")
    rows = [[str(row.get(key, "")) for key in keys] for row in document["agents"]]
    show_rows({**columns, "summary": Column()}, rows)
    return DONE


async def send(post: Post, to: str, text: str, *, reply_to: str | None, deliver: str | None, as_json: bool) -> int:
    """Sends a message."""
    document = await post.call("send", to=to, text=text, reply_to=reply_to, deliver=deliver)
    if as_json:
        print_json(document)
    else:
        print(f"{document['delivered']}  {document['id']}")
    return DONE


async def inbox(post: Post, *, after: int | None, wait_s: float, as_json: bool) -> int:
    """Prints one's messages. Returns 124 when some were waited for and none came."""
    waited_ms, document = 0, await post.call("fetch", after_seq=after)
    while not document["messages"] and waited_ms < wait_s * 1000:
        wait_ms = min(WAIT_MS, int(wait_s * 1000) - waited_ms)
        document = await post.call("fetch", after_seq=after, wait_ms=wait_ms)
        waited_ms += wait_ms
    if as_json:
        print_json(document)
    for letter in () if as_json else harmless(document["messages"]):
        print(f"{letter['seq']}  {letter['from']['agent_name']}  {letter['id']}  {letter['ts']}")
        for part in letter["parts"]:
            print(part.get("text", part))
    return TIMED_OUT if wait_s and not document["messages"] else DONE
