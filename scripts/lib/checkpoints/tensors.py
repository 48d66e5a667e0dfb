"""Which tensors a model of the llama family has: names, dtypes and shapes, from config.json alone.

Names and shapes are those that transformers' classes give their parameters (modeling_llama.py, modeling_mistral.py,
modeling_qwen2.py, modeling_qwen3.py, modeling_qwen3_moe.py); nn.Linear keeps [out, in]."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

# Bits of one element, for the dtypes that are written here.
DTYPE_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16, "I16": 16,
              "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8}
TORCH_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe")


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


def tensors_of(config: dict, stores_lm_head: bool = False, scale_dtype: str | None = None) -> list[Tensor]:
    """Every tensor of the checkpoint, in the order in which the model declares them. stores_lm_head: lm_head.weight is
    there although it is tied. scale_dtype: of weight_scale_inv (None: the model's own dtype)."""
    model_type = config["model_type"]
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type {model_type!r} is not known: expected one of {', '.join(MODEL_TYPES)}")
    dtype = TORCH_DTYPES[config["torch_dtype"]]
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    tensors = [Tensor("model.embed_tokens.weight", dtype, (vocab, hidden))]
    for layer in range(config["num_hidden_layers"]):
        tensors += _layer(config, layer, dtype, scale_dtype or dtype)
    tensors.append(Tensor("model.norm.weight", dtype, (hidden,)))
    if stores_lm_head or not config["tie_word_embeddings"]:
        tensors.append(Tensor("lm_head.weight", dtype, (vocab, hidden)))
    return tensors


def _layer(config: dict, layer: int, dtype: str, scale_dtype: str) -> Iterator[Tensor]:
    model_type, hidden = config["model_type"], config["hidden_size"]
    heads = config["num_attention_heads"]
    key_value_heads = config["num_key_value_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    block = config.get("quantization_config", {}).get("weight_block_size")
    prefix = f"model.layers.{layer}."

    def linear(name: str, rows: int, columns: int, bias: bool = False) -> Iterator[Tensor]:
        yield Tensor(f"{prefix}{name}.weight", "F8_E4M3" if block else dtype, (rows, columns))
        if block:
            yield Tensor(f"{prefix}{name}.weight_scale_inv", scale_dtype, (-(-rows // block[0]), -(-columns // block[1])))
        if bias:
            yield Tensor(f"{prefix}{name}.bias", dtype, (rows,))

    # Qwen2 has biases on q, k and v whatever its config says; the others follow attention_bias.
    attention_bias = config.get("attention_bias", False)
    qkv_bias = model_type == "qwen2" or attention_bias
    yield from linear("self_attn.q_proj", heads * head_dim, hidden, qkv_bias)
    yield from linear("self_attn.k_proj", key_value_heads * head_dim, hidden, qkv_bias)
    yield from linear("self_attn.v_proj", key_value_heads * head_dim, hidden, qkv_bias)
    yield from linear("self_attn.o_proj", hidden, heads * head_dim, attention_bias)
    if model_type in ("qwen3", "qwen3_moe"):
        yield Tensor(f"{prefix}self_attn.q_norm.weight", dtype, (head_dim,))
        yield Tensor(f"{prefix}self_attn.k_norm.weight", dtype, (head_dim,))

    def mlp(name: str, inner: int) -> Iterator[Tensor]:
        bias = config.get("mlp_bias", False)
        yield from linear(f"{name}.gate_proj", inner, hidden, bias)
        yield from linear(f"{name}.up_proj", inner, hidden, bias)
        yield from linear(f"{name}.down_proj", hidden, inner, bias)

    if model_type == "qwen3_moe" and layer not in config["mlp_only_layers"] \
            and (layer + 1) % config["decoder_sparse_step"] == 0:
        yield Tensor(f"{prefix}mlp.gate.weight", dtype, (config["num_experts"], hidden))
        for expert in range(config["num_experts"]):
            yield from mlp(f"mlp.experts.{expert}", config["moe_intermediate_size"])
    else:
        yield from mlp("mlp", config["intermediate_size"])
    yield Tensor(f"{prefix}input_layernorm.weight", dtype, (hidden,))
    yield Tensor(f"{prefix}post_attention_layernorm.weight", dtype, (hidden,))
