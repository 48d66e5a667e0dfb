"""Small weights in the formats that quantised checkpoints have, and what each of them stands for, stated in numpy.

A format makes the parameters of a module from random codes and scales, and says what matrix [out, in] they are. That
is said of whatever shapes the parameters have, so that it can be asked of a slice as well.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tensor_file import Stored

GROUP = 32
Parameters = dict[str, Stored]  # by the last part of their names


@dataclass(frozen=True)
class Format:
    make: Callable[[np.random.Generator, int, int], Parameters]
    value: Callable[[dict[str, np.ndarray]], np.ndarray]
    config: dict = field(default_factory=dict)  # quantization_config
    stack: bool = False  # experts in one tensor, whose parameters are NAME_part
    words: tuple[str, ...] = ("colwise", "rowwise")


def _f8_e4m3() -> np.ndarray:
    """The value of each byte: OCP 8-bit floating point, E4M3."""
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    value = np.where(exponent, (1 + fraction / 8) * 2.0 ** (exponent - 7), fraction / 8 * 2.0**-6)
    return np.where(codes & 128, -value, value)


E4M3 = _f8_e4m3()
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # where in its word each of eight columns is


def _codes(rng: np.random.Generator, shape: tuple, low: int = 0, high: int = 256, dtype=np.uint8) -> np.ndarray:
    return rng.integers(low, high, shape).astype(dtype)


def _words(rng: np.random.Generator, shape: tuple) -> Stored:
    return Stored("I32", rng.integers(-(2**31), 2**31, shape).astype(np.int32))


def _scales(rng: np.random.Generator, *shape: int) -> Stored:
    return Stored("F32", rng.integers(1, 64, shape).astype(np.float32) / 8)


def _f8(rng: np.random.Generator, *shape: int) -> Stored:
    """Without the codes that are no number."""
    return Stored("F8_E4M3", _codes(rng, shape, 0, 127) | (_codes(rng, shape, 0, 2) << 7))


def _spread(scale: np.ndarray, shape: tuple) -> np.ndarray:
    """Each scale for all that it stands for; the last block may be short."""
    for axis in (-2, -1):
        if scale.shape[axis] != 1:
            each = -(-shape[axis] // scale.shape[axis])
            scale = np.repeat(scale, each, axis)
    return np.broadcast_to(scale[..., : shape[-2], : shape[-1]] if scale.size > 1 else scale, shape)


def _fields(words: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Numbers of some bits that follow one another, the lowest first, in 32-bit words along the axis."""
    stream = np.unpackbits(np.ascontiguousarray(np.moveaxis(words, axis, -1)).astype("<i4").view(np.uint8), axis=-1,
                           bitorder="little")
    each = stream.reshape(*stream.shape[:-1], -1, bits) << np.arange(bits)
    return np.moveaxis(each.sum(-1), -1, axis)


# ---- FP8 and INT8 ------------------------------------------------------------------------------------------------------


def _fp8(scale_name: str, scale_shape: Callable[[int, int], tuple], extra: tuple[str, ...] = ()) -> Callable:
    def make(rng, rows, columns):
        made = {"weight": _f8(rng, rows, columns), scale_name: _scales(rng, *scale_shape(rows, columns))}
        return made | {name: _scales(rng) for name in extra}

    return make


def _fp8_value(scale_name: str) -> Callable:
    def value(p):
        weight, scale = E4M3[p["weight"]], p[scale_name]
        return weight * (_spread(scale, weight.shape) if scale.ndim == 2 else scale if scale.ndim == 0 else scale[:, None])

    return value


def _mxfp8(rng, rows, columns):
    scale = Stored("F8_E8M0", _codes(rng, (rows, columns // GROUP), 120, 135))
    return {"weight": _f8(rng, rows, columns), "weight_scale_inv": scale}


def _mxfp8_value(p):
    return E4M3[p["weight"]] * _spread(2.0 ** (p["weight_scale_inv"].astype(float) - 127), p["weight"].shape)


def _int8(groups: Callable[[int], int]) -> Callable:
    def make(rng, rows, columns):
        shape = (rows, groups(columns))
        return {"weight": Stored("I8", _codes(rng, (rows, columns), -128, 128, np.int8)),
                "weight_scale": _scales(rng, *shape),
                "weight_zero_point": Stored("I8", _codes(rng, shape, -128, 128, np.int8))}

    return make


def _int8_value(p):
    shape = p["weight"].shape
    zero = _spread(p["weight_zero_point"].astype(float), shape)
    return (p["weight"].astype(float) - zero) * _spread(p["weight_scale"], shape)


# ---- packed words ------------------------------------------------------------------------------------------------------


def _packed(bits: int, zero_points: bool = False, ordered: bool = False) -> Callable:
    def make(rng, rows, columns):
        groups, pack = columns // GROUP, 32 // bits
        made = {"weight_packed": _words(rng, (rows, columns // pack)), "weight_scale": _scales(rng, rows, groups),
                "weight_shape": Stored("I64", np.array([rows, columns], np.int64))}
        if zero_points:
            made["weight_zero_point"] = _words(rng, (rows // pack, groups))
        if ordered:
            made["weight_g_idx"] = Stored("I32", rng.permutation(np.arange(columns) // GROUP).astype(np.int32))
        return made

    return make


def _packed_value(bits: int) -> Callable:
    def value(p):
        rows, columns = p["weight_shape"]
        codes = _fields(p["weight_packed"], bits, 1)
        assert codes.shape == (rows, columns)
        zero = _fields(p["weight_zero_point"], bits, 0) if "weight_zero_point" in p else None
        group = p["weight_g_idx"] if "weight_g_idx" in p else np.arange(columns) // GROUP
        offset = zero[:, group] if zero is not None else 1 << bits - 1
        return (codes - offset) * p["weight_scale"][:, group]

    return value


def _gptq(bits: int, ordered: bool, group: int = GROUP) -> Callable:
    def make(rng, rows, columns):
        groups = columns // group
        order = np.arange(columns) // group
        return {"qweight": _words(rng, (columns * bits // 32, rows)), "qzeros": _words(rng, (groups, rows * bits // 32)),
                "scales": _scales(rng, groups, rows),
                "g_idx": Stored("I32", (rng.permutation(order) if ordered else order).astype(np.int32)),
                "bias": _scales(rng, rows)}

    return make


def _gptq_value(bits: int) -> Callable:
    def value(p):
        codes, zeros = _fields(p["qweight"], bits, 0), _fields(p["qzeros"], bits, 1)
        assert zeros.shape == p["scales"].shape
        return ((codes - zeros[p["g_idx"]] - 1) * p["scales"][p["g_idx"]]).T

    return value


def _awq(rng, rows, columns):
    groups = columns // GROUP
    return {"qweight": _words(rng, (columns, rows // 8)), "qzeros": _words(rng, (groups, rows // 8)),
            "scales": _scales(rng, groups, rows)}


def _awq_value(p):
    def columns(words):
        return _fields(words, 4, 1).reshape(len(words), -1, 8)[:, :, AWQ_ORDER].reshape(len(words), -1)

    codes, group = columns(p["qweight"]), np.arange(len(p["qweight"])) // GROUP
    return ((codes - columns(p["qzeros"])[group]) * p["scales"][group]).T


# ---- FP4 and bytes -----------------------------------------------------------------------------------------------------


def _nibbles(codes: np.ndarray) -> np.ndarray:
    """Two of a byte, the lower first, along the last axis."""
    return np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], -1)


def _nvfp4(codes: str, scale_2: str) -> Callable:
    def make(rng, rows, columns):
        return {codes: Stored("U8", _codes(rng, (rows, columns // 2))), "weight_scale": _f8(rng, rows, columns // 16),
                scale_2: _scales(rng), "input_scale": _scales(rng)}

    return make


def _nvfp4_value(codes: str, scale_2: str) -> Callable:
    def value(p):
        weight = E2M1[_nibbles(p[codes])]
        assert weight.shape[1] == 16 * p["weight_scale"].shape[1]
        return weight * np.repeat(E4M3[p["weight_scale"]], 16, 1) * p[scale_2]

    return value


def _int4_rows(rng, rows, columns):
    return {"weight": Stored("U8", _codes(rng, (rows // 2, columns))),
            "weight_scale": _scales(rng, rows, columns // GROUP), "pre_quant_scale": _scales(rng, columns)}


def _int4_rows_value(p):
    codes = _nibbles(p["weight"].T).T.astype(int)
    weight = np.where(codes > 7, codes - 16, codes)
    return weight * np.repeat(p["weight_scale"], GROUP, 1) * p["pre_quant_scale"]


def _mxfp4(rng, rows, columns):
    return {"blocks": Stored("U8", _codes(rng, (4, rows, columns // 32, 16))),
            "scales": Stored("U8", _codes(rng, (4, rows, columns // 32), 120, 135)), "bias": _scales(rng, 4, rows)}


def _mxfp4_value(p):
    each = E2M1[_nibbles(p["blocks"])] * 2.0 ** (p["scales"].astype(float) - 127)[..., None]
    return each.reshape(*each.shape[:2], -1)


def _fp8_stack(rng, rows, columns):
    return {"": _f8(rng, 4, rows, columns), "scale_inv": _scales(rng, 4, rows // GROUP, columns // GROUP)}


def _fp8_stack_value(p):
    return E4M3[p[""]] * _spread(p["scale_inv"], p[""].shape)


def _gguf(rng, rows, columns):
    """Rows of Q8_0: blocks of a float16 scale and 32 signed bytes."""
    blocks = _codes(rng, (rows, columns // 32, 34))
    blocks[:, :, :2] = rng.integers(1, 9, (rows, columns // 32, 1)).astype(np.float16).view(np.uint8)
    return {"qweight": Stored("U8", blocks.reshape(rows, -1)), "qweight_type": Stored("U8", np.array(8, np.uint8))}


def _gguf_value(p):
    blocks = p["qweight"].reshape(len(p["qweight"]), -1, 34)
    scale = np.ascontiguousarray(blocks[:, :, :2]).view(np.float16)
    return (blocks[:, :, 2:].view(np.int8) * scale.astype(float)).reshape(len(blocks), -1)


def _compressed(**weights) -> dict:
    return {"quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights,
                                          "input_activations": {"num_bits": 8, "group_size": 16}}}}


def _mixed(*bits: int) -> dict:
    """Groups are alike, numbers of bits are not."""
    groups = [_compressed(num_bits=number, group_size=GROUP)["config_groups"]["group_0"] for number in bits]
    return {"quant_method": "compressed-tensors", "config_groups": {f"group_{i}": g for i, g in enumerate(groups)}}


def _told(bits: int, **more) -> dict:
    return {"bits": bits, "group_size": GROUP, **more}


_BLOCKS = lambda rows, columns: (rows // GROUP, columns // GROUP)  # noqa: E731
FORMATS: dict[str, Format] = {
    "fp8_block": Format(_fp8("weight_scale_inv", _BLOCKS), _fp8_value("weight_scale_inv"),
                        {"quant_method": "fp8", "weight_block_size": [GROUP, GROUP]}),
    "fp8_block_not_told": Format(_fp8("weight_scale_inv", _BLOCKS), _fp8_value("weight_scale_inv")),
    "fp8_channel": Format(_fp8("weight_scale", lambda rows, columns: (rows, 1)), _fp8_value("weight_scale"),
                          _compressed(num_bits=8, strategy="channel", group_size=None)),
    "fp8_channel_vector": Format(_fp8("weight_scale", lambda rows, columns: (rows,)), _fp8_value("weight_scale")),
    "fp8_tensor": Format(_fp8("weight_scale", lambda rows, columns: (), ("input_scale", "k_scale")),
                         _fp8_value("weight_scale")),
    "compressed_block": Format(_fp8("weight_scale", _BLOCKS), _fp8_value("weight_scale"),
                               _compressed(num_bits=8, strategy="block", block_structure=[GROUP, GROUP])),
    "mxfp8": Format(_mxfp8, _mxfp8_value, {"quant_method": "fp8", "weight_block_size": [1, GROUP]}),
    "int8_channel": Format(_int8(lambda columns: 1), _int8_value, _compressed(num_bits=8, group_size=None)),
    "int8_group": Format(_int8(lambda columns: columns // GROUP), _int8_value,
                         _compressed(num_bits=8, group_size=GROUP)),
    "packed_4": Format(_packed(4), _packed_value(4), _compressed(num_bits=4, group_size=GROUP)),
    "packed_4_zero_points": Format(_packed(4, zero_points=True), _packed_value(4),
                                   _compressed(num_bits=4, group_size=GROUP)),
    "packed_4_ordered": Format(_packed(4, ordered=True), _packed_value(4),
                               _compressed(num_bits=4, group_size=GROUP, actorder="group")),
    "packed_8_zero_points": Format(_packed(8, zero_points=True), _packed_value(8),
                                   _compressed(num_bits=8, group_size=GROUP)),
    "packed_4_of_4_and_8": Format(_packed(4), _packed_value(4), _mixed(4, 8)),
    "packed_8_of_4_and_8": Format(_packed(8), _packed_value(8), _mixed(4, 8)),
    "packed_2_of_all": Format(_packed(2), _packed_value(2), _mixed(8, 4, 2)),
    "gptq_4": Format(_gptq(4, False), _gptq_value(4), _told(4, quant_method="gptq", desc_act=False)),
    "gptq_4_ordered": Format(_gptq(4, True), _gptq_value(4), _told(4, quant_method="gptq", desc_act=True)),
    "gptq_3": Format(_gptq(3, False), _gptq_value(3), _told(3, quant_method="gptq", desc_act=False)),
    "gptq_8_own_group": Format(_gptq(8, False, 64), _gptq_value(8),
                               _told(4, quant_method="gptq", desc_act=False, dynamic={"+:.*": {"bits": 8}})),
    "awq": Format(_awq, _awq_value, _told(4, quant_method="awq", version="gemm")),
    "nvfp4": Format(_nvfp4("weight", "weight_scale_2"), _nvfp4_value("weight", "weight_scale_2"),
                    {"quant_method": "modelopt", "config_groups": {"group_0": {"weights": {"group_size": 16}}}}),
    "nvfp4_not_told": Format(_nvfp4("weight", "weight_scale_2"), _nvfp4_value("weight", "weight_scale_2")),
    "nvfp4_packed": Format(_nvfp4("weight_packed", "weight_global_scale"),
                           _nvfp4_value("weight_packed", "weight_global_scale"), _compressed(num_bits=4, group_size=16)),
    "int4_rows": Format(_int4_rows, _int4_rows_value, {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}),
    "mxfp4": Format(_mxfp4, _mxfp4_value, {"quant_method": "mxfp4"}, True, ("colwise", "rowwise", "grouped_gemm")),
    "fp8_stack": Format(_fp8_stack, _fp8_stack_value, {"quant_method": "fp8", "weight_block_size": [GROUP, GROUP]}, True),
    "gguf": Format(_gguf, _gguf_value, {"quant_method": "gguf"}, words=("colwise",)),
}
