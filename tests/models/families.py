"""The model families that have a plan of their own, each as a tiny model of transformers' own making: a few hundred KB,
with heads, experts and layers of every kind that the family has."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Variant:
    """Sizes that decide what divides by how many ranks."""

    name: str
    key_value_heads: int
    vocabulary: int


VARIANTS = [Variant("kv4", 4, 1024), Variant("kv2", 2, 1003)]
HEADS = 8


@dataclass(frozen=True)
class Family:
    """`model_type` and `config` go to transformers' AutoConfig; of a multimodal model `text` and `vision` are the
    configurations of its towers. A value that is a function is called with the variant; one of `...` leaves the key out
    of the common sizes."""

    model_type: str
    model_class: str = "AutoModelForCausalLM"
    config: dict = field(default_factory=dict)
    text: dict | None = None
    vision: dict | None = None


def _kv(variant: Variant) -> int:
    return variant.key_value_heads


def _vocabulary(variant: Variant) -> int:
    return variant.vocabulary


COMMON = {
    "vocab_size": _vocabulary,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": _kv,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# A tower with sizes unlike those of the text model.
VISION = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "image_size": 16,
    "patch_size": 8,
}
QWEN_VISION = {**VISION, "depth": 1, "num_heads": HEADS, "out_hidden_size": 64, "num_position_embeddings": 16}
MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
# Multi-head latent attention, in the first variant with a low-rank query.
MLA = {
    "q_lora_rank": lambda variant: 24 if variant.name == "kv4" else None,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "head_dim": 8,
    "num_key_value_heads": HEADS,
}
ROUTED = {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
          "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}
# A layer of linear attention and one of full attention.
LINEAR = {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 8, "linear_key_head_dim": 8,
          "linear_num_value_heads": 16, "linear_value_head_dim": 8}
LLAMA4_TEXT = {"intermediate_size": 48, "intermediate_size_mlp": 128, "num_local_experts": 4,
               "interleave_moe_layer_step": 2}
IMAGE_TEXT = "AutoModelForImageTextToText"


def _second(variant: Variant) -> bool:
    """For what a family has or has not."""
    return variant.name == "kv2"


FAMILIES: dict[str, Family] = {
    "bloom": Family("bloom", config={"head_dim": ...}),
    "cohere2": Family("cohere2"),
    "deepseek_v2": Family("deepseek_v2", config={**MLA, **ROUTED}),
    "deepseek_v3": Family("deepseek_v3", config={**MLA, **ROUTED}),
    "ernie4_5": Family("ernie4_5"),
    "ernie4_5_moe": Family("ernie4_5_moe", config={"moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 48,
                                                   "moe_num_shared_experts": 2, "moe_layer_start_index": 1}),
    "falcon": Family("falcon", config={"num_kv_heads": _kv, "new_decoder_architecture": True, "head_dim": ...}),
    "falcon_multi_query": Family("falcon", config={"bias": _second, "head_dim": ...}),
    "gemma": Family("gemma"),
    "gemma2": Family("gemma2"),
    "gemma3": Family("gemma3", IMAGE_TEXT, text={}, vision=VISION),
    "gemma3_text": Family("gemma3_text"),
    "gemma4": Family("gemma4", IMAGE_TEXT,
                     text={"vocab_size_per_layer_input": _vocabulary, "hidden_size_per_layer_input": 16,
                           "global_head_dim": 32, "num_experts": 4, "enable_moe_block": _second, "top_k_experts": 2,
                           "moe_intermediate_size": 48},
                     vision={**VISION, "num_key_value_heads": HEADS, "head_dim": 12, "position_embedding_size": 16}),
    "gemma4_text": Family("gemma4_text", config={"vocab_size_per_layer_input": _vocabulary,
                                                 "hidden_size_per_layer_input": 16, "global_head_dim": 32,
                                                 "attention_k_eq_v": True, "num_global_key_value_heads": 2}),
    "glm4": Family("glm4"),
    "glm4_moe": Family("glm4_moe", config={**ROUTED, "use_qk_norm": True}),
    "glm4_moe_lite": Family("glm4_moe_lite", config={**MLA, **ROUTED, "q_lora_rank": 24}),
    "gpt2": Family("gpt2", config={"head_dim": ...}),
    "gpt_neox": Family("gpt_neox", config={"head_dim": ...}),
    "gpt_oss": Family("gpt_oss", config={"num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite": Family("granite"),
    "granitemoe": Family("granitemoe", config={"num_local_experts": 4}),
    "hunyuan_v1_dense": Family("hunyuan_v1_dense"),
    "hunyuan_v1_moe": Family("hunyuan_v1_moe", config={"num_experts": 4, "moe_topk": 2}),
    "internvl": Family("internvl", IMAGE_TEXT, text={"model_type": "qwen2"}, vision=VISION),
    "jamba": Family("jamba", config={"num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1}),
    "kimi_k25": Family("kimi_k25", IMAGE_TEXT, text={**MLA, **ROUTED, "q_lora_rank": 24, "model_type": "deepseek_v3"},
                       vision={**VISION, "pos_emb_height": 4, "pos_emb_width": 4},
                       config={"projection_hidden_size": 96}),
    "kimi_linear": Family("kimi_linear", config={**MLA, **ROUTED, "num_hidden_layers": 3, "num_experts": 8,
                                                 "num_experts_per_token": 2, "linear_num_heads": HEADS,
                                                 "linear_head_dim": 16, "q_lora_rank": None, "layer_types": [
                                                     "linear_attention", "full_attention", "linear_attention"]}),
    "llama": Family("llama", config={"attention_bias": _second, "mlp_bias": _second}),
    "llama4": Family("llama4", IMAGE_TEXT, text=LLAMA4_TEXT,
                     vision={**VISION, "projector_input_dim": 80, "projector_output_dim": 80, "vision_output_dim": 80}),
    "llama4_text": Family("llama4_text", config=LLAMA4_TEXT),
    "llava": Family("llava", IMAGE_TEXT, text={"model_type": "llama"}, vision=VISION),
    "mamba2": Family("mamba2", config={"num_heads": HEADS, "head_dim": 16, "state_size": 8,
                                       "n_groups": lambda variant: 8 if variant.name == "kv4" else 1}),
    "minimax": Family("minimax", config={"num_local_experts": 4}),
    "minimax_m2": Family("minimax_m2", config={"num_local_experts": 4}),
    "ministral3": Family("ministral3"),
    "mistral": Family("mistral"),
    "mistral3": Family("mistral3", IMAGE_TEXT, text={"model_type": "mistral"}, vision=VISION),
    "mixtral": Family("mixtral", config={"num_local_experts": 4}),
    "nemotron": Family("nemotron"),
    "nemotron_h": Family("nemotron_h", config={"mamba_num_heads": HEADS, "mamba_head_dim": 16, "ssm_state_size": 8,
                                               "n_groups": 2, "moe_intermediate_size": 48,
                                               "moe_shared_expert_intermediate_size": 96}),
    "olmo2": Family("olmo2"),
    "olmo3": Family("olmo3"),
    "olmoe": Family("olmoe", config={"num_experts": 8, "head_dim": ...}),
    "opt": Family("opt", config={"head_dim": ..., "ffn_dim": 128,
                                 "word_embed_proj_dim": lambda variant: 64 if variant.name == "kv4" else 32}),
    "phi": Family("phi", config={"qk_layernorm": _second}),
    "phi3": Family("phi3"),
    "qwen2": Family("qwen2"),
    "qwen2_5_vl": Family("qwen2_5_vl", IMAGE_TEXT, text={"head_dim": ...}, vision=QWEN_VISION),
    "qwen2_moe": Family("qwen2_moe", config={**MOE, "shared_expert_intermediate_size": 96}),
    "qwen3": Family("qwen3"),
    "qwen3_5": Family("qwen3_5", IMAGE_TEXT, text=LINEAR, vision=QWEN_VISION),
    "qwen3_5_moe": Family("qwen3_5_moe", IMAGE_TEXT, text={**LINEAR, **MOE, "shared_expert_intermediate_size": 96},
                          vision=QWEN_VISION),
    "qwen3_5_text": Family("qwen3_5_text", config=LINEAR),
    "qwen3_moe": Family("qwen3_moe", config={**MOE, "mlp_only_layers": [1]}),
    "qwen3_next": Family("qwen3_next", config={**MOE, **LINEAR, "shared_expert_intermediate_size": 96}),
    "qwen3_vl": Family("qwen3_vl", IMAGE_TEXT, text={}, vision={**QWEN_VISION, "deepstack_visual_indexes": [0]}),
    "qwen3_vl_moe": Family("qwen3_vl_moe", IMAGE_TEXT, text=MOE,
                           vision={**QWEN_VISION, "deepstack_visual_indexes": [0]}),
    "seed_oss": Family("seed_oss"),
    "smollm3": Family("smollm3"),
    "stablelm": Family("stablelm", config={"head_dim": ..., "qk_layernorm": _second, "use_qkv_bias": _second}),
    "starcoder2": Family("starcoder2"),
}
