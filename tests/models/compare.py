"""Plan a family's tiny checkpoints in every way and compare each rank's view, element by element, with what is due."""

import re
from pathlib import Path

import numpy as np
from expected import Checkpoint
from families import VARIANTS
from statement import Rank, Uneven
from views import Request, View, cut

SIZES = (1, 2, 4, 8)
EQUAL = "equal"
# The family's plan, the same with fusing, and transformers' own plan as it stands.
WAYS = ("plan", "fused", "hf")
UNMEASURED = "-"  # transformers has no plan, or cannot load by it
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj"), "w13": ("w1", "w3")}


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and np.array_equal(left.view(np.uint32), right.view(np.uint32))


def _fused(name: str, due: dict[str, np.ndarray]) -> tuple[list[str], np.ndarray] | None:
    """Of a fused output: the tensors that are in it, and how it must look."""
    match = re.fullmatch(r"(.*\.)(qkv_proj|gate_up_proj|w13)(\.\w+)", name)
    members = [match[1] + part + match[3] for part in _FUSED[match[2]]] if match else []
    if not members or not all(member in due for member in members):
        return None
    return members, np.concatenate([due[member] for member in members])


def difference(view: View, due: dict[str, np.ndarray]) -> str | None:
    """The first thing in the view that is not as it is due."""
    left = set(due)
    for name, tensor in view.tensors.items():
        members, wanted = ([name], due[name]) if name in due else _fused(name, due) or (None, None)
        if members is None:
            return f"{name} does not belong to this view"
        if not left.issuperset(members):
            return f"{name}: a part of it was sent before"
        left.difference_update(members)
        if not _same(tensor, wanted):
            return f"{name}: {list(tensor.shape)} is not what is due ({list(wanted.shape)})"
    return f"{min(left)} is missing" if left else None


def _request(folder: Path, way: str, size: int, rank: int) -> Request:
    return Request(size, rank, way == "fused", f"hf:{folder / 'tp_plan.json'}" if way == "hf" else "-")


def _judge_transformers(checkpoint: Checkpoint, size: int, views: list[View | str]) -> str:
    """Its plan gives what its loader gives, whatever the sizes: there is no error that is due."""
    for number, view in enumerate(views):
        if isinstance(view, str):
            return f"fails: {view}"
        found = difference(view, checkpoint.by_transformers(Rank(number, size)))
        if found:
            return f"differs: rank {number}: {found}"
    return EQUAL


def _judge(checkpoint: Checkpoint, size: int, views: list[View | str]) -> str:
    """EQUAL; "refused: …" for an error that is due; "fails: …" for one that is not; "differs: …" for a wrong slice."""
    errors = [view for view in views if isinstance(view, str)]
    for number, view in enumerate(views):
        try:
            due = checkpoint.by_family(Rank(number, size))
        except Uneven as uneven:
            return f"refused: {errors[0]}" if errors else f"differs: a view of what does not divide ({uneven})"
        if errors:
            return f"fails: {errors[0]}"
        found = difference(view, due)
        if found:
            return f"differs: rank {number}: {found}"
    return EQUAL


def compare(build: Path, folder: Path) -> dict[str, dict[int, str]]:
    """Of one checkpoint: the judgement by way and tp size."""
    checkpoint = Checkpoint(folder)
    results: dict[str, dict[int, str]] = {way: {} for way in WAYS}
    if not checkpoint.has_reference(SIZES[-1]):
        results["hf"] = dict.fromkeys(SIZES, UNMEASURED)
    jobs = [(way, size, [_request(folder, way, size, rank) for rank in range(size)])
            for way in WAYS if not results[way] for size in SIZES]
    views = iter(cut(build, folder, [request for _, _, requests in jobs for request in requests]))
    for way, size, requests in jobs:
        judge = _judge_transformers if way == "hf" else _judge
        results[way][size] = judge(checkpoint, size, [next(views) for _ in requests])
    return results


def compare_family(build: Path, checkpoints: Path, name: str) -> dict[str, dict[str, dict[int, str]]]:
    """The results of both variants of a family, by the variant's name."""
    return {variant.name: compare(build, checkpoints / name / variant.name) for variant in VARIANTS}
