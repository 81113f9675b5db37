"""Calls that are interrupted, stopped or watched, and answers in integer arithmetic to hold them against."""

import signal
import threading

import numpy as np

DIMENSION = 8
ROWS = {"auto": 33_000}
"""Rows that are inserted: "auto" tries filters from 32,768 on."""


class Alarm(Exception):
    """What the handler of a signal raises."""


def interrupt(work, delay):
    """Whether `work` was interrupted by an alarm; it must come out, once."""
    heard = came = 0

    def ring(*_):
        nonlocal heard
        heard += 1
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        work()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    except Alarm:
        came = 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert heard == came
    return bool(came)


def alarms(rng, work, check, count=25):
    """Interrupt `work` at moments that spread over it, and call `check` after each; at least some must hit."""
    hits, longest = 0, 0.02
    for _ in range(count):
        hit = interrupt(work, float(rng.uniform(1e-5, longest)))
        hits += hit
        longest *= 1.3 if hit else 0.6
        check(hit)
    assert hits > count // 8


class Stop(Exception):
    """What a call raises that is stopped on purpose."""


def stop_at(monkeypatch, module, name, number, *, after=False):
    """Let call `number` of a function raise, before its work or after it."""
    function, lock, calls = getattr(module, name), threading.Lock(), [0]

    def stopped(*args, **options):
        with lock:
            calls[0] += 1
            own = calls[0]
        if own == number and not after:
            raise Stop
        result = function(*args, **options)
        if own == number:
            raise Stop
        return result

    monkeypatch.setattr(module, name, stopped)


class Calls:
    """Notes what it is told; raises at one call if it is asked to."""

    def __init__(self, number=None):
        self.told, self.number, self.lock = [], number, threading.Lock()

    def __call__(self, done, total):
        assert self.lock.acquire(blocking=False)  # one call at a time
        self.told.append((done, total))
        self.lock.release()
        if len(self.told) == self.number:
            raise Stop

    def check(self, total):
        assert self.told[0] == (0, total)
        assert self.told[-1] == (total, total)
        assert {whole for _, whole in self.told} == {total}
        done = [part for part, _ in self.told]
        assert done == sorted(done)


def integers(rng, rows, dim=DIMENSION):
    """Small integers, whose dot products are exact in any arithmetic."""
    return rng.integers(-3, 4, (rows, dim))


def exact(index, vectors, ids, direction, tau=14):
    """Hold an answer against integer arithmetic."""
    found = index.query(direction.astype(np.float32), tau)
    products = vectors @ direction
    assert found.ids.tolist() == ids[products >= tau].tolist()
    assert found.scores.tolist() == products[products >= tau].tolist()
