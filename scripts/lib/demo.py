"""All ranks of a tensor-parallel group fetch their views of one checkpoint at the same time, and every byte is proved
against an independent slicing."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from checkpoints.models import MODELS, with_layers
from checkpoints.tensors import tensors_of
from packages import ROOT
from service import Service, ServiceError, environment, leases, remove_lease_table

SLACK_BYTES = 256 << 20  # headers, logs and what the file system keeps for itself
DEADLINE_S = 300


class DemoError(Exception):
    """One line for the user."""


@dataclass
class Rank:
    number: int
    file: Path
    process: subprocess.Popen
    result: dict | None = None
    error: str = ""
    check: dict | None = None


def make_checkpoint(model: str, layers: int, tp_size: int, folder: Path) -> Path:
    """Make the checkpoint, or take the one that an earlier run left."""
    tensors = tensors_of(with_layers(MODELS[model].config, layers), MODELS[model].stores_lm_head)
    total = sum(tensor.bytes for tensor in tensors)
    replicated = sum(tensor.bytes for tensor in tensors if len(tensor.shape) == 1)
    out = folder / f"{model}-{layers}-layers"
    needed = total + tp_size * replicated + SLACK_BYTES + (0 if out.exists() else total)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DemoError(f"{folder} has {free / 1e9:.1f} GB of free disk, and the demo needs {needed / 1e9:.1f} GB")
    made = subprocess.run([str(ROOT / "scripts" / "make-checkpoint"), "--model", model, "--layers", str(layers),
                           "--out", str(out), "--reuse"])
    if made.returncode:
        raise DemoError("the checkpoint could not be made")
    return out


def show_leases(found: list[dict]) -> None:
    print("leases while fetching:")
    for lease in sorted(found, key=lambda lease: lease["tp_rank"]):
        print(f"  rank {lease['tp_rank']} of {lease['tp_size']}  {lease['artifact']}  export {lease['state']}  "
              f"{lease['bytes_done'] / 1e9:.2f} of {lease['bytes_total'] / 1e9:.2f} GB  lease {lease['lease_id'][:8]}")


def watch_leases(ranks: list[Rank], build: Path, environ: dict[str, str]) -> None:
    """Look at the lease table until every rank has been seen in it, or the first of them is through."""
    best: list[dict] = []
    while len(best) < len(ranks) and all(rank.process.poll() is None for rank in ranks):
        found = leases(build, environ)
        if len(found) > len(best):
            best = found
        else:
            time.sleep(0.05)  # the ranks need the cores
    if best:
        show_leases(best)


def fetch_all(tp_size: int, artifact: str, source: str, folder: Path, build: Path, environ: dict[str, str]) -> list[Rank]:
    ranks = []
    try:
        for number in range(tp_size):
            file = folder / f"rank-{number}.safetensors"
            command = [str(build / "bin" / "tpview"), "fetch", "--source", source, "--artifact", artifact,
                       "--tp-size", str(tp_size), "--tp-rank", str(number), "--out", str(file),
                       "--deadline", str(DEADLINE_S), "--json"]
            process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True)
            ranks.append(Rank(number, file, process))
        watch_leases(ranks, build, environ)
        for rank in ranks:
            output, errors = rank.process.communicate(timeout=DEADLINE_S + 30)
            rank.error = errors.strip()
            if rank.process.returncode == 0:
                rank.result = json.loads(output)
            else:
                rank.error = rank.error or f"exit code {rank.process.returncode}"
    finally:
        for rank in ranks:
            if rank.process.poll() is None:
                rank.process.kill()
                rank.process.wait()
    return ranks


def check(rank: Rank, checkpoint: Path, tp_size: int) -> None:
    """Compare with what the safetensors package and a few lines of Python cut from the checkpoint."""
    if not rank.result:
        return
    done = subprocess.run([str(ROOT / "scripts" / "check-view"), "--checkpoint", str(checkpoint), "--tp-size",
                           str(tp_size), "--tp-rank", str(rank.number), "--json", str(rank.file)],
                          capture_output=True, text=True)
    rank.check = json.loads(done.stdout) if done.stdout else {"ok": False, "difference": done.stderr.strip()}


def report(ranks: list[Rank], live: set[str]) -> bool:
    """Print the table and return whether all is well."""
    print(f"\n{'rank':>4} {'tensors':>7} {'bytes':>15} {'seconds':>8} {'GB/s':>6} {'wire/needed':>11} {'digests':>8} "
          f"{'check-view':>10} {'lease':>6}")
    good = True
    for rank in ranks:
        result = rank.result
        if not result:
            print(f"{rank.number:>4} {'failed: ' + rank.error}")
            good = False
            continue
        digests, equal = result["digests_checked"], bool(rank.check and rank.check["ok"])
        ended = result["lease_id"] not in live
        equal = equal and rank.check["tensors"] == result["tensors"] and rank.check["bytes"] == result["needed_bytes"]
        ratio = result["wire_bytes"] / result["needed_bytes"]
        print(f"{rank.number:>4} {result['tensors']:>7} {result['needed_bytes']:>15,} {result['seconds']:>8.3f} "
              f"{result['gb_per_s']:>6.2f} {ratio:>11.5f} {'ok' if digests else 'off':>8} "
              f"{'equal' if equal else 'DIFFERS':>10} {'ended' if ended else 'HELD':>6}")
        if not equal:
            print(f"     {rank.check['difference'] if rank.check else 'not checked'}")
        good = good and digests and equal and ended
    fetched = [rank.result for rank in ranks if rank.result]
    if fetched:
        size, seconds = sum(one["needed_bytes"] for one in fetched), max(one["seconds"] for one in fetched)
        print(f"{'all':>4} {'':>7} {size:>15,} {seconds:>8.3f} {size / 1e9 / seconds:>6.2f}")
    return good


def run(arguments) -> bool:
    build = arguments.build
    checkpoint = make_checkpoint(arguments.model, arguments.layers, arguments.tp_size, ROOT / "build" / "demo")
    namespace = f"demo-{os.getpid()}"
    # The socket's path must be short (sun_path has 108 bytes); views go beside the checkpoint, where there is room.
    with tempfile.TemporaryDirectory(prefix="tpview-") as sockets, \
            tempfile.TemporaryDirectory(prefix="views-", dir=checkpoint.parent) as views:
        environ = environment(build, namespace)
        address = f"{sockets}/tpviewd.sock"
        try:
            print(f"starting tpviewd on {checkpoint.relative_to(ROOT)}", flush=True)
            with Service(build, [f"{arguments.model}@1={checkpoint}", "--unix", address], environ,
                         ready_timeout=DEADLINE_S) as service:
                print(service.ready, flush=True)
                start = time.monotonic()
                ranks = fetch_all(arguments.tp_size, arguments.model, f"unix:{address}", Path(views), build, environ)
                print(f"{arguments.tp_size} ranks fetched in {time.monotonic() - start:.2f} s; comparing every byte",
                      flush=True)
                live = {lease["lease_id"] for lease in leases(build, environ)}
                with ThreadPoolExecutor(min(arguments.tp_size, os.cpu_count() or 1)) as pool:
                    list(pool.map(lambda rank: check(rank, checkpoint, arguments.tp_size), ranks))
                good = report(ranks, live)
                status = service.stop()
                if status:
                    print(f"tpviewd ended with exit code {status}:\n{service.said()}", file=sys.stderr)
                elif not good:
                    print(f"tpviewd said:\n{service.said()}", file=sys.stderr)
        finally:
            remove_lease_table(namespace)
    return good and status == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="qwen3-14b", metavar="NAME",
                        help="shapes of the checkpoint (default qwen3-14b)")
    parser.add_argument("--layers", type=int, default=2, metavar="L", help="its layers (default 2)")
    parser.add_argument("--tp-size", type=int, default=4, metavar="N", help="ranks that fetch at the same time (default 4)")
    parser.add_argument("--build", type=Path, default=ROOT / "build", metavar="DIR", help="where the programs are")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that everything is cleaned up
    try:
        good = run(arguments)
    except (DemoError, ServiceError, OSError, subprocess.TimeoutExpired) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("demo: all equal" if good else "demo: FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
