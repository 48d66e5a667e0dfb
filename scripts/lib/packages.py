"""Finds the Python packages that the scripts need: here, or in build/venv where scripts/install-deps puts them."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / "build" / "venv"


def require(*modules: str) -> None:
    """Return when every module can be imported; else start the running script again with build/venv's Python.
    Ends the program with exit code 1 and one line when that cannot help."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if not missing:
        return
    python = VENV / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(python, [str(python), *sys.argv])
    name = Path(sys.argv[0]).name
    sys.exit(f"{name}: Python package {', '.join(missing)} is not installed: run scripts/install-deps first")
