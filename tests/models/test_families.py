"""Every family's plan against what transformers' loader gives each rank of its tiny checkpoints."""

import json
import subprocess

import numpy as np
import pytest
from compare import EQUAL, WAYS, difference
from expected import Checkpoint
from families import FAMILIES, VARIANTS
from results import CHECKPOINTS, PAGE, page_with, table
from safetensors.numpy import save_file
from statement import Rank
from views import Request, cut

FAMILIES_AT_LEAST = 55


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAMILIES)
def test_views_are_what_is_due(results, name, way):
    """Equal in every element, or an error where one is due."""
    wrong = [f"{variant} tp {size}: {judgement}" for variant, ways in results[name].items()
             for size, judgement in ways[way].items() if judgement.startswith(("fails", "differs"))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_rank_gets_the_whole_checkpoint(results, name):
    assert all(ways["plan"][1] == EQUAL for ways in results[name].values())


def test_most_families_plan_for_two_and_four_ranks(results):
    equal = [name for name, variants in results.items()
             if all(ways["plan"][size] == EQUAL for ways in variants.values() for size in (1, 2, 4))]
    assert len(equal) >= FAMILIES_AT_LEAST


def test_table_is_current(results):
    assert PAGE.read_text() == page_with(table(results)), f"{PAGE.name}: run tests/models/results.py --write"


def test_every_model_type_is_listed(build, results):
    """Those of the checkpoints are among what `tpview plan --families` prints."""
    done = subprocess.run([build / "bin" / "tpview", "plan", "--families"], capture_output=True, text=True, check=True)
    types = {json.loads((CHECKPOINTS / name / variant.name / "config.json").read_text())["model_type"]
             for name in FAMILIES for variant in VARIANTS}
    missing = {kind for kind in types if kind not in done.stdout.replace(",", " ").split()}
    assert not missing


def test_experts_that_are_stacked_as_published(build, results, tmp_path):
    """qwen3_vl_moe's experts are [experts, out, in] in transformers 5 and [experts, in, out] in public checkpoints."""
    checkpoint = Checkpoint(CHECKPOINTS / "qwen3_vl_moe" / "kv4")

    def transposed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.ascontiguousarray(tensor.swapaxes(1, 2)) if ".experts." in name else tensor
                for name, tensor in tensors.items()}

    save_file(transposed(checkpoint.tensors), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((checkpoint.folder / "config.json").read_text())
    for rank, view in enumerate(cut(build, tmp_path, [Request(4, rank) for rank in range(4)])):
        assert difference(view, transposed(checkpoint.by_family(Rank(rank, 4)))) is None


def test_comparison_sees_a_wrong_slice(build, results):
    """The neighbour's view differs, and so does one that lacks a tensor or has one too many."""
    checkpoint = Checkpoint(CHECKPOINTS / "llama" / "kv4")
    own, other = cut(build, checkpoint.folder, [Request(2, 0), Request(2, 1)])
    due = checkpoint.by_family(Rank(0, 2))
    assert difference(own, due) is None
    assert "is not what is due" in difference(other, due)
    del own.tensors["model.norm.weight"]
    assert difference(own, due) == "model.norm.weight is missing"
    own.tensors["model.norm.bias"] = own.tensors["lm_head.weight"]
    assert "model.norm.bias does not belong" in difference(own, due)
