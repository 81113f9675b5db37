"""What a GPU takes and what not: arrays of other libraries and places, bad numbers, devices that are not there."""

import ctypes
import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import reference
from helpers.checking import build, equal, identical
from helpers.families import gaussian
from on_gpu import ask, equal_rows, make, put

from halfspace import HalfspaceIndex

pytestmark = pytest.mark.gpu

DIM, MANY = 4, 20


@pytest.fixture
def problem(rng, gpu):
    """An index of 400 vectors, directions, a threshold for each, and the answer."""
    vectors, directions = gaussian(rng, 400, DIM, MANY, "float32")
    tau = np.linspace(0.5, 3, MANY)
    return make(gpu, vectors, filter="cells"), directions, tau, reference.query(vectors, directions, tau, faster=True)


class OfAnotherLibrary:
    """An array as PyTorch and others show theirs: by DLPack."""

    def __init__(self, array, kind=2):
        self._array, self._kind = array, kind

    def __dlpack_device__(self):
        return self._kind, 0

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)


class WithInterface:
    """An array as Numba shows its own."""

    def __init__(self, array):
        self.__cuda_array_interface__ = array.__cuda_array_interface__
        self._array = array


@pytest.mark.parametrize("foreign", [OfAnotherLibrary, WithInterface])
def test_arrays_of_other_libraries_are_not_copied(foreign, problem, gpu):
    index, directions, tau, expected = problem
    for array in (directions, tau, np.arange(5), np.ones(3, bool), directions.astype(np.float16)):
        there = gpu.xp.asarray(array)
        taken = gpu.asarray(foreign(there), "it")
        assert (taken.data.ptr, taken.dtype, taken.shape) == (there.data.ptr, there.dtype, there.shape)
    q, limits = gpu.xp.asarray(directions), gpu.xp.asarray(tau)
    equal_rows(index.query(foreign(q), foreign(limits))._on_host(), expected)
    equal(index.query(foreign(q[3]), float(tau[3]))._on_host(), expected[3])
    ids = foreign(gpu.xp.arange(100))
    assert index.query(foreign(q[3]), -np.inf, within=ids).ids.tolist() == list(range(100))
    index.delete(ids)
    assert index.insert(foreign(q), ids=foreign(gpu.xp.arange(MANY))).tolist() == list(range(MANY))
    assert index.vectors(foreign(gpu.xp.arange(MANY))).tolist() == directions.tolist()


def test_tensors_of_pytorch(problem, gpu):
    torch = pytest.importorskip("torch")
    index, directions, tau, expected = problem
    for host in (torch.ones(DIM), torch.ones(2, DIM, dtype=torch.bfloat16)):
        with pytest.raises(TypeError, match=r"cupy.asarray\(directions\)"):
            index.query(host, 0.0)
    if not torch.cuda.is_available() or hasattr(gpu.xp, "emulator"):
        pytest.skip("PyTorch has no GPU here")
    q, limits = torch.as_tensor(directions, device="cuda"), torch.as_tensor(tau, device="cuda")
    equal_rows(index.query(q, limits)._on_host(), expected)
    equal_rows(index.query(q.T.contiguous().T, limits)._on_host(), expected)
    assert index.count(q, torch.tensor(0.5, device="cuda")).tolist() == index.count(gpu.xp.asarray(q), 0.5).tolist()
    assert gpu.asarray(q, "q").data.ptr == q.data_ptr()
    stored = q.to(torch.bfloat16)
    other = HalfspaceIndex(DIM, device="gpu", dtype="bfloat16")
    other.insert(stored)
    assert torch.equal(torch.from_dlpack(other.vectors(other.ids).view(np.int16)), stored.view(torch.int16))


def layouts(gpu, array):
    """The same numbers as views of all kinds."""
    xp, (m, d) = gpu.xp, array.shape
    there = put(gpu, array)
    spread = xp.zeros((2 * m, 3 * d), there.dtype)
    spread[::2, 1::3] = there
    shifted = xp.zeros(m * d + 1, there.dtype)[1:]  # not where kernels could read 16 bytes at once
    shifted[...] = there.ravel()
    return there, xp.asfortranarray(there), there[::-1].copy()[::-1], spread[::2, 1::3], shifted.reshape(m, d)


def test_every_layout_and_type(problem, gpu, rng):
    index, directions, tau, _ = problem
    theirs = build(index.vectors(index.ids).get(), filter="cells")
    for dtype in (np.float16, np.float32, np.float64, *"?bBhHiIlL", reference.DTYPES["bfloat16"]):
        own = (
            (2 * directions).astype(np.int64).astype(dtype)
            if np.dtype(dtype).kind in "iub"
            else directions.astype(dtype)
        )
        expected = theirs.query(own, tau)
        for q in layouts(gpu, own):
            identical(index.query(q, put(gpu, np.repeat(tau, 2))[::2])._on_host(), expected)
            identical(index.query(q[3], float(tau[3]))._on_host(), expected[3])
            made = HalfspaceIndex(DIM, device="gpu")
            made.insert(q)
            assert made.vectors(made.ids).tolist() == own.astype(np.float32).tolist()
    ids = np.arange(0, 60, 3)
    for dtype in "bBhiIlL":
        wide = gpu.xp.asarray(np.repeat(ids, 2).astype(dtype))
        assert index.query(put(gpu, directions[0]), -np.inf, within=wide[::2]).ids.tolist() == ids.tolist()
    lists = index.query(directions.tolist(), tau.tolist(), within=ids.tolist())
    identical(lists._on_host(), theirs.query(directions, tau, within=ids))


def test_arrays_of_the_host_are_refused(problem, gpu):
    index, directions, tau, expected = problem
    q, host = put(gpu, directions), np.arange(3)
    for hidden in (lambda x: x, lambda x: OfAnotherLibrary(x, kind=1)):
        for name, call in (
            ("vectors", lambda hide: index.insert(hide(directions))),
            ("ids", lambda hide: index.insert(q[:3], ids=hide(host))),
            ("ids", lambda hide: index.delete(hide(host))),
            ("ids", lambda hide: index.vectors(hide(host))),
            ("directions", lambda hide: index.query(hide(directions), 0.0)),
            ("directions", lambda hide: index.count(hide(directions[0]), 0.0)),
            ("directions", lambda hide: index.explain(hide(directions[0]), 0.0)),
            ("tau", lambda hide: index.query(q, hide(tau))),
            ("within", lambda hide: index.query(q, 0.0, within=hide(host))),
            ("within", lambda hide: index.query(q, 0.0, within=hide(np.ones(400, bool)))),
        ):
            with pytest.raises(TypeError, match=rf"host.*cupy.asarray\({name}\)"):
                call(hidden)
    assert index.count(q[0], np.float64(0.5)) == index.count(q[0], 0.5)  # numbers are no arrays
    equal_rows(ask(gpu, index, directions, tau), expected)


def test_bad_numbers_are_placed(problem, gpu, monkeypatch):
    index, directions, tau, expected = problem
    for dtype in (np.float32, np.float64, np.float16):
        for row, column, value in ((0, 0, np.nan), (7, 2, np.inf), (MANY - 1, DIM - 1, -np.inf)):
            bad = directions.astype(dtype)
            bad[row, column] = value
            bad[row:, column] = value  # the first one counts
            there, said = put(gpu, bad), rf"\[{row}, {column}\] is {value}"
            with pytest.raises(ValueError, match="vectors" + said):
                index.insert(there)
            for call in (index.query, index.count):
                with pytest.raises(ValueError, match="directions" + said):
                    call(there, put(gpu, tau))
                with pytest.raises(ValueError, match=rf"directions\[0, {column}\] is {value}"):
                    call(there[row], 0.0)
            with pytest.raises(ValueError, match=rf"directions\[0, {column}\] is {value}"):
                index.explain(there[row], 0.0)
    with pytest.raises(ValueError, match=r"directions\[1, 2\] is 1e\+300, which is infinite in float32"):
        index.query([[0.0] * 4, [0, 0, 1e300, 0]], 0.0)
    with pytest.raises(ValueError, match=r"vectors\[1, 2\] is 70000.0, which is infinite in float16"):
        HalfspaceIndex(DIM, device="gpu", dtype="float16").insert([[0.0] * 4, [0, 0, 70000, 0]])
    q = put(gpu, directions)
    for dtype in (np.float64, np.float32, np.float16):
        bad = tau.astype(dtype)
        bad[[7, 9]] = np.nan
        for given in (put(gpu, bad), bad.tolist()):
            with pytest.raises(ValueError, match=r"tau\[7\] is nan"):
                index.query(q, given)
            with pytest.raises(ValueError, match=r"tau\[7\] is nan"):
                index.count(q, given)
    for given in (np.nan, np.float32(np.nan), gpu.xp.asarray(np.nan)):
        with pytest.raises(ValueError, match="tau is nan"):
            index.query(q, given)
        with pytest.raises(ValueError, match="tau is nan"):
            index.query(q[0], given)
    monkeypatch.setattr(importlib.import_module("halfspace.gpu.search"), "WORKSPACE", 1 << 11)
    bad = q.copy()
    bad[MANY - 2, 1] = np.nan  # in a later block
    with pytest.raises(ValueError, match=rf"directions\[{MANY - 2}, 1\] is nan"):
        index.query(bad, 0.0)
    equal_rows(ask(gpu, index, directions, tau), expected)
    assert len(index) == 400


def test_shapes_and_types(problem, gpu):
    index, directions, *_ = problem
    xp, q = gpu.xp, put(gpu, directions)
    for wrong in (xp.ones(3), xp.ones((2, 5)), xp.ones((2, 2, DIM)), xp.asarray(1.0), xp.ones((2, 0)), 1.0, [1.0, 2.0]):
        for call in (index.insert, lambda x: index.query(x, 0.0), lambda x: index.count(x, 0.0)):
            with pytest.raises(ValueError, match=r"shape \(4,\) or \(n, 4\)"):
                call(wrong)
    for call in (index.insert, lambda x: index.query(x, 0.0)):
        with pytest.raises(TypeError, match="complex64"):
            call(xp.ones((2, DIM), np.complex64))
    for wrong in (xp.ones(3), xp.ones((MANY, 1)), [1.0, 2.0]):
        with pytest.raises(ValueError, match=rf"scalar or have shape \({MANY},\)"):
            index.query(q, wrong)
    with pytest.raises(ValueError, match="tau must be a scalar"):
        index.query(q[0], xp.ones(1))
    for wrong in (xp.ones(MANY, bool), xp.ones(MANY, np.complex64), "1", None):
        with pytest.raises(TypeError, match="tau"):
            index.query(q, wrong)
    for wrong in (xp.ones(3), xp.ones(3, np.complex64)):
        with pytest.raises(TypeError, match="integers"):
            index.delete(wrong)
        with pytest.raises(TypeError, match="within"):
            index.query(q, 0.0, within=wrong)
    with pytest.raises(ValueError, match="one dimension"):
        index.query(q, 0.0, within=xp.zeros((2, 2), np.int64))
    with pytest.raises(ValueError, match="must fit in int64"):
        index.insert(q[0], ids=xp.asarray([2**64 - 1], np.uint64))
    with pytest.raises(ValueError, match="id 3 is given twice"):
        index.delete(xp.asarray([3, 4, 3]))
    with pytest.raises(ValueError, match=r"ids must have shape \(20,\)"):
        index.insert(q, ids=xp.arange(1000, 1010))
    assert ("a" in index, 1.5 in index, 2**70 in index, -1 in index, 399 in index) == (False, False, False, False, True)
    with pytest.raises(ValueError, match="explain takes one direction"):
        index.explain(q, 0.0)


def test_devices_that_are_not_there(gpu, monkeypatch):
    with pytest.raises(RuntimeError, match=r"device 'gpu:77' is not there: \d+ GPUs? (is|are) visible"):
        HalfspaceIndex(3, device="gpu:77")
    for device in ("gpu:", "gpu:-1", "cuda", "GPU"):
        with pytest.raises(ValueError, match="device must be 'cpu', 'gpu' or"):
            HalfspaceIndex(3, device=device)

    def absent():
        raise gpu.xp.cuda.runtime.CUDARuntimeError(35)

    with monkeypatch.context() as patch:
        patch.setattr(gpu.xp.cuda.runtime, "getDeviceCount", absent)
        with pytest.raises(RuntimeError, match=r"device 'gpu' needs an NVIDIA GPU and a driver for CUDA 1\d: "):
            HalfspaceIndex(3, device="gpu")
    with monkeypatch.context() as patch:
        patch.setattr(gpu.xp.cuda, "Device", lambda number=0: SimpleNamespace(id=number, compute_capability="75"))
        with pytest.raises(RuntimeError, match=r"compute capability 7\.5: 8\.0 \(Ampere\) or later"):
            HalfspaceIndex(3, device="gpu")
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.startswith("halfspace.gpu")]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "cupy", None)
        with pytest.raises(ImportError, match="pip install cupy-cuda13x, or cupy-cuda12x for a driver of CUDA 12"):
            HalfspaceIndex(3, device="gpu")
    assert len(HalfspaceIndex(3, device="gpu:0")) == 0


@pytest.fixture
def two(gpu, monkeypatch):
    """Two devices, the first one current."""
    if hasattr(gpu.xp, "emulator"):
        monkeypatch.setattr(gpu.xp.emulator, "devices", 2)
    if gpu.xp.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    return gpu.xp.cuda.Device


def test_arrays_of_another_gpu_are_refused(two, gpu, rng, tmp_path):
    vectors, directions = gaussian(rng, 300, DIM, 5, "float32")
    index, here = HalfspaceIndex(DIM, device="gpu:1", filter="cells"), put(gpu, vectors)
    with pytest.raises(ValueError, match="vectors is on GPU 0, the index on GPU 1"):
        index.insert(here)
    with two(1):
        there, q = put(gpu, vectors), put(gpu, directions)
    index.insert(there)
    for call in (
        lambda: index.query(here[:5], 0.0),
        lambda: index.query(q, here[:5, 0]),
        lambda: index.query(q, 0.0, within=gpu.xp.arange(3)),
        lambda: index.delete(gpu.xp.arange(3)),
    ):
        with pytest.raises(ValueError, match="is on GPU 0, the index on GPU 1"):
            call()
    hits = index.query(q, 1.0)
    assert [array.device.id for array in (hits.ids, hits.scores, hits.offsets, hits.totals, index.ids)] == [1] * 5
    equal_rows(hits._on_host(), reference.query(vectors, directions, 1.0))
    assert gpu.xp.cuda.Device().id == 0
    index.save(tmp_path / "index")
    index = HalfspaceIndex.load(tmp_path / "index", device="gpu")
    equal_rows(ask(gpu, index, directions, 1.0), reference.query(vectors, directions, 1.0))


def test_the_launcher_checks_what_it_hands_on(gpu, monkeypatch):
    launch = importlib.import_module("halfspace.gpu.runtime.launch")
    records = importlib.import_module("halfspace.gpu.runtime.records")
    parameters = ("vectors", launch.STORED), ("norms", np.float32), ("lowest", np.int32), ("rows", int), ("dim", int)
    measure, xp = launch.Kernel("measure.cu", "measure_vectors", *parameters), gpu.xp
    vectors, norms, lowest = xp.ones((10, 4), np.float32), xp.empty(10, np.float32), xp.zeros(1, np.int32)
    measure((1,), 128, vectors, norms, lowest, 10, 4)
    assert (norms.get() >= 2).all()
    for arguments, options, error, said in (
        ((vectors, norms, lowest, 10), {}, TypeError, "measure_vectors takes 5 arguments, got 4"),
        (
            (vectors.astype(np.float64), norms, lowest, 10, 4),
            {},
            TypeError,
            "vectors must be a device array of float32",
        ),
        ((vectors, norms, lowest, 10, 4), {"format": 1}, TypeError, "vectors must be a device array of uint16"),
        ((vectors, norms.get(), lowest, 10, 4), {}, TypeError, "norms must be a device array of float32"),
        ((vectors, None, lowest, 10, 4), {}, TypeError, "norms must be a device array"),
        ((vectors.T, norms, lowest, 10, 4), {}, ValueError, "vectors must be contiguous, got strides"),
        ((vectors, norms, lowest, "ten", 4), {}, ValueError, "ten"),
    ):
        with pytest.raises(error, match=said):
            measure((1,), 128, *arguments, **options)
    for grid in ((2**31,), (1, 65536), (1, 1, 65536), (-1,)):
        with pytest.raises(ValueError, match="a grid of"):
            measure(grid, 128, vectors, norms, lowest, 10, 4)
    measure((0,), 128, vectors, norms, lowest, 0, 4)  # nothing to do
    prepare = launch.Kernel("prepare.cu", "prepare", ("call", records.CALL))
    for wrong in (np.zeros(2, records.CALL), np.zeros(1, records.HEADER)):
        with pytest.raises(TypeError, match="call must be one record"):
            prepare((1,), 256, wrong)


def test_the_driver_is_handed_addresses(gpu, monkeypatch):
    """What is launched to overlap reads records anew each time; structs lie as the driver's headers say."""
    overlap = importlib.import_module("halfspace.gpu.runtime.overlap")
    launches, problems = [], [201, 0, 0, 7]

    def driver(config, function, values, extra):
        config = overlap._Config.from_address(config)
        addresses = (ctypes.c_void_p * 4).from_address(values)
        record = ctypes.c_longlong.from_address(addresses[0]).value, ctypes.c_double.from_address(addresses[3]).value
        others = tuple(ctypes.c_longlong.from_address(address).value for address in addresses[1:3])
        launches.append(
            ((config.grid_x, config.grid_y, config.block_x, config.shared), function, record[0], *others, record[1])
        )
        assert (config.attributes[0].id, config.attributes[0].value, config.count) == (6, 1, 1)
        return problems.pop(0)

    monkeypatch.setattr(overlap, "_entry", lambda: driver)
    monkeypatch.setattr(gpu.xp.cuda.runtime, "free", lambda _: None)
    record, array = np.array([3], np.int64), gpu.xp.zeros(5)
    launch = overlap.Launch(SimpleNamespace(ptr=99), (4, 2), 64, (record, array, 17, 0.5), 1024, True)
    launch()
    record[0] = 5
    launch()
    shape = (4, 2, 64, 1024), 99
    assert launches == [(*shape, own, array.data.ptr, 17, 0.5) for own in (3, 3, 5)]
    with pytest.raises(RuntimeError, match=r"refused \(4, 2, 1\) blocks of 64 threads: error 7"):
        launch()
    config, attribute = overlap._Config, overlap._Attribute
    assert (config.stream.offset, config.attributes.offset, config.count.offset) == (32, 40, 48)
    assert (ctypes.sizeof(config), ctypes.sizeof(attribute), attribute.value.offset) == (56, 72, 8)


def test_the_launcher_refuses_arrays_of_another_gpu(two, gpu):
    formats, xp = importlib.import_module("halfspace.gpu.formats"), gpu.xp
    with two(1):
        vectors = xp.ones((1, 10, 4), np.float32)
    with pytest.raises(ValueError, match="vectors is on GPU 1, the current one is 0"):
        formats.measure(vectors, 1)
