"""The checkpoints that the services of a run offer, and what every rank's file of them must be."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import service as programs
from models import write_tiny
from plan import LABELS, VIEWS

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120
# About 24 MB a version: a fetch takes long enough to be interrupted, and hundreds of them no coffee break.
CHANGES = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1408, "head_dim": 64}


class Contents:
    """Made once for a run. Each view is fetched undisturbed, compared with an independent slicing, and remembered by
    its digest."""

    def __init__(self, build: Path, environ: dict[str, str], folder: Path):
        self.build, self.environ = build, environ
        self.folders = {name: write_tiny("qwen3", folder / name, seed=i, **CHANGES)
                        for i, name in enumerate(sorted(set(LABELS.values())))}
        self.expected: dict[tuple[str, int, int], str] = {}  # (artifact_id, tp_size, tp_rank)
        self._fetch_all(folder)

    def definition(self, label: str) -> str:
        return f"{label}={self.folders[LABELS[label]]}"

    def _fetch_all(self, folder: Path) -> None:
        offers = [f"{name}@1={path}" for name, path in self.folders.items()]
        socket, file = folder / "s", folder / "view"
        with programs.Service(self.build, [*offers, "--unix", str(socket)], self.environ, ready_timeout=LIMIT_S):
            for name, checkpoint in self.folders.items():
                for tp_size, tp_rank in VIEWS:
                    tp = ["--tp-size", str(tp_size), "--tp-rank", str(tp_rank)]
                    self._run(self.build / "bin" / "tpview", "fetch", "--source", f"unix:{socket}", "--artifact", name, *tp,
                              "--out", str(file))
                    self._run(sys.executable, ROOT / "scripts" / "check-view", "--checkpoint", checkpoint, *tp, file)
                    artifact_id, digest = read_view(file)
                    self.expected[artifact_id, tp_size, tp_rank] = digest
                    file.unlink()

    def _run(self, *command) -> None:
        done = subprocess.run([*map(str, command)], env=self.environ, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=LIMIT_S)
        if done.returncode:
            sys.exit(f"chaos: {' '.join(map(str, command))}: {done.stderr.strip()}")


def read_view(file: Path) -> tuple[str, str]:
    """(artifact_id, digest of everything else that a rank uses: names, dtypes, shapes, bytes) of a safetensors file.
    ValueError when it is none."""
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length)
        header = json.loads(text) if 0 < length == len(text) else {}
        artifact_id = header.pop("__metadata__", {}).get("artifact_id", "")
        digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode())
        while block := stream.read(1 << 20):
            digest.update(block)
    if not header or not artifact_id:
        raise ValueError("it has no header")
    return artifact_id, digest.hexdigest()
