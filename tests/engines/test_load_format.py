"""A real vLLM on the CPU: load format "tpview" gives the same greedy tokens as vLLM's own loader, from a folder that has
no weights, and takes no more than its slices. Run by make check-vllm in an environment of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not in this environment: make check-vllm")

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts" / "lib"), str(ROOT / "python")]

import service as programs  # noqa: E402
from tpview.errors import UsageError  # noqa: E402
from tpview.vllm import options_of  # noqa: E402

MODELS = ["qwen3", "llama", "qwen3_moe"]
LIMIT_S = 900


@pytest.fixture(scope="module")
def build() -> Path:
    return Path(os.environ.get("TEST_BUILD", ROOT / "build")).resolve()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, ROOT / "tests" / "engines" / "make_models.py", folder], check=True, timeout=LIMIT_S)
    for name in MODELS:
        bare = folder / "bare" / name
        bare.mkdir(parents=True)
        for file in (folder / name).glob("*.json"):
            shutil.copy(file, bare)
    return folder


@pytest.fixture(scope="module")
def source(build, models, tmp_path_factory):
    namespace = f"vllm-{os.getpid()}"
    environ = programs.environment(build, namespace, TPVIEW_CACHE_DIR=str(tmp_path_factory.mktemp("cache")))
    socket = tmp_path_factory.mktemp("s") / "s"
    arguments = [f"{name}@1={models / name}" for name in MODELS] + ["--unix", str(socket)]
    with programs.Service(build, arguments, environ):
        yield f"unix:{socket}"
    programs.remove_lease_table(namespace)


def generate(size: int, runs: list[tuple]) -> tuple[list, str]:
    """The tokens of each run, and all that vLLM said."""
    words = [str(word) for model, load_format, extra in runs for word in (model, load_format, json.dumps(extra))]
    done = subprocess.run([sys.executable, ROOT / "tests" / "engines" / "generate.py", str(size), *words],
                          capture_output=True, text=True, timeout=LIMIT_S)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-8000:]
    return [json.loads(line) for line in re.findall(r"^TOKENS (.*)$", done.stdout, re.M)], said


@pytest.mark.parametrize("size", [1, 2])
def test_the_same_tokens_as_with_vllms_own_loader(models, source, size):
    own = [(models / name, "auto", {}) for name in MODELS]
    ours = [(models / "bare" / name, "tpview", {"source": source, "artifact": f"{name}@1", "deadline": 120})
            for name in MODELS]
    tokens, said = generate(size, own + ours)
    assert tokens[:3] == tokens[3:] and len({str(row) for row in tokens}) == 3
    lines = re.findall(r"tpview: (\w+)@1 from .*?: (\d+) slices, (\d+) of (\d+) bytes, wire/needed ([\d.]+),.*?(\d+) tensors "
                       r"whole", said)
    assert len(lines) == 3 * size, said[-8000:]
    for name, _, needed, artifact, wire, whole in lines:
        print(f"TP {size} {name}: {needed} of {artifact} bytes, wire/needed {wire}, {whole} tensors whole")
        # Norms and routers go to every rank; all else is shared out.
        assert int(whole) == 0 and int(needed) <= int(artifact) / size * 1.1 and float(wire) < 1.01


def test_options_are_checked():
    assert options_of({"source": "h:1", "artifact": "a@1", "deadline": 3})["deadline"] == 3
    for wrong in ({}, {"artifact": "a", "sauce": "h:1"}, {"artifact": 1}, {"artifact": "a", "deadline": True}):
        with pytest.raises(UsageError):
            options_of(wrong)
