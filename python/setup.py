"""Builds the C libraries with the project's Makefile and puts them into the package."""

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("libtpview.so", "libnccl-net-tpview.so")


class BuildWithLibraries(build_py):
    """build_py, and the libraries below tpview/lib. TPVIEW_BUILD names a build folder to take them from as they are."""

    def run(self) -> None:
        super().run()
        given = os.environ.get("TPVIEW_BUILD")
        build = Path(given) if given else ROOT / "build"
        if not given:
            targets = [f"build/lib/{name}" for name in LIBRARIES]
            subprocess.run(["make", "-C", str(ROOT), f"-j{os.cpu_count() or 1}", *targets], check=True)
        folder = Path(self.build_lib) / "tpview" / "lib"
        folder.mkdir(parents=True, exist_ok=True)
        for name in LIBRARIES:
            shutil.copy2(build / "lib" / name, folder / name)


class WithLibraries(Distribution):
    """Binary, though without an extension module."""

    def has_ext_modules(self) -> bool:
        return True


class PlatformWheel(bdist_wheel):
    """One wheel for every Python of this platform: the libraries are loaded with ctypes."""

    def get_tag(self) -> tuple:
        return ("py3", "none", super().get_tag()[2])


setup(distclass=WithLibraries, cmdclass={"build_py": BuildWithLibraries, "bdist_wheel": PlatformWheel})
