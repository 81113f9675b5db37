"""How the project is installed and tested: its names, the recorded versions, and whose warnings are errors."""

import importlib
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import constraints
import pytest
import yaml
from helpers.command import succeed
from packaging.requirements import Requirement

import halfspace

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
ANOTHER = re.compile(r"""pip install (-\S+ )*["']?halfspace(?!-search)\b""")  # a project of that name is on PyPI


# -- names ------------------------------------------------------------------------------------------------------------


def test_the_distribution_and_what_is_imported_have_their_names():
    assert PROJECT["name"] == "halfspace-search"
    assert PROJECT["version"] == halfspace.__version__
    assert PROJECT["scripts"] == {"halfspace": "halfspace.cli:main"}
    assert PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["halfspace"]


def test_extras():
    extras = {name: {Requirement(line).name for line in lines} for name, lines in EXTRAS.items()}
    assert extras.keys() >= {"attention", "bench", "gpu", "gpu-cuda12", "test"}
    assert extras["gpu"] == {"cupy-cuda13x"}
    assert extras["gpu-cuda12"] == {"cupy-cuda12x"}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('pip install "halfspace[gpu]"', True),
        ("pip install halfspace[gpu]", True),
        ("`pip install halfspace`", True),
        ("pip install -U 'halfspace'", True),
        ("pip install halfspace", True),
        ('pip install ".[gpu]"', False),
        ('pip install "halfspace-search[gpu]"', False),
    ],
)
def test_texts_that_install_another_project_are_recognised(text, wrong):
    assert bool(ANOTHER.search(text)) == wrong


def test_no_text_installs_another_project():
    folders = [ROOT / name for name in ("halfspace", "docs", "asv_benchmarks", "tests")]
    files = [*ROOT.glob("*.*"), *(path for folder in folders for path in folder.rglob("*"))]
    texts = [path for path in files if path.suffix in {".py", ".md", ".toml", ".json", ".cu", ".cuh"}]
    assert ROOT / "README.md" in texts
    assert [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in texts
        if path != Path(__file__).resolve()
        for line in path.read_text(encoding="utf-8").splitlines()
        if ANOTHER.search(line)
    ] == []


# -- what else says so ------------------------------------------------------------------------------------------------


def test_the_version_is_everywhere_the_same():
    version = PROJECT["version"]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'version: "{version}"\n' in (ROOT / "conda/meta.yaml").read_text()
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[1]
    assert newest in (version, "Unreleased")


def test_the_recipe_of_conda_has_what_the_project_has():
    recipe = yaml.safe_load((ROOT / "conda/meta.yaml").read_text())
    assert recipe["package"] == {"name": PROJECT["name"], "version": PROJECT["version"]}
    assert (ROOT / "conda" / recipe["source"]["path"]).resolve() == ROOT

    def known(lines):
        return {(constraints.canonical(one.name), str(one.specifier)) for one in map(Requirement, lines)}

    python = f"python {PROJECT['requires-python']}"
    assert known(recipe["requirements"]["run"]) == known([python, *PROJECT["dependencies"]])
    assert known(recipe["requirements"]["host"]) == known([python, "pip", *PYPROJECT["build-system"]["requires"]])
    assert recipe["build"]["entry_points"] == [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert recipe["about"]["license"] == PROJECT["license"]
    licences = {path.relative_to(ROOT).as_posix() for glob in PROJECT["license-files"] for path in ROOT.glob(glob)}
    assert set(recipe["about"]["license_file"]) == licences


def test_what_the_recipe_of_conda_tries_is_there():
    recipe = yaml.safe_load((ROOT / "conda/meta.yaml").read_text())
    for name in recipe["test"]["imports"]:
        importlib.import_module(name)
    for command in recipe["test"]["commands"]:
        program, *words = shlex.split(command)
        assert program in PROJECT["scripts"]
        succeed(*words)


# -- what is uploaded -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and a source distribution that were built of the files as they are."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    return folder


def test_what_is_uploaded_is_what_pypi_takes(built):
    files = sorted(path.name for path in built.iterdir())
    stem = f"halfspace_search-{PROJECT['version']}"
    assert files == [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]
    command = [sys.executable, "-m", "twine", "check", "--strict", *(str(built / name) for name in files)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_wheel_has_all_of_the_package_and_nothing_else(built):
    kinds = {".py", ".cu", ".cuh", ".npz", ".npy", ".md", ".txt", ".typed", ".gz"}
    ours = [path for path in (ROOT / "halfspace").rglob("*") if path.is_file() and path.suffix in kinds | {""}]
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {path.relative_to(ROOT).as_posix() for path in ours} == names


def test_the_source_has_what_tests_and_pages_need(built):
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "pyproject.toml"]
    needed += ["conda/meta.yaml", "docs/conf.py", "docs/images/benchmarks-size.svg", "tests/constraints.txt"]
    needed += ["tests/test_packaging.py", "asv_benchmarks/report/style.py", "halfspace/gpu/kernels/prepare.cu"]
    assert set(needed) - names == set()


# -- versions that were tested together -------------------------------------------------------------------------------


def pins():
    return constraints.recorded(constraints.FILE.read_text())


@pytest.mark.parametrize("extra", [None, "test", "bench", "attention", "docs"])
def test_every_requirement_is_recorded_in_a_version_that_it_allows(extra):
    lines = PROJECT["dependencies"] if extra is None else EXTRAS[extra]
    found = pins()
    for requirement in map(Requirement, lines):
        version = found.get(constraints.canonical(requirement.name))
        assert version is not None, f"{requirement.name} is not recorded: run tests/constraints.py --write"
        assert version in requirement.specifier


def test_versions_are_recorded_exactly():
    lines = [line for line in constraints.FILE.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(pins())
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==\d+(\.\w+)*", line)  # without +cpu, which is not found everywhere


def test_both_commands_of_the_readme_install_recorded_versions():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for last in ("demo", "pytest"):
        (command,) = [line for line in readme if line.startswith("    ") and line.endswith(last)]
        assert " pip install -c tests/constraints.txt " in command.replace(".venv/bin/", "")


def test_versions_are_read_and_compared():
    before = constraints.recorded("# a comment\nNumPy==2.4.6\ntorch==2.13.0\nml_dtypes==0.6.0\ngone==1\n")
    assert before == {"numpy": "2.4.6", "torch": "2.13.0", "ml-dtypes": "0.6.0", "gone": "1"}
    packages = [("halfspace-search", "0.1.0"), ("ml.dtypes", "0.6.0"), ("torch", "2.13.0+cpu"), ("NumPy", "2.5.5")]
    report = {
        "install": [
            {"is_direct": name == "halfspace-search", "metadata": {"name": name, "version": version}}
            for name, version in [*packages, ("new", "3")]
        ]
    }
    after = constraints.newest(report)
    assert after == {"ml-dtypes": "0.6.0", "torch": "2.13.0", "numpy": "2.5.5", "new": "3"}
    assert constraints.differences(before, after) == ["numpy 2.4.6 -> 2.5.5"]
    assert constraints.differences(before, before) == []


# -- warnings ---------------------------------------------------------------------------------------------------------

WARN = "warnings.warn_explicit('w', {category}, 'file.py', 1, module={module!r})"
FINALISER = """
class Fails:
    def __del__(self):
        raise ValueError("nobody sees this")
Fails()
"""
THREAD = """
import threading
def fail():
    raise ValueError("nobody sees this")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
"""


def explicit(category, module):
    return WARN.format(category=category, module=module)


OURS = [
    explicit("DeprecationWarning", "halfspace"),
    explicit("DeprecationWarning", "halfspace.cpu.filters.cells"),
    explicit("FutureWarning", "halfspace.attention.hf"),
    explicit("UserWarning", "halfspace.index"),
    explicit("RuntimeWarning", "halfspace.model.rounding"),
    explicit("RuntimeWarning", "numpy._core.fromnumeric"),
    explicit("numba.NumbaPerformanceWarning", "/somewhere/halfspace/cpu/cells"),
    "file = open(__file__); del file",
    FINALISER,
    THREAD,
]
FOREIGN = [
    explicit("DeprecationWarning", "transformers.generation.utils"),
    explicit("FutureWarning", "test_hf"),
    explicit("UserWarning", "torch.halfspace"),
    explicit("PendingDeprecationWarning", "halfspaces"),
    explicit("DeprecationWarning", "numpy.lib"),
    explicit("RuntimeWarning", "sklearn.neighbors"),
]


def test_warnings_of_this_project_are_errors_and_others_are_not(tmp_path):
    source = ["import warnings\nimport numba\n"]
    for name, bodies in (("ours", OURS), ("foreign", FOREIGN)):
        for k, body in enumerate(bodies):
            lines = "\n    ".join(body.strip().splitlines())
            source.append(f"def test_{name}_{k}():\n    {lines}\n")
    file = tmp_path / "test_warnings.py"
    file.write_text("\n".join(source))
    command = ["pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", *command, "-rA", "--tb=no", str(file)], cwd=tmp_path, capture_output=True, text=True
    )
    outcomes = re.findall(r"^(FAILED|PASSED|ERROR) \S*::(\w+)", run.stdout, re.MULTILINE)
    expected = [("FAILED", f"test_ours_{k}") for k in range(len(OURS))]
    expected += [("PASSED", f"test_foreign_{k}") for k in range(len(FOREIGN))]
    assert sorted(outcomes) == sorted(expected), run.stdout + run.stderr
