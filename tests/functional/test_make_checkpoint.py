"""scripts/make-checkpoint: true names, shapes, dtypes and totals; values that betray a wrong cut; a layout that other
readers take."""

import json
import subprocess

import numpy as np
import pytest
from checkpoints.models import MODELS, with_layers
from checkpoints.tensors import DTYPE_BITS, Tensor, tensors_of
from checkpoints.values import block_values, blocks
from conftest import LIMIT_S, ROOT
from models import write_tiny
from safetensors import safe_open


def make(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([str(ROOT / "scripts" / "make-checkpoint"), *map(str, arguments)], capture_output=True,
                          text=True, timeout=LIMIT_S)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.total_bytes])
def test_totals_are_those_of_the_published_checkpoint(name):
    model = MODELS[name]
    assert sum(tensor.bytes for tensor in tensors_of(model.config, model.stores_lm_head)) == model.total_bytes


def test_fp8_has_the_published_tensors():
    """Qwen3-8B-FP8 as published: 651 tensors, 8,191,159,296 values with the scales."""
    config = {**MODELS["qwen3-8b"].config,
              "quantization_config": MODELS["qwen3-14b-fp8"].config["quantization_config"]}
    tensors = tensors_of(config)
    assert len(tensors) == 651
    assert sum(int(np.prod(tensor.shape)) for tensor in tensors) == 8_191_159_296


def test_sparse_qwen3_14b_has_its_layout(tmp_path):
    out = tmp_path / "qwen3-14b"
    done = make("--model", "qwen3-14b", "--sparse", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tensors"] == 443
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 29_536_614_400
    found = {}
    for file in sorted(set(index["weight_map"].values())):
        with safe_open(out / file, "np") as shard:
            assert shard.metadata() == {"format": "pt"}
            for name in shard.keys():
                assert index["weight_map"][name] == file
                found[name] = (shard.get_slice(name).get_dtype(), tuple(shard.get_slice(name).get_shape()))
    assert len(found) == 443
    assert found["model.layers.39.mlp.down_proj.weight"] == ("BF16", (5120, 17408))
    assert found["model.layers.0.self_attn.k_proj.weight"] == ("BF16", (1024, 5120))
    assert sum(file.stat().st_blocks * 512 for file in out.iterdir()) < 4 << 20  # sparse


def test_layers_change_nothing_else_in_the_config(tmp_path):
    done = make("--model", "qwen3-32b", "--layers", 1, "--sparse", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {**MODELS["qwen3-32b"].config, "num_hidden_layers": 1}
    assert config == with_layers(MODELS["qwen3-32b"].config, 1)


def values_of(tensor: Tensor, seed: int = 0) -> np.ndarray:
    return np.concatenate([block_values(tensor, seed, first, count) for first, count in blocks(tensor)])


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_element_differs_from_its_neighbours(dtype):
    for shape in ((6, 10), (7, 9), (3, 5, 4), (1, 33), (65,), (1030, 4100)):  # the last one has several blocks
        values = values_of(Tensor("x", dtype, shape))
        assert values.size == np.prod(shape)
        assert np.all(values[:, 1:] != values[:, :-1])
        assert np.all(values[1:] != values[:-1])


@pytest.mark.parametrize("dtype, kind, exponent", [("F64", np.float64, 0), ("F32", np.float32, 0), ("F16", np.float16, 0),
                                                  ("BF16", np.uint16, 0x7F80), ("F8_E4M3", np.uint8, 0x78),
                                                  ("F8_E5M2", np.uint8, 0x7C), ("F8_E8M0", np.uint8, 0xFF)])
def test_floating_kinds_are_finite(dtype, kind, exponent):
    values = values_of(Tensor("x", dtype, (64, 512))).view(kind)
    if exponent:
        assert np.all(values & kind(exponent) != exponent)
    else:
        assert np.all(np.isfinite(values))


def test_values_do_not_repeat():
    """No two rows are equal, not even in different blocks or tensors of the same shape; another seed changes all."""
    first, second = Tensor("first", "BF16", (2048, 2048)), Tensor("second", "BF16", (2048, 2048))
    rows = {row.tobytes() for tensor in (first, second) for row in values_of(tensor)}
    rows |= {row.tobytes() for row in values_of(first, seed=1)}
    assert len(list(blocks(first))) > 1
    assert len(rows) == 3 * 2048


def test_values_depend_on_name_and_seed_alone(tmp_path):
    """The same tensor is the same however many layers there are and however they are spread over files."""
    write_tiny("qwen3", tmp_path / "small", num_hidden_layers=1, shard_bytes=1 << 30)
    write_tiny("qwen3", tmp_path / "large", num_hidden_layers=3, shard_bytes=300 << 10)
    name = "model.layers.0.mlp.down_proj.weight"
    index = json.loads((tmp_path / "large" / "model.safetensors.index.json").read_text())["weight_map"]
    found = []
    for folder, file in (("small", "model.safetensors"), ("large", index[name])):
        with safe_open(tmp_path / folder / file, "np") as shard:
            start, stop = header_offsets(tmp_path / folder / file, name)
            assert shard.get_slice(name).get_shape() == [320, 704]
            found.append((tmp_path / folder / file).read_bytes()[start:stop])
    assert found[0] == found[1] and any(found[0])


def header_offsets(file, name: str) -> tuple[int, int]:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    start, stop = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + start, 8 + length + stop


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("mine")
    small = ("--model", "qwen2.5-0.5b", "--layers", 0, "--sparse")
    done = make(*small, "--out", tmp_path)
    assert done.returncode == 1 and str(tmp_path) in done.stderr and "not empty" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]
    done = make(*small, "--out", tmp_path, "--force")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "precious").read_text() == "mine" and (tmp_path / "config.json").exists()


def test_reuse_takes_only_the_same_checkpoint(tmp_path):
    out = tmp_path / "out"
    same = ("--model", "qwen2.5-0.5b", "--layers", 1, "--sparse", "--out", out, "--reuse", "--json")
    assert json.loads(make(*same).stdout)["made"]
    assert not json.loads(make(*same).stdout)["made"]
    other = make(*same, "--seed", 1)
    assert other.returncode == 1 and "not empty" in other.stderr
    with open(out / "model.safetensors", "r+b") as file:
        file.truncate((out / "model.safetensors").stat().st_size - 1)
    assert make(*same).returncode == 1


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("checkpoints.writer.block_values", fail)
    with pytest.raises(OSError):
        write_tiny("qwen3", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_usage_errors():
    for arguments in ((), ("--model", "gpt-2", "--out", "x"), ("--model", "qwen3-4b", "--out", "x", "--shard-bytes", "0")):
        assert make(*arguments).returncode == 2
