"""Codes of keys that lie in somebody else's pages: what a sequence is answered, whatever was in its slots before."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import attention_reference as oracle

from halfspace.attention.arguments import Given
from halfspace.attention.pages import Desk, Pages
from halfspace.attention.policy import Threshold, attended
from halfspace.model.formats import FORMATS, as_bits, as_numbers
from halfspace.model.kv_cache import SCAN

HEADS, GROUP, DIM, SIZE = 2, 3, 24, 64
SCALE = 0.2


class Owner:
    """A pool of pages, sequences that share them, and what each of them holds, by position."""

    def __init__(self, rng, format="float32", pages=24):
        numbers, bits = FORMATS[format]
        self.rng, self.numbers, self.free = rng, numbers, list(rng.permutation(pages))
        # keys and values of a slot lie in one record, as they do in a cache of transformers
        self.store = np.zeros((pages, 2, SIZE, HEADS, DIM), bits)
        self.given = Given.of(HEADS, DIM, None, "cpu", format, False, 1)
        self.pages = Pages(self.given, self.store[:, 0], self.store[:, 1])
        self.desk = Desk(self.given, bits)
        self.tables, self.known = {}, {}
        self.users = np.zeros(pages, np.int64)

    def grow(self, name, rows, spread=1.0):
        """Write so many new keys and values to the end of a sequence."""
        table = self.tables.setdefault(name, [])
        before = len(self.known.get(name, ()))
        for _ in range(-(-(before + rows) // SIZE) - len(table)):
            table.append(self.free.pop())
            self.users[table[-1]] += 1
        fresh = as_bits((spread * self.rng.standard_normal((rows, 2, HEADS, DIM))).astype(self.numbers))
        at = np.arange(before, before + rows)
        slots = np.array(table)[at // SIZE] * SIZE + at % SIZE
        self.store[slots // SIZE, :, slots % SIZE] = fresh
        self.pages.write(slots)
        self.known[name] = np.concatenate([self.known[name], fresh]) if before else fresh

    def share(self, name, new, pages):
        """Begin a sequence with the first whole pages of another."""
        self.tables[new] = self.tables[name][:pages]
        self.users[self.tables[new]] += 1
        self.known[new] = self.known[name][: pages * SIZE]

    def fork(self, name, new):
        """Begin a sequence with copies of another's pages."""
        self.tables[new] = [self.free.pop() for _ in self.tables[name]]
        self.users[self.tables[new]] += 1
        self.store[self.tables[new]] = self.store[self.tables[name]]
        self.pages.copy(np.array(self.tables[name]), np.array(self.tables[new]))
        self.known[new] = self.known[name]

    def end(self, name):
        """Give the pages of a sequence back, as they are."""
        for page in self.tables.pop(name):
            self.users[page] -= 1
            if not self.users[page]:
                self.free.append(page)
        del self.known[name]

    def check(self, name, forced=(0, 0), **how):
        """Hold the answer of a sequence against float64."""
        queries = (2 * self.rng.standard_normal((1, HEADS * GROUP, DIM))).astype(np.float32)
        known = as_numbers(self.known[name]).astype(np.float32)
        cache = self.pages.lay(self.desk, np.array(self.tables[name]), len(known))
        given = replace(self.given, query_heads=HEADS * GROUP)
        asked = Threshold.of(how.get("tau"), how.get("eps"), how.get("keep"), SCAN)
        found, tau, dropped = attended(asked, given, cache, queries, (SCALE, 0.0), forced)
        for head in range(HEADS * GROUP):
            keys, values = known[:, 0, head // GROUP], known[:, 1, head // GROUP]
            mask = oracle.kept(keys, queries[0, head], tau[0, head], *forced)
            assert found.kept[0, head] == mask.sum()
            output, whole = oracle.softmax(keys, values, queries[0, head], mask, SCALE, 0.0)
            np.testing.assert_allclose(as_numbers(found.output)[0, head], output, atol=2e-5)
            np.testing.assert_allclose(found.log_sum_exp[0, head], whole, rtol=1e-5, atol=1e-5)
            if dropped is not None:
                logits = oracle.logits(keys, queries[0, head], SCALE, 0.0)
                weights = np.exp(logits - logits.max())
                lost = weights[~oracle.kept(keys, queries[0, head], tau[0, head])].sum() / weights.sum()
                assert lost <= dropped[0, head] * (1 + 1e-9) + 1e-15
                if "eps" in how:
                    assert dropped[0, head] <= how["eps"]
        return found


@pytest.mark.parametrize("format", FORMATS)
def test_sequences_that_come_and_go_are_answered_as_by_float64(format, rng):
    owner = Owner(rng, format)
    owner.grow("a", 150)
    owner.share("a", "b", 2)
    owner.grow("b", 30)
    owner.fork("b", "c")
    for turn in range(12):
        for name in list(owner.tables):
            owner.grow(name, 1)
        owner.grow("c", int(rng.integers(1, 20)), spread=1.0 + turn)
        for name in owner.tables:
            for how in ({"tau": 2.0}, {"eps": 0.05}, {"keep": 0.1}):
                owner.check(name, **how)
        if turn == 5:  # pages that were full of other keys are taken again
            owner.end("a")
            owner.end("c")
            owner.grow("c", 200, spread=0.1)
            owner.grow("d", 250, spread=5.0)
    assert owner.pages._framed > 150


def test_everything_and_forced_rows(rng):
    owner = Owner(rng)
    owner.grow("a", 130)
    assert (owner.check("a", tau=-np.inf).kept == 130).all()
    assert (owner.check("a", tau=np.inf, forced=(3, 2)).kept == 5).all()
    assert (owner.check("a", eps=0.5, forced=(20, 30)).kept >= 50).all()


def test_a_long_sequence_reads_keys_that_are_scored_only(rng):
    """Rows that its codes rule out never come to the desk."""
    owner = Owner(rng, pages=48)
    owner.grow("a", 2900)
    owner.check("a", eps=0.1)
    desk = owner.desk.room(1)
    desk.keys[:] = np.nan
    found = owner.check("a", keep=0.02)
    brought = np.isfinite(desk.keys[:, :2900]).all(2).sum(1)
    assert (found.kept.max() <= brought).all()
    assert (brought < 1500).all()


def test_coding_anew_that_was_interrupted_is_done_again(rng, monkeypatch):
    owner = Owner(rng)
    owner.grow("a", 20)
    with monkeypatch.context() as patch:
        patch.setattr(owner.pages, "_code", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            owner.grow("b", 100, spread=30.0)
    owner.check("a", eps=0.01)
    owner.check("a", tau=1.0)


def _interrupt(*_):
    raise KeyboardInterrupt


def test_pages_of_other_sizes_are_refused(rng):
    store = np.zeros((2, 2, 48, HEADS, DIM), np.float32)
    with pytest.raises(ValueError, match="pages must have a multiple of 64 slots, got 48"):
        Pages(Given.of(HEADS, DIM, None, "cpu", "float32", False, 1), store[:, 0], store[:, 1])
