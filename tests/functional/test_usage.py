"""Wrong command lines end with exit code 2 and a sentence, before anything that they name is opened; --help with 0.

What is named here does not exist: where it would be opened first, the exit code would be 1."""

import subprocess

from pathlib import Path

import pytest
from conftest import LIMIT_S
from outcomes import failed

ABSENT = "/nonexistent/tpview"
SERVICE = ("--source", f"unix:{ABSENT}.sock")
RANK = ("--tp-size", "2", "--tp-rank", "0")
SOURCE = (*SERVICE, "--artifact", "a", *RANK)


@pytest.mark.parametrize("arguments", [
    (),
    ("frobnicate",),
    ("plan",),
    ("plan", "--tp-size", "2", "--tp-rank", "0"),
    ("plan", "--checkpoint", "x", "--tp-size", "two", "--tp-rank", "0"),
    ("plan", "--checkpoint", "x", "--tp-size", "0", "--tp-rank", "0"),
    ("plan", "--checkpoint", "x", "--tp-size", "2", "--tp-rank", "-1"),
    ("plan", "--checkpoint", "x", "--tp-size", "2", "--tp-rank", "0", "--frobnicate"),
    ("plan", "--checkpoint", "x", *RANK, "--ep-size", "2"),
    ("plan", "--checkpoint", "x", *RANK, "--ep-rank", "1"),
    ("plan", "--checkpoint", "x", *RANK, "--ep-size", "0", "--ep-rank", "0"),
    ("plan", "--checkpoint", "x", *RANK, "--expert-tp-size", "2"),
    ("verify", "--checkpoint", "x", *RANK, "--ep-size", "2", "file"),
    ("fetch", *SOURCE, "--null", "--expert-tp-rank", "0"),
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
    ("fetch", *SERVICE, *RANK, "--null"),
    ("fetch", *SOURCE, "--null", "--plan", ABSENT, "--tp-rank", "2"),
    ("fetch", *SERVICE, *RANK, "--null", "--plan", ABSENT),
    ("fetch", *SOURCE, "--null", "--token-file", ABSENT, "--chunk", "1"),
    ("fetch", *SOURCE, "--null", "--token-file", ABSENT, "--source", "nowhere"),
    ("fetch", *SOURCE, "--null", "--artifact", "a b"),
    ("plan", "--checkpoint", ABSENT, "--tp-size", "2", "--tp-rank", "2"),
    ("plan", "--checkpoint", ABSENT, *SOURCE),
    ("plan", "--checkpoint", ABSENT, "--artifact", "a", *RANK),
    ("verify", "--checkpoint", ABSENT, "--tp-size", "2", "--tp-rank", "2", "file"),
    ("verify", "--checkpoint", ABSENT, *RANK, "--plan", ABSENT, "file", "surplus"),
    ("ls", "--source", "nowhere"),
    ("ls", *SERVICE, "surplus"),
    ("publish", *SERVICE),
    ("publish", *SERVICE, "a@1"),
    ("publish", *SERVICE, f"a={ABSENT}"),
    ("publish", *SERVICE, f"a b@1={ABSENT}"),
    ("retire", *SERVICE, "a b@1"),
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


@pytest.fixture
def run(build, environ):
    return lambda program, *arguments: subprocess.run([str(build / "bin" / program), *arguments], env=environ, timeout=LIMIT_S,
                                                      stdin=subprocess.DEVNULL, capture_output=True, text=True)


ARTIFACT = f"a@1={ABSENT}"


@pytest.mark.parametrize("arguments", [
    (),
    ("no-version",),
    (f"@1={ABSENT}",),
    (f"a@={ABSENT}",),
    (f"{'a' * 95}@1={ABSENT}",),
    ("a@1=",),
    (ARTIFACT, "--frobnicate"),
    (ARTIFACT, "a@1=elsewhere"),
    (ARTIFACT, "b"),
    (ARTIFACT, "--listen", "nowhere"),
    (ARTIFACT, "--listen", "127.0.0.1:65536"),
    (ARTIFACT, "--listen", "127.0.0.1:0x10"),
    (ARTIFACT, "--listen", "127.0.0.1:"),
    (ARTIFACT, "--listen", "nowhere", "--token-file", ABSENT),
    (ARTIFACT, "--unix", ""),
    (ARTIFACT, "--unix", "/" + "x" * 108),
    (ARTIFACT, "--unix", "/dev/null"),
    (ARTIFACT, "--token-file", ABSENT, "--threads", "0"),
    (ARTIFACT, "--budget", "none"),
    (ARTIFACT, "--drain", "-1"),
], ids=lambda arguments: " ".join(arguments)[:60])
def test_tpviewd(run, arguments):
    done = run("tpviewd", *arguments)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) >= 1 and done.stdout == ""


def test_tpviewd_refuses_an_open_address_before_it_opens_anything(run):
    failed(run("tpviewd", ARTIFACT, "--listen", "0.0.0.0:0"), "reachable from other hosts")
    failed(run("tpviewd", ARTIFACT, "--listen", "0.0.0.0:0", "--token-file", f"{ABSENT}.token"), f"{ABSENT}.token")
    failed(run("tpviewd", ARTIFACT, "--listen", "0.0.0.0:0", "--insecure"), "artifact a@1")


@pytest.mark.parametrize("arguments", [
    (),
    SERVICE,
    (*SERVICE, "--artifact", "a"),
    (*SOURCE, "--tp-rank", "2"),
    (*SOURCE, "surplus"),
    (*SOURCE, "--token-file", ABSENT, "-n", "0"),
    (*SOURCE, "--chunk", "1"),
    (*SOURCE, "--view", "diagonal"),
    (*SOURCE, "--ranks", "0"),
    (*SOURCE, "-b", "2K", "-e", "1K"),
    (*SOURCE, "-f", "1"),
    (*SOURCE, "-c", "2"),
    (*SOURCE, "--frobnicate"),
], ids=" ".join)
def test_tpview_perf(run, arguments):
    done = run("tpview_perf", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() and done.stdout == ""


@pytest.mark.parametrize("arguments", [("-b", "8K", "-e", "4K"), ("-n", "0"), ("--comms", "0"), ("--rounds", "0"), ("surplus",),
                                       ("--frobnicate",)], ids=" ".join)
def test_tpview_net_perf(run, arguments):
    done = run("tpview_net_perf", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() and done.stdout == ""


@pytest.mark.parametrize("program", ["tpview", "tpviewd", "tpview_perf", "tpview_net_perf"])
def test_help(run, program):
    done = run(program, "--help")
    assert done.returncode == 0 and program in done.stdout


def test_documented_environment_is_the_real_one(tpview):
    document = Path(__file__).parents[2] / "docs" / "environment.md"
    table = [line for line in document.read_text().splitlines() if line.startswith("|")]
    assert table == tpview("--help-env").stdout.splitlines()
