"""Checkpoints that a service must not serve and the tools must not plan with: each fault is named with its file or tensor."""

import json
import os
import subprocess

import pytest
from conftest import LIMIT_S
from models import write_tiny
from outcomes import failed


def refused(build, environ, folder, *words: str) -> None:
    """tpviewd must not serve it, and the tools must not plan with it."""
    for command in ([str(build / "bin" / "tpviewd"), f"bad@1={folder}", "--listen", "127.0.0.1:0"],
                    [str(build / "bin" / "tpview"), "plan", "--checkpoint", str(folder), "--tp-size", "2", "--tp-rank",
                     "0"]):
        done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=LIMIT_S)
        failed(done, *words)
        assert "ready" not in done.stdout


def rewrite_header(file, change) -> None:
    """Change the JSON header of a safetensors file; the data stays."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(change(header) or header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


NORM = "model.norm.weight"


def overlap(header):
    header[NORM]["data_offsets"] = [0, 640]


def longer_shape(header):
    header[NORM]["shape"] = [321]


def unknown_dtype(header):
    header[NORM]["dtype"] = "BF17"


def overflow(header):
    header[NORM]["shape"] = [1 << 33, 1 << 33]


def negative(header):
    header[NORM]["data_offsets"][0] = -1


@pytest.mark.parametrize("change", [overlap, longer_shape, unknown_dtype, overflow, negative])
def test_bad_header(build, environ, tmp_path, change):
    folder = write_tiny("qwen3", tmp_path / "checkpoint", shard_bytes=1 << 30)
    rewrite_header(folder / "model.safetensors", change)
    refused(build, environ, folder, "model.safetensors", NORM)


def test_truncated_shard(build, environ, tmp_path):
    folder = write_tiny("qwen3", tmp_path / "checkpoint")
    shard = sorted(folder.glob("model-00002-of-*"))[0]
    os.truncate(shard, shard.stat().st_size - 1)
    refused(build, environ, folder, shard.name)


def test_missing_shard(build, environ, tmp_path):
    folder = write_tiny("qwen3", tmp_path / "checkpoint")
    shard = sorted(folder.glob("model-00002-of-*"))[0]
    shard.unlink()
    refused(build, environ, folder, shard.name)


def test_index_that_does_not_match(build, environ, tmp_path):
    folder = write_tiny("qwen3", tmp_path / "checkpoint")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"][NORM] = next(file for file in files if file != index["weight_map"][NORM])
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(build, environ, folder, NORM)


def test_broken_config(build, environ, tmp_path):
    folder = write_tiny("qwen3", tmp_path / "checkpoint")
    (folder / "config.json").write_text('{"model_type": "qwen3",')
    refused(build, environ, folder, "config.json")


def test_unknown_model_type_has_no_plan(tpview, tmp_path):
    folder = write_tiny("qwen3", tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "perceptron"}))
    failed(tpview("plan", "--checkpoint", folder, "--tp-size", 2, "--tp-rank", 0), "perceptron")


def test_tensor_without_a_rule_is_named(tpview, tmp_path):
    folder = write_tiny("qwen3", tmp_path / "checkpoint", shard_bytes=1 << 30)
    def add_stranger(header):
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        return header | {"model.stranger.weight": {"dtype": "BF16", "shape": [0, 4], "data_offsets": [end, end]}}

    rewrite_header(folder / "model.safetensors", add_stranger)
    failed(tpview("plan", "--checkpoint", folder, "--tp-size", 2, "--tp-rank", 0), "model.stranger.weight")


def test_no_checkpoint_there(build, environ, tmp_path):
    refused(build, environ, tmp_path / "nowhere", "nowhere")
    (tmp_path / "empty").mkdir()
    refused(build, environ, tmp_path / "empty", "empty")
