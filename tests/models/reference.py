"""Tiny checkpoints, and what each tensor-parallel rank holds of them by transformers' own loader.

Every element of a model gets a number of its own before transformers saves it. What a rank has loaded then tells which
elements of which tensors on disk it holds, whatever the loader renames, stacks or splits on the way.

A checkpoint's folder also holds reference.json: by tp size, either {"error": why the loader refused} or {"ranks": for
each rank, by tensor on disk, the indices [[first, last + 1], …] along each axis}. null stands for all of a tensor; one
that the rank has nothing of is not there. Where the model has a plan, tp_plan.json is that as it stands, and
base_model_tp_plan.json what the (text model's) configuration says of it.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from families import COMMON, FAMILIES, VARIANTS, Family, Variant
from tensor_file import read_tensors

SIZES = (2, 4, 8)
LARGEST_NUMBER = 1 << 24  # whole numbers up to here are exact in float32


def _resolve(values: dict, variant: Variant) -> dict:
    resolved = {}
    for key, value in values.items():
        if value is ...:
            continue
        value = value(variant) if callable(value) else value
        resolved[key] = _resolve(value, variant) if isinstance(value, dict) else value
    return resolved


def _values(family: Family, variant: Variant) -> dict:
    if family.text is None:
        return _resolve({**COMMON, **family.config}, variant)
    towers = {"text_config": {**COMMON, **family.text}, "vision_config": family.vision}
    return _resolve({**towers, **family.config}, variant)


def _number_elements(model) -> int:
    """Give every element of every parameter and saved buffer its own number; returns how many there are."""
    import torch

    given, numbered = 0, set()
    with torch.no_grad():
        for tensor in model.state_dict(keep_vars=True).values():
            if id(tensor) in numbered:
                continue
            numbered.add(id(tensor))
            numbers = torch.arange(given + 1, given + 1 + tensor.numel(), dtype=torch.float64)
            tensor.copy_(numbers.reshape(tensor.shape))
            given += tensor.numel()
    assert given < LARGEST_NUMBER, f"{given} elements are too many to number"
    return given


def _held(model, count: int) -> np.ndarray:
    """Which numbers a rank holds: a truth value for each."""
    held = np.zeros(count + 1, bool)
    for name, tensor in model.state_dict().items():
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        numbers = local.detach().double().numpy()
        whole = numbers.astype(np.int64)
        assert (whole == numbers).all() and whole.min(initial=1) >= 1 and whole.max(initial=1) <= count, name
        held[whole.ravel()] = True
    return held


def _ranges(indices: np.ndarray) -> list[list[int]]:
    ends = np.flatnonzero(np.diff(indices) != 1)
    firsts = indices[np.concatenate([[0], ends + 1])]
    lasts = indices[np.concatenate([ends, [len(indices) - 1]])]
    return [[int(first), int(last) + 1] for first, last in zip(firsts, lasts)]


def _boxes(disk: dict, held: np.ndarray) -> dict:
    """Of each tensor on disk, what is held; it must be a choice of indices along each axis."""
    boxes = {}
    for name, tensor in disk.items():
        mask = held[tensor.astype(np.int64)]
        if not mask.any():
            continue
        if mask.all():
            boxes[name] = None
            continue
        axes = [np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
                for axis in range(mask.ndim)]
        assert mask[np.ix_(*axes)].all(), f"{name}: what a rank holds is not a box"
        boxes[name] = [_ranges(indices) for indices in axes]
    return boxes


def _load_as_rank(model_class, folder: Path, size: int, rank: int):
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from transformers import DistributedConfig

    dist.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    try:
        model, info = model_class.from_pretrained(folder, distributed_config=DistributedConfig(tp_size=size),
                                                  output_loading_info=True)
    finally:
        dist.destroy_process_group()
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model


def _reference(model_class, folder: Path, count: int) -> dict:
    disk = read_tensors((folder / "model.safetensors").read_bytes())
    sizes = {}
    for size in SIZES:
        try:
            sizes[size] = {"ranks": [_boxes(disk, _held(_load_as_rank(model_class, folder, size, rank), count))
                                     for rank in range(size)]}
        except (ValueError, RuntimeError) as error:  # no plan, or one that does not fit
            sizes[size] = {"error": str(error).splitlines()[0]}
    return sizes


def make(name: str, variant: Variant, folder: Path) -> float:
    """Write the checkpoint and its reference; returns the seconds that it took."""
    import torch
    import transformers

    start = time.monotonic()
    torch.set_num_threads(1)
    family = FAMILIES[name]
    model_class = getattr(transformers, family.model_class)
    config = transformers.AutoConfig.for_model(family.model_type, **_values(family, variant))
    model = model_class.from_config(config).float()
    count = _number_elements(model)
    model.save_pretrained(folder)
    if model.tp_plan:
        base = config.get_text_config().base_model_tp_plan
        (folder / "tp_plan.json").write_text(json.dumps(model.tp_plan))
        (folder / "base_model_tp_plan.json").write_text(json.dumps(base or {}))
    (folder / "reference.json").write_text(json.dumps(_reference(model_class, folder, count)))
    (folder / "fingerprint").write_text(_fingerprint(name, variant))
    return time.monotonic() - start


def _make_quietly(name: str, variant: Variant, folder: Path) -> float:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        return make(name, variant, folder)
    except Exception as error:
        raise RuntimeError(f"{name} ({variant.name}): {error}") from error


def _fingerprint(name: str, variant: Variant) -> str:
    """Of all that a checkpoint depends on."""
    from importlib.metadata import version

    family = FAMILIES[name]
    facts = [version(package) for package in ("torch", "transformers", "safetensors")]
    facts += [family.model_type, family.model_class, json.dumps(_values(family, variant), sort_keys=True)]
    return hashlib.sha256("\0".join(facts).encode() + Path(__file__).read_bytes()).hexdigest()


def make_all(out: Path, names: list[str], workers: int = 2) -> None:
    """Make those of `names` that are not in `out` yet, each as the folder NAME/VARIANT."""
    missing = []
    for name in names:
        for variant in VARIANTS:
            folder = out / name / variant.name
            mark = folder / "fingerprint"
            if not mark.exists() or mark.read_text() != _fingerprint(name, variant):
                shutil.rmtree(folder, ignore_errors=True)
                missing.append((name, variant, folder))
    if not missing:
        return
    with ProcessPoolExecutor(workers) as pool:
        jobs = {pool.submit(_make_quietly, *job): job for job in missing}
        failed = []
        for job, (name, variant, _) in jobs.items():
            try:
                seconds = job.result()
                if "-v" in sys.argv:
                    print(f"{name} {variant.name}: {seconds:.1f} s")
            except RuntimeError as error:
                failed.append(str(error))
        if failed:
            raise RuntimeError("\n".join(failed))


if __name__ == "__main__":
    make_all(Path(sys.argv[1]), [name for name in sys.argv[2:] if name != "-v"] or list(FAMILIES))
