"""Kills and stops everything that takes part in fetches at random moments, round after round, and checks that nothing
is wrong afterwards: bytes, deadlines, errors, the lease table, what is left behind. --seed and --round replay a round."""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts" / "lib"), str(ROOT / "tests" / "functional")]

import plan  # noqa: E402
import service as programs  # noqa: E402
from contents import Contents  # noqa: E402
from rounds import Host, Play, Tally, Wrong  # noqa: E402

COUNTERS = {"exports_taken_over": "preparing taken over by a waiter", "exports_abandoned": "preparing given up",
            "exports_failed": "preparing failed", "exports_coalesced": "requests coalesced",
            "exports_reused": "exports reused", "leases_orphaned": "leases of dead owners ended",
            "leases_revoked": "leases revoked", "leases_expired": "leases expired"}


def offers_of(build: Path) -> frozenset[str]:
    """Which of the things that a plan may use these programs have."""
    found = set()
    for command in (["tpviewd"], ["tpview"], ["tpview", "fetch"]):
        text = subprocess.run([str(build / "bin" / command[0]), *command[1:], "--help"], capture_output=True, text=True,
                              check=True).stdout
        found |= set(text.split())
    return frozenset(found)


def tell_failure(error: Wrong, seed: int, number: int, drawn: plan.Round, folder: Path) -> None:
    print(f"\nround {number} FAILED: {error}\nreplay: make chaos SEED={seed} ROUND={number}\n"
          f"plan: {json.dumps(asdict(drawn))}", flush=True)
    for file in sorted((folder / "round").glob("*.err")):
        text = file.read_text(errors="replace").strip()
        if text:
            print(f"--- {file.name}\n{text[-3000:]}")


def tell_results(failures: list[str], rounds: int) -> None:
    """For scripts/run-parts."""
    if "TEST_RESULTS" in os.environ:
        with open(os.environ["TEST_RESULTS"], "a") as results:
            results.write("".join(f"failed {text}\n" for text in failures) + f"passed {rounds - len(failures)}\n")


def tell_summary(tally: Tally, counters: dict[str, int], seconds: float) -> None:
    rows = [("rounds", f"{tally.rounds} in {seconds:.0f} s, the slowest {tally.slowest_round_s:.1f} s"),
            ("kills", tally.kills), ("stops", tally.stops), ("services restarted", tally.restarts),
            ("versions published or retired", tally.published), ("fetches ok", f"{tally.fetched}, {tally.shared} shared"),
            ("fetches killed", tally.victims),
            *[(f"fetches failed: {cause}", count) for cause, count in sorted(tally.failed.items())],
            *[(f"exports retired: {reason}", count) for reason, count in tally.retired.items()],
            *[(text, counters.get(name, 0)) for name, text in COUNTERS.items()],
            ("longest overrun of a deadline", f"{tally.overrun_s:.3f} s")]
    for name, value in rows:
        print(f"  {name:32} {value}")


def run(arguments: argparse.Namespace, host: Host, tally: Tally) -> list[str]:
    offers = offers_of(arguments.build)
    numbers = range(arguments.rounds) if arguments.round is None else [arguments.round] * arguments.rounds
    failures = []
    for count, number in enumerate(numbers, 1):
        drawn = plan.draw(arguments.seed, number, offers)
        begin = time.monotonic()
        try:
            Play(host, drawn, tally).play()
        except (Wrong, subprocess.TimeoutExpired) as error:
            failures.append(f"round {number}: {str(error).splitlines()[0]} (make chaos SEED={arguments.seed} ROUND={number})")
            tell_failure(error, arguments.seed, number, drawn, host.folder)
            if not arguments.keep_going:
                tally.rounds += 1
                break
            host.doctor("--repair")
        tally.rounds += 1
        tally.slowest_round_s = max(tally.slowest_round_s, time.monotonic() - begin)
        if count % 10 == 0:
            print(f"  {count} of {len(numbers)} rounds, {tally.fetched} fetches ok", flush=True)
    return failures


def take_signals() -> None:
    """What nohup or a script's background ignores would be ignored by every program that is started here, and is among the
    ways in which a round ends them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def main() -> int:
    take_signals()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder of the programs (default: build)")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, which is printed")
    parser.add_argument("--round", type=int, default=None, help="play only this one, --rounds times")
    parser.add_argument("--keep-going", action="store_true", help="after a failed round too")
    arguments = parser.parse_args()
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1 << 32)
    arguments.build = arguments.build.resolve()
    namespace = f"chaos-{os.getpid()}"
    tally = Tally()
    begin = time.monotonic()
    # A short name: a Unix socket's path has 108 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="tpv-chaos-"))
    print(f"chaos: seed {arguments.seed}, {arguments.rounds} rounds", flush=True)
    try:
        environ = programs.environment(arguments.build, namespace, TPVIEW_CACHE_DIR=str(folder / "cache"))
        host = Host(arguments.build, environ, namespace, Contents(arguments.build, environ, folder), folder)
        print(f"  {len(host.contents.expected)} views expected, after {time.monotonic() - begin:.0f} s", flush=True)
        before = host.doctor()["table"]["counters"]
        failures = run(arguments, host, tally)
        after = host.doctor("--repair")["table"]["counters"]
        tell_results(failures, tally.rounds)
        tell_summary(tally, {name: after[name] - before[name] for name in after}, time.monotonic() - begin)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        programs.remove_lease_table(namespace)
    print(f"chaos: {f'{len(failures)} rounds FAILED' if failures else 'ok'}, seed {arguments.seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
