"""Reinforcement learning in small: a trainer publishes versions, and groups of ranks that generate follow it.

    tpviewd m@1=DIR --unix /tmp/tpviewd.sock &
    python rl_update.py unix:/tmp/tpviewd.sock m DIR --folder /tmp/versions --versions 10 --groups 2 --tp 2

The trainer (this process) has the service offer each version from its memory. A rank fetches the next version on a thread
of its own while its model goes on generating, and installs it between two tokens: all ranks of a group at the
same one, whole and verified, or none.
"""

import argparse
import datetime
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import tpview.torch
import tpview.transformers
from transformers import AutoModelForCausalLM, DistributedConfig

LIMIT_S = 600


def newest(source: tpview.Source, name: str) -> int:
    return max(int(offer["version"]) for offer in source.artifacts() if offer["name"] == name)


def rank_main(rank: int, options: argparse.Namespace, group: int, store: str, installed) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(options.tp))
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=options.tp,
                            timeout=datetime.timedelta(seconds=LIMIT_S))
    votes = dist.new_group(backend="gloo")  # of the fetching thread alone
    parallel = {"distributed_config": DistributedConfig(tp_size=options.tp)} if options.tp > 1 else {}
    source = tpview.connect(options.source)
    model = tpview.transformers.from_pretrained(AutoModelForCausalLM, source, f"{options.artifact}@1", config=options.config,
                                                deadline=LIMIT_S, **parallel)
    have, tokens, ready = 1, 0, []

    def fetch(version: int) -> None:
        try:
            ready.append(tpview.transformers.prefetch_update(model, source, options.artifact, version=version, group=votes,
                                                             deadline=LIMIT_S))
        except BaseException as error:
            ready.append(error)

    sequence = torch.arange(1, 9).reshape(1, 8)
    worker = None
    while have < options.versions:
        # Rank 0 says what comes next, so that all ranks do the same between the same two tokens.
        word = [0, False]
        if rank == 0:
            word = [newest(source, options.artifact) if worker is None else 0, False]
        dist.broadcast_object_list(word, src=0)
        if word[0] > have:
            ready.clear()
            worker = threading.Thread(target=fetch, args=(word[0],))
            worker.start()
        with torch.no_grad():
            logits = model(sequence).logits
        following = (logits.full_tensor() if hasattr(logits, "full_tensor") else logits)[:, -1].argmax(-1, keepdim=True)
        sequence = torch.cat([sequence[:, 1:], following], 1)
        tokens += 1
        here = [None] * options.tp
        dist.all_gather_object(here, worker is not None and not worker.is_alive())
        if all(here):
            worker.join()
            worker, update = None, ready[0]
            if isinstance(update, BaseException):
                raise update
            loaded = update.install()
            have = int(loaded.label.rpartition("@")[2])
            if rank == 0:
                installed[group] = have
            check(model, Path(options.folder) / str(have), rank, options.tp)
            print(f"group {group} rank {rank}: {loaded.label} after {tokens} tokens, {loaded.result.needed_bytes} of "
                  f"{loaded.artifact_bytes} bytes", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def check(model, folder: Path, rank: int, size: int) -> None:
    """Every parameter is that of the version's own files: nothing of an older or newer one is among them."""
    parallel = {"distributed_config": DistributedConfig(tp_size=size)} if size > 1 else {}
    wanted = AutoModelForCausalLM.from_pretrained(folder, **parallel).state_dict()
    for name, tensor in model.state_dict().items():
        ours, theirs = (value.to_local() if hasattr(value, "to_local") else value for value in (tensor, wanted[name]))
        if not torch.equal(ours, theirs):
            raise SystemExit(f"rank {rank}: {name} is not that of {folder}")


def train(options: argparse.Namespace, installed, alive) -> None:
    """Publish one version after another, each when the one before it was on offer for a moment. `installed` has the version
    of each group."""
    model = AutoModelForCausalLM.from_pretrained(options.config)
    retired = 1  # the first one is not the trainer's
    with tpview.connect(options.source) as source:
        for version in range(2, options.versions + 1):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.01)
            model.save_pretrained(Path(options.folder) / str(version))  # for check() alone
            tpview.torch.publish_state_dict(source, f"{options.artifact}@{version}", model.state_dict(), timeout=LIMIT_S)
            while retired + 1 < min(installed):
                retired += 1
                source.retire(f"{options.artifact}@{retired}")  # all have a newer one: its memory is free
            print(f"trainer: {options.artifact}@{version}", flush=True)
            until = time.monotonic() + options.pause
            while time.monotonic() < until and alive():
                time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help='"unix:PATH" of a service on this host')
    parser.add_argument("artifact", help="NAME, of which version 1 is on offer")
    parser.add_argument("config", help="the folder of version 1")
    parser.add_argument("--folder", required=True, help="where versions are written as well, for the ranks to compare with")
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--tp", type=int, default=2)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two versions")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        installed = mp.get_context("spawn").Array("i", options.groups)
        groups = [mp.start_processes(rank_main, (options, group, f"{scratch}/{group}", installed), options.tp, join=False,
                                     start_method="spawn") for group in range(options.groups)]
        processes = [process for group in groups for process in group.processes]
        try:
            train(options, installed, lambda: all(process.exitcode is None for process in processes))
            for group in groups:
                while not group.join(timeout=LIMIT_S):
                    pass
        finally:
            for process in processes:
                process.kill()
    print(f"{options.groups} groups of {options.tp} have version {options.versions}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
