"""`scripts/bench kill-deliveries`: many kills of hosts that have somebody to tell, and the document about them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.bench.workbench import ROOT
from tests.kill.deliveries import kill_before_delivery
from tests.kill.places import Kills
from tests.system.hosts import ground

DOCUMENT = ROOT / "docs" / "reliability.completion.md"


def kill(count: int, seed: int) -> int:
    """Kills so many hosts, and writes what was found. Returns 1 if anybody was not told, or told twice."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-kill-") as folder:
        home = Path(folder, "home")
        home.mkdir()
        (home / "config.toml").write_text("delivery_retry_s = 0.002\n")
        with ground(home, Path(folder, "project")) as place, place.bridge() as client:
            found = kill_before_delivery(place, client, count, seed)
    DOCUMENT.write_text(_document(found, count, seed), encoding="utf-8")
    sys.stderr.write("\n".join(found.broken) + "\n" if found.broken else "everybody was told once\n")
    return 1 if found.broken else 0


def _document(found: Kills, count: int, seed: int) -> str:
    verdict = found.verdict or "Nobody was left out, and nobody told twice."
    return f"""# Reliability of completion

Made by `scripts/bench kill-deliveries --n {count} --seed {seed}`: the host was killed by SIGKILL {count} times, each
when a run had just been spawned whose end a webhook and an inbox were to hear of. The webhook's receiver failed,
redirected or did not answer at random. Afterwards the next host took over; each end had to reach both, the webhook
under one id with one body however often it was sent, the inbox once, and nothing to be owed any more.

| when it struck | kills |
|---|--:|
{found.rows}

Until both were told: median {median(found.seconds):.1f} s, at most {max(found.seconds):.1f} s, of which the start of
the next host is most.

{verdict}
"""
