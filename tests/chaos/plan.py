"""What happens in one round, drawn from (seed, round) alone: the same pair gives the same plan again. Times are seconds
from the round's begin."""

import random
from dataclasses import dataclass, field

MB = 1 << 20
VIEWS = [(1, 0), (2, 0), (2, 1), (4, 0), (4, 1), (4, 2), (4, 3)]  # (tp_size, tp_rank)
# What a service may be asked to offer: label, and which contents it has. Two labels have the same contents.
LABELS = {"model@1": "first", "model@2": "second", "model@3": "third", "copy@1": "first", "model@10": "second"}


@dataclass
class Service:
    artifacts: list[str]  # labels that it offers from its start
    options: dict[str, str]
    end: str  # "SIGTERM", "SIGINT" or "SIGKILL"


@dataclass
class Rank:
    name: str
    start: float
    artifact: str  # NAME or NAME@VERSION
    tp_size: int
    tp_rank: int
    deadline: float | None
    options: list[str]
    shared: bool
    hold: float = 0  # so long after its start a shared view stays in use


@dataclass
class Publisher:
    name: str
    start: float
    verb: str  # "publish" or "retire"
    label: str


@dataclass
class Fault:
    at: float
    target: str  # "service", or the name of a rank or publisher
    kind: str  # "kill", "stop" or "restart" (of a killed service)
    seconds: float = 0  # how long a stop lasts


@dataclass
class Round:
    service: Service
    ranks: list[Rank]
    publishers: list[Publisher]
    faults: list[Fault]
    looks: list[float] = field(default_factory=list)  # the doctor looks on


def _service(random: random.Random, offers: frozenset[str]) -> Service:
    options = {"--drain": random.choice(["0.1", "0.5", "2"]), "--lease-ttl": random.choice(["0.3", "1", "5"])}
    if "--threads" in offers:
        options["--threads"] = random.choice(["1", "2", "3"])
    if "--budget" in offers:
        # From "hardly one view's staging" to "all of them".
        options["--budget"] = str(random.choice([5, 6, 8, 16, 24, 48, 400]) * MB)
    if "--export-ttl" in offers:
        options["--export-ttl"] = random.choice(["0.05", "0.3", "1", "30"])
    if "--max-fetches" in offers and random.random() < 0.15:
        options["--max-fetches"] = random.choice(["1", "3"])
    artifacts = random.choice([["model@1"], ["model@1", "model@2"], ["model@1", "model@2", "copy@1"], ["model@10", "copy@1"]])
    return Service(artifacts, options, random.choices(["SIGTERM", "SIGINT", "SIGKILL"], [5, 1, 4])[0])


def _rank(random: random.Random, number: int, window: float, service: Service, offers: frozenset[str]) -> Rank:
    tp_size, tp_rank = random.choice([VIEWS[0], VIEWS[0], *VIEWS])
    # Mostly what is there; sometimes a version that comes or goes during the round.
    there = [label for label in service.artifacts for _ in range(3)]
    artifact = random.choice([*["model"] * 4, *there, random.choice(list(LABELS))])
    options = ["--chunk", random.choice(["4K", "4K", "8K", "16K", "64K", "1M"]), "--comms", random.choice(["1", "1", "2", "3"])]
    if "--no-fallback" in offers and random.random() < 0.3:
        options.append("--no-fallback")
    deadline = random.choices([None, 0.15, 0.6, 1.5, 3.0], [2, 1, 3, 4, 5])[0]
    shared = "--shared" in offers and random.random() < 0.5
    hold = random.uniform(0, 1.5) if shared and random.random() < 0.3 else 0
    start = random.uniform(0, 0.6 * window)
    return Rank(f"rank{number}", start, artifact, tp_size, tp_rank, deadline, options, shared, hold)


def _fault(random: random.Random, target: str, start: float) -> Fault:
    # Most fetches take 50 to 300 ms.
    at = start + random.choice([random.uniform(0, 0.05), random.uniform(0, 0.3), random.uniform(0, 0.3), random.uniform(0, 1)])
    if random.random() < 0.55:
        return Fault(at, target, "kill")
    return Fault(at, target, "stop", random.choice([0.02, 0.2, 0.7, random.uniform(0, 2.0)]))


def _make_replicas(random: random.Random, ranks: list[Rank], window: float) -> list[Fault]:
    """Let all ask for the same view at the same time; half of the time the first dies in mid-fetch."""
    first = ranks[0]
    for rank in ranks[1:]:
        rank.artifact, rank.tp_size, rank.tp_rank = first.artifact, first.tp_size, first.tp_rank
        rank.start = min(window, first.start + random.uniform(0, 0.05))
        rank.shared, rank.hold = first.shared, rank.hold if first.shared else 0
    if random.random() < 0.5:
        return []
    first.options[1] = "4K"
    return [Fault(first.start + random.uniform(0.02, 0.25), first.name, "kill")]


def _publisher(random: random.Random, number: int, window: float, service: Service) -> Publisher:
    verb = random.choice(["publish", "publish", "retire"])
    label = random.choice(list(LABELS) if verb == "publish" else [*LABELS, *service.artifacts])
    return Publisher(f"publisher{number}", random.uniform(0, window), verb, label)


def _service_faults(random: random.Random, window: float) -> list[Fault]:
    if random.random() < 0.15:  # it hardly gets on
        return [Fault(0.45 * i, "service", "stop", 0.4) for i in range(random.randint(3, 9))]
    fault = _fault(random, "service", random.uniform(0, window))
    if fault.kind == "stop":
        return [fault]
    return [fault, Fault(fault.at + random.choice([0.0, 0.1, 0.4]), "service", "restart")]


def draw(seed: int, number: int, offers: frozenset[str]) -> Round:
    """`offers`: options of the programs of this build, such as "--budget" and "publish"."""
    source = random.Random(f"{seed}/{number}")
    window = source.choice([0.4, 0.8, 1.2])
    service = _service(source, offers)
    ranks = [_rank(source, i, window, service, offers) for i in range(source.randint(2, 7))]
    faults = _make_replicas(source, ranks, window) if source.random() < 0.4 else []
    publishers = []
    if "publish" in offers:
        publishers = [_publisher(source, i, window, service) for i in range(source.choice([0, 1, 2, 4]))]
    faults += [_fault(source, rank.name, rank.start) for rank in ranks if source.random() < 0.45]
    faults += [_fault(source, one.name, one.start) for one in publishers if source.random() < 0.3]
    for _ in range(source.choice([0, 0, 1, 1, 2])):
        faults += _service_faults(source, window)
    looks = [source.uniform(0, window) for _ in range(source.randint(0, 3))]
    return Round(service, ranks, publishers, sorted(faults, key=lambda fault: fault.at), sorted(looks))
