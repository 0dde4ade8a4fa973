"""`scripts/conformance`: runs the conformance suites and the lint, and writes docs/conformance.md."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import tempfile
from pathlib import Path

from tests.conformance.document import DOCUMENT, ROOT, document
from tests.conformance.lint import run_lint
from tests.conformance.suites import run_all


def main() -> int:
    """Writes the document if everything is as expected; otherwise says what is not, and returns 1."""
    argparse.ArgumentParser(
        prog="scripts/conformance",
        description="Runs the official MCP conformance suites on the server and writes docs/conformance.md.",
        epilog="What is expected to fail, and why, is in tests/conformance/baseline.py.",
    ).parse_args()
    logging.disable(logging.WARNING)  # the suites do what a server warns of
    with tempfile.TemporaryDirectory(prefix="orchestrator-conformance-") as folder:
        return asyncio.run(_main(Path(folder)))


async def _main(folder: Path) -> int:
    os.environ["ORCHESTRATOR_HOME"] = str(folder / "home")
    reports = await run_all(folder)
    surprises = [f"{report.suite.title}: {surprise}" for report in reports for surprise in report.surprises()]
    lint = await run_lint(folder)
    if lint.code != 0:
        surprises.append(f"schema lint: {lint.output}")
    if surprises:
        sys.stderr.write("\n".join(["not as expected; nothing was written:", *surprises, ""]))
        return 1
    DOCUMENT.write_text(document(reports, lint), encoding="utf-8")
    sys.stdout.write(f"as expected; wrote {DOCUMENT.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
