"""The command line: ``halfspace demo``, ``build``, ``query``, ``search``, ``info``, ``bench``, ``warmup``, and joins.

Results go to stdout, as tables for people or, with ``--json``, as one JSON document; progress and errors go to stderr.
Exit codes: 0 for success; 1 when a check failed (a damaged file, an answer that is not exact); 2 for bad usage or
input, with one line on stderr.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halfspace import join_commands, scale_commands
from halfspace.commands import (
    FILES,
    FILTER_HELP,
    METRIC_HELP,
    OUTPUT,
    Json,
    Threads,
    answers,
    bytes_of,
    errors,
    fail,
    fits,
    open_index,
)
from halfspace.terminal import (
    console,
    print_json,
    print_summary,
    progress,
    query_document,
    show_explanation,
    show_hits,
    spinner,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["app", "main"]

app = typer.Typer(
    name="halfspace",
    help="Exact halfspace range search: every stored vector that reaches a threshold, and no other.",
    epilog="Exit codes: 0 success; 1 a check failed or a file is damaged; 2 bad usage or input.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_EXPLAINED = 3  # directions
_PRESETS = (
    "A public set that is searched within a radius, with its metric and threshold: "
    "bigann, deep, gist, msmarco, msturing, openai, ssnpp, text2image or wikipedia."
)

_HITS = ".npz (arrays), .csv, .jsonl or .parquet (columns query, id, score)"
_TAU = "Threshold, of the index's metric: a number, or a .npy file of one per direction."


def main() -> None:
    """Run the command line."""
    app(prog_name="halfspace")


def _version(wanted: bool) -> None:
    if wanted:
        from halfspace import __version__

        typer.echo(f"halfspace {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Exact halfspace range search: every stored vector that reaches a threshold, and no other."""


@app.command()
def demo(
    tau: Annotated[float, typer.Option(help="Threshold on the score, here a cosine.")] = 0.5,
    show: Annotated[int, typer.Option(min=0, help="How many of the 32 questions to print.")] = 8,
    top: Annotated[int, typer.Option(min=0, help="How many of the best hits of each to print.")] = 3,
    filter: Annotated[str, typer.Option(help=FILTER_HELP)] = "auto",
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(min=0, help="How often to time each question; 0 for no timing.")] = 10,
    attention: Annotated[
        bool, typer.Option("--attention", help="Let a language model read and write instead, see --eps.")
    ] = False,
    eps: Annotated[float, typer.Option(help="With --attention: the share of a softmax that may be dropped.")] = 0.01,
    context: Annotated[int, typer.Option(help="With --attention: about how many tokens are read.")] = 2048,
    as_json: Json = False,
) -> None:
    """Ask Python's documentation 32 questions, prove every answer in integer arithmetic, count and time the work.

    With --attention a small language model reads it, and answers a question, dense and with a certificate side by side.
    """
    if attention:
        with errors():
            with spinner("loading, reading and writing"):
                from halfspace.bench import attention_demo as writing

                written = writing.run(eps, context=context, threads=threads)
            if as_json:
                print_json(asdict(written))
            else:
                writing.show(written, console())
        return
    with errors():
        with spinner("asking, proving and timing"):
            from halfspace.bench import demo as work

            report = work.run(tau, top=top, filter=filter, threads=threads, rounds=rounds)
        if as_json:
            print_json(asdict(report))
        else:
            work.show(report, console(), show)
    if report.wrong:
        fail(f"{len(report.wrong)} answers are not exact", 1)


scale_commands.add(app)


@app.command()
def query(
    index: Annotated[Path, typer.Argument(help="Index file.", show_default=False)],
    directions: Annotated[str, typer.Argument(help=FILES, show_default=False)],
    tau: Annotated[str, typer.Option("--tau", "--radius", help=_TAU, show_default=False)],
    unless: Annotated[
        str | None,
        typer.Option(help="A second threshold, of a band: leave out what reaches it.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=f"Write the hits here: {_HITS}. {OUTPUT}", show_default=False),
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Count the hits only.")] = False,
    sort: Annotated[bool, typer.Option("--sort", help="Order hits by score, the best first, not by id.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Keep this many best hits of each direction.", show_default=False)
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help=f"Show the work for the first {_EXPLAINED} directions.")
    ] = False,
    scores: Annotated[bool, typer.Option("--scores/--no-scores", help="Compute the scores.")] = True,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Find every vector of an index that reaches tau, and not --unless.

    It reaches tau by an inner product with the direction, or a cosine, of at least tau, or by a distance of at most
    that, as the index was built.
    """
    with errors():
        from halfspace.files.outputs import HITS, check_output, write_hits
        from halfspace.files.vectors import file_of, read_tau, read_vectors

        if count and (sort or limit is not None or not scores):
            raise ValueError("--count goes with none of --sort, --limit and --no-scores")
        if explain and unless is not None:
            raise ValueError("--explain goes without --unless: a band is the difference of two answers")
        if output is not None:
            check_output(output, [index, file_of(directions), tau, *filter(None, [unless])], tuple(HITS))
        with progress("reading") as report:
            asked = read_vectors(directions, report)
        opened, m = open_index(index, threads=threads), len(asked)
        fits(directions, asked, opened.dim)
        limits: dict[str, Any] = {"tau": read_tau(tau, m)}
        limits |= {} if unless is None else {"unless": read_tau(unless, m, "unless")}

        def ask(chunk: NDArray[Any], part: slice) -> Any:
            own = {name: limit[part] for name, limit in limits.items()}
            if count:
                return opened.count(chunk, **own)
            return opened.query(chunk, **own, scores=scores, sort=sort, limit=limit)

        found = answers(directions, asked, ask)
        with spinner("explaining"):
            explained = [
                opened.explain(asked[j], limits["tau"][j]) for j in range(min(m, _EXPLAINED) if explain else 0)
            ]
        if output is not None:
            with spinner("writing"):
                write_hits(output, found)
        if as_json:
            own = {"explain": [asdict(explanation) for explanation in explained]} if explain else {}
            print_json(query_document(index, output, found, limits) | own)
        else:
            show_hits(output, found, limits)
            for j, explanation in enumerate(explained):
                show_explanation(j, explanation)


@app.command()
def search(
    index: Annotated[Path, typer.Argument(help="Index file.", show_default=False)],
    directions: Annotated[str, typer.Argument(help=FILES, show_default=False)],
    k: Annotated[int, typer.Option("-k", min=0, help="How many of each direction.")] = 10,
    tau: Annotated[
        str | None,
        typer.Option("--tau", "--radius", help=f"Only of what reaches this, too. {_TAU}", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=f"Write the hits here: {_HITS}. {OUTPUT}", show_default=False),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Find the k best vectors of each direction, the best first.

    They have the largest inner products or cosines, or the smallest distances, as the index was built.
    """
    with errors():
        from halfspace.files.outputs import HITS, check_output, write_hits
        from halfspace.files.vectors import file_of, read_tau, read_vectors

        if output is not None:
            check_output(output, [index, file_of(directions), *filter(None, [tau])], tuple(HITS))
        with progress("reading") as report:
            asked = read_vectors(directions, report)
        opened = open_index(index, threads=threads)
        fits(directions, asked, opened.dim)
        limits: dict[str, Any] = {} if tau is None else {"tau": read_tau(tau, len(asked))}
        found = answers(
            directions,
            asked,
            lambda chunk, part: opened.search(chunk, k, **{name: limit[part] for name, limit in limits.items()}),
        )
        if output is not None:
            with spinner("writing"):
                write_hits(output, found)
        if as_json:
            print_json(query_document(index, output, found, limits))
        else:
            show_hits(output, found, limits)


join_commands.add(app)


@app.command()
def info(
    index: Annotated[Path, typer.Argument(help="Index file.", show_default=False)],
    verify: Annotated[bool, typer.Option("--verify", help="Read all the data and check every checksum.")] = False,
    as_json: Json = False,
) -> None:
    """Show what an index holds, and check it."""
    with errors():
        opened = open_index(index, mmap=True)
        document: dict[str, Any] = {"index": str(index), "bytes": bytes_of(index)} | opened.stats()
        problem = None
        if verify:
            try:
                with progress("verifying") as report:
                    opened.verify(progress=report)
            except ValueError as error:
                problem = str(error)
            document |= {"verified": problem is None} | ({} if problem is None else {"problem": problem})
        print_summary(document, as_json)
    if problem is not None:
        fail(problem, 1)


@app.command()
def bench(
    vectors: Annotated[
        str | None, typer.Argument(help=f"{FILES}; with --preset it may be a folder", show_default=False)
    ] = None,
    directions: Annotated[str | None, typer.Argument(help=FILES, show_default=False)] = None,
    preset: Annotated[
        str | None,
        typer.Option(help=_PRESETS, show_default=False),
    ] = None,
    metric: Annotated[str | None, typer.Option(help=f"{METRIC_HELP}  [default: ip]", show_default=False)] = None,
    tau: Annotated[str | None, typer.Option("--tau", "--radius", help=_TAU, show_default=False)] = None,
    share: Annotated[
        float | None,
        typer.Option(
            help="In place of --tau: the share of the vectors that each direction is to find.", show_default=False
        ),
    ] = None,
    first: Annotated[
        int | None, typer.Option(min=1, help="Take so many vectors of their file.", show_default=False)
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(
            "--answers",
            help="Answers that came with the vectors, .rangeres: say how right they are.",
            show_default=False,
        ),
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(help="Names with commas.  [default: all but our single filters]", show_default=False),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Ask at most so many directions, evenly spread.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Directions in a call.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each engine.")] = 5,
    threads: Threads = None,
    plot: Annotated[
        Path | None, typer.Option(help=f"Draw a picture here: .svg, .png or .pdf. {OUTPUT}", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"Write all here: .md or .json. {OUTPUT}", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare with NumPy, FAISS and others on your vectors, or, without any, on those in the package."""
    with errors():
        from halfspace.bench import command, presets
        from halfspace.files.outputs import check_output
        from halfspace.files.vectors import file_of, read_tau

        limits = None if tau is None else lambda m: read_tau(tau, m)
        if preset is not None:
            if any(option is not None for option in (metric, tau, share)):
                raise ValueError("--preset brings metric and threshold: it goes without --metric, --tau and --share")
            chosen, vectors, directions = presets.resolve(preset, vectors, directions)
            metric, limits = chosen.metric, chosen.limits
        inputs = [file_of(path) for path in (vectors, directions, tau, known) if path is not None]
        for file, suffixes, other in ((plot, command.PICTURES, []), (output, command.OUTPUTS, [plot] if plot else [])):
            if file is not None:
                check_output(file, [*inputs, *other], suffixes)
        with spinner("reading"):
            tasks = command.tasks(vectors, directions, limits, share, metric or "ip", first, known)
        names = None if engines is None else engines.split(",")
        command.run(tasks, command.Plan(names, queries, batch, rounds, threads, metric or "ip"), plot, output, as_json)


@app.command()
def warmup(
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="Stored format; may be given several times.  [default: float32]", show_default=False),
    ] = None,
    all_formats: Annotated[bool, typer.Option("--all", help="All stored formats.")] = False,
    metric: Annotated[str, typer.Option(help="ip, cosine or l2: some kernels are compiled for each.")] = "ip",
    device: Annotated[str, typer.Option(help="cpu, gpu or gpu:<number>.")] = "cpu",
    attention: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="HEAD_DIM", help="Attention, too, with heads of this dimension.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compile the kernels ahead, so that no first question waits; later processes find them on disk."""
    with errors():
        from halfspace.model.formats import FORMATS, parse

        if dtype and all_formats:
            raise ValueError("--all goes without --dtype")
        formats = list(FORMATS) if all_formats else list(dict.fromkeys(map(parse, dtype or ["float32"])))
        start = time.perf_counter()
        for format in formats:
            with progress(f"warming up {format}") as report:
                from halfspace import warmup as work

                work(format, metric=metric, device=device, head_dim=attention, progress=report)
        seconds = round(time.perf_counter() - start, 3)
        how = {"dtype": formats, "metric": metric, "device": device, "attention": attention}
        print_summary(how | {"seconds": seconds}, as_json)
