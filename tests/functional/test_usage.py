"""Wrong command lines end with exit code 2 and a sentence; --help with 0."""

import subprocess

from pathlib import Path

import pytest
from conftest import LIMIT_S

SOURCE = ("--source", "unix:/tmp/x.sock", "--artifact", "a", "--tp-size", "2", "--tp-rank", "0")


@pytest.mark.parametrize("arguments", [
    (),
    ("frobnicate",),
    ("plan",),
    ("plan", "--tp-size", "2", "--tp-rank", "0"),
    ("plan", "--checkpoint", "x", "--tp-size", "two", "--tp-rank", "0"),
    ("plan", "--checkpoint", "x", "--tp-size", "0", "--tp-rank", "0"),
    ("plan", "--checkpoint", "x", "--tp-size", "2", "--tp-rank", "-1"),
    ("plan", "--checkpoint", "x", "--tp-size", "2", "--tp-rank", "0", "--frobnicate"),
    ("fetch", *SOURCE),
    ("fetch", *SOURCE, "--null", "--out", "x"),
    ("fetch", *SOURCE, "--null", "--chunk", "1"),
    ("fetch", *SOURCE, "--null", "--ttl", "5"),
    ("fetch", *SOURCE, "--null", "--hold"),
    ("fetch", *SOURCE, "--shared", "--null", "--out", "x"),
    ("fetch", *SOURCE, "--shared", "--ttl", "0"),
    ("fetch", *SOURCE, "--shared", "--ttl", "0.5"),
    ("fetch", *SOURCE, "--shared", "--ttl", "1e9"),
    ("fetch", *SOURCE, "--shared", "--no-digests"),
    ("fetch", *SOURCE, "--null", "--comms", "0"),
    ("fetch", *SOURCE, "--null", "--deadline", "soon"),
    ("fetch", "--source", "unix:/tmp/x.sock", "--tp-size", "2", "--tp-rank", "0", "--null"),
    ("verify", "--checkpoint", "x", "--tp-size", "2", "--tp-rank", "0"),
    ("leases", "surplus"),
    ("leases", "--watch", "1", "surplus"),
    ("doctor", "surplus"),
    ("doctor", "--watch"),
], ids=" ".join)
def test_tpview(tpview, arguments):
    done = tpview(*arguments)
    assert done.returncode == 2
    assert done.stderr.strip() and done.stdout == ""


@pytest.mark.parametrize("arguments", [(), ("no-version",), ("@1=/tmp",), ("a@1=",), ("a@1=/tmp", "--frobnicate"),
                                       ("a@1=/tmp", "--listen", "nowhere"), ("a@1=/tmp", "a@1=/tmp")], ids=" ".join)
def test_tpviewd(build, environ, arguments):
    done = subprocess.run([str(build / "bin" / "tpviewd"), *arguments], env=environ, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert done.stderr.strip() and "ready" not in done.stdout


@pytest.mark.parametrize("program", ["tpview", "tpviewd"])
def test_help(build, environ, program):
    done = subprocess.run([str(build / "bin" / program), "--help"], env=environ, capture_output=True, text=True,
                          timeout=LIMIT_S)
    assert done.returncode == 0 and program in done.stdout


def test_documented_environment_is_the_real_one(tpview):
    document = Path(__file__).parents[2] / "docs" / "environment.md"
    table = [line for line in document.read_text().splitlines() if line.startswith("|")]
    assert table == tpview("--help-env").stdout.splitlines()
