"""Loads models with vLLM one after the other and prints their greedy tokens:  generate.py TP_SIZE [MODEL FORMAT EXTRA]..."""

import json
import os
import sys

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # two workers on a machine with one NUMA node
os.environ["HF_HUB_OFFLINE"] = "1"

from vllm import LLM, SamplingParams  # noqa: E402

if __name__ == "__main__":
    size, runs = int(sys.argv[1]), sys.argv[2:]
    for model, load_format, extra in zip(runs[::3], runs[1::3], runs[2::3]):
        llm = LLM(model=model, skip_tokenizer_init=True, tensor_parallel_size=size, dtype="bfloat16", enforce_eager=True,
                  max_model_len=64, max_num_seqs=4, load_format=load_format, model_loader_extra_config=json.loads(extra))
        prompt = [{"prompt_token_ids": [1, 2, 3, 4, 5]}, {"prompt_token_ids": [700, 3, 900]}]
        parameters = SamplingParams(temperature=0, max_tokens=16, detokenize=False, ignore_eos=True)
        print("TOKENS", json.dumps([list(out.outputs[0].token_ids) for out in llm.generate(prompt, parameters)]), flush=True)
        del llm
