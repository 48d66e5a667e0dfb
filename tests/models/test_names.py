"""The names of tensors in public checkpoints (names/*.txt) against the families' plans.

A file's first line tells the model type and the checkpoints; each further line a pattern of names (`*` stands for a
number) and how a rank's part is cut: `whole`, `rows`, `columns`, `vocabulary` (rows, padded), `… halves` (gate and up in
one tensor), `… parts` (several unequal ones). Of a quantised module's parameters it is told how their weight is cut.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

PLANS = Path(__file__).resolve().parents[2] / "src" / "view" / "families"
FILES = sorted((Path(__file__).parent / "names").glob("*.txt"))
_CUTS = {
    "colwise": "rows",
    "colwise_gather_output": "rows",
    "rowwise": "columns",
    "packed_colwise": "row halves",
    "packed_rowwise": "column halves",
    "vocab_parallel": "vocabulary",
    "grouped_gemm": "axis 0",
    "replicate": "whole",
}
_IN_PARTS = {"rows": "row parts", "columns": "column parts", "axis 0": "axis 0 parts"}


def _regex(pattern: str) -> re.Pattern:
    """As docs/views.md says of patterns."""
    kinds = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    return re.compile("".join(kinds.get(piece, re.escape(piece)) for piece in re.split(r"(\*\*|\*|\?)", pattern)))


@dataclass
class Plan:
    prefixes: list[str]
    rules: dict[str, list[str]]  # words by pattern; several where config.json or a shape decides
    packs: dict[str, bool]  # whether a pack always counts

    @classmethod
    def of(cls, model_type: str) -> "Plan":
        for file in sorted(PLANS.glob("*.json")):
            plan = json.loads(file.read_text())
            if model_type in plan.get("model_types", []):
                rules = {pattern: [entry["word"] if isinstance(entry, dict) else entry
                                   for entry in (words if isinstance(words, list) else [words])]
                         for pattern, words in plan["tp_plan"].items()}
                packs = {pattern: "when" not in pack for pattern, pack in plan.get("packs", {}).items()
                         if len(pack["parts"]) > 1}
                return cls(plan["prefixes"], rules, packs)
        pytest.fail(f"no plan names model_type {model_type}")

    def _match(self, patterns, name: str) -> str | None:
        """The pattern of the full name, else of the module, with or without one of the prefixes."""
        for subject in (name, name.partition(".weight.")[0] if ".weight." in name else name.rpartition(".")[0]):
            bare = [subject] + [subject.removeprefix(prefix) for prefix in self.prefixes if subject.startswith(prefix)]
            for pattern in patterns:
                if any(_regex(pattern).fullmatch(form) for form in bare):
                    return pattern
        return None

    def cuts(self, name: str) -> set[str]:
        pattern = self._match(self.rules, name)
        if pattern is None:
            return set()
        cuts = {_CUTS[word] for word in self.rules[pattern]}
        if name.endswith(".bias"):  # a row-parallel layer adds it once
            cuts = {"whole" if cut == "columns" else cut for cut in cuts}
        pack = self._match(self.packs, name)
        if pack:
            cuts = {_IN_PARTS.get(cut, cut) for cut in cuts} | (set() if self.packs[pack] else cuts)
        return cuts


def _facts(file: Path) -> tuple[str, list[tuple[str, str]]]:
    head, *lines = file.read_text().splitlines()
    return head.removeprefix("# ").partition(":")[0], [tuple(line.split("  ")) for line in lines]


def test_every_plan_has_names():
    types = {_facts(file)[0] for file in FILES}
    without = [file.stem for file in PLANS.glob("*.json")
               if not types.intersection(json.loads(file.read_text()).get("model_types", types))]
    assert not without


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_names_are_cut_as_they_should_be(file):
    model_type, facts = _facts(file)
    plan = Plan.of(model_type)
    wrong = []
    for pattern, cut in facts:
        found = plan.cuts(pattern.replace("*", "7"))
        if cut not in found:
            wrong.append(f"{pattern}: {' or '.join(sorted(found)) or 'no rule'}, expected {cut}")
    assert not wrong, "\n".join(wrong)
