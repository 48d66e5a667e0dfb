"""What each rank is to get of a tiny checkpoint: by transformers' loader where it is the measure, else as stated."""

import json
import re
from pathlib import Path

import numpy as np
from families import VARIANTS
from statement import PARTED, STATED, Rank, heads, stated, vocabulary
from tensor_file import read_tensors

_KEY_VALUE = re.compile(r"(?P<layer>.*)\.(mixer\.|self_attn\.)?[kv]_proj\.(weight|bias)")
VOCABULARY = re.compile(r".*(embed_tokens|lm_head|embed_in|embed_out|word_embeddings|wte|embeddings)\.(weight|bias)")


class Checkpoint:
    """A tiny checkpoint with its reference (tests/models/reference.py)."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.family = folder.parent.name
        self.variant = next(variant for variant in VARIANTS if variant.name == folder.name)
        self.tensors = read_tensors((folder / "model.safetensors").read_bytes())
        self.reference = json.loads((folder / "reference.json").read_text())
        self.config = json.loads((folder / "config.json").read_text())

    def _key_value_heads(self, name: str) -> int:
        """As many as config.json says for that layer."""
        text = self.config.get("text_config", self.config)
        layer = re.search(r"\.layers\.(\d+)\.", name)
        own = text.get("per_layer_config", {}).get(layer[1], {}) if layer else {}
        return own.get("num_key_value_heads", text["num_key_value_heads"])

    def loaded(self, name: str, rank: Rank) -> np.ndarray:
        """The rank's part by transformers' loader."""
        tensor = self.tensors[name]
        boxes = self.reference[str(rank.size)]["ranks"][rank.rank]
        if name not in boxes:
            return tensor[:0]
        if boxes[name] is None:
            return tensor
        return tensor[np.ix_(*[np.concatenate([np.arange(*bounds) for bounds in axis]) for axis in boxes[name]])]

    def _is_cut(self, name: str, size: int) -> bool:
        return any(boxes.get(name, ()) is not None for boxes in self.reference[str(size)]["ranks"])

    def whole_heads(self, name: str, rank: Rank) -> np.ndarray | None:
        """The rank's part of a key or value projection that several ranks must share; None for other tensors."""
        if not _KEY_VALUE.fullmatch(name) or re.search("vision|visual", name) or not self._is_cut(name, rank.size):
            return None
        count = self._key_value_heads(name)
        return heads(self.tensors[name], 0, count, rank, True) if rank.size > count else None

    def by_family(self, rank: Rank) -> dict[str, np.ndarray]:
        """What the family's own plan is to give. Raises Uneven where an error is due."""
        if rank.size == 1:
            return self.tensors
        result = {}
        for name, tensor in self.tensors.items():
            cut = stated({**PARTED.get(self.family, {}), **STATED.get(self.family, {})}, name)
            if cut:
                result[name] = cut(tensor, rank, self.variant)
            elif VOCABULARY.fullmatch(name) and self._is_cut(name, rank.size):
                result[name] = vocabulary(tensor, rank)
            else:
                shared = self.whole_heads(name, rank)
                result[name] = self.loaded(name, rank) if shared is None else shared
        return result

    def by_transformers(self, rank: Rank) -> dict[str, np.ndarray]:
        """What transformers' loader gives, for all tensors."""
        return self.tensors if rank.size == 1 else {name: self.loaded(name, rank) for name in self.tensors}

    def has_reference(self, size: int) -> bool:
        return size == 1 or "ranks" in self.reference[str(size)]
