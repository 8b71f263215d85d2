"""Run folders: `runs/<time>-<name>-<hash>/` with everything that a report, a reviewer or a second run needs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import __version__, digests, ledger
from tamis.catalogue import build
from tamis.errors import DataError
from tamis.history import lineage
from tamis.history.changes import changes, previous, summary
from tamis.history.sides import Side
from tamis.mapping import pool_map
from tamis.operations import endings, run_state
from tamis.pool import MANIFEST
from tamis.recipe import Recipe
from tamis.stages.clean import Done
from tamis.stages.conduct import Conductor
from tamis.stages.score import Scored
from tamis.stages.select import Selection
from tamis.stages.signals import Signal
from tamis.stages.train import Training
from tamis.store import write_json, write_table, write_text
from tamis.subsets import token_columns
from tamis.values import Subset, text_of

if TYPE_CHECKING:
    import pyarrow as pa

PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "pyarrow", "faiss-cpu", "scikit-learn", "prefect")
EXAMPLES = 8


def start(recipe: Recipe, runs: Path) -> Path:
    """A new run folder with the recipe as it was resolved."""
    import yaml

    stamp = time.strftime("%Y%m%d-%H%M%S")
    safe = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in recipe.name)[:40]
    name = f"{stamp}-{safe}-{digests.of_json(recipe.values)[:6]}"
    folder = runs / name
    number = 1
    while folder.exists():
        number += 1
        folder = runs / f"{name}-{number}"
    folder.mkdir(parents=True)
    text = yaml.safe_dump(dict(recipe.values), sort_keys=False, allow_unicode=True)
    write_text(folder / "recipe.lock.yaml", text)
    run_state.begin(folder, recipe.name)
    return folder


def latest(runs: Path, name: str = "latest") -> Path:
    """A run folder by path, by (part of) its name, or the `latest`."""
    if Path(name).is_dir():
        return Path(name)
    found = sorted(path for path in runs.glob("*") if path.is_dir() and (name == "latest" or name in path.name))
    if not found:
        raise DataError(f"there is no run {name!r} under {runs}; see what there is with `ls {runs}`")
    return found[-1]


def finish(conductor: Conductor, folder: Path, started: float) -> dict[str, Any]:
    """Write ledger, subset, quarantine, columns, map, examples, comparison and manifest; returns the manifest."""
    chosen = conductor.main()
    view = conductor.view()
    recipe = conductor.recipe
    main = recipe.main_subset()
    stage = recipe.stage(main) if main is not None else None
    whole = ledger.build(
        view,
        chosen.subset if chosen is not None else None,
        stage.component if stage is not None else "kept",
        filtered=chosen.filtered if chosen is not None else None,
        unscored=chosen.unscored if chosen is not None else None,
        where=stage.settings.get("where") if stage is not None else None,
    )
    write_table(whole, folder / "ledger.parquet")
    view.pool.save(folder / MANIFEST)
    about = {"tamis.pool": str(folder / MANIFEST), "tamis.digest": view.pool.digest}
    picked = subset_table(whole, chosen.subset if chosen is not None else None)
    write_table(picked.replace_schema_metadata(about), folder / "subset.parquet")
    write_table(ledger.quarantine(view), folder / "quarantine.parquet")
    if conductor.columns:
        write_table(_columns_table(conductor), folder / "columns.parquet")
    _keep_tables(conductor, folder)
    made = {left.name: left for left in conductor.outcomes.values() if isinstance(left, Signal)}
    lineage.keep_signals(folder, conductor.shared | made)
    if (points := pool_map(view, chosen.subset if chosen is not None else None)) is not None:
        write_table(points, folder / "map.parquet")
    write_json(folder / "examples.json", _examples(conductor, whole))
    comparison = next((left for left in conductor.outcomes.values() if isinstance(left, dict) and "arms" in left), None)
    if comparison is not None:
        write_json(folder / "comparison.json", comparison)
    _link_checkpoints(conductor, folder)
    manifest = _manifest(conductor, whole, chosen, started)
    manifest["since"] = _since(recipe, folder, manifest)
    write_json(folder / "manifest.json", manifest)
    verdict = comparison["verdict"] if comparison is not None else None
    endings.finished(folder, conductor.work.root, manifest, verdict)
    return manifest


def subset_table(whole: pa.Table, subset: Subset | None = None) -> pa.Table:
    """Rows of the ledger that were selected, in the order picked, with their place in the pool and their weights."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    placed = whole.append_column("place", pa.array(np.arange(len(whole), dtype=np.int64)))
    chosen = placed.filter(pc.equal(placed.column("verdict"), "selected")).sort_by("rank")
    weights = None if subset is None else subset.weights
    weight = np.ones(len(chosen), np.float32) if weights is None else np.asarray(weights, np.float32)
    table = chosen.select(["rank", "key", "place", "file", "position", "source", "gain"])
    for name, column in {
        "weight": pa.array(weight),
        **token_columns(None if subset is None else subset.tokens),
    }.items():
        table = table.append_column(name, column)
    return table


def _columns_table(conductor: Conductor) -> pa.Table:
    import pyarrow as pa

    assert conductor.pool is not None
    keys = conductor.pool.table(["key"]).column("key")
    return pa.table({"key": keys, **{name: pa.array(column.values) for name, column in conductor.columns.items()}})


def _keep_tables(conductor: Conductor, folder: Path) -> None:
    """Tables of what cleaners found, as `cleaned/STEP/NAME` of the run."""
    import shutil

    assert conductor.pool is not None
    for done in conductor.cleaned:
        for name in done.tables:
            to = folder / "cleaned" / done.step
            to.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(conductor.pool.rejects[done.place or 0].with_name(name), to / name)


def _examples(conductor: Conductor, whole: pa.Table) -> dict[str, Any]:
    """A few rows kept, dropped (nearest to the cut first, one per reason) and quarantined, with their text."""
    import pyarrow.compute as pc

    assert conductor.pool is not None
    inside = whole.slice(0, len(conductor.pool)).to_pandas()
    kept = inside[inside.verdict == "selected"].sort_values("rank").head(EXAMPLES)
    out = inside[inside.verdict == "dropped"]
    nearest = out[out.value.notna()].sort_values("value", ascending=False).head(EXAMPLES // 2)
    other = out.drop(nearest.index).groupby("reason", sort=False).head(1).head(EXAMPLES // 2)
    rejects = whole.filter(pc.equal(whole.column("verdict"), "quarantined")).slice(0, EXAMPLES).to_pylist()
    excerpts = {row["key"]: row["excerpt"] for row in ledger.quarantine(conductor.view()).to_pylist()}
    return {
        "kept": _cards(conductor, kept),
        "dropped": [*_cards(conductor, nearest), *_cards(conductor, other)],
        "quarantined": [
            {"file": row["file"], "position": row["position"], "reason": row["reason"], "excerpt": excerpts[row["key"]]}
            for row in rejects
        ],
    }


def _cards(conductor: Conductor, frame: Any) -> list[dict[str, Any]]:
    assert conductor.pool is not None
    cards = []
    records = frame.to_dict("records")
    for record, row in zip(records, conductor.pool.read([int(place) for place in frame.index]), strict=True):
        messages = [*row.messages, *row.chosen]
        card = {key: record[key] for key in ("key", "source", "step", "reason")}
        card |= {key: (float(record[key]) if record[key] == record[key] else None) for key in ("value", "gain")}
        card["rank"] = int(record["rank"])
        card["prompt"] = "\n\n".join(text_of(message) for message in messages[:-1])
        card["response"] = text_of(messages[-1]) if messages else ""
        card["meta"] = {key: value for key, value in row.meta.items() if isinstance(value, (str, int, float, bool))}
        cards.append(card)
    return cards


def _link_checkpoints(conductor: Conductor, folder: Path) -> None:
    for name, left in conductor.outcomes.items():
        if isinstance(left, Training):
            place = folder / "checkpoints"
            place.mkdir(exist_ok=True)
            (place / name).symlink_to(os.path.relpath(left.checkpoints[-1].path, place), target_is_directory=True)


def _funnel(whole: pa.Table, rows: int, cleaned: Sequence[Done], chosen: Selection | None) -> list[dict[str, Any]]:
    import pyarrow.compute as pc

    verdicts = {item["values"]: item["counts"] for item in pc.value_counts(whole.column("verdict")).to_pylist()}
    inside = whole.slice(0, rows)  # of the pool that was selected from; what follows never entered, or was cleaned away
    steps = {item["values"]: item["counts"] for item in pc.value_counts(inside.column("step")).to_pylist()}
    usable = rows - steps.get("render", 0)
    cleaning = [(f"after {done.step}", done.read - done.dropped) for done in cleaned]
    funnel = [("read", len(whole)), ("ingested", cleaned[0].read if cleaned else rows), *cleaning, ("usable", usable)]
    if chosen is not None and chosen.filtered is not None:
        funnel.append(("after the filter", usable - steps.get("where", 0)))
    return [{"step": step, "rows": rows} for step, rows in [*funnel, ("selected", verdicts.get("selected", 0))]]


def _manifest(conductor: Conductor, whole: pa.Table, chosen: Selection | None, started: float) -> dict[str, Any]:
    work, recipe, pool = conductor.work, conductor.recipe, conductor.pool
    assert pool is not None
    main = recipe.main_subset()
    return {
        "name": recipe.name,
        "recipe": str(recipe.path.name),
        "tamis": __version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(time.time() - started, 1),
        "versions": {name: _version(name) for name in PACKAGES},
        "machine": {
            **dataclasses.asdict(work.machine),
            "cpu": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
        "peak_memory_gb": _peak_memory(work.machine.workers),
        "model": {"name": work.model.name, "digest": work.model.digest, "max_tokens": work.model.max_tokens},
        "pool": {"digest": pool.digest, "rows": len(pool), "files": list(pool.files)},
        **{
            side: {"rows": len(one), "files": list(one.files)} if one else None for side, one in conductor.sides.items()
        },
        "stages": list(conductor.took.values()),
        "passes": [{"pass": name, **facts} for name, facts in work.work.passes.items()],
        "subset": chosen.about(recipe.stage(main)) if chosen is not None and main is not None else None,
        "seeds": recipe.seeds,
        "cleaning": [{**done.about(), "seconds": done.seconds} for done in conductor.cleaned],
        "funnel": _funnel(whole, len(pool), conductor.cleaned, chosen),
        "notes": _notes(conductor),
        "fits": [fit.facts() for fit in work.work.fits],
        "fitted": {
            name: left.facts for name, left in conductor.outcomes.items() if isinstance(left, Scored) and left.facts
        },
        "warnings": work.work.warnings,
    }


def _since(recipe: Recipe, folder: Path, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """What changed since the last run of this recipe in the workspace, in sentences; `tamis diff` tells it in full."""
    before = previous(folder.parent, folder, manifest)
    if before is None:
        return None
    found = changes(before, Side(folder, manifest))
    return {"run": before.folder.name, "lines": [*summary(found), *_chosen_anew(recipe)]}


def _chosen_anew(recipe: Recipe) -> list[str]:
    """How the subset was brought up to date, in a sentence: from stored signals, by which way over the rows."""
    main = recipe.main_subset()
    if main is None:
        return []
    stage = recipe.stage(main)
    way = getattr(build("selectors", stage.component, stage.own), "maximiser", None)
    said = {None: "", "sieve": " in one pass over them (maximiser: sieve)"}
    how = said.get(way, f" (maximiser: {way})")
    return [f"The subset was chosen anew by {stage.component} from all usable rows, by stored signals{how}."]


def _notes(conductor: Conductor) -> list[str]:
    """What a reader must know of what stages measured and chose, one sentence each, behind the stage's name."""
    said = {name: left.caveats for name, left in conductor.outcomes.items() if isinstance(left, Signal)}
    passes = {sentence for sentences in said.values() for sentence in sentences}  # not said by their readers again
    read = {name: left.notes for name, left in conductor.outcomes.items() if isinstance(left, Scored)}
    said |= {name: tuple(sentence for sentence in notes if sentence not in passes) for name, notes in read.items()}
    said |= {name: left.notes for name, left in conductor.outcomes.items() if isinstance(left, Training)}
    said |= {f"clean {done.step}": done.notes for done in conductor.cleaned}
    chosen = {name: left for name, left in conductor.outcomes.items() if isinstance(left, Selection)}
    said |= {name: (*left.subset.notes, *left.kept) for name, left in chosen.items()}
    return [f"{name}: {sentence}" for name, sentences in said.items() for sentence in sentences]


def _peak_memory(workers: int) -> float:
    """Peak resident memory of this process and as many of its largest worker as ran, in GB: an upper bound."""
    main, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round((main + (child * workers if workers > 1 else 0)) * 1024 / 1e9, 2)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
