"""The twins of structs, enumerations and constants in kernels, and of what kernels take; every kernel is documented."""

import importlib
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from halfspace.model import counters, kv_cache, layout

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "halfspace" / "gpu" / "kernels"
NUMBERS = {"long long": "i8", "unsigned long long": "u8", "double": "f8", "float": "f4"}
ADDRESS = "i8"
CONSTANTS = {
    name: getattr(layout, name) for name in ("BLOCK", "TILE", "CHUNK", "HIGH_MIDDLE", "LOW_MIDDLE", "MODERATE")
}
MOST_PARAMETERS = 8

STRUCTS = {
    "runtime/records.cuh": {
        "Codes": ("runtime.records", "CODES"),
        "Segment": ("runtime.records", "SEGMENT"),
        "Plan": ("runtime.records", "PLAN"),
        "Lift": ("runtime.records", "LIFT"),
        "Level": ("runtime.records", "LEVEL"),
        "Glance": ("runtime.records", "GLANCE"),
        "View": ("runtime.records", "VIEW"),
        "Header": ("runtime.records", "HEADER"),
        "Call": ("runtime.records", "CALL"),
    },
    "codes.cu": {"Coding": ("codes", "CODING")},
    "partition.cu": {"Split": ("partition", "SPLIT")},
    "filters/cells.cu": {"Encoded": ("filters.cells", "ENCODED")},
    "filters/lengths.cu": {"Measured": ("filters.lengths", "MEASURED")},
    "attention/cache.cuh": {"Cache": ("attention.cache", "CACHE")},
    "attention/extend.cu": {"Tokens": ("attention.cache", "TOKENS")},
    "attention/attend.cuh": {"Attend": ("attention.attend", "ATTEND")},
    "attention/choose.cuh": {"Choose": ("attention.choose", "CHOOSE")},
    "attention/estimate.cu": {"Estimate": ("attention.threshold", "ESTIMATE")},
}
"""Of each file, its structs that Python fills in, and where their twins are."""


def source(file):
    """A file without its comments."""
    return re.sub(r"//[^\n]*", "", (KERNELS / file).read_text())


def files(pattern):
    return sorted(str(path.relative_to(KERNELS)) for path in KERNELS.rglob(pattern))


def struct(file, name):
    """The dtype of a struct: addresses and numbers, structs and arrays of them."""
    body = re.search(rf"\bstruct {name} {{(.*?)\n}};", source(file), re.DOTALL)[1]
    fields = []
    for kind, own, count in re.findall(r"^ {4}([\w ]+?[ *]+)(\w+)(?:\[(\d+)\])?;", body, re.MULTILINE):
        kind = kind.removeprefix("const ").strip()
        one = ADDRESS if kind.endswith("*") else NUMBERS.get(kind) or struct(file, kind)
        fields.append((own, one, (int(count),)) if count else (own, one))
    return np.dtype(fields)


def signless(dtype):
    """The same dtype with all integers signed: an address is a number to Python."""
    if dtype.subdtype is not None:
        return np.dtype((signless(dtype.subdtype[0]), dtype.subdtype[1]))
    if dtype.names is None:
        return np.dtype(dtype.str.replace("u", "i"))
    return np.dtype([(name, signless(dtype[name])) for name in dtype.names])


def members(file, name):
    """The members of an enumeration by name."""
    body = re.search(rf"\benum {name}\b[^{{]*{{(.*?)}}", source(file), re.DOTALL)[1]
    found, value = {}, 0
    for own, given in re.findall(r"(\w+)(?:\s*=\s*(\d+))?", body):
        found[own] = value = int(given) if given else value
        value += 1
    return found


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, own in STRUCTS.items() for name in own])
def test_structs(file, name, gpu):
    module, twin = STRUCTS[file][name]
    expected = getattr(importlib.import_module(f"halfspace.gpu.{module}"), twin)
    found = struct(file, name)
    assert signless(found) == signless(expected)
    assert [found.fields[own][1] for own in found.names] == [expected.fields[own][1] for own in expected.names]


def test_every_twin_is_compared(gpu):
    """Whatever a kernel takes by value is in the table above."""
    taken = {kind for file in files("*.cu") for _, kinds in kernels_of(file) for kind in kinds if kind.isalpha()}
    assert taken <= {"double", "float"} | {name for own in STRUCTS.values() for name in own}


def test_enumerations(gpu):
    records = importlib.import_module("halfspace.gpu.runtime.records")
    file = "runtime/records.cuh"
    assert members(file, "Kind") == {kind.name: kind.value for kind in records.Kind}
    assert members(file, "Stage") == {f"{stage.name}_STAGE": stage.value for stage in counters.Stage}
    columns = {column.name: column.value for column in counters.Column}
    assert members(file, "Column") == columns | {"COLUMNS": len(columns)}
    wanted = {want.name: want.value for want in counters.Want}
    assert wanted.pop("EXPLAINED") == max(wanted.values()) + 1  # kernels are asked for scores, and see counters
    assert members(file, "Want") == wanted
    trouble = {"OVERFULL": kv_cache.OVERFULL, "NOT_FINITE": kv_cache.NOT_FINITE}
    assert members("attention/cache.cuh", "Trouble") == trouble
    assert len(members("attention/estimate.cu", "Estimator")) == len(kv_cache.ESTIMATORS)


def defined(name):
    """The definitions of a constant in all kernels."""
    found = {}
    for file in files("*.cu*"):
        for own in re.findall(rf"(?:#define {name}|constexpr \w+ {name} =) +([^;\n]+)", source(file)):
            found[file] = own.strip()
    return found


def test_constants(gpu):
    """Those of `halfspace.model.layout` are defined once, with the same values."""
    known = {}
    for name, value in CONSTANTS.items():
        ((file, text),) = defined(name).items()
        assert file == "runtime/records.cuh"
        hexadecimal = re.sub(r"0x\w+p\w+", lambda match: repr(float.fromhex(match[0])), text)
        known[name] = eval(hexadecimal, {"__builtins__": {}}, known)
        assert known[name] == value
    records = importlib.import_module("halfspace.gpu.runtime.records")
    assert defined("THREADS") == {"runtime/records.cuh": str(records.THREADS)}
    assert defined("ROW_THREADS") == {"select.cu": str(records.ROW_THREADS)}
    assert defined("RESERVOIR")["attention/cache.cuh"] == str(kv_cache.RESERVOIR)
    assert defined("HIGH_SPAN") == {"attention/heads.cuh": "HIGH_MIDDLE"}
    assert defined("LOW_SPAN") == {"attention/heads.cuh": str(layout.LARGEST_CODE)}
    sweep = importlib.import_module("halfspace.gpu.filters.sweep")
    assert defined("BINS")["filters/sweep.cu"] == str(sweep.BINS)
    run = importlib.import_module("halfspace.gpu.run")
    assert defined("RESIDENT")["verify.cu"] == str(run.VERIFYING)
    cells = importlib.import_module("halfspace.gpu.filters.cells")
    strips = {name: defined(name)["filters/strips.cu"] for name in ("ROWS", "MOST", "UNIT")}
    warp = int(defined("WARP")["runtime/records.cuh"])
    known = {"THREADS": records.THREADS, "WARP": warp, "ROWS": int(strips["ROWS"])}
    assert eval(strips["UNIT"].replace("/", "//"), {"__builtins__": {}}, known) == cells.UNIT
    assert strips["MOST"] == str(cells.SET)
    cascade = {name: defined(name)["filters/cascade.cu"] for name in ("ROWS", "ALONE")}
    assert cascade == {"ROWS": str(cells.WARP_ROWS), "ALONE": str(cells.ALONE)}
    assert defined("RANKED") == {"select.cu": str(importlib.import_module("halfspace.gpu.collect").RANKED)}


def kernels_of(file):
    """Name and kinds of parameters of every kernel of a file."""
    pattern = r"__global__\s+void\s+(?:__launch_bounds__\([^;{]*?\)\s+)?(\w+)\(([^()]*)\)\s*{"
    return [
        (name, [re.sub(r"\b(const|__restrict__)\b|\w+$", "", part).strip() for part in parameters.split(",")])
        for name, parameters in re.findall(pattern, source(file))
    ]


def test_launchers_hand_kernels_what_they_take(gpu):
    """Each kernel is declared where it is launched, with as many parameters, and records for structs."""
    launch = importlib.import_module("halfspace.gpu.runtime.launch")
    declared = {}
    for path in (ROOT / "halfspace" / "gpu").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
        for value in vars(module).values():
            for own in value.values() if isinstance(value, dict) else [value]:
                if isinstance(own, launch.Kernel):
                    declared[own._file, own._name] = own._parameters
    assert sorted(declared) == sorted((file, name) for file in files("*.cu") for name, _ in kernels_of(file))
    for file in files("*.cu"):
        for name, kinds in kernels_of(file):
            found = declared[file, name]
            assert len(found) == len(kinds) <= MOST_PARAMETERS, name
            for (_, kind, _), theirs in zip(found, kinds, strict=True):
                number = {"long long": int, "double": float}.get(theirs)
                record = isinstance(kind, np.dtype) and kind.names is not None
                assert kind is number if number else record == (not theirs.endswith("*")), (name, theirs)


def test_functions_take_few_parameters():
    for file in files("*.cu*"):
        code = source(file)
        for name, parameters in re.findall(
            r"__device__[^;{]*?\b(\w+)\(((?:[^()]|\([^()]*\))*)\)\s*(?:const)?\s*{", code
        ):
            assert parameters.count(",") < MOST_PARAMETERS, (file, name)


def test_every_kernel_is_documented():
    """By its name and its file, in the table of docs/gpu.md."""
    text = (ROOT / "docs" / "gpu.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for file in files("*.cu"):
        assert any(f"`{file}`" in row for row in rows), file
        for name, _ in kernels_of(file):
            assert any(f"`{name}`" in row and f"`{file}`" in row for row in rows), name
    named = set(re.findall(r"`([\w/]+\.cu)`", text))
    assert named == set(files("*.cu"))


def test_every_kernel_is_in_the_wheel():
    """It has all of the package but what Git ignores."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["halfspace"]}
    ignored = (ROOT / ".gitignore").read_text().split()
    for path in KERNELS.rglob("*.cu*"):
        assert not any(path.match(pattern.strip("/")) for pattern in ignored), path
