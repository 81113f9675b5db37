"""Writing a folder of index files of vectors that need not fit into memory, shard after shard."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from halfspace.building import Told, built, check_distinct
from halfspace.files import index_file, manifest
from halfspace.files.manifest import Manifest, Shard
from halfspace.filling import OF_PLAN, Filler
from halfspace.index import HalfspaceIndex

__all__ = ["about_of", "build_shards", "open_shard"]


def about_of(index: HalfspaceIndex) -> dict[str, Any]:
    """Return the arguments of an index that all shards share."""
    found = index_file.metadata_of(index._snapshot.builder, index.dim, index._format, 0, [])
    return {"metric": index.metric} | {name: found[name] for name in OF_PLAN if name in found}


def open_shard(folder: Path, shard: Shard, threads: int | None) -> HalfspaceIndex:
    """Open one shard as an index of its own, mapped."""
    index = HalfspaceIndex.load(folder / shard.file, mmap=True, threads=threads)
    index._publish(index._snapshot.without(manifest.read_dead(folder, shard)))
    return index


def build_shards(folder: Path, filler: Filler, rows: int, memory: int | None, progress: Told | None) -> None:
    """Write so many rows of a source to each shard, and go on where an earlier call was stopped."""
    plan = {**filler.plan, "shard_rows": rows}
    folder.mkdir(parents=True, exist_ok=True)
    with manifest.changing(folder):
        if not (folder / manifest.NAME).exists():
            building = {"plan": plan, "done": 0, "probe": []}
            manifest.write(folder, Manifest(about_of(filler.index), rows, building=building))
        state = manifest.read(folder)
        if state.building is None:
            raise ValueError(f"{folder}: holds shards already: open them by Shards({str(folder)!r})")
        for name, value in plan.items():
            begun = state.building["plan"].get(name)
            if begun != value:
                raise ValueError(
                    f"{folder}: was begun with {name} {begun!r:.200}, not {value!r:.200}; remove it to begin anew"
                )
        while state.building is not None:
            state = _one_more(folder, state, filler, memory, progress)


def _one_more(
    folder: Path,
    state: Manifest,
    filler: Filler,
    memory: int | None,
    progress: Told | None,
) -> Manifest:
    """Build the next shard of a source, or finish where there is none; returns the manifest."""
    building, total = dict(state.building or {}), filler.rows
    first, name = building["done"], state.name("shard")
    last = first + state.shard_rows if total is None else min(first + state.shard_rows, total)
    told = None if progress is None else lambda done, _: progress(first + done, total)
    count = built(folder / name, filler, first, last, memory, told, building["probe"])
    if count:
        loaded = index_file.load(folder / name, mmap=True)
        building |= {"done": first + count, "probe": filler.probe}
        state = replace(
            state,
            shards=(*state.shards, Shard(name, count)),
            next_id=max(state.next_id, loaded.next_id),
            next_file=state.next_file + 1,
            building=building,
        )
    if filler.ended or count == 0 or building["done"] == total:
        segments = [
            segment for shard in state.shards for segment in index_file.load(folder / shard.file, mmap=True).sealed
        ]
        check_distinct([segment.ids for segment in segments], [list(segment.ends) for segment in segments], memory)
        state = replace(state, building=None)
    manifest.write(folder, state)
    return state
