"""Tiny checkpoints of each kind of model that tpview has a plan for: a few MB, every size different where it can be, so
that a mixed-up axis shows."""

import json
import struct
from pathlib import Path

from checkpoints.tensors import tensors_of
from checkpoints.writer import write_checkpoint

_COMMON = {
    "model_type": "qwen3",
    "hidden_size": 320,
    "intermediate_size": 704,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 1024,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_BLOCKS = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}

# Every one divides by 1, 2, 4 and 8. `scale_dtype` and `stores_lm_head` are arguments of tensors_of, not of config.json.
TINY: dict[str, dict] = {
    "qwen3": {},
    "qwen3-tied": {"tie_word_embeddings": True},
    "qwen3-tied-stored": {"tie_word_embeddings": True, "stores_lm_head": True},
    "qwen3-odd-vocabulary": {"vocab_size": 1001},
    "qwen3-float32": {"torch_dtype": "float32"},
    "qwen2": {"model_type": "qwen2", "head_dim": None, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama": {"model_type": "llama", "head_dim": None, "torch_dtype": "float16"},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 8},
    "qwen3-fp8": {"hidden_size": 640, "intermediate_size": 2048, "head_dim": 128, "num_hidden_layers": 1,
                  "quantization_config": _BLOCKS},
    "qwen3-fp8-float32-scales": {"hidden_size": 640, "intermediate_size": 2048, "head_dim": 128,
                                 "num_hidden_layers": 1, "quantization_config": _BLOCKS, "scale_dtype": "F32"},
}
# Experts come with a plan of their own.
TINY_MOE: dict[str, dict] = {
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96,
                  "decoder_sparse_step": 1, "mlp_only_layers": [1]},
}


def config_of(kind: str, **changes) -> tuple[dict, dict]:
    """(config.json, arguments of tensors_of) of a kind above."""
    config = {**_COMMON, **{**TINY, **TINY_MOE}[kind], **changes}
    extra = {key: config.pop(key) for key in ("scale_dtype", "stores_lm_head") if key in config}
    return {key: value for key, value in config.items() if value is not None}, extra


def write_tiny(kind: str, out: Path, *, shard_bytes: int = 1 << 20, seed: int = 0, **changes) -> Path:
    """Write the checkpoint into the new folder `out`, in several files; `changes` are fields of config.json."""
    config, extra = config_of(kind, **changes)
    write_checkpoint(out, config, tensors_of(config, **extra), seed=seed, shard_bytes=shard_bytes)
    return out


def write_many(out: Path, count: int = 20000) -> Path:
    """Write a checkpoint of `count` tensors of one byte, without config.json, into the new folder `out`: its manifest has
    some 60 bytes for each."""
    header = json.dumps({f"layer.{i}.with.a.rather.long.name": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]}
                         for i in range(count)}).encode()
    out.mkdir()
    (out / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(count))
    return out
