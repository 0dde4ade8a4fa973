"""The strict schema lint of the MCP inspector on our tools, as a client sees them on stdio."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import orjson

from tests.conformance.node import installed, node, version_of

MANIFEST = Path(__file__).parents[1] / "system" / "clients" / "package.json"
"""The inspector's version is where the tests have it that let it call the tools."""
FOLDER = "node"
PACKAGE = "@modelcontextprotocol/inspector"


@dataclass(frozen=True, slots=True)
class Lint:
    """What the lint said: its exit code, what it printed, and how many tools it read."""

    version: str
    code: int
    output: str

    @property
    def tools(self) -> int:
        """How many tools were listed; 0 if the lint found anything."""
        return len(orjson.loads(self.output)["result"]["tools"]) if self.code == 0 else 0


async def run_lint(folder: Path) -> Lint:
    """Starts the server as a client does, in an empty directory of its own, and lints its tools."""
    packages = installed(MANIFEST, FOLDER)
    main = packages / "node_modules" / PACKAGE / "clients" / "launcher" / "build" / "index.js"
    options = ["--cli", "--transport", "stdio", "--method", "tools/list", "--strict", "--format", "json"]
    environment = ["-e", f"ORCHESTRATOR_HOME={folder / 'home'}"]
    server = [sys.executable, "-m", "orchestrator", "mcp", "--in-process"]
    code, output = await node(main, *options, *environment, "--", *server, cwd=folder)
    return Lint(version_of(packages, PACKAGE), code, output)
