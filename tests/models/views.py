"""The project's own views of a checkpoint, cut by the program write_views: one process a checkpoint."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensor_file import read_aliases, read_tensors

LIMIT_S = 120


@dataclass(frozen=True)
class Request:
    size: int
    rank: int
    fuse: bool = False
    plan: str = "-"  # the family's own, or what --plan takes
    experts: tuple[int, int] = (1, 0)  # groups of experts, and the rank's own
    expert_ranks: tuple[int, int] = (0, 0)  # ranks that each expert is cut for, and which; 0: not told


@dataclass(frozen=True)
class View:
    tensors: dict[str, np.ndarray]
    aliases: dict[str, str]


def cut(build: Path, checkpoint: Path, requests: list[Request]) -> list[View | str]:
    """A view for each request, or the text of the error."""
    lines = "".join(" ".join(map(str, (request.size, request.rank, int(request.fuse), *request.experts,
                                       *request.expert_ranks, request.plan))) + "\n" for request in requests)
    done = subprocess.run([build / "tests" / "models" / "write_views", checkpoint], input=lines.encode(),
                          capture_output=True, timeout=LIMIT_S)
    if done.returncode:
        raise RuntimeError(f"write_views {checkpoint}: exit code {done.returncode}: {done.stderr.decode()}")
    answers, at = [], 0
    for _ in requests:
        end = done.stdout.index(b"\n", at)
        kind, _, text = done.stdout[at:end].decode().partition(" ")
        at = end + 1
        if kind == "error":
            answers.append(text)
            continue
        data = done.stdout[at : at + int(text)]
        at += len(data)
        answers.append(View(read_tensors(data), read_aliases(data)))
    assert at == len(done.stdout)
    return answers
