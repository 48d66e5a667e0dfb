"""tpview verify: cuts locally and names the first difference."""

import json

import pytest


@pytest.fixture
def view(tiny, start_service, tpview, tmp_path):
    """Rank 2 of 4's fetched view."""
    service = start_service(f"qwen3@1={tiny('qwen3')}")
    file = tmp_path / "view.safetensors"
    done = tpview("fetch", "--source", service.source, "--artifact", "qwen3", "--tp-size", 4, "--tp-rank", 2, "--out", file)
    assert done.returncode == 0, done.stderr
    return file


@pytest.fixture
def verify(tiny, tpview):
    return lambda file, *options, rank=2: tpview("verify", "--checkpoint", tiny("qwen3"), "--tp-size", 4, "--tp-rank",
                                                 rank, *options, file)


def place_of(file, name: str) -> tuple[int, int]:
    """(first, last + 1) byte of a tensor in the file."""
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        start, stop = json.loads(stream.read(length))[name]["data_offsets"]
    return 8 + length + start, 8 + length + stop


def flip(file, offset: int) -> None:
    with open(file, "r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 0x40]))


def test_a_true_view_passes(verify, view):
    done = verify(view)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.0.self_attn.k_proj.weight",
                                  "model.layers.1.mlp.down_proj.weight", "model.norm.weight"])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_flipped_bit_is_named(verify, check_view, tiny, view, name, where):
    first, end = place_of(view, name)
    flip(view, {"first": first, "middle": (first + end) // 2, "last": end - 1}[where])
    done = verify(view)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and name in done.stderr
    assert check_view(tiny("qwen3"), 4, 2, view).returncode == 1


def test_another_rank_or_form_does_not_pass(verify, view):
    assert verify(view, rank=1).returncode == 1
    assert verify(view, "--fuse").returncode == 1


def test_a_truncated_file_is_named(verify, view):
    with open(view, "r+b") as stream:
        stream.truncate(view.stat().st_size - 1)
    done = verify(view)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and str(view) in done.stderr


def test_a_missing_file_is_named(verify, tmp_path):
    done = verify(tmp_path / "nowhere.safetensors")
    assert done.returncode == 1 and "nowhere.safetensors" in done.stderr


# ---- files whose bytes are all right ---------------------------------------------------------------------------------


@pytest.fixture
def zeros(tmp_path):
    """A checkpoint of zeros: one rank's bytes are another's, so only names, dtypes and shapes tell views apart."""
    from checkpoints.tensors import tensors_of
    from checkpoints.writer import write_checkpoint
    from models import config_of

    config, extra = config_of("qwen3")
    write_checkpoint(tmp_path / "zeros", config, tensors_of(config, **extra), sparse=True)
    return tmp_path / "zeros"


@pytest.fixture
def rewrite(zeros, tpview, start_service, tmp_path):
    """rewrite(change): rank 0 of 2's view of the zeros, its header's entries changed by change(entries), which returns how
    many bytes of zeros to add. Returns what verify says of it."""
    service = start_service(f"zeros@1={zeros}")
    file = tmp_path / "zeros.safetensors"
    done = tpview("fetch", "--source", service.source, "--artifact", "zeros", "--tp-size", 2, "--tp-rank", 0, "--out", file)
    assert done.returncode == 0, done.stderr

    def run(change):
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8:8 + length])
        more = change(entries) or 0
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length:] + bytes(more))
        return tpview("verify", "--checkpoint", zeros, "--tp-size", 2, "--tp-rank", 0, file)

    return run


def differs(done, *words: str) -> None:
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, (done.returncode, done.stderr)
    for word in words:
        assert word in done.stderr, done.stderr


NAME = "model.layers.0.self_attn.q_proj.weight"


def test_the_same_under_another_header_passes(rewrite):
    assert rewrite(lambda entries: None).returncode == 0


def test_another_dtype_of_the_same_width(rewrite):
    differs(rewrite(lambda entries: entries[NAME].update(dtype="F16")), NAME, "dtype")


def test_another_shape_of_as_many_elements(rewrite):
    differs(rewrite(lambda entries: entries[NAME].update(shape=entries[NAME]["shape"][::-1])), NAME, "shape")
    differs(rewrite(lambda entries: entries[NAME].update(shape=[*entries[NAME]["shape"][::-1], 1])), NAME, "shape")


def test_another_name(rewrite):
    differs(rewrite(lambda entries: entries.update({"another": entries.pop(NAME)})), NAME, "missing")


def test_a_tensor_too_many(rewrite):
    def add(entries):
        end = max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
        entries["surplus"] = {"dtype": "U8", "shape": [8], "data_offsets": [end, end + 8]}
        return 8

    differs(rewrite(add), "surplus")


def test_an_empty_tensor_too_many(rewrite):
    def add(entries):
        end = max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
        entries["surplus"] = {"dtype": "U8", "shape": [0], "data_offsets": [end, end]}

    differs(rewrite(add), "surplus")


def test_another_size_or_form_of_the_same_bytes(rewrite, zeros, tpview, tmp_path):
    assert rewrite(lambda entries: None).returncode == 0
    file = tmp_path / "zeros.safetensors"
    differs(tpview("verify", "--checkpoint", zeros, "--tp-size", 4, "--tp-rank", 0, file), "shape")
    differs(tpview("verify", "--checkpoint", zeros, "--tp-size", 2, "--tp-rank", 0, "--fuse", file), "gate_up_proj", "missing")
