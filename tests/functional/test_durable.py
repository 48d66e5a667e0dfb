"""A crash at any moment leaves the old file or the whole new one: bytes, name and folder reach the disk in this order."""

import pytest
from conftest import LIMIT_S


@pytest.fixture
def watched(build, tpview, tiny, start_service, tmp_path):
    """watched(option, …): a fetch under the watcher of that order. Returns what ran and the steps that were seen."""
    library, log = build / "tests" / "libdurable.so", tmp_path / "steps"
    if not library.exists():
        pytest.fail(f"{library} is not built: run make tests", pytrace=False)

    def run(*options):
        service = start_service(f"qwen3@1={tiny('qwen3')}")
        done = tpview("fetch", "--source", service.source, "--artifact", "qwen3", "--tp-size", 2, "--tp-rank", 1, "--chunk",
                      "64K", "--deadline", LIMIT_S - 10, *options,
                      env={"LD_PRELOAD": str(library), "TEST_DURABLE_LOG": str(log)})
        return done, log.read_text().split() if log.exists() else []

    return run


@pytest.mark.parametrize("how", [(), ("--workers", 0), ("--shared",)], ids=["workers", "no workers", "shared"])
def test_bytes_then_name_then_folder(watched, tiny, check_view, tmp_path, how):
    done, steps = watched("--out", tmp_path / "view", *how)
    assert done.returncode == 0, done.stderr
    assert steps == ["file", "name", "folder"]
    assert check_view(tiny("qwen3"), 2, 1, tmp_path / "view").returncode == 0


def test_the_watcher_sees_what_is_given_up(watched, tmp_path):
    done, steps = watched("--out", tmp_path / "view", "--no-sync")
    assert done.returncode == 99 and "before its bytes were on the disk" in done.stderr
    assert steps == []
