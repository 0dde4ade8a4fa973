"""`scripts/mutation`: draws mutants with a fixed seed, lets the tests run on each, and writes docs/mutation.md.

Runs in a copy of the checkout. Twice: first with few examples of each property, and then, for the mutants that this
leaves, with many. How each survivor is judged stands in `judged.toml`, by a key that outlives renumbering.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
MUTANTS = ROOT / "mutants"
JUDGED = Path(__file__).with_name("judged.toml")
SEED, COUNT = 1, 120
FEW, MANY = "10", "30"
SURVIVED = {0: "survived", 33: "no test reaches it", None: "not tried"}
"""By mutmut's exit codes. All others are kinds of death, also a timeout."""

INTRO = """# Mutation testing

Written by `scripts/mutation`. mutmut 3.8.1 puts one small fault at a time into a function and runs the tests that
reach it; a mutant that no test notices survives. What is said in refusals and logs is left alone (f-strings, lines
with `raise` or `logger`), and so are functions with decorators other than `classmethod`. A mutant counts as killed
when a test fails or runs out of time.

Of {total:,} mutants {drawn:,} were drawn, with the fixed seed {seed}. Tests: those of `[tool.mutmut]` in
pyproject.toml, local subjects alone; what only processes, signals and remote agents show is tested in `tests/system`.

| module | mutants | drawn | killed | survived | score |
|---|---:|---:|---:|---:|---:|
"""


class Survivor(NamedTuple):
    """A mutant that no test noticed."""

    key: str
    place: str
    how: str
    diff: str


def main() -> None:
    """Draws, tries, tells."""
    parser = argparse.ArgumentParser(prog="scripts/mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="how many mutants to draw")
    parser.add_argument("--tell", action="store_true", help="write the document of the last run again")
    given = parser.parse_args()
    if not given.tell:
        MUTANTS.mkdir(exist_ok=True)  # or a Python that starts before it exists would not look there
        run(["orchestrator.events.x_concerns_fold__mutmut_1"], FEW)  # mutmut makes all mutants before it tries one
    drawn = draw(results(), given.count)
    if not given.tell:
        run(drawn, FEW)
        left = results()
        run([name for name in drawn if left[name] in SURVIVED], MANY)
    tell(drawn)


def run(names: list[str], examples: str) -> None:
    """Lets mutmut try these mutants."""
    if not names:
        return
    # the processes that tests start shall find the mutants too
    env = {**os.environ, "PYTHONPATH": str(MUTANTS), "PYTHONHASHSEED": "0", "MUTATION_EXAMPLES": examples}
    children = str(max(2, os.cpu_count() or 1))
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", children, *names]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(done.stdout.decode(errors="replace")[-4000:])


def results() -> dict[str, int | None]:
    """The exit code of each mutant."""
    codes: dict[str, int | None] = {}
    for path in sorted(MUTANTS.rglob("*.meta")):
        codes |= json.loads(path.read_bytes())["exit_code_by_key"]
    return codes


def draw(codes: dict[str, int | None], count: int) -> list[str]:
    """A sample that hardly changes when a few functions do."""
    return sorted(codes, key=lambda name: hashlib.sha256(f"{SEED}:{name}".encode()).digest())[:count]


def module_of(name: str) -> str:
    """`orchestrator.store.log.xǁRunLogǁclose__mutmut_1` is of `orchestrator/store/log.py`."""
    return name.rpartition(".")[0].replace(".", "/") + ".py"


def function_name(name: str) -> str:
    """`x_fold__mutmut_1` is of `fold`, and `xǁRunLogǁclose__mutmut_1` of `RunLog.close`."""
    stem = name.rpartition(".")[2].rpartition("__mutmut_")[0]
    return stem[2:].replace("ǁ", ".")


def survivor(name: str, code: int | None) -> Survivor:
    """What was changed, as mutmut keeps it: all versions of a function side by side in one file."""
    path = MUTANTS / module_of(name)
    function = name.rpartition(".")[2]
    spans = json.loads(path.with_name(path.name + ".spans").read_bytes())["spans"]
    stem = function.rpartition("__mutmut_")[0]
    lines = re.sub(r"x\S*?__mutmut_\w+", function_name(name), path.read_text(encoding="utf-8")).splitlines()
    was, became = (lines[slice(spans[key][0] - 1, spans[key][1])] for key in (f"{stem}__mutmut_orig", function))
    changed = [line for line in difflib.ndiff(was, became) if line[0] in "+-"]
    diff = "\n".join(f"{line[0]} {line[2:].strip()}" for line in changed)
    plain = function_name(name)
    key = f"{plain} {hashlib.sha256(diff.encode()).hexdigest()[:8]}"
    return Survivor(key, f"{module_of(name).removeprefix('orchestrator/')} {plain}", SURVIVED[code], diff)


def tell(drawn: list[str]) -> None:
    """Writes the document."""
    codes = results()
    everything = Counter(map(module_of, codes))
    tried = Counter(map(module_of, drawn))
    alive = [name for name in drawn if codes[name] in SURVIVED]
    left = Counter(map(module_of, alive))
    text = INTRO.format(total=len(codes), drawn=len(drawn), seed=SEED)
    rows = [(module, everything[module], tried[module], left[module]) for module in sorted(tried)]
    rows.append(("all", len(codes), len(drawn), len(alive)))
    for module, total, count, survived in rows:
        killed = count - survived
        text += f"| {module} | {total} | {count} | {killed} | {survived} | {killed / count:.0%} |\n"
    judged = tomllib.loads(JUDGED.read_text(encoding="utf-8"))
    survivors = sorted(survivor(name, codes[name]) for name in alive)
    text += "\n## Survivors\n\nEach was looked at; `tests/mutation/judged.toml` holds the judgements.\n"
    known: set[str] = set()
    for group in judged.values():
        ours = [one for one in survivors if one.key in group["mutants"]]
        known |= {one.key for one in ours}
        text += section(group["title"], group["text"], [(one, group["mutants"][one.key]) for one in ours])
    new = [(one, "") for one in survivors if one.key not in known]
    text += section("Not judged yet", "", new)
    (ROOT / "docs" / "mutation.md").write_text(text, encoding="utf-8")
    killed = len(drawn) - len(alive)
    print(
        f"{killed} of {len(drawn)} killed, {len(alive)} survived, {len(new)} of them not judged yet; docs/mutation.md"
    )
    for key in outdated(judged, codes):
        print(f"{JUDGED.name} judges what is there no more: {key}")


def outdated(judged: dict[str, Any], names: Iterable[str]) -> list[str]:
    """The judgements that are of no mutant any more: what they judged has changed, moved or gone."""
    keys = [key for group in judged.values() for key in group["mutants"]]
    functions = {key.rpartition(" ")[0] for key in keys}
    there = {survivor(name, None).key for name in names if function_name(name) in functions}
    return [key for key in keys if key not in there]


def section(title: str, text: str, survivors: list[tuple[Survivor, str]]) -> str:
    """One group of survivors."""
    if not survivors:
        return ""
    out = f"\n### {title}: {len(survivors)}\n"
    if text:
        out += f"\n{text.strip()}\n"
    for one, why in survivors:
        out += f"\n`{one.place}` ({one.how}; {one.key.rpartition(' ')[2]})" + (f": {why}" if why else "")
        out += f"\n\n```diff\n{one.diff}\n```\n"
    return out


if __name__ == "__main__":
    main()
