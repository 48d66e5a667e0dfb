"""The wheel: built with the libraries in it, installed beside nothing else, it finds them and works."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

SCRIPT = """
import sys, tpview
from tpview import _bindings
assert _bindings.library_path().parent.parent == __import__("pathlib").Path(tpview.__file__).parent
with tpview.connect(sys.argv[1]) as source:
    plan = source.plan("qwen3", tpview.Layout.tp(0, 2))
    with source.fetch(plan, deadline=30) as job:
        print(job.wait().needed_bytes == plan.bytes)
"""


@pytest.fixture(scope="session")
def wheel(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    copy = shutil.copytree(ROOT / "python", folder / "python")  # setuptools writes beside the sources
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-q", "-w",
               str(folder), str(copy)]
    subprocess.run(command, env={**os.environ, "TPVIEW_BUILD": str(build)}, check=True, timeout=120)
    return next(folder.glob("*.whl"))


def test_one_wheel_serves_every_python_of_a_platform(wheel):
    assert "-py3-none-linux_" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("tpview/lib/libtpview.so", "tpview/lib/libnccl-net-tpview.so", "tpview/py.typed", "tpview/torch/record.py"):
        assert name in names


def test_installed_alone_it_finds_its_libraries(wheel, tmp_path, start_service, tiny):
    source = start_service(f"qwen3@1={tiny('qwen3')}").source
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", str(tmp_path / "site"),
                    str(wheel)], check=True, timeout=120)
    environ = {name: value for name, value in os.environ.items()
               if name not in ("LD_LIBRARY_PATH", "TPVIEW_LIBRARY", "PYTHONPATH", "NCCL_NET_PLUGIN")}
    done = subprocess.run([sys.executable, "-c", SCRIPT, source], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                          env={**environ, "PYTHONPATH": str(tmp_path / "site")})
    assert done.stdout == "True\n", done
