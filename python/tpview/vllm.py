"""vLLM: load format "tpview".

    vllm serve DIR --load-format tpview --model-loader-extra-config '{"source": "HOST:PORT", "artifact": "NAME@VERSION"}'

DIR needs config.json and the tokenizer only. Each worker fetches exactly the slices that the model's own weight loader
copies (tpview.torch.record), so every model, fusing and expert placement that vLLM knows is served without a rule.
Written for vLLM 0.32 and 0.33; the entry point group vllm.general_plugins finds register() once the package is installed.
"""

from __future__ import annotations

from typing import Any, Mapping

from .errors import UsageError

__all__ = ["LOAD_FORMAT", "options_of", "register"]

LOAD_FORMAT = "tpview"

_CONNECTION = {**dict.fromkeys(("token_file", "tls_ca", "tls_cert", "tls_key"), str), "any_uid": bool,
               "timeout": (int, float)}
_OPTIONS = {"source": str, "artifact": str, **_CONNECTION, "deadline": (int, float)}


def options_of(extra: Mapping[str, Any]) -> dict:
    """The checked --model-loader-extra-config: source (an address), artifact ("NAME@VERSION", or "NAME" for the newest),
    token_file, tls_ca, tls_cert, tls_key and any_uid (tpview.connect), timeout (seconds a request, default 30), deadline (seconds
    for the fetch, default none). All of the connection default to the environment, as they do there. Raises UsageError."""
    for name, value in extra.items():
        if name not in _OPTIONS:
            raise UsageError(f"--model-loader-extra-config: unknown option {name!r}: expected {', '.join(_OPTIONS)}")
        if not isinstance(value, _OPTIONS[name]) or isinstance(value, bool) != (_OPTIONS[name] is bool):
            raise UsageError(f"--model-loader-extra-config: {name}={value!r} is of the wrong type")
    if "artifact" not in extra:
        raise UsageError("--model-loader-extra-config: \"artifact\" is missing: NAME@VERSION as tpview ls shows it")
    return dict(extra)


def register() -> None:
    """Register the load format with vLLM; called by vLLM itself in each of its processes. A second call does nothing."""
    from vllm.model_executor.model_loader import register_model_loader

    global _registered
    if _registered:
        return
    register_model_loader(LOAD_FORMAT)(_loader_class())
    _registered = True


_registered = False


def _loader_class() -> type:
    from vllm.distributed import get_tp_group
    from vllm.logger import init_logger
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    from .torch.weights import load_weight_remote

    log = init_logger("vllm.tpview")  # below vLLM's own logger, whose handlers and level it has

    class TpviewModelLoader(BaseModelLoader):
        """Fetches this worker's slices from a tpview service."""

        def __init__(self, load_config: Any):
            super().__init__(load_config)
            self.options = options_of(load_config.model_loader_extra_config or {})

        def download_model(self, model_config: Any) -> None:
            """Nothing comes before load_weights."""

        def load_weights(self, model: Any, model_config: Any) -> None:
            if getattr(model, "secondary_weights", ()):
                raise UsageError(f"{type(model).__name__} takes weights from a second place (secondary_weights), which load "
                                 "format tpview does not: use another load format")
            loaded: set = set()

            def load_weights(weights: Any) -> None:
                loaded.update(model.load_weights(weights) or ())

            done = load_weight_remote(model, self.options.get("source"), self.options["artifact"],
                                      group=get_tp_group().cpu_group, load_weights=load_weights,
                                      deadline=self.options.get("deadline"), staging="none",
                                      connection={name: self.options[name] for name in _CONNECTION if name in self.options})
            # As vLLM's own loader does: a parameter that nothing was loaded into is an error, but for quantised models.
            missing = sorted(set(dict(model.named_parameters())) - loaded)
            if loaded and missing and not model_config.quantization:
                raise UsageError(f"{done.label} has nothing for {len(missing)} parameters of the model, such as {missing[0]}")
            stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in done.stages.items())
            log.info("tpview: %s from %s: %d slices, %d of %d bytes, wire/needed %.5f, export %s, %d tensors whole (%s); %s",
                     done.label, ",".join(share.address for share in done.result.sources), len(done.recorded.copies),
                     done.result.needed_bytes, done.artifact_bytes,
                     done.result.wire_bytes / max(done.result.needed_bytes, 1), done.result.export, len(done.whole),
                     ", ".join(done.whole[:3]) or "none", stages)

    return TpviewModelLoader
