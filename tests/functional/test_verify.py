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
