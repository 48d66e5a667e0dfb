"""All families planned and compared once, for every test here. TEST_BUILD names the build folder (default: build)."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from families import FAMILIES  # noqa: E402
from results import ROOT, Results, run  # noqa: E402


@pytest.fixture(scope="session")
def build() -> Path:
    folder = Path(os.environ.get("TEST_BUILD", ROOT / "build")).resolve()
    if not (folder / "tests" / "models" / "write_views").exists():
        pytest.fail(f"{folder}/tests/models/write_views is not built: run make tests", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def results(build: Path) -> Results:
    return run(build, list(FAMILIES))
