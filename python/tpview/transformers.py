"""Hugging Face transformers: a model from a source instead of from files.

transformers' own loader is the plan: it is run twice, over tensors that are not there. The first time it says which
parts of which tensors this rank's model is made of, under its tensor-parallel plan if it has one; exactly these are
fetched; the second time it gets them. So every model, conversion and plan that from_pretrained knows is served.
Written for transformers 5, whose loader reads slices of safetensors files through get_slice.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import threading
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Union

import torch

from .errors import PlanError, UnsupportedError, UsageError
from .job import Result
from .layout import Layout, Slice
from .manifest import Manifest, TensorInfo
from .source import Source, connect
from .torch.group import rank_and_size, same, together
from .torch.record import Box
from .torch.stages import Stages
from .torch.tensors import dtype_of
from .torch.weights import Loaded, log_loaded

__all__ = ["Update", "from_pretrained", "prefetch_update", "update_pretrained"]

_MINIMUM = (5, 0)
_REFUSED = ("state_dict", "pretrained_model_name_or_path", "device_map", "gguf_file", "output_loading_info")


class _Lazy:
    """What transformers takes for a tensor of a safetensors file: shape and dtype are known, values come by indexing."""

    def __init__(self, info: TensorInfo, slices: "_Slices"):
        self.name, self.shape, self.dtype = info.name, info.shape, dtype_of(info.dtype, info.name)
        self._info, self._slices = info, slices

    def get_shape(self) -> list:
        return list(self.shape)

    def get_dtype(self) -> str:
        return self._info.dtype

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Any) -> torch.Tensor:
        whole = torch.empty(self.shape, dtype=self.dtype, device="meta")
        part = whole[index]
        if part.untyped_storage()._cdata != whole.untyped_storage()._cdata:
            raise UnsupportedError(f"{self.name}: transformers asked for elements of it by a list, a tensor or a mask, which is "
                                   "no slice: load this model from its files", stage="plan", tensor=self.name)
        return self._slices.take(self, Box.of(part))


class _Slices:
    """The parts that the loader has asked for, and their values once they are there. The loader asks from several threads:
    all under the lock."""

    def __init__(self, names: Dict[Tuple[str, Box], str]):
        self._lock = threading.Lock()
        self.names = names
        self.values: Optional[Dict[str, torch.Tensor]] = None  # by the output's name; None while they are recorded
        self._taken: Set[str] = set()

    def state_dict(self, manifest: Manifest) -> Dict[str, _Lazy]:
        return {name: _Lazy(info, self) for name, info in manifest.items()}

    def take(self, lazy: _Lazy, box: Box) -> torch.Tensor:
        with self._lock:
            if self.values is None:
                self.names.setdefault((lazy.name, box), f"{lazy.name}#{len(self.names)}")
                # One element stands for all: a model made of these has no memory of its own.
                return torch.zeros((), dtype=lazy.dtype).expand(box.sizes)
            name = self.names.get((lazy.name, box))
            if name is None:
                raise PlanError(f"{lazy.name}: transformers asked for another part of it than the first time", stage="install",
                                tensor=lazy.name)
            # A value becomes a parameter's memory: a second taker, if any, gets a copy.
            value = self.values[name].clone() if name in self._taken else self.values[name]
            self._taken.add(name)
            return value

    def layout(self, manifest: Manifest, rank: int, size: int) -> Layout:
        if not self.names:
            raise PlanError(f"{manifest.label}: the model has no parameter of which it has a tensor", stage="plan")
        outputs: List[tuple] = [(name, manifest[tensor].dtype, box.sizes, [Slice(tensor, box.sizes, box.strides, box.offset)])
                                for (tensor, box), name in self.names.items()]
        return Layout.slices(outputs, rank=rank, size=size)


def _config_of(config: Any) -> Any:
    import transformers

    if tuple(map(int, transformers.__version__.split(".")[:2])) < _MINIMUM:
        raise UnsupportedError(f"transformers {transformers.__version__}: tpview.transformers wants 5.0 or later", stage="plan")
    if isinstance(config, (str, os.PathLike)):
        return transformers.AutoConfig.from_pretrained(config)
    return config


def _class_of(cls: type, config: Any) -> Tuple[type, Any]:
    """The model class that an Auto class makes of a configuration, and the configuration that the model has; others as they
    are. An Auto class's own from_pretrained wants a name or folder with weights."""
    if not hasattr(cls, "from_config"):
        return cls, config
    with torch.device("meta"):
        model = cls.from_config(config)
    return type(model), model.config


@functools.lru_cache(maxsize=None)
def _noting(cls: type) -> type:
    """cls, of which a model notes the names that a load finds no value for. What from_pretrained returns as missing_keys
    is no more than what the user is to be told: a model's _keys_to_ignore_on_load_missing are taken out of it, at last.
    The call of tie_weights before that has them all, and takes out those that get the value of another."""
    import transformers

    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise UsageError(f"{getattr(cls, '__name__', cls)}: expected a model class of transformers", stage="plan")

    class Noting(cls):
        __module__, __qualname__, __doc__ = cls.__module__, cls.__qualname__, cls.__doc__
        can_generate = cls.can_generate  # which tells by the names of the base classes

        def tie_weights(self, *args: Any, **options: Any) -> None:
            super().tie_weights(*args, **options)
            if options.get("missing_keys") is not None:
                self._tpview_missing = set(options["missing_keys"])

    Noting.__name__ = cls.__name__  # conversions, reports and saved configurations go by it
    return Noting


def from_pretrained(cls: type, source: Union[Source, str, Sequence[str], None], artifact: str, *, config: Any,
                    version: Union[str, int, None] = None, group: Optional[Any] = None, deadline: Optional[float] = None,
                    **options: Any) -> Any:
    """cls.from_pretrained with the weights of an artifact: each rank fetches only what its model is made of.

    cls:      a model class, such as transformers.AutoModelForCausalLM or Qwen3ForCausalLM.
    source:   a Source, or an address, a list of them or None for connect(). In a group, give the address: a rank that
              cannot connect then makes every rank raise at once.
    artifact, version: as Source.manifest takes them.
    config:   a transformers configuration, or a folder with config.json: the source has no such file.
    group:    process group of the ranks; None: the default group, or one rank.
    deadline: seconds for the fetch.
    options:  go to cls.from_pretrained: distributed_config=DistributedConfig(tp_size=N), dtype, attn_implementation, ...

    Returns the model. Its attribute `tpview_loaded` (a tpview.torch.Loaded) says how it went. When any rank fails, every
    rank raises: PlanError, what Job.wait raises, or what transformers raises. The model's memory is all that is taken."""
    recipe = _Recipe(cls, config, options)
    made = _make(recipe, source, artifact, version, group, deadline)
    made.model.tpview_loaded, made.model._tpview_recipe = made.loaded, recipe
    return made.model


def update_pretrained(model: Any, source: Union[Source, str, Sequence[str], None], artifact: str, *,
                      version: Union[str, int], group: Optional[Any] = None, deadline: Optional[float] = None) -> Loaded:
    """prefetch_update and install in one: exactly `version` into a model of from_pretrained that is in use, on all ranks or
    on none. Call it where no forward pass runs."""
    return prefetch_update(model, source, artifact, version=version, group=group, deadline=deadline).install()


def prefetch_update(model: Any, source: Union[Source, str, Sequence[str], None], artifact: str, *,
                    version: Union[str, int], group: Optional[Any] = None, deadline: Optional[float] = None) -> "Update":
    """Fetch exactly `version` of an artifact for a model of from_pretrained, whose parameters stay as they are.

    It may run on a thread of its own while the model goes on generating, with a group that nobody else uses meanwhile. It
    returns once all ranks of the group have fetched and verified their share, which takes memory of that size, and its
    install() then changes the parameters. When any rank fails, every rank raises and nothing has changed. Raises as
    from_pretrained; PlanError for a version whose tensors have other names, dtypes or shapes than those of the first load."""
    recipe: Optional[_Recipe] = getattr(model, "_tpview_recipe", None)
    if recipe is None:
        raise UsageError("this model was not made by tpview.transformers.from_pretrained", stage="plan")
    return Update(model, _make(recipe, source, artifact, version, group, deadline))


_MESHES = (("pp", "dp_replicate", "fsdp", "tp"), ("pp", "dp_replicate", "efsdp", "ep"))


def _groups(model: Any) -> List[Any]:
    """The process groups of the meshes that transformers made for a model."""
    manager = getattr(model, "_mesh_manager", None)
    return [group for dims in _MESHES for group in manager.get_mesh(dims).get_all_groups()] if manager else []


def _release(model: Any, used: Any = None) -> None:
    """Give back what a model holds besides its memory: the groups that each load by transformers makes, but for those of
    model `used`. The memory itself is free after a collection: a distributed model refers to itself."""
    kept = {torch.distributed.group.WORLD, *_groups(used)} if _groups(model) else set()
    for group in set(_groups(model)) - kept:
        torch.distributed.destroy_process_group(group)


class Update:
    """A version that is here, whole and verified. install() may be called once."""

    def __init__(self, model: Any, made: "_Made"):
        self.model, self.loaded, self._fresh, self._random = model, made.loaded, made.model, made.random

    def install(self) -> Loaded:
        """Copy it into the parameters, in place, and give its memory back. No forward pass may run meanwhile. Parameters
        that the artifact does not have (a head of the model's own) stay as they are."""
        if self._fresh is None:
            raise UsageError("this update is installed already", stage="install")
        fresh = self._fresh.state_dict()
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                if name not in self._random:
                    _local(tensor).copy_(_local(fresh[name]))
        del fresh
        self.discard()
        self.model.tpview_loaded = self.loaded
        return self.loaded

    def discard(self) -> None:
        """Give the memory back without a change of the model. A second call, or one after install(), does nothing."""
        if self._fresh is not None:
            _release(self._fresh, self.model)
            self._fresh = None
            gc.collect()  # a share of the model: too much to wait for the collector


@dataclass
class _Made:
    """A model with the values of a version."""

    model: Any
    random: Set[str]  # parameters of which the artifact has no value that fits
    loaded: Loaded


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@dataclass
class _Recipe:
    """What a rank's model is made of, for its first load and for all versions after it."""

    cls: type
    config: Any
    options: Dict[str, Any]
    names: Optional[Dict[Tuple[str, Box], str]] = None  # of the slices, once they are recorded
    index_digest: str = ""  # of the artifact that they were recorded with

    def load(self, manifest: Manifest, slices: _Slices) -> Tuple[Any, Set[str]]:
        """The model, and the names of what the artifact has no value for."""
        noting = _noting(self.cls)
        model, info = noting.from_pretrained(None, config=self.config, state_dict=slices.state_dict(manifest),
                                             output_loading_info=True, **self.options)
        if type(model) is noting:  # else transformers put a class of its own over it
            model.__class__ = self.cls
        missing = model.__dict__.pop("_tpview_missing", None)
        if missing is None:
            raise UnsupportedError(f"{self.cls.__name__}: its loader does not tell tie_weights() the missing keys as that of "
                                   "transformers 5 does: load this model from its files", stage="install")
        return model, {*missing, *info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}

    def check(self, manifest: Manifest) -> None:
        """What can fail on one rank alone, before load(), in which transformers makes groups: every rank must come there."""
        for name in _REFUSED:
            if self.options.get(name) is not None:
                raise UsageError(f"{name} cannot be given here", stage="plan")
        if self.names is None:
            self.cls, self.config = _class_of(self.cls, _config_of(self.config))
            _noting(self.cls)
        elif manifest.index_digest != self.index_digest:
            raise PlanError(f"{manifest.label} has tensors of other names, dtypes or shapes than the model was loaded from: "
                            "load it anew", stage="plan")

    def record(self, manifest: Manifest) -> None:
        if self.names is None:
            slices = _Slices({})
            _release(self.load(manifest, slices)[0])
            self.names, self.index_digest = slices.names, manifest.index_digest


def _make(recipe: _Recipe, source: Union[Source, str, Sequence[str], None], artifact: str, version: Union[str, int, None],
          group: Optional[Any], deadline: Optional[float]) -> _Made:
    """A new model with the values of a version, on all ranks of the group or on none."""
    stages = Stages()
    rank, size = rank_and_size(group)
    with contextlib.ExitStack() as opened:

        def prepare() -> Tuple[Source, Manifest]:
            service = source if isinstance(source, Source) else opened.enter_context(connect(source))
            manifest = service.manifest(artifact, version)
            recipe.check(manifest)
            return service, manifest

        service, manifest = together("plan", prepare, group, stages)
        stages.timed("agree", lambda: same("artifact", manifest.artifact_id, group))
        together("plan", lambda: recipe.record(manifest), group, stages)
        slices = _Slices(recipe.names)
        plan = together("plan", lambda: manifest.plan(slices.layout(manifest, rank, size)), group, stages)

        def fetch() -> Tuple[Result, Dict[str, torch.Tensor]]:
            values = {name: torch.empty(output.shape, dtype=dtype_of(output.dtype, name))
                      for name, output in plan.outputs.items()}
            with service.fetch(plan, into=values, deadline=deadline) as job:
                return job.wait(), values

        result, slices.values = together("fetch", fetch, group, stages)
        model, random = together("install", lambda: recipe.load(manifest, slices), group, stages)
    loaded = Loaded(result.label, manifest.bytes, result, dict(stages), (), None)
    log_loaded(loaded, service, rank, size)
    return _Made(model, random, loaded)
