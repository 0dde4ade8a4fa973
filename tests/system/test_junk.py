"""Junk on the wire of the MCP server: it answers what it can, ignores the rest, and stays."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.system.conftest import server

pytestmark = pytest.mark.system


def test_junk_lines_do_not_end_the_server(cwd: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  shown when the test fails
    dice = random.Random(seed)
    with server(cwd) as mcp:
        assert mcp.process.stdin is not None
        for _ in range(200):
            junk = dice.choice(
                [
                    dice.randbytes(dice.randrange(1, 200)).replace(b"\n", b" "),
                    b'{"jsonrpc": "2.0"',
                    b"[]",
                    b"null",
                    b'{"jsonrpc": "2.0", "method": "notifications/none"}',
                    b"\xff\xfe",
                    b"",
                ]
            )
            mcp.process.stdin.write(junk + b"\n")
        mcp.process.stdin.flush()
        # answers to junk carry no id or a null one; the next real call finds its own
        mcp.write({"jsonrpc": "2.0", "id": "real", "method": "tools/list", "params": {}})
        while (answer := mcp.read())["id"] != "real":
            pass
        assert len(answer["result"]["tools"]) == 8


def test_a_line_of_a_megabyte_is_taken(cwd: Path) -> None:
    with server(cwd) as mcp:
        prompt = "say " + "x" * 1_000_000
        run_id = mcp.call("spawn_run", backend="scripted", cwd=str(cwd), prompt=prompt)["run_id"]
        assert mcp.call("wait_runs", run_ids=[run_id])["runs"][0]["status"] == "completed"
