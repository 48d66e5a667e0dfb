"""Hugging Face transformers: a model from a source instead of from files.

transformers' own loader is the plan: it is run twice, over tensors that are not there. The first time it says which
parts of which tensors this rank's model is made of, under its tensor-parallel plan if it has one; exactly these are
fetched; the second time it gets them. So every model, conversion and plan that from_pretrained knows is served.
Written for transformers 5, whose loader reads slices of safetensors files through get_slice.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Dict, List, Optional, Tuple, Union

import torch

from .errors import PlanError, UnsupportedError, UsageError
from .layout import Layout, Slice
from .manifest import Manifest, TensorInfo
from .source import Source, connect
from .torch.group import agree, rank_and_size, same
from .torch.record import Box
from .torch.stages import Stages
from .torch.tensors import dtype_of
from .torch.weights import Loaded, log_loaded

__all__ = ["from_pretrained"]

_MINIMUM = (5, 0)


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
        part = torch.empty(self.shape, dtype=self.dtype, device="meta")[index]
        return self._slices.take(self, Box.of(part))


class _Slices:
    """The parts that the loader has asked for, and their values once they are there. The loader asks from several threads:
    all under the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.names: Dict[Tuple[str, Box], str] = {}
        self.values: Optional[Dict[str, torch.Tensor]] = None  # by the output's name; None while they are recorded

    def state_dict(self, manifest: Manifest) -> Dict[str, _Lazy]:
        return {name: _Lazy(info, self) for name, info in manifest.items()}

    def take(self, lazy: _Lazy, box: Box) -> torch.Tensor:
        with self._lock:
            if self.values is None:
                self.names.setdefault((lazy.name, box), f"{lazy.name}#{len(self.names)}")
                # One element stands for all: a model made of these has no memory of its own.
                return torch.zeros(1, dtype=lazy.dtype).expand(box.sizes)
            # Each value is one parameter's memory: a second taker, if any, gets a copy.
            name = self.names.get((lazy.name, box), "")
            value = self.values.get(name)
            if value is None:
                raise PlanError(f"{lazy.name}: transformers asked for another part of it than the first time", stage="install",
                                tensor=lazy.name)
            self.values[name] = value.clone()
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


def from_pretrained(cls: type, source: Union[Source, str], artifact: str, *, config: Any,
                    version: Union[str, int, None] = None, group: Optional[Any] = None, deadline: Optional[float] = None,
                    **options: Any) -> Any:
    """cls.from_pretrained with the weights of an artifact: each rank fetches only what its model is made of.

    cls:      a model class, such as transformers.AutoModelForCausalLM or Qwen3ForCausalLM.
    source:   a Source, or an address for connect().
    artifact, version: as Source.manifest takes them.
    config:   a transformers configuration, or a folder with config.json: the source has no such file.
    group:    process group of the ranks; None: the default group, or one rank.
    deadline: seconds for the fetch.
    options:  go to cls.from_pretrained: distributed_config=DistributedConfig(tp_size=N), dtype, attn_implementation, ...

    Returns the model. Its attribute `tpview_loaded` (a tpview.torch.Loaded) says how it went. When any rank fails, every
    rank raises: PlanError, what Job.wait raises, or what transformers raises. The model's memory is all that is taken."""
    for name in ("state_dict", "pretrained_model_name_or_path", "device_map", "gguf_file", "output_loading_info"):
        if options.get(name) is not None:
            raise UsageError(f"{name} cannot be given here", stage="plan")
    mine = connect(source) if isinstance(source, str) else None
    try:
        return _load(cls, mine or source, artifact, config, version, group, deadline, options)
    finally:
        if mine:
            mine.close()


def _load(cls, source, artifact, config, version, group, deadline, options) -> Any:
    stages = Stages()
    rank, size = rank_and_size(group)
    slices = _Slices()
    error: Optional[BaseException] = None
    manifest = plan = result = model = None

    def load() -> Any:
        return cls.from_pretrained(None, config=config, state_dict=slices.state_dict(manifest), **options)

    try:
        cls, config = _class_of(cls, _config_of(config))
        manifest = source.manifest(artifact, version)
    except Exception as caught:  # every rank must come to the vote
        error = caught
    stages.timed("agree", lambda: agree(error, group))
    stages.timed("agree", lambda: same("artifact", manifest.artifact_id, group))

    try:
        stages.timed("plan", load)
        plan = stages.timed("plan", lambda: manifest.plan(slices.layout(manifest, rank, size)))
    except Exception as caught:
        error = caught
    stages.timed("agree", lambda: agree(error, group))

    try:
        values = {name: torch.empty(output.shape, dtype=dtype_of(output.dtype, name)) for name, output in plan.outputs.items()}
        with source.fetch(plan, into=values, deadline=deadline) as job:
            result = stages.timed("fetch", job.wait)
        slices.values = dict(values)
    except Exception as caught:
        error = caught
    stages.timed("agree", lambda: agree(error, group))

    try:
        model = stages.timed("install", load)
    except Exception as caught:
        error = caught
    stages.timed("agree", lambda: agree(error, group))
    model.tpview_loaded = Loaded(result.label, manifest.bytes, result, dict(stages), (), None)
    log_loaded(model.tpview_loaded, source, rank, size)
    return model
