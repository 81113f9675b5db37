"""Whoever waits for a command on a terminal sees what goes on, and for how long."""

import re

import numpy as np
import pytest
from helpers.command import succeed
from helpers.terminal import on_a_terminal

COMMAND = "from halfspace.cli import main; main()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Vectors x.npy, directions q.npy and an index x.hs."""
    folder = tmp_path_factory.mktemp("terminal")
    rng = np.random.default_rng(3)
    for name, rows in (("x", 400), ("q", 3)):
        np.save(folder / f"{name}.npy", rng.standard_normal((rows, 8)).astype(np.float32))
    succeed("build", folder / "x.npy", "-o", folder / "x.hs")
    return folder


@pytest.mark.parametrize(
    ("arguments", "waits"),
    [
        ("demo --rounds 1", ["asking, proving and timing"]),
        ("build {0}/x.npy -o {0}/y.hs", ["reading", "building"]),
        (
            "query {0}/x.hs {0}/q.npy --tau 1 --explain -o {0}/hits.csv",
            ["reading", "opening", "asking", "explaining", "writing"],
        ),
        ("info {0}/x.hs --verify", ["opening", "verifying"]),
        (
            "bench {0}/x.npy {0}/q.npy --tau 1 --engines halfspace,numpy --rounds 1 --plot {0}/times.svg",
            ["reading", "x.npy: exact answers", "x.npy: building numpy", "x.npy", "drawing"],
        ),
        ("warmup", ["warming up float32"]),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_every_wait_shows_its_time(arguments, waits, folder):
    printed, got = on_a_terminal(COMMAND, *arguments.format(folder).split(), TERM="xterm", COLUMNS="100")
    assert printed
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", got)
    for wait in waits:
        assert re.search(rf"{wait} [^\r\n]*\b\d:\d\d:\d\d", plain), wait


def test_what_is_compiled_is_shown_in_place_of_the_text():
    code = (
        "import time\nfrom halfspace import terminal\nfrom halfspace.runtime import notices\n"
        "from halfspace.runtime.notices import compiling, watched\nnotices.LONG = 0.1\n"
        "def slowly():\n    with compiling('this'):\n        time.sleep(0.5)\n"
        "with terminal.spinner('working'):\n    watched(slowly, meanwhile=lambda: None)\n"
    )
    _, got = on_a_terminal(code, TERM="xterm")
    assert "compiling this" in got
    assert "halfspace: " not in got
    assert "\b" not in got
