"""What a rank is to get of tensors of which transformers' loader is not the measure: an independent statement in numpy.

Three things differ from that loader on purpose, for every family: rows of an uneven vocabulary are padded to a multiple
of 64 before they are divided; key and value heads are given whole to several ranks when there are more ranks than heads;
and projections that are several in one tensor are cut part by part. Families that have no plan in transformers, or one
that its loader cannot carry out, are stated here tensor by tensor.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from families import HEADS, Variant

VOCABULARY_MULTIPLE = 64


class Uneven(Exception):
    """The tensor cannot be cut so by that many ranks: an error is due."""


@dataclass(frozen=True)
class Rank:
    rank: int
    size: int


Cut = Callable[[np.ndarray, Rank, Variant], np.ndarray]


def share(tensor: np.ndarray, axis: int, rank: Rank) -> np.ndarray:
    length = tensor.shape[axis]
    if length % rank.size:
        raise Uneven(f"{length} by {rank.size}")
    part = length // rank.size
    return np.take(tensor, range(rank.rank * part, (rank.rank + 1) * part), axis)


def heads(tensor: np.ndarray, axis: int, count: int, rank: Rank, replicate: bool) -> np.ndarray:
    """The rank's heads of `count`; with `replicate`, several ranks hold the same one where there are too few."""
    if count % rank.size == 0:
        return share(tensor, axis, rank)
    if not replicate or rank.size % count:
        raise Uneven(f"{count} heads by {rank.size}")
    return share(tensor, axis, Rank(rank.rank * count // rank.size, count))


def vocabulary(tensor: np.ndarray, rank: Rank) -> np.ndarray:
    rows = tensor.shape[0]
    if rows % rank.size:
        padding = -rows % VOCABULARY_MULTIPLE
        tensor = np.concatenate([tensor, np.zeros((padding, *tensor.shape[1:]), tensor.dtype)])
    return share(tensor, 0, rank)


def whole() -> Cut:
    return lambda tensor, rank, variant: tensor


def rows() -> Cut:
    return lambda tensor, rank, variant: share(tensor, 0, rank)


def columns() -> Cut:
    return lambda tensor, rank, variant: share(tensor, -1, rank)


def padded_rows() -> Cut:
    return lambda tensor, rank, variant: vocabulary(tensor, rank)


def key_value_rows() -> Cut:
    return lambda tensor, rank, variant: heads(tensor, 0, variant.key_value_heads, rank, True)


def groups(count: Callable[[Variant], int]) -> Cut:
    """Rows by groups that cannot be held twice."""
    return lambda tensor, rank, variant: heads(tensor, 0, count(variant), rank, False)


def parts(axis: int, lengths: Callable[[Variant], list[tuple[int, int, bool]]]) -> Cut:
    """Several in one tensor: of each its length along the axis, its heads, and whether they may be held twice."""

    def cut(tensor: np.ndarray, rank: Rank, variant: Variant) -> np.ndarray:
        pieces, at = [], 0
        for length, count, replicate in lengths(variant):
            part = np.take(tensor, range(at, at + length), axis)
            pieces.append(heads(part, axis, count, rank, replicate))
            at += length
        assert at == tensor.shape[axis]
        return np.concatenate(pieces, axis)

    return cut


def halves(axis: int, length: int) -> Cut:
    return parts(axis, lambda variant: [(length, length, False)] * 2)


def _gpt2_attention(variant: Variant) -> list[tuple[int, int, bool]]:
    return [(64, HEADS, False)] * 3


def _multi_query(variant: Variant) -> list[tuple[int, int, bool]]:
    return [(64, HEADS, False), (8, 1, True), (8, 1, True)]


def _phi3_attention(variant: Variant) -> list[tuple[int, int, bool]]:
    key_value = (16 * variant.key_value_heads, variant.key_value_heads, True)
    return [(128, HEADS, False), key_value, key_value]


def _mamba2_mixer(variant: Variant) -> list[tuple[int, int, bool]]:
    """z, x, B, C and dt; without the first and the last of it, what the convolution runs over."""
    state_groups = 8 if variant.name == "kv4" else 1
    state = (8 * state_groups, state_groups, True)
    return [(128, HEADS, False), (128, HEADS, False), state, state, (HEADS, HEADS, False)]


_BLOOM = {
    r"transformer\.word_embeddings\.weight": padded_rows(),
    r".*\.query_key_value\.\w+|.*\.dense_h_to_4h\.\w+": rows(),
    r".*\.self_attention\.dense\.weight|.*\.dense_4h_to_h\.weight": columns(),
    r".*": whole(),
}
# For families of tests/models/families.py: a pattern of names on disk, and the cut; the first that matches counts.
STATED: dict[str, dict[str, Cut]] = {
    "bloom": _BLOOM,
    "falcon": {r".*\.query_key_value\.\w+": groups(lambda variant: variant.key_value_heads), **_BLOOM},
    "falcon_multi_query": {r".*\.query_key_value\.\w+": parts(0, _multi_query), **_BLOOM},
    "gpt2": {
        r"transformer\.wte\.weight": padded_rows(),
        r".*\.c_attn\.\w+": parts(-1, _gpt2_attention),
        r".*\.c_fc\.\w+": columns(),
        r".*\.c_proj\.weight": rows(),
        r".*": whole(),
    },
    "mamba2": {
        r"backbone\.embeddings\.weight|lm_head\.weight": padded_rows(),
        r".*\.mixer\.in_proj\.weight": parts(0, _mamba2_mixer),
        r".*\.mixer\.conv1d\.\w+": parts(0, lambda variant: _mamba2_mixer(variant)[1:-1]),
        r".*\.mixer\.(A_log|D|dt_bias|norm\.weight)": rows(),
        r".*\.mixer\.out_proj\.weight": columns(),
        r".*": whole(),
    },
    "opt": {
        r".*\.embed_tokens\.weight": padded_rows(),
        r".*\.[qkv]_proj\.\w+|.*\.fc1\.\w+": rows(),
        r".*\.out_proj\.weight|.*\.fc2\.weight": columns(),
        r".*": whole(),
    },
    "qwen3_vl_moe": {
        r".*\.embed_tokens\.weight|lm_head\.weight": padded_rows(),
        r".*\.language_model\..*\.q_proj\.weight": rows(),
        r".*\.language_model\..*\.[kv]_proj\.weight": key_value_rows(),
        r".*\.language_model\..*\.o_proj\.weight": columns(),
        r".*\.experts\.gate_up_proj": halves(1, 48),
        r".*\.experts\.down_proj": columns(),
        r".*": whole(),
    },
    "stablelm": {
        r".*\.embed_tokens\.weight|lm_head\.weight": padded_rows(),
        r".*\.q_proj\.\w+|.*\.(gate|up)_proj\.weight": rows(),
        r".*\.[kv]_proj\.\w+": key_value_rows(),
        r".*\.o_proj\.weight|.*\.down_proj\.weight": columns(),
        # One norm for each head: they are not a tensor that could be cut.
        r".*": whole(),
    },
}
# Where transformers' plan cuts evenly through several projections in one tensor.
PARTED: dict[str, dict[str, Cut]] = {
    "glm4": {r".*\.gate_up_proj\.weight": halves(0, 128)},
    "phi3": {r".*\.qkv_proj\.weight": parts(0, _phi3_attention), r".*\.gate_up_proj\.weight": halves(0, 128)},
}


def stated(cuts: dict[str, Cut], name: str) -> Cut | None:
    return next((cut for pattern, cut in cuts.items() if re.fullmatch(pattern, name)), None)
