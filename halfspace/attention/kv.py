"""`KVIndex`: keys and values of attention heads, and attention over exactly the keys that reach a threshold."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.attention.arguments import Given, as_cap, as_counts, as_scale, as_sequences, as_sink_logits
from halfspace.attention.interop import Attended, given_back, on_stream
from halfspace.attention.policy import Threshold, attended, bound_error
from halfspace.attention.sinks import with_sinks
from halfspace.attention.spaces import rows
from halfspace.hits import Hits
from halfspace.model.arrays import equal, host
from halfspace.model.formats import FORMATS, as_numbers
from halfspace.model.kv_cache import NOT_FINITE, SCAN, Cache, grown, packed, room_for, select, shorten, unpacked
from halfspace.runtime.lock import Lock

__all__ = ["KVIndex"]

FIRST_ROWS = 1024
"""Tokens that there is room for at first, where no capacity is given."""
REFRAME = 4
"""Keys are coded in a new frame whenever there are so many times as many as when the last one was chosen."""


class KVIndex:
    """The KV cache of one attention layer, as an index.

    A key is attended iff its dot product with the query reaches a threshold, which is decided exactly, as by
    `halfspace.HalfspaceIndex`: no key at or above it is missed, none below it is attended.

    Parameters
    ----------
    num_kv_heads : int
        Heads of keys and values.
    head_dim : int
        Dimensions of a head; on a GPU a multiple of 8, up to 256.
    num_query_heads : int, optional
        Heads of queries, a multiple of `num_kv_heads`; by default as many. Query head g reads KV head
        ``g // (num_query_heads // num_kv_heads)``.
    batch_size : int
        Number of sequences, each with its own length.
    device : str
        ``"cpu"``, ``"gpu"`` (the current one) or ``"gpu:<number>"``.
    dtype : str or dtype
        What is stored: ``"float16"``, ``"bfloat16"`` or ``"float32"``.
    scale : float, optional
        Logits are ``scale * <q, k>``; ``1 / sqrt(head_dim)`` by default.
    soft_cap : float, optional
        Logits are bent to ``soft_cap * tanh(logit / soft_cap)``, as Gemma 2 has it. Thresholds are of <q, k> still.
    sink_logits : array_like, shape (num_query_heads,), optional
        Logits that are learnt, one for each query head: a term ``exp(sink)`` more in the denominator of its softmax, as
        gpt-oss has it.
    recent, sinks : int
        So many of the last, and of the first, keys of a sequence are attended whatever their scores.
    capacity : int, optional
        Tokens that each sequence has room for, rounded up to a multiple of 64. By default room grows as needed, which
        it cannot in a captured CUDA graph.
    offload : bool
        On a GPU: keep keys and values in the host's (pinned) memory, and their codes on the GPU; kernels read those
        that survive the codes across the bus.
    threads : int, optional
        Threads of a call on the CPU; all by default. No answer depends on it.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of the above.

    Notes
    -----
    Codes take 8 bits for each component of a key, and 10 bytes for each key. Calls from several threads wait for one
    another.
    """

    def __init__(
        self,
        num_kv_heads: int,
        head_dim: int,
        *,
        num_query_heads: int | None = None,
        batch_size: int = 1,
        device: str = "cpu",
        dtype: Any = "float16",
        scale: float | None = None,
        soft_cap: float | None = None,
        sink_logits: Any = None,
        recent: int = 0,
        sinks: int = 0,
        capacity: int | None = None,
        offload: bool = False,
        threads: int | None = None,
    ) -> None:
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        given = Given.of(num_kv_heads, head_dim, num_query_heads, device, dtype, offload, threads)
        self._given, self._backend, self._threads = given, given.backend, given.threads
        self._on: AbstractContextManager[Any] = self._backend.on(device)
        batch = checks.as_count(batch_size, "batch_size", 1)
        self._numbers, bits = FORMATS[given.format]
        self._scale, self._cap = as_scale(scale, given.dim), as_cap(soft_cap)
        sink = as_sink_logits(sink_logits, given.query_heads)
        self._recent = checks.as_count(recent, "recent", 0)
        self._sinks = checks.as_count(sinks, "sinks", 0)
        self._fixed = capacity is not None
        rows = FIRST_ROWS if capacity is None else checks.as_count(capacity, "capacity", 1)
        self._lock = Lock()
        self._framed = 0
        self._captured: list[object] = []  # what the graphs that were captured read
        with self._on:
            self._cache: Cache = self._backend.new_cache(batch, given.heads, given.dim, bits, room_for(rows), offload)
            self._sink_logits = None if sink is None else self._backend.xp.asarray(sink)
        self._lengths: npt.NDArray[np.int64] | None = np.zeros(batch, np.int64)  # None: to be read from the cache
        self._options = options | {"dtype": given.format, "sink_logits": sink}

    # -- changing it --------------------------------------------------------------------------------------------------

    def append(self, k: Any, v: Any, *, lengths: npt.ArrayLike | None = None) -> None:
        """Add tokens to the end of each sequence: one, or a whole prefill.

        Parameters
        ----------
        k, v : array, shape (batch, num_kv_heads, tokens, head_dim)
            Of NumPy, CuPy or PyTorch, on the index's device; read in place where they have the index's dtype, else
            rounded to it. For one sequence also (num_kv_heads, tokens, head_dim), or (num_kv_heads, head_dim) for one
            token. Nothing is differentiated: of a tensor that requires its gradient, the numbers are read.
        lengths : array_like of int, shape (batch,), optional
            Only so many of the tokens are added to each sequence, the first ones; by default all. The others are
            padding, which is not looked at: it may be NaN.

        Raises
        ------
        ValueError
            If shapes do not fit, a number is not finite in the index's dtype, or there is no room under the
            `capacity` that was given. Nothing has changed then. In the replay of a CUDA graph, `check` raises instead,
            and `attend` returns NaN. On a GPU, numbers that have the index's dtype are checked there, and reported so
            too.
        TypeError
            If they are not real numbers.
        """
        with self._lock.held, self._on, on_stream(k, self._backend):
            keys, values, counts = self._given.tokens(k, v, lengths, self.batch_size)
            self._settle()
            if self._backend.capturing():
                if lengths is not None:
                    raise ValueError("lengths are numbers of the host, which a CUDA graph cannot read: append without")
                self._captured.append((keys, values))
                self._backend.extend(self._cache, keys, values, None, self._threads)
                return
            longer = self.lengths + counts
            self._make_room(int(longer.max()))
            self._lengths = None  # should this be interrupted, the cache says how far it came
            own = None if lengths is None else self._backend.xp.asarray(counts)
            self._backend.extend(self._cache, keys, values, own, self._threads)
            self._lengths = longer
            if longer.max() >= max(1, REFRAME * self._framed):
                self._backend.reframe(self._cache, self._threads)
                self._framed = int(longer.max())

    def crop(self, length: npt.ArrayLike) -> None:
        """Forget all but the first tokens of each sequence: `length` of them, one number or (batch,)."""
        with self._lock.held, self._on:
            self.check()
            kept = np.minimum(self.lengths, as_counts(length, "length", self.batch_size))
            self._restart(kept)

    def reset(self) -> None:
        """Forget all tokens, and what was wrong with them."""
        with self._lock.held, self._on:
            self._framed = 0
            self._restart(np.zeros(self.batch_size, np.int64))

    def reorder(self, sequences: npt.ArrayLike) -> None:
        """Make these sequences (k,), by number, the batch; any may be named more than once, as beam search does.

        A ValueError where a CUDA graph was captured of the index, which reads its arrays where they are.
        """
        chosen = as_sequences(sequences, self.batch_size)
        with self._lock.held, self._on:
            if equal(chosen, np.arange(self.batch_size)):
                return
            self._may_move()
            lengths = self.lengths[chosen]
            self._lengths = None
            self._cache = select(self._cache, chosen, self._backend)
            self._lengths = lengths

    def repeat(self, times: int) -> None:
        """Repeat each sequence: the batch grows by a factor, and copies follow one another."""
        self.reorder(np.repeat(np.arange(self.batch_size), checks.as_count(times, "times", 1)))

    # -- asking it ----------------------------------------------------------------------------------------------------

    def attend(
        self,
        q: Any,
        *,
        tau: Any = None,
        eps: float | None = None,
        keep: float | None = None,
        estimator: str = SCAN,
        details: bool = False,
    ) -> Any:
        """Attend over exactly the keys that reach a threshold, and the `sinks` first and `recent` last ones.

        Parameters
        ----------
        q : array, shape (batch, num_query_heads, head_dim) or (batch, num_query_heads, 1, head_dim)
            Of NumPy, CuPy or PyTorch, on the index's device. For one sequence also (num_query_heads, head_dim). Its
            gradient is not followed: the output has none.
        tau : float or array of float64, shape (num_query_heads,) or (batch, num_query_heads), optional
            The threshold of <q, k>, in real arithmetic; a key on it is kept.
        eps : float, optional
            Choose thresholds such that at most this share of each head's softmax is dropped, which is proved at run
            time; but for rounding, the output is within ``2 * eps * max |v|`` of attention over all keys.
        keep : float, optional
            Choose thresholds such that about this share of the keys is kept.
        estimator : {"scan", "budget", "max", "gap"}
            How ``keep`` finds it: by the bounds of all scores, or by a sample; see `halfspace.attention.policy`.
        details : bool
            Whether to return an `Attended` instead of the output.

        Returns
        -------
        array, of the shape, dtype and library of `q`; or Attended

        Raises
        ------
        ValueError
            If not exactly one of tau, eps and keep is given, shapes do not fit, or q or tau are not finite numbers (on
            a GPU the output is NaN instead, for heads where they are not).
        TypeError
            If they are not real numbers.
        """
        how = Threshold.of(tau, eps, keep, estimator)
        with self._lock.held, self._on, on_stream(q, self._backend):
            given = self._backend.asarray(q, "q")
            self._settle()
            queries = self._given.queries(given, self.batch_size)
            settings = (self._scale, self._cap), (self._recent, self._sinks)
            found, levels, dropped = attended(how, self._given, self._cache, queries, *settings)
            bits, whole = with_sinks(found.output, found.log_sum_exp, self._sink_logits)
            if self._backend.capturing():
                self._captured.append((queries, levels, found, bits, whole))
            output = as_numbers(bits).reshape(given.shape).astype(given.dtype, copy=False)
            if not details:
                return given_back(output, q)
            error = None if dropped is None else bound_error(self._cache, bits, dropped)
            known = (None if part is None else part.copy() for part in (levels, dropped))  # calls may share them
            parts = (output, whole, found.kept, *known, error)
            return Attended(*(None if part is None else given_back(part, q) for part in parts))

    def query(self, q: Any, tau: Any, *, scores: bool = True) -> Hits:
        """Find the keys that reach a threshold; arguments as for `attend`, `recent` and `sinks` aside.

        Returns
        -------
        Hits
            Of ``batch * num_query_heads`` directions, sequence by sequence; ids are positions in the sequence, scores
            are <q, k>, without the scale. See `halfspace.HalfspaceIndex.query`.
        """
        with self._lock.held, self._on, on_stream(q, self._backend):
            self._settle()
            queries = self._given.directions(self._backend.asarray(q, "q"), self.batch_size)
            levels = self._given.thresholds(tau, self.batch_size).reshape(-1)
            offsets, ids, values, totals = rows(self._given, self._cache, self.lengths, queries, levels, scores)
            columns = int(self.lengths.max())
            return Hits(ids, values if scores else None, offsets, totals, single=False, columns=columns)

    def stored(self) -> tuple[Any, Any]:
        """View keys and values (batch, num_kv_heads, longest, head_dim), of NumPy or CuPy, in the index's dtype.

        What lies beyond a sequence's length means nothing; what is appended later may move the arrays.
        """
        with self._lock.held, self._on:
            longest = int(self.lengths.max())
            shape = self.batch_size, self._given.heads, self._cache.capacity, self._given.dim
            keys, values = (
                as_numbers(rows).reshape(shape)[:, :, :longest] for rows in (self._cache.keys, self._cache.values)
            )
            return keys, values

    def check(self) -> None:
        """Raise what kernels found wrong and could not say; waits for the GPU.

        Raises
        ------
        ValueError
            If a replayed append was refused for want of room, or keys or values were not finite.
        """
        if not self._given.on_gpu:
            return
        with self._lock.held, self._on:
            status = host(self._cache.status)
            for sequence in np.flatnonzero(status)[:1]:
                if int(status[sequence]) & NOT_FINITE:
                    raise ValueError(f"k or v of sequence {sequence} had a number that is NaN or infinite")
                raise ValueError(f"sequence {sequence} has no room beyond its capacity of {self.capacity} tokens")

    # -- what it holds ------------------------------------------------------------------------------------------------

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sequence (batch,), on the host; after a graph was captured it waits for the GPU."""
        with self._lock.held, self._on:
            if self._captured or self._lengths is None:
                self._lengths = host(self._cache.lengths).copy()
            return self._lengths.copy()

    @property
    def batch_size(self) -> int:
        """Number of sequences."""
        return self._cache.batch

    @property
    def capacity(self) -> int:
        """Tokens that each sequence has room for now."""
        return self._cache.capacity

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of stored keys and values."""
        return self._numbers

    def stats(self) -> dict[str, Any]:
        """Count what is held.

        Returns
        -------
        dict
            ``tokens`` (of all sequences), ``capacity`` (of each), ``batch_size``, ``num_kv_heads``,
            ``num_query_heads``, ``head_dim``, ``dtype``, ``device``; ``bytes_keys_values``, ``bytes_codes`` (codes,
            radii and norms of keys) and ``bytes_rest``, of all that there is room for.
        """
        return {
            "tokens": int(self.lengths.sum()),
            "num_query_heads": self._given.query_heads,
            "head_dim": self._given.dim,
            "dtype": self._given.format,
            "device": self._options["device"],
            **self._cache.sizes(),
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> "KVIndex":
        with self._lock.held, self._on:
            own = select(self._cache, np.arange(self.batch_size), self._backend)
            new = object.__new__(KVIndex)
            changed = {"_lock": Lock(), "_lengths": self.lengths, "_captured": [], "_cache": own}
            new.__dict__.update(self.__dict__ | changed)
            return new

    def __getstate__(self) -> tuple[Any, ...]:
        with self._lock.held, self._on:
            self._settle()
            return self._options | {"batch_size": self.batch_size}, packed(self._cache), self._framed

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        options, arrays, framed = state
        KVIndex.__init__(self, **options)
        with self._lock.held, self._on:
            self._make_room(int(arrays["lengths"].max()))
            unpacked(self._cache, arrays)
            self._lengths, self._framed = arrays["lengths"], framed

    def __repr__(self) -> str:
        given = self._given
        return (
            f"<KVIndex: {self.batch_size} x {int(self.lengths.max()):,} tokens, {given.query_heads} query heads over "
            f"{given.heads}, head_dim={given.dim}, dtype={given.format!r}, device={self._options['device']!r}>"
        )

    # -- details ------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Finish coding anew where that was interrupted."""
        if self._cache.stale:
            self._backend.reframe(self._cache, self._threads)

    def _make_room(self, rows: int) -> None:
        if rows <= self.capacity:
            return
        if self._fixed:
            raise ValueError(f"{rows} tokens are beyond the capacity of {self.capacity}")
        self._may_move()
        self._cache = grown(self._cache, room_for(max(rows, 2 * self.capacity)), self._backend)

    def _may_move(self) -> None:
        """Refuse to move arrays that a graph reads."""
        if self._captured:
            raise ValueError(
                "a CUDA graph was captured of this index: no more sequences, and no more room, from then on"
            )

    def _restart(self, lengths: npt.NDArray[np.int64]) -> None:
        """Take over lengths that are not longer, and what depends on them: that first, should this be interrupted."""
        self._lengths = None
        shorten(self._cache, lengths)
        self._lengths = lengths
