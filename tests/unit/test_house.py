"""The house rules that a program can check: who imports whom, and names that are not to come back."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

STORE, ENGINE, DOORS = "orchestrator.store", "orchestrator.engine", "orchestrator.doors"
QUERIES, HOST, CLI, PLACES = "orchestrator.queries", "orchestrator.host", "orchestrator.cli", "orchestrator.workspaces"
AGENTS = ("backends", "test_agents")
FORBIDDEN: dict[str, tuple[str, ...]] = {
    # who                      may not import
    "orchestrator/model.py": ("orchestrator", *AGENTS),
    "orchestrator/home.py": ("orchestrator", *AGENTS),
    "orchestrator/errors.py": (STORE, ENGINE, DOORS, QUERIES, HOST, CLI, *AGENTS),
    "orchestrator/events.py": (STORE, ENGINE, DOORS, QUERIES, HOST, CLI, *AGENTS),
    "orchestrator/updates.py": (STORE, ENGINE, DOORS, QUERIES, HOST, CLI, *AGENTS),
    "orchestrator/backend.py": (STORE, ENGINE, DOORS, QUERIES, HOST, CLI, *AGENTS),
    "orchestrator/process.py": (STORE, ENGINE, DOORS, QUERIES, HOST, CLI, *AGENTS),
    "orchestrator/store/": (ENGINE, DOORS, QUERIES, HOST, CLI, PLACES, *AGENTS),
    "orchestrator/workspaces/": (ENGINE, DOORS, QUERIES, HOST, CLI, *AGENTS),
    "orchestrator/engine/": (DOORS, QUERIES, HOST, CLI, *AGENTS),
    "orchestrator/queries.py": (DOORS, HOST, CLI, *AGENTS),
    "orchestrator/doors/": (HOST, CLI, *AGENTS),
    "orchestrator/listing.py": (ENGINE, DOORS, QUERIES, HOST, CLI, *AGENTS),
    "orchestrator/host/": (CLI, "test_agents"),
    "orchestrator/cli/": AGENTS,
    "backends/": (STORE, ENGINE, DOORS, QUERIES, HOST, CLI, PLACES, "test_agents"),
    "test_agents/": (STORE, ENGINE, DOORS, QUERIES, HOST, CLI, PLACES),
}

SMALL = ("home", "host.lines", "host.place", "host.launch", "host.bridge")
"""Modules of ours that every client's bridge may load: they need nothing but the standard library and each other."""

PURE = ("orchestrator/model.py", "orchestrator/events.py", "orchestrator/updates.py", "orchestrator/clip.py")
"""Files that do no I/O."""

HEAVY = (
    *("a2a", "mcp", "claude_agent_sdk", "httpx", "uvicorn", "starlette", "google.protobuf", "jsonschema"),
    *("typer", "rich"),
)
"""Imported at first use, in a thread: not by what every command loads."""


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Everything a file imports while it runs; what is imported for type checkers alone does not count."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", list(sources("orchestrator", "backends", "test_agents")), ids=str)
def test_imports_go_in_one_direction(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    rules = [forbidden for where, forbidden in FORBIDDEN.items() if name.startswith(where)]
    for module in imports(path):
        for forbidden in rules:
            assert not module.startswith(tuple(f"{f}." for f in forbidden)), f"{name} imports {module}"
            assert module not in forbidden, f"{name} imports {module}"


@pytest.mark.parametrize("name", SMALL)
def test_the_bridge_needs_the_standard_library_alone(name: str) -> None:
    known = {"orchestrator", *(f"orchestrator.{module}" for module in SMALL)}
    for module in imports(ROOT / "orchestrator" / f"{name.replace('.', '/')}.py"):
        assert module in known or module.split(".")[0] in sys.stdlib_module_names, f"{name} imports {module}"


def test_a_backend_never_imports_another() -> None:
    for path in sources("backends"):
        own = path.relative_to(ROOT / "backends").parts[0]
        others = {p.name for p in (ROOT / "backends").iterdir() if p.is_dir()} - {own, "__pycache__"}
        assert not any(module.startswith(f"backends.{other}") for module in imports(path) for other in others)


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_do_no_io(name: str) -> None:
    assert not imports(ROOT / name) & {"os", "io", "asyncio", "socket", "subprocess", "shutil", "threading", "logging"}


def test_no_vague_names() -> None:
    vague = ("Manager", "Service", "Handler", "Helper")
    for path in sources("orchestrator", "backends", "test_agents"):
        assert path.stem not in ("utils", "helpers", "common", "misc"), path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert not node.name.endswith(vague), f"{path}: {node.name}"
                assert not node.name.startswith("Base"), f"{path}: {node.name}"


def test_every_file_says_where_it_lives() -> None:
    for path in sources("orchestrator", "backends", "test_agents", "tests"):
        if path.stat().st_size:
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_public_names_are_explained() -> None:
    for path in sources("orchestrator", "backends", "test_agents"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for holder in [
            tree,
            *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name[0] != "_"),
        ]:
            for node in holder.body:
                named = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
                if named and not node.name.startswith("_"):
                    assert ast.get_docstring(node), f"{path.relative_to(ROOT)}: {node.name}"


def test_the_engine_and_the_options_load_without_the_heavy_libraries() -> None:
    script = (
        "import sys, backends, orchestrator.__main__, orchestrator.engine.engine, orchestrator.doors.tools, "
        "orchestrator.queries, backends.remote_a2a.backend; "
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert out.stdout.strip() == "[]"
