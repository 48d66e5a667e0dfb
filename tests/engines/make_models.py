"""Writes small models of random weights as transformers saves them:  make_models.py FOLDER"""

import sys
from pathlib import Path

import torch
from transformers import (LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig,
                          Qwen3MoeForCausalLM)

COMMON = {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
          "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 512,
          "tie_word_embeddings": False}
MODELS = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM, {"num_experts": 4, "num_experts_per_tok": 2,
                                                        "moe_intermediate_size": 128, "decoder_sparse_step": 1}),
}

if __name__ == "__main__":
    for seed, (name, (config, model, more)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model(config(**{**COMMON, **more})).to(torch.bfloat16).save_pretrained(Path(sys.argv[1]) / name)
