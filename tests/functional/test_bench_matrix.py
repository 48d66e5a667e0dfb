"""scripts/bench-matrix: what it takes, and what becomes of a failure. Its figures are for a quiet machine."""

import csv
import os
import subprocess
import sys

import pytest
from conftest import LIMIT_S, ROOT


@pytest.fixture
def matrix(build, tmp_path):
    def start(*arguments) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, ROOT / "scripts" / "bench-matrix", tmp_path / "folder", "--no-chart", "--build", build,
                               *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT_S)

    return start


@pytest.mark.parametrize("arguments", [("--models", "gpt-2"), ("--tp", "0"), ("--tp", "x"), ("--links", "host,slow"),
                                       ("--links", "0"), ("--rounds", "0"), ("--layers", "none")], ids=" ".join)
def test_mistakes(matrix, arguments, tmp_path):
    done = matrix(*arguments)
    assert done.returncode == 2 and arguments[-1].split(",")[-1] in done.stderr, done.stderr
    assert not (tmp_path / "folder").exists()


def test_a_failure_keeps_the_table(matrix, tmp_path):
    """A tp size that the model cannot be cut into, which tpview_perf finds out."""
    folder = tmp_path / "folder"
    folder.mkdir()
    done = matrix("--models", "qwen3-0.6b", "--layers", 1, "--tp", 1024, "--links", "host", "--rounds", 1)
    assert done.returncode == 1 and len(done.stderr.splitlines()) >= 1
    assert "tpview_perf failed" in done.stderr and "1024" in done.stderr
    with open(folder / "matrix.csv") as file:
        assert list(csv.DictReader(file)) == []
    assert not [path for path in os.listdir(folder) if ".perf-" in path]
