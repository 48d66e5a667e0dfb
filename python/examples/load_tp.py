"""Load a transformers model into tensor-parallel ranks from a tpview service, and generate.

    tpviewd m@1=DIR --unix /tmp/tpviewd.sock &
    torchrun --nproc-per-node 4 load_tp.py unix:/tmp/tpviewd.sock m@1 DIR

Every rank fetches what its share of the model is made of. Of DIR the ranks read config.json alone.
"""

import argparse

import torch
import torch.distributed as dist
import tpview.transformers
from transformers import AutoModelForCausalLM, DistributedConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help='"unix:PATH" or "HOST:PORT"')
    parser.add_argument("artifact", help="NAME@VERSION, or NAME for its newest version")
    parser.add_argument("config", help="a folder with config.json")
    parser.add_argument("--tokens", type=int, default=8, help="how many to generate")
    options = parser.parse_args()

    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    model = tpview.transformers.from_pretrained(AutoModelForCausalLM, options.source, options.artifact, config=options.config,
                                                deadline=300, distributed_config=DistributedConfig(tp_size=dist.get_world_size()))
    loaded = model.tpview_loaded
    for rank in range(dist.get_world_size()):
        if rank == dist.get_rank():
            print(f"rank {rank}: {loaded.label}, {loaded.result.needed_bytes} of {loaded.artifact_bytes} bytes, "
                  f"{loaded.result.gigabytes_per_second:.2f} GB/s, {loaded.result.export}", flush=True)
        dist.barrier()
    prompt = torch.arange(1, 9).reshape(1, 8)
    tokens = model.generate(prompt, max_new_tokens=options.tokens, do_sample=False, pad_token_id=0)
    if dist.get_rank() == 0:
        print("tokens:", *tokens[0, 8:].tolist(), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
