"""A model's weights in one call: plan, fetch into host staging, verify, then all ranks of the group switch or none."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, Union

import torch

from ..errors import PlanError, UsageError
from ..job import Result
from ..layout import Layout
from ..manifest import Manifest
from ..plan import Plan
from ..source import Source, connect
from .group import rank_and_size, same, together
from .record import Loader, Recorded, record
from .stages import Stages
from .tensors import dtype_name, dtype_of, empty, tensors

__all__ = ["Loaded", "load_weight_remote", "update_weight_remote"]

log = logging.getLogger("tpview")

_MIXED = "some weights may be new and others old: load them anew on all ranks"

Model = Union[torch.nn.Module, Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Loaded:
    """How it went on this rank.

    label:    NAME@VERSION that the model now has; artifact_bytes: of all its tensors.
    result:   of the fetch.
    stages:   seconds each of "plan", "fetch", "agree", "install".
    whole:    tensors that the model's loader took whole.
    recorded: slices that were recorded, for the next call; None with a tensor-parallel layout.
    """

    label: str
    artifact_bytes: int
    result: Result
    stages: Dict[str, float]
    whole: tuple
    recorded: Optional[Recorded]


def load_weight_remote(model: Model, source: Union[Source, str, Sequence[str], None], artifact: str, *,
                       version: Union[str, int, None] = None, group: Optional[Any] = None, layout: Optional[Layout] = None,
                       load_weights: Optional[Loader] = None, recorded: Optional[Recorded] = None,
                       deadline: Optional[float] = None, strict: bool = True, staging: str = "host",
                       connection: Optional[Mapping[str, Any]] = None) -> Loaded:
    """Fill the parameters of `model` in place with this rank's share of an artifact.

    model:        a module, or a dict of name -> tensor: CPU tensors or DTensors, of which the local shard is filled.
    source:       a Source, or an address, a list of them or None for connect(). In a group, give the address: a rank that
                  cannot connect then makes every rank raise at once.
    artifact, version: as Source.manifest takes them.
    group:        process group that says rank and size; None: the default group, or one rank.
    layout:       what this rank needs, with outputs named as the parameters. None: recorded from `load_weights` if it is
                  given, else Layout.tp(rank, size).
    load_weights: the model's own loader, which takes an iterator of (name, tensor): its slices are recorded
                  (tpview.torch.record), so it may fuse and leave out whatever it likes. The parameters may be written to
                  while it is recorded: give it for a model that is not in use yet, or give `recorded` with it.
    recorded:     what an earlier call returned for a model of the same class, rank and size and the same index.
    deadline:     seconds for the fetch; votes of the group wait as long as the group's own time-out.
    strict:       every parameter must get a value.
    staging:      "host": host memory of this rank's share is taken until the call ends, and nothing of the model changes
                  before every rank has fetched and verified all of its share; then all ranks switch. When any rank fails
                  before the switch, every rank raises and the old weights stay; when one fails in it (its loader
                  raises, say), every rank raises and the weights of all are to be loaded anew: some are new by then.
                  "none": bytes go straight into CPU parameters as they arrive, without a copy and without memory but
                  for what the loader takes whole and for parameters of another device; when any rank fails in the
                  fetch or after it, every rank raises and the weights of all are to be loaded anew.
    connection:   further arguments of connect() for an address: token_file, timeout, ...

    Raises PlanError for names, shapes and dtypes that do not fit (nothing has changed then), and what Job.wait raises."""
    stages = Stages()
    rank, size = rank_and_size(group)
    with contextlib.ExitStack() as opened:

        def prepare() -> Tuple[Source, Manifest, _Prepared]:
            if staging not in ("host", "none"):
                raise UsageError(f"staging={staging!r}: expected \"host\" or \"none\"", stage="plan")
            service = source if isinstance(source, Source) else opened.enter_context(connect(source, **(connection or {})))
            manifest = service.manifest(artifact, version)
            return service, manifest, _prepare(model, manifest, layout, load_weights, recorded, rank, size, strict)

        service, manifest, prepared = together("plan", prepare, group, stages)
        stages.timed("agree", lambda: same("artifact and plan", _identity(manifest, layout, size), group))

        def fetch() -> Tuple[Result, Mapping[str, torch.Tensor]]:
            memory, values = _destination(prepared, staging)
            with service.fetch(prepared.plan, into=memory, deadline=deadline) as job:
                result = job.wait()
            return result, values()

        result, fetched = together("fetch", fetch, group, stages, _MIXED if staging == "none" else "")
        together("install", lambda: prepared.install(fetched), group, stages, _MIXED)

    whole = tuple(prepared.recorded.whole) if prepared.recorded else ()
    loaded = Loaded(result.label, manifest.bytes, result, dict(stages), whole, prepared.recorded)
    log_loaded(loaded, service, rank, size)
    return loaded


def update_weight_remote(model: Model, source: Union[Source, str, Sequence[str], None], artifact: str, *,
                         version: Union[str, int], **options: Any) -> Loaded:
    """load_weight_remote of exactly `version` into a model that is in use: the old weights stay on every rank unless all
    ranks have the new ones whole and verified. `options` are load_weight_remote's; a model with a loader of its own needs
    `recorded` from its first load, as recording may write to parameters. The switch itself copies parameter by parameter:
    pause generation around it, or call this where no forward pass runs."""
    if options.get("staging", "host") != "host":
        raise UsageError("an update keeps the old weights until all ranks have the new ones: it needs staging=\"host\"",
                         stage="plan")
    if options.get("load_weights") is not None and options.get("recorded") is None:
        raise UsageError("update_weight_remote of a model with a loader wants the slices that its first load recorded",
                         stage="plan")
    return load_weight_remote(model, source, artifact, version=version, **options)


@dataclass
class _Prepared:
    plan: Plan
    places: Sequence[Tuple[str, torch.Tensor]]  # where outputs of the plan go; some go to several
    install: Callable[[Mapping[str, torch.Tensor]], None]  # of all outputs; those that are in their place already stay
    recorded: Optional[Recorded]


def log_loaded(loaded: Loaded, source: Source, rank: int, size: int) -> None:
    """One line a rank."""
    result = loaded.result
    log.info("rank %d of %d: %s, %d bytes in %.2f s (%.2f GB/s) from %s, export %s, wire/needed %.5f, %d tensors whole",
             rank, size, result.label, result.needed_bytes, result.seconds, result.gigabytes_per_second, source.address,
             result.export, result.wire_bytes / result.needed_bytes if result.needed_bytes else 1.0, len(loaded.whole))


def _destination(prepared: _Prepared, staging: str) -> Tuple[Any, Callable[[], Mapping[str, torch.Tensor]]]:
    """(what to fetch into, what gives the outputs and aliases as tensors once the fetch has ended)."""
    plan = prepared.plan
    if staging == "host":
        memory = empty(plan)
        return memory, lambda: tensors(plan, memory)  # not before: some are copies
    places = _in_place(prepared.places)
    into = {name: places[name] if name in places else torch.empty(output.shape, dtype=dtype_of(output.dtype, name))
            for name, output in plan.outputs.items()}
    return into, lambda: {**into, **{name: into[target] for name, target in plan.aliases.items()}}


def _extent(tensor: torch.Tensor) -> tuple:
    """(begin, end) of its elements in memory, with what lies between them."""
    spans = [(size - 1) * stride * tensor.itemsize for size, stride in zip(tensor.shape, tensor.stride())]
    return (tensor.data_ptr() + sum(min(span, 0) for span in spans),
            tensor.data_ptr() + sum(max(span, 0) for span in spans) + tensor.itemsize)


def _in_place(places: Sequence[Tuple[str, torch.Tensor]]) -> Dict[str, torch.Tensor]:
    """The first place of each output that may be written to in any order, element by element: in memory of the host, each
    element once, and no place of it shares memory with another (a loader that writes twice means its last values). One
    output at one place twice (tied weights) is no other place."""
    apart = {(name, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()): tensor for name, tensor in places
             if tensor.device.type == "cpu" and tensor.numel() > 0}
    shared, last, last_end = set(), "", 0
    for (begin, end), name in sorted((_extent(tensor), key[0]) for key, tensor in apart.items()):
        if begin < last_end:
            shared |= {last, name}
        if end > last_end:
            last, last_end = name, end
    firsts: Dict[str, torch.Tensor] = {}
    for (name, *_), tensor in apart.items():
        if name not in shared and not any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride())):
            firsts.setdefault(name, tensor)
    return firsts


def _identity(manifest: Manifest, layout: Optional[Layout], size: int) -> tuple:
    """What all ranks must have in common. Slices given one by one differ from rank to rank."""
    rules = layout._text if layout and not layout._explicit else None
    return (manifest.artifact_id, size, layout.fuse if layout else False,
            hashlib.sha256(rules).hexdigest() if rules else "")


def _prepare(model, manifest, layout, load_weights, recorded, rank, size, strict) -> _Prepared:
    parameters = _local_tensors(model)
    if layout is None and load_weights is not None:
        recorded = recorded or record(load_weights, manifest, parameters)
        plan = manifest.plan(recorded.layout(manifest, rank=rank, size=size))
        places = recorded.places(parameters)
        return _Prepared(plan, places, lambda fetched: recorded.install(fetched, parameters, load_weights), recorded)
    plan = manifest.plan(layout or Layout.tp(rank, size))
    pairs = _match(plan, parameters, strict)

    def install(fetched: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in pairs.items():
                if fetched[name] is not parameter:
                    parameter.copy_(fetched[name])

    places = [(plan.aliases.get(name, name), parameter) for name, parameter in pairs.items()]
    return _Prepared(plan, places, install, None)


def _local_tensors(model: Model) -> Dict[str, torch.Tensor]:
    named = model if isinstance(model, Mapping) else model.state_dict(keep_vars=True)
    return {name: (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach() for name, tensor in named.items()}


def _match(plan: Plan, parameters: Mapping[str, torch.Tensor], strict: bool) -> Dict[str, torch.Tensor]:
    """The parameter for each output. Raises PlanError before anything moves."""
    pairs: Dict[str, torch.Tensor] = {}
    names = {**{name: name for name in plan.outputs}, **plan.aliases}
    for name, target in names.items():
        output, parameter = plan.outputs[target], parameters.get(name)
        if parameter is None:
            if name in plan.aliases:
                continue
            raise PlanError(f"{name}: the artifact has it, the model has no parameter of that name", stage="plan", tensor=name)
        if tuple(parameter.shape) != output.shape or dtype_name(parameter.dtype, name) != output.dtype:
            raise PlanError(f"{name}: the model has {dtype_name(parameter.dtype, name)} {list(parameter.shape)}, this rank's "
                            f"slice is {output.dtype} {list(output.shape)}", stage="plan", tensor=name)
        pairs[name] = parameter
    if strict:
        filled = {parameter.untyped_storage()._cdata for parameter in pairs.values()}
        left = [name for name, tensor in parameters.items()
                if name not in pairs and tensor.untyped_storage()._cdata not in filled]
        if left:
            raise PlanError(f"{left[0]}: the model has it, the artifact does not ({len(left)} such parameters and buffers; "
                            "strict=False leaves them as they are)", stage="plan", tensor=left[0])
    return pairs
