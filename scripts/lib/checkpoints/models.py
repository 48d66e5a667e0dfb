"""What is true of public models: config.json as published, and the bytes of all tensors where they are known."""

import copy
from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    config: dict
    total_bytes: int  # metadata.total_size of the published checkpoint; 0 where we have no published figure
    stores_lm_head: bool = False  # tied, but the published files hold lm_head.weight all the same


def _qwen3(**fields) -> dict:
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 40960,
        "max_window_layers": fields["num_hidden_layers"],
        "model_type": "qwen3",
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    }
    config.update(fields)
    return dict(sorted(config.items()))


def _qwen25(**fields) -> dict:
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_window_layers": fields["num_hidden_layers"],
        "model_type": "qwen2",
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
    }
    config.update(fields)
    return dict(sorted(config.items()))


_QWEN3_14B = _qwen3(hidden_size=5120, intermediate_size=17408, num_attention_heads=40, num_hidden_layers=40)

# Fields and totals as published with the models on Hugging Face (config.json, model.safetensors.index.json). Qwen3-0.6B
# ties its embeddings and yet stores lm_head.weight: 751,632,384 values in its file. The FP8 form is that of
# Qwen3-8B-FP8: 128 x 128 blocks with BF16 weight_scale_inv; embeddings, lm_head and norms stay BF16.
MODELS = {
    "qwen3-0.6b": Model(
        _qwen3(hidden_size=1024, intermediate_size=3072, num_attention_heads=16, num_hidden_layers=28,
               tie_word_embeddings=True),
        1_503_264_768, stores_lm_head=True),
    "qwen3-4b": Model(
        _qwen3(hidden_size=2560, intermediate_size=9728, num_attention_heads=32, num_hidden_layers=36,
               tie_word_embeddings=True, transformers_version="4.51.2", use_cache=False),
        8_044_936_192),
    "qwen3-8b": Model(
        _qwen3(hidden_size=4096, intermediate_size=12288, num_attention_heads=32, num_hidden_layers=36),
        16_381_470_720),
    "qwen3-14b": Model(_QWEN3_14B, 29_536_614_400),
    "qwen3-32b": Model(
        _qwen3(hidden_size=5120, intermediate_size=25600, num_attention_heads=64, num_hidden_layers=64),
        65_524_246_528),
    "qwen3-14b-fp8": Model(
        {**_QWEN3_14B, "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                               "weight_block_size": [128, 128]}},
        0),
    "qwen3-30b-a3b": Model(
        _qwen3(architectures=["Qwen3MoeForCausalLM"], decoder_sparse_step=1, hidden_size=2048, intermediate_size=6144,
               mlp_only_layers=[], model_type="qwen3_moe", moe_intermediate_size=768, norm_topk_prob=True,
               num_attention_heads=32, num_experts=128, num_experts_per_tok=8, num_hidden_layers=48,
               num_key_value_heads=4, output_router_logits=False, rope_theta=1000000.0, router_aux_loss_coef=0.001),
        61_064_245_248),
    "qwen2.5-0.5b": Model(
        _qwen25(hidden_size=896, intermediate_size=4864, max_position_embeddings=32768, num_attention_heads=14,
                num_hidden_layers=24, num_key_value_heads=2, sliding_window=32768, tie_word_embeddings=True,
                vocab_size=151936),
        988_065_536),
    "qwen2.5-7b": Model(
        _qwen25(hidden_size=3584, intermediate_size=18944, max_position_embeddings=131072, num_attention_heads=28,
                num_hidden_layers=28, num_key_value_heads=4, sliding_window=131072, tie_word_embeddings=False,
                vocab_size=152064),
        15_231_233_024),
    "llama-3.1-8b": Model(
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 128000,
            "eos_token_id": 128001,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.02,
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                             "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.43.0.dev0",
            "use_cache": True,
            "vocab_size": 128256,
        },
        16_060_522_496),
    "mistral-7b-v0.3": Model(
        {
            "architectures": ["MistralForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.02,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "model_type": "mistral",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.42.0.dev0",
            "use_cache": True,
            "vocab_size": 32768,
        },
        14_496_047_104),
}


def with_layers(config: dict, layers: int | None) -> dict:
    """A copy of config with that many layers (None: as it is)."""
    config = copy.deepcopy(config)
    if layers is not None:
        config["num_hidden_layers"] = layers
    return config
