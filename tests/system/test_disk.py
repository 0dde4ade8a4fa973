"""A disk that fills up in the middle of a run, as a limit on the size of files: the server's other runs go on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from tests.system.conftest import Server

pytestmark = pytest.mark.system

LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = ["orchestrator", "mcp", "--in-process", "--scripted"]
runpy.run_module("orchestrator", run_name="__main__")
"""


@contextmanager
def limited_server(cwd: Path, file_size: int) -> Generator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-c", LIMITED, str(file_size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=cwd,
        env=os.environ,
    )
    with process:
        try:
            yield Server(process)
        finally:
            process.kill()


def test_a_run_whose_log_cannot_grow_ends_as_failed_and_the_others_go_on(cwd: Path) -> None:
    with limited_server(cwd, 200_000) as mcp:
        base = {"backend": "scripted", "cwd": str(cwd)}
        other = mcp.call("spawn_run", **base, prompt="ask Still there?")["run_id"]
        full = mcp.call("spawn_run", **base, prompt="events 5000 200")["run_id"]
        assert mcp.call("wait_runs", run_ids=[full])["done"]
        run = mcp.call("get_run", run_id=full)
        assert run["status"] == "failed"
        assert run["error"]["code"] == "store_error"
        lines = (cwd / ".orchestrator/runs" / full / "events.jsonl").read_bytes().splitlines()
        assert [orjson.loads(line)["seq"] for line in lines] == list(range(1, run["last_seq"] + 1))
        mcp.call("continue_run", run_id=other, text="yes")
        assert mcp.call("wait_runs", run_ids=[other])["runs"][0]["status"] == "completed"


def test_an_artifact_that_does_not_fit_ends_its_run(cwd: Path) -> None:
    with limited_server(cwd, 40_000) as mcp:
        prompt = "say before\nartifact 1MB\nsay after"
        run_id = mcp.call("spawn_run", backend="scripted", cwd=str(cwd), prompt=prompt)["run_id"]
        assert mcp.call("wait_runs", run_ids=[run_id])["done"]
        assert mcp.call("get_run", run_id=run_id)["error"]["code"] == "store_error"
        left = [path.name for path in (cwd / ".orchestrator/runs" / run_id / "artifacts").glob("*")]
        assert left == []
