"""The tables of the Python package against the C headers."""

import ctypes
import re
import struct
import subprocess

import pytest
from conftest import ROOT
from tpview import _bindings
from tpview.errors import BY_STATUS

HEADERS = sorted((ROOT / "include" / "tpview").glob("*.h"))


def declarations() -> dict[str, str]:
    """Every public function's prototype, in one line without TPV_API, by its name."""
    found = {}
    for header in HEADERS:
        text = re.sub(r"/\*.*?\*/", " ", header.read_text(), flags=re.S)
        for match in re.finditer(r"TPV_API\s+([^;]*?\b(tpv_\w+)\s*\([^;]*\));", text):
            found[match[2]] = re.sub(r"\s+", " ", match[1])
    return found


def test_each_row_stands_below_its_prototype():
    lines = (ROOT / "python" / "tpview" / "_bindings.py").read_text().splitlines()
    known = declarations()
    for name, _, _ in _bindings.PROTOTYPES:
        row = next(index for index, line in enumerate(lines) if line.strip().startswith(f'("{name}"'))
        assert lines[row - 1].strip() == f"# {known[name]};", name


TYPES = {"void": None, "bool": ctypes.c_bool, "double": ctypes.c_double, "size_t": ctypes.c_size_t,
         "uint32_t": ctypes.c_uint32, "uint64_t": ctypes.c_uint64, "tpv_status_t": ctypes.c_int,
         "tpv_dtype_t": ctypes.c_int, "unsigned": ctypes.c_uint, "tpv_progress_t": ctypes.c_void_p, "void *": ctypes.c_void_p, "char *": ctypes.c_char_p, "char **":
         ctypes.POINTER(ctypes.c_char_p), "uint64_t *": ctypes.POINTER(ctypes.c_uint64)}


def expected(c_type: str):
    """The ctypes type of a C parameter or result."""
    plain = re.sub(r"\bconst\b", "", c_type).strip()
    plain = re.sub(r"\s+", " ", plain)
    if plain in TYPES:
        return TYPES[plain]
    base, stars = plain.rstrip("* "), plain.count("*")
    if base in _bindings.STRUCTURES:
        structure = _bindings.STRUCTURES[base]
        return structure if stars == 0 else ctypes.POINTER(structure)
    assert stars in (1, 2), c_type
    return ctypes.c_void_p if stars == 1 else ctypes.POINTER(ctypes.c_void_p)


@pytest.mark.parametrize("row", _bindings.PROTOTYPES, ids=lambda row: row[0])
def test_types_are_those_of_the_prototype(row):
    name, result, arguments = row
    declared, parameters = re.fullmatch(rf"(.*?)\s*\b{name}\s*\((.*)\)", declarations()[name]).groups()
    assert result == expected(declared)
    types = [] if parameters == "void" else [re.sub(r"\w+$", "", one.strip()).strip() for one in parameters.split(",")]
    for given, c_type in zip(arguments, types, strict=True):
        wanted = expected(c_type)
        # Text that the library allocates comes as a plain pointer, so that it can be freed.
        assert given == wanted or (wanted == ctypes.POINTER(ctypes.c_char_p) and given == ctypes.POINTER(ctypes.c_void_p))


def test_structures_have_the_compilers_layout(tmp_path):
    lines, wanted = [], []
    for c_name, structure in _bindings.STRUCTURES.items():
        lines.append(f'printf("%zu\\n", sizeof({c_name}));')
        wanted.append(ctypes.sizeof(structure))
        for field, _ in structure._fields_:
            lines.append(f'printf("%zu %zu\\n", offsetof({c_name}, {field}), sizeof((({c_name} *)0)->{field}));')
            wanted.append((getattr(structure, field).offset, getattr(structure, field).size))
    program = tmp_path / "layout.c"
    program.write_text('#include <stdio.h>\n#include <stddef.h>\n#include "tpview/tpview.h"\nint main(void) {\n' +
                       "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run(["cc", "-I", str(ROOT / "include"), str(program), "-o", str(tmp_path / "layout")], check=True)
    printed = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout.splitlines()
    seen = [tuple(map(int, line.split())) if " " in line else int(line) for line in printed]
    assert seen == wanted


def test_every_status_has_an_exception():
    text = (ROOT / "src" / "base" / "error.c").read_text()
    names = set(re.findall(r'\[TPV_(?:ERR_)?\w+\] = "(\w+)"', text)) - {"ok"}
    assert set(BY_STATUS) == names


def test_the_version_of_the_headers_is_the_packages():
    text = (ROOT / "include" / "tpview" / "tpview.h").read_text()
    assert int(re.search(r"#define TPV_ABI_VERSION (\d+)u", text)[1]) == _bindings.ABI_VERSION


def test_thread_local_memory_fits_a_program_that_runs(build):
    """glibc keeps 1664 bytes of static thread-local memory for libraries that come by dlopen, and its guard's is static:
    with more, `import tpview` fails beside others (cannot allocate memory in static TLS block)."""
    library = (build / "lib" / "libtpview.so").read_bytes()
    (table,) = struct.unpack_from("<Q", library, 32)  # e_phoff; elf(5)
    entry_bytes, entries = struct.unpack_from("<HH", library, 54)
    kinds = [struct.unpack_from("<IIQQQQQQ", library, table + i * entry_bytes) for i in range(entries)]
    assert sum(entry[6] for entry in kinds if entry[0] == 7) <= 1664  # p_memsz of PT_TLS
