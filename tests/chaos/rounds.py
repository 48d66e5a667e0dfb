"""Plays one round and checks what it leaves."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import plan
from actors import Actor, end_all, of_namespace, wait_ended
from contents import Contents, read_view

SLACK_S = 2.0  # what a loaded machine may take beyond a deadline
PUBLISH_S = 5  # the deadline of a publisher
SHARED_TTL_S = 1  # of shared views, the least
PATIENCE_S = 20.0  # for what has no deadline of its own
# Causes that no death, stop, deadline, tiny budget or change of versions explains.
FORBIDDEN = {"internal", "digest", "format", "argument", "plan", "permission", "unsupported", "no_space"}


class Wrong(Exception):
    """A promise that was not kept, in one line."""


@dataclass
class Tally:
    """What all rounds together saw."""

    rounds: int = 0
    kills: int = 0
    stops: int = 0
    restarts: int = 0
    published: int = 0
    fetched: int = 0
    shared: int = 0
    victims: int = 0  # ranks that were killed
    failed: dict[str, int] = field(default_factory=dict)  # by cause
    retired: dict[str, int] = field(default_factory=dict)  # exports, by reason, of services that lived to tell
    overrun_s: float = 0
    slowest_round_s: float = 0


class Host:
    """What all rounds share: programs, contents, the lease table."""

    def __init__(self, build: Path, environ: dict[str, str], namespace: str, contents: Contents, folder: Path):
        self.build, self.environ, self.namespace = build, environ, namespace
        self.contents, self.folder = contents, folder

    def program(self, name: str) -> str:
        return str(self.build / "bin" / name)

    def run(self, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run(list(command), env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=PATIENCE_S)

    def doctor(self, *options: str) -> dict:
        done = self.run(self.program("tpview"), "doctor", "--json", *options)
        if done.returncode not in (0, 1) or done.stderr:
            raise Wrong(f"tpview doctor ended with exit code {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def shared_files(self) -> set[str]:
        return {file.name for file in Path("/dev/shm").glob(f"tpview-{self.namespace}-*")}


class Play:
    """One round, from its plan to its checks."""

    def __init__(self, host: Host, plan_: plan.Round, tally: Tally):
        self.host, self.plan, self.tally = host, plan_, tally
        self.folder = host.folder / "round"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.socket = self.folder / "s"
        self.services: list[Actor] = []  # the last one is the present one
        self.ranks: dict[str, Actor] = {}
        self.publishers: dict[str, Actor] = {}
        self.service_continued = 0.0
        self.begin = 0.0

    # ---- playing ----

    def play(self) -> None:
        try:
            self._start_service()
            self._wait_ready()
            self.begin = time.monotonic()
            self._run_events()
            self._wait_ranks()
            self._check_ranks()
            self._wait_publishers()
            self._end_service()
            self._check_table()
        finally:
            end_all([*self.services, *self.ranks.values(), *self.publishers.values()])
        left = of_namespace(self.host.namespace)
        if left:
            raise Wrong(f"processes {left} are left")

    def _start_service(self) -> None:
        service = self.plan.service
        options = [word for option in service.options.items() for word in option]
        offers = [self.host.contents.definition(label) for label in service.artifacts]
        command = [self.host.program("tpviewd"), *offers, "--unix", str(self.socket), *options]
        self.services.append(Actor(f"service{len(self.services)}", command, self.host.environ, self.folder))

    @property
    def service(self) -> Actor:
        return self.services[-1]

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while "tpviewd: ready" not in self.service.answered():
            if wait_ended([self.service], time.monotonic() + 0.005) or time.monotonic() > deadline:
                raise Wrong(f"the service was not ready: {self.service.said().strip()}")

    def _start_rank(self, rank: plan.Rank) -> None:
        deadline = [] if rank.deadline is None else ["--deadline", str(rank.deadline)]
        shared = ["--shared", "--ttl", str(SHARED_TTL_S)] if rank.shared else []
        shared += ["--hold"] if rank.hold else []
        command = [self.host.program("tpview"), "fetch", "--source", f"unix:{self.socket}", "--artifact", rank.artifact,
                   "--tp-size", str(rank.tp_size), "--tp-rank", str(rank.tp_rank), *rank.options, *deadline, *shared,
                   "--out", str(self._file(rank)), "--json"]
        self.ranks[rank.name] = Actor(rank.name, command, self.host.environ, self.folder, hold=rank.hold > 0)

    def _start_publisher(self, one: plan.Publisher) -> None:
        what = self.host.contents.definition(one.label) if one.verb == "publish" else one.label
        command = [self.host.program("tpview"), one.verb, what, "--source", f"unix:{self.socket}", "--deadline", str(PUBLISH_S)]
        self.publishers[one.name] = Actor(one.name, command, self.host.environ, self.folder)

    def _file(self, rank: plan.Rank) -> Path:
        return self.folder / f"{rank.name}.safetensors"

    def _target(self, name: str) -> Actor | None:
        return self.service if name == "service" else self.ranks.get(name) or self.publishers.get(name)

    def _fault(self, fault: plan.Fault, events: list) -> None:
        if fault.kind == "restart":
            if self.service.killed:
                self._start_service()
                self.tally.restarts += 1
            return
        actor = self._target(fault.target)
        if actor is None:
            return
        if fault.kind == "kill":
            self.tally.kills += actor.signal(signal.SIGKILL)
            wait_ended([actor], time.monotonic() + PATIENCE_S)  # a restart must not find it alive
        elif not actor.stopped and actor.signal(signal.SIGSTOP):
            self.tally.stops += 1
            at = time.monotonic() - self.begin + fault.seconds
            events.append((at, lambda: self._continue(actor)))
            events.sort(key=lambda event: event[0])

    def _continue(self, actor: Actor) -> None:
        if actor.signal(signal.SIGCONT) and actor in self.services:
            self.service_continued = time.monotonic()

    def _look(self) -> None:
        """The table is right at every instant, whoever has just died or stands still."""
        for finding in self.host.doctor()["findings"]:
            if finding["kind"] != "dead_process":
                raise Wrong(f"in the middle of the round: {finding['text']}")

    def _run_events(self) -> None:
        events: list = [(rank.start, lambda rank=rank: self._start_rank(rank)) for rank in self.plan.ranks]
        events += [(one.start, lambda one=one: self._start_publisher(one)) for one in self.plan.publishers]
        events += [(rank.start + rank.hold, lambda rank=rank: self.ranks[rank.name].let_go()) for rank in self.plan.ranks
                   if rank.hold]
        events += [(at, self._look) for at in self.plan.looks]
        events += [(fault.at, lambda fault=fault: self._fault(fault, events)) for fault in self.plan.faults]
        events.sort(key=lambda event: event[0])
        while events:
            at, action = events.pop(0)
            time.sleep(max(0.0, self.begin + at - time.monotonic()))
            action()

    # ---- ranks ----

    def _limit(self, rank: plan.Rank, actor: Actor) -> float:
        """When it must have ended. While it stands still it can do nothing."""
        own = max(actor.began, actor.continued or 0)
        if rank.deadline is not None:
            return max(actor.began + max(rank.deadline, rank.hold), actor.continued or 0)
        return max(own, self.service_continued, self.service.began) + PATIENCE_S

    def _wait_ranks(self) -> None:
        for rank in self.plan.ranks:
            actor = self.ranks[rank.name]
            limit = self._limit(rank, actor)
            if not wait_ended([actor], limit + SLACK_S):
                raise Wrong(f"{rank.name} has not ended {SLACK_S:g} s after its deadline of {rank.deadline} s")
            if rank.deadline is not None and not actor.killed:
                self._check_overrun(rank, actor.ended - limit)

    def _check_overrun(self, rank: plan.Rank, overrun: float) -> None:
        self.tally.overrun_s = max(self.tally.overrun_s, overrun)
        if overrun > SLACK_S:
            raise Wrong(f"{rank.name} ended {overrun:.3f} s after its deadline of {rank.deadline} s")

    def _check_ranks(self) -> None:
        for rank in self.plan.ranks:
            actor, file = self.ranks[rank.name], self._file(rank)
            artifact_id = self._check_bytes(rank, file) if file.exists() else None
            if actor.killed:
                self.tally.victims += 1
                continue
            if file.with_name(f"{file.name}.partial").exists():
                raise Wrong(f"{rank.name} ended with exit code {actor.code} and left its partial file")
            if actor.code == 0:
                self._check_success(rank, actor, artifact_id)
            else:
                self._check_failure(rank, actor, artifact_id)

    def _check_bytes(self, rank: plan.Rank, file: Path) -> str:
        """Whoever wrote it and whatever became of him: under this name there is a whole file. Returns its artifact_id."""
        try:
            artifact_id, digest = read_view(file)
        except ValueError as error:
            raise Wrong(f"{rank.name}: {file.name} is no whole file: {error}") from error
        if digest != self.host.contents.expected.get((artifact_id, rank.tp_size, rank.tp_rank)):
            raise Wrong(f"{rank.name}: the bytes of {file.name} are wrong")
        file.unlink()  # hundreds of them would fill a disk
        return artifact_id

    def _check_success(self, rank: plan.Rank, actor: Actor, artifact_id: str | None) -> None:
        if artifact_id is None:
            raise Wrong(f"{rank.name} ended with exit code 0 without its file")
        result = json.loads(actor.answered())
        if result["artifact_id"] != artifact_id:
            raise Wrong(f"{rank.name}: result and file name different artifacts")
        name, _, version = rank.artifact.partition("@")
        if result["artifact"].partition("@")[0] not in (name, "copy", "model") or (
                version and not self._same_contents(rank.artifact, result["artifact"])):
            raise Wrong(f"{rank.name} asked for {rank.artifact} and got {result['artifact']}")
        self.tally.fetched += 1
        self.tally.shared += rank.shared

    @staticmethod
    def _same_contents(one: str, other: str) -> bool:
        return plan.LABELS[one] == plan.LABELS[other]

    def _check_failure(self, rank: plan.Rank, actor: Actor, artifact_id: str | None) -> None:
        lines = [line for line in actor.said().splitlines() if not re.match(r"\S+ tpview \d+ (WARN|INFO) ", line)]
        if actor.code != 1 or len(lines) != 1 or not lines[0].startswith("tpview: "):
            raise Wrong(f"{rank.name} ended with exit code {actor.code} and said {actor.said()!r}")
        cause = json.loads(actor.answered())["error"]["status"]
        if cause in FORBIDDEN:
            raise Wrong(f"{rank.name} failed for a reason that nobody gave: {cause}: {lines[0]}")
        if cause == "deadline" and rank.deadline is None:
            raise Wrong(f"{rank.name} has no deadline and failed with one: {lines[0]}")
        if cause == "deadline" and actor.ended < actor.began + rank.deadline:
            raise Wrong(f"{rank.name} failed with its deadline before that had passed: {lines[0]}")
        if artifact_id is not None:
            raise Wrong(f"{rank.name} failed and left its file")
        self.tally.failed[cause] = self.tally.failed.get(cause, 0) + 1

    # ---- publishers and the service ----

    def _wait_publishers(self) -> None:
        for actor in self.publishers.values():
            limit = max(actor.began + PUBLISH_S, actor.continued or 0)
            if not wait_ended([actor], limit + SLACK_S):
                raise Wrong(f"{actor.name} has not ended {SLACK_S:g} s after its deadline of {PUBLISH_S} s")
            # 2: what it asks for is wrong by now, such as a version that is offered already.
            if not actor.killed and (actor.code not in (0, 1, 2) or len(actor.said().splitlines()) != min(actor.code, 1)):
                raise Wrong(f"{actor.name} ended with exit code {actor.code} and said {actor.said()!r}")
            self.tally.published += actor.code == 0

    def _end_service(self) -> None:
        for actor in self.services:
            if not actor.runs and not actor.killed:
                raise Wrong(f"{actor.name} ended by itself with exit code {actor.code}: {actor.said()[-2000:]}")
        if self.service.killed:
            return
        self._wait_ready()
        self._wait_leases_gone()
        self._take_metrics()
        end = signal.Signals[self.plan.service.end]
        limit = time.monotonic() + float(self.plan.service.options["--drain"]) + 4 + PATIENCE_S
        self.service.signal(end)
        if not wait_ended([self.service], limit):
            raise Wrong(f"{self.service.name} did not end after {end.name}")
        if end == signal.SIGKILL:
            return
        if self.service.code != 0:
            raise Wrong(f"{self.service.name} ended with exit code {self.service.code}: {self.service.said()[-2000:]}")
        if self.socket.exists():
            raise Wrong("the service left its socket")
        if not any(rank.shared for rank in self.plan.ranks):  # ranks that share clean up after each other
            self._check_clean(self.host.doctor(), "after the service has ended")

    def _wait_leases_gone(self) -> None:
        """A living service gives every lease back as soon as its rank is gone."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            done = self.host.run(self.host.program("tpview"), "leases", "--json")
            leases = [lease for lease in json.loads(done.stdout)["leases"] if lease["pid"] == self.service.pid]
            if not leases:
                return
            if time.monotonic() > deadline:
                raise Wrong(f"every rank has ended and {len(leases)} leases are left")
            time.sleep(0.01)

    def _take_metrics(self) -> None:
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE_S)
        connection.sock.connect(str(self.socket))
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        for reason, count in re.findall(r'^tpview_exports_retired_total\{reason="(\w+)"\} (\d+)$', text, re.M):
            self.tally.retired[reason] = self.tally.retired.get(reason, 0) + int(count)
        numbers = dict(re.findall(r"^(tpview_\w+) (\d+)$", text, re.M))
        budget, peak = (int(numbers.get(f"tpview_budget_{name}bytes", 0)) for name in ("", "peak_"))
        if peak > budget:
            raise Wrong(f"export cache and staging took {peak} bytes of a budget of {budget}")
        if int(numbers["tpview_fetches_active"]) > 0:
            raise Wrong(f"every rank has ended and {numbers['tpview_fetches_active']} fetches are active")

    # ---- the table ----

    def _check_clean(self, report: dict, when: str) -> None:
        if report["findings"]:
            raise Wrong(f"{when}: {report['findings'][0]['text']}")
        table = report["table"]
        left = [f"{count} {kind} {state}" for kind in ("exports", "leases") for state, count in table[kind].items() if count]
        if left or table["processes"]:
            raise Wrong(f"{when} the table still has {', '.join(left)} {table['processes'] or ''}")

    def _check_table(self) -> None:
        """One sweep takes back what the dead held. What is there to stay for a time goes with the first sweep after it:
        shared views, and failures that must not be tried again at once."""
        deadline = time.monotonic() + SHARED_TTL_S + SLACK_S
        while True:
            swept = self.host.doctor("--repair")
            if swept["repaired"] or swept["findings"]:
                raise Wrong(f"after the sweep: {[*swept['repaired'], *swept['findings']][0]['text']}")
            table = swept["table"]
            stays = any(rank.shared for rank in self.plan.ranks) and not any(table["leases"].values()) and not any(
                count for state, count in table["exports"].items() if state not in ("ready", "failed"))
            if not stays or time.monotonic() > deadline or not any(table["exports"].values()):
                break
            time.sleep(0.05)
        self._check_clean(self.host.doctor(), "after one sweep")
        files = self.host.shared_files()
        if files != {f"tpview-{self.host.namespace}-{os.geteuid()}"}:
            raise Wrong(f"in /dev/shm there are {sorted(files)}")
