"""A script that several processes run as the ranks of one gloo group."""

import os
import subprocess
import sys

from conftest import ROOT

LIMIT_S = 500


def run_ranks(text: str, size: int, tmp_path, *arguments) -> list[str]:
    """What each rank prints. The script gets RANK SIZE STORE and `arguments`; STORE is a file to meet at."""
    script = tmp_path / "rank.py"
    script.write_text(text)
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
               "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    ranks = [subprocess.Popen([sys.executable, script, str(rank), str(size), tmp_path / "store", *map(str, arguments)],
                              env={**environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) for rank in range(size)]
    try:
        ended = [rank.communicate(timeout=LIMIT_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, errors) in zip(ranks, ended):
        assert rank.returncode == 0, errors
    return [out for out, _ in ended]
