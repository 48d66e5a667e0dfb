#!/usr/bin/env python3
"""Plans every family's tiny checkpoints, compares all views with what is due and prints the table of docs/models.md.

  results.py [--build DIR] [--write] [FAMILY...]      --write brings docs/models.md up to date
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from compare import EQUAL, SIZES, UNMEASURED, compare_family
from expected import Checkpoint
from families import FAMILIES, VARIANTS
from reference import make_all

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"
CHECKPOINTS = ROOT / "build" / "models" / "checkpoints"
_BEGIN, _END = "<!-- begin of the table -->\n", "<!-- end of the table -->\n"

# By family, variant and way, the judgement for each tp size.
Results = dict[str, dict[str, dict[str, dict[int, str]]]]


def run(build: Path, names: list[str]) -> Results:
    workers = min(4, os.cpu_count() or 1)
    make_all(CHECKPOINTS, names, workers)
    with ProcessPoolExecutor(workers) as pool:
        jobs = {name: pool.submit(compare_family, build, CHECKPOINTS, name) for name in names}
        return {name: job.result() for name, job in jobs.items()}


def _kind(judgement: str) -> str:
    return judgement.partition(":")[0]


def _cell(family: dict[str, dict[str, dict[int, str]]], way: str, size: int) -> str:
    kinds = [_kind(family[variant.name][way][size]) for variant in VARIANTS]
    if len(set(kinds)) == 1:
        return kinds[0]
    return "; ".join(f"{variant.key_value_heads} kv: {kind}" for variant, kind in zip(VARIANTS, kinds))


def _row(name: str, family: dict[str, dict[str, dict[int, str]]]) -> str:
    measured = Checkpoint(CHECKPOINTS / name / VARIANTS[0].name).has_reference(SIZES[-1])
    cells = [f"`{name}`", "loader" if measured else "stated"]
    cells += [_cell(family, "plan", size) for size in SIZES]
    cells += [_cell(family, "fused", size) for size in SIZES]
    cells += [_cell(family, "hf", size) for size in SIZES]
    return "| " + " | ".join(cells) + " |\n"


def table(results: Results) -> str:
    lines = ["| family | measure | " + " | ".join(f"tp {size}" for size in SIZES) + " | "
             + " | ".join(f"fused, tp {size}" for size in SIZES) + " | "
             + " | ".join(f"hf, tp {size}" for size in SIZES) + " |\n", "| --- " * (2 + 3 * len(SIZES)) + "|\n"]
    lines += [_row(name, family) for name, family in results.items()]
    others: dict[str, None] = {}
    for name, family in results.items():
        for ways in family.values():
            for way in ("plan", "hf"):
                for size, judgement in ways[way].items():
                    if judgement not in (EQUAL, UNMEASURED):
                        others[f"- `{name}`, {way}, tp {size}: {judgement}\n"] = None
    if others:
        lines += ["\n", *others]
    equal = sum(all(_cell(family, "plan", size) == EQUAL for size in (1, 2, 4)) for family in results.values())
    measured = [family for family in results.values() if _cell(family, "hf", 1) != UNMEASURED]
    own = sum(all(_cell(family, "hf", size) == EQUAL for size in SIZES) for family in measured)
    lines.append(f"\n{equal} of {len(results)} are equal at tp 1, 2 and 4; with transformers' own plan {own} of the "
                 f"{len(measured)} that its loader can cut, at tp 1, 2, 4 and 8.\n")
    return "".join(lines)


def page_with(text: str) -> str:
    page = PAGE.read_text()
    begin, end = page.index(_BEGIN) + len(_BEGIN), page.index(_END)
    return page[:begin] + text + page[end:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build", metavar="DIR")
    parser.add_argument("--write", action="store_true", help="bring docs/models.md up to date")
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    arguments = parser.parse_args()
    unknown = set(arguments.families) - set(FAMILIES)
    if unknown or (arguments.write and arguments.families):
        parser.error(f"unknown: {', '.join(sorted(unknown))}" if unknown else "--write needs all families")
    text = table(run(arguments.build, arguments.families or list(FAMILIES)))
    if arguments.write:
        PAGE.write_text(page_with(text))
    print(text, end="")
    return int("fails" in text or "differs" in text)


if __name__ == "__main__":
    sys.exit(main())
