"""Both devices keep the contract of `halfspace.backend.Backend`, and have the same names for the same things."""

import inspect
from pathlib import Path

import pytest

from halfspace import cpu
from halfspace.backend import Backend
from halfspace.model import filters

PACKAGE = Path(cpu.__file__).parents[1]
CONTRACT = {
    name: inspect.signature(member)
    for name, member in vars(Backend).items()
    if inspect.isfunction(member) and not name.startswith("_")
}
VALUES = {name for name in Backend.__annotations__ if not name.startswith("_")}
TWINS = pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])


@pytest.fixture
def module(device, request):
    return cpu if device == "cpu" else request.getfixturevalue("gpu")


@TWINS
def test_a_backend_has_every_name_of_the_contract(device, module):
    assert set(module.__all__) >= {*CONTRACT, *VALUES}
    assert device == module.DEVICE
    for name, expected in CONTRACT.items():
        wanted = [part for part in expected.parameters.values() if part.name != "self"]
        given = list(inspect.signature(getattr(module, name)).parameters.values())
        assert [part.name for part in given][: len(wanted)] == [part.name for part in wanted], name
        assert [part.kind for part in given][: len(wanted)] == [part.kind for part in wanted], name
        for mine, theirs in zip(given, wanted, strict=False):
            assert (mine.default is inspect.Parameter.empty) == (theirs.default is inspect.Parameter.empty), name
            if theirs.default is not inspect.Parameter.empty:
                assert mine.default == theirs.default, name
        assert all(part.default is not inspect.Parameter.empty for part in given[len(wanted) :]), name


@pytest.mark.gpu
def test_backends_have_no_name_that_the_other_lacks(gpu):
    assert set(cpu.__all__) - set(gpu.__all__) == set()
    assert set(gpu.__all__) - set(cpu.__all__) == {"stream"}  # of another library, which there is on a GPU alone


@TWINS
def test_every_filter_has_its_code(device, module):
    for spec in filters.FILTERS.values():
        if spec.name == "lengths":  # of the tests, for the CPU alone
            continue
        code = spec.on(device)
        assert code.__name__.startswith(f"halfspace.{device}.filters.")
        assert code.__doc__


@pytest.mark.parametrize("folder", [".", "filters", "attention", "runtime"])
def test_what_the_gpu_has_a_module_for_the_cpu_has_one_of_the_same_name(folder):
    """The CPU has more: what is one kernel file on a GPU is a module of stages there."""
    ours, theirs = ({path.name for path in (PACKAGE / device / folder).glob("*.py")} for device in ("cpu", "gpu"))
    alone = {
        ".": {"counters.py", "out.py", "run.py"},  # read back from the device; filled without waiting; kernels in a row
        "filters": set(),
        "attention": set(),
        "runtime": {"launch.py", "overlap.py", "tables.py"},  # CUDA's
    }[folder]
    assert theirs - ours == alone
