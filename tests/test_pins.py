"""What was fitted on a pool stays pinned while little of it is new, and nothing that is done is done again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import small
import tiny
from small import Run, World
from tamis import recipe as recipes
from tamis.catalogue import CATALOGUE, load
from tamis.engine import machine
from tamis.errors import RecipeError
from tamis.grouping import Centres
from tamis.models import ModelRef
from tamis.pins import Age, Fit, Fitting, Refit
from tamis.pool import Pool, Shard
from tamis.stages.plan import plan
from tamis.stages.train import TrainingJob, train_one
from tamis.stages.workspace import Workspace
from tamis.store import Entry, Store, write_json
from tamis.values import Machine, Seeds
from tamis.views import PoolView

LESS = """\
name: delta
model: {{name: {model}, max_tokens: 96, dtype: float32}}
pool: {{files: [{folder}/pool/*.jsonl], shard_rows: 8}}
target: {{files: [{folder}/target.jsonl]}}
scores: {{score: [perplexity]}}
warmup:
  {{train: lora, on: {{select: random, budget: 16, seed: 1}}, epochs: 1, keep: every-epoch, rank: 2, alpha: 4,
   batch_rows: 4}}
influence: {{pass: influence, checkpoints: "@warmup", target: "@target"}}
subset: {{select: less, from: "@influence", budget: 25%}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = small.make_world(tmp_path_factory.mktemp("world"))
    text = LESS.format(model=made.folder / "model", folder=made.folder)
    recipe = made.folder / "delta.yaml"
    recipe.write_text(text, encoding="utf-8")
    return dataclasses.replace(made, recipe=recipe)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def grown(world: World, work: Path) -> tuple[Run, dict[str, dict[str, int]], Run]:
    """A first run, what then lay in the store, and the run after a file of 8 rows came to a pool of 64."""
    first = small.conduct(world, work)
    before = {kind: small.finished(work, kind) for kind in ("signal", "training", "columns")}
    world.append()
    return first, before, small.conduct(world, work)


def test_after_an_append_no_old_gradient_and_no_old_token_signal_is_made_again(
    grown: tuple[Run, dict[str, dict[str, int]], Run], work: Path
) -> None:
    _, before, second = grown
    for name in ("influence", "tokens", "lengths"):
        assert second.made(name)[0] == 1, name  # the shard of the new file, of nine and more
    after = {kind: small.finished(work, kind) for kind in before}
    assert after["training"] == before["training"]
    assert len(after["signal"]) == len(before["signal"]) + 3
    for kind, entries in before.items():
        assert entries.items() <= after[kind].items(), f"{kind}: an entry was written again"


def test_the_age_of_the_warm_up_is_told(grown: tuple[Run, dict[str, dict[str, int]], Run]) -> None:
    first, _, second = grown
    assert [one["how"] for one in first.manifest["fits"]] == ["made"]
    fit = next(one for one in second.manifest["fits"] if one["name"] == "warmup")
    assert (fit["how"], fit["age"]["unseen"], fit["age"]["vanished"]) == ("kept", 8, 0)
    note = next(note for note in second.manifest["notes"] if note.startswith("warmup"))
    assert "has not seen 11 % of the pool (8 rows)" in note
    assert note in " ".join((second.folder / "report.html").read_text(encoding="utf-8").split())


def test_the_subset_is_that_of_a_full_recompute_with_the_same_warm_up(
    world: World, work: Path, grown: tuple[Run, dict[str, dict[str, int]], Run], tmp_path: Path
) -> None:
    for kept in ("store/training", "pins"):
        shutil.copytree(work / kept, tmp_path / "again" / kept)
    again = small.conduct(world, tmp_path / "again")
    made, shards = again.made("influence")
    assert made == shards > 8
    assert again.manifest["fits"][0]["how"] == "kept"
    assert pq.read_table(again.folder / "subset.parquet").equals(pq.read_table(grown[2].folder / "subset.parquet"))


def test_a_plan_tells_the_age_and_what_is_left_to_do(
    world: World, work: Path, grown: tuple[Run, dict[str, dict[str, int]], Run]
) -> None:
    recipe = recipes.load(str(world.recipe))
    found = plan(recipe, Workspace(work, machine(workers=1), recipe.model))
    steps = {step["stage"]: step for step in found["steps"]}
    assert steps["warmup"]["done"] == "kept" and steps["warmup"]["tokens"] == 0
    assert steps["influence"]["done"] == "74 of 74 rows" and steps["influence"]["tokens"] == 0
    assert any(note.startswith("warmup: kept") and "11 % of the pool (8 rows)" in note for note in found["notes"])
    assert any("Since the last run" in line for line in (grown[2].folder / "report.html").read_text().splitlines())
    assert "8 are new, 0 are gone" in " ".join(grown[2].manifest["since"]["lines"])


def test_refit_always_trains_the_warm_up_anew(
    world: World, work: Path, grown: tuple[Run, dict[str, dict[str, int]], Run]
) -> None:
    last = small.conduct(world, work, ["refit=always"])
    fit = last.manifest["fits"][0]
    assert fit["how"] == "refitted" and "has not seen" in fit["why"] and last.made("influence")[0] > 8
    assert len(small.finished(work, "training")) == 2
    assert any("warmup: fitted anew" in note for note in last.manifest["notes"])


def shard(folder: Path, name: str, keys: list[str]) -> Shard:
    import pyarrow as pa

    place = folder / name
    place.mkdir(exist_ok=True)
    pq.write_table(pa.table({"key": keys}), place / "rows.parquet")
    return Shard(place, f"digest of {name}", len(keys))


def fitting(
    folder: Path,
    *shards: Shard,
    refit: str = "20%",
    inputs: str = "",
    by_row: bool = False,
    comparable: bool = False,
) -> Fitting:
    return Fitting(
        "it",
        "fit",
        "fit",
        Pool(shards),
        [f"{inputs}{one.digest}" for one in shards],
        folder,
        Store(folder / "store"),
        Refit.parse(refit),
        by_row,
        comparable,
    )


def outcome(of: Fitting) -> Fit:
    def make() -> Entry:
        return of.store.get_or_make("fit", of.pool.digest, lambda folder: write_json(folder / "x.json", 1))

    return of.entry(make)[1]


def test_rows_are_counted_by_key_where_shards_came_together_anew(tmp_path: Path) -> None:
    one, two = shard(tmp_path, "one", ["a", "b", "c"]), shard(tmp_path, "two", ["d", "e"])
    assert outcome(fitting(tmp_path, one, two)).how == "made"
    assert outcome(fitting(tmp_path, one, two)) == dataclasses.replace(
        outcome(fitting(tmp_path, one, two)), how="kept", age=Age(5, 0, 0)
    )
    longer = shard(tmp_path, "longer", ["d", "e", "f"])
    kept = outcome(fitting(tmp_path, one, longer))
    assert (kept.how, kept.age) == ("kept", Age(6, 1, 0))
    assert outcome(fitting(tmp_path, one, longer, refit="10%")).how == "refitted"


def test_a_file_smaller_than_a_shard_may_grow_where_it_is_known_what_is_read(tmp_path: Path) -> None:
    keys = [str(number) for number in range(50)]
    outcome(fitting(tmp_path, shard(tmp_path, "short", keys)))
    longer = shard(tmp_path, "longer", [*keys, "new"])
    kept = outcome(fitting(tmp_path, longer, comparable=True))
    assert (kept.how, kept.age) == ("kept", Age(51, 1, 0))
    assert "cannot be compared" in outcome(fitting(tmp_path, longer)).why


def test_vanished_rows_count_and_the_best_pin_is_taken(tmp_path: Path) -> None:
    parts = [shard(tmp_path, str(number), [f"{number}-{row}" for row in range(10)]) for number in range(10)]
    outcome(fitting(tmp_path, *parts))
    kept = outcome(fitting(tmp_path, *parts[1:]))
    assert (kept.how, kept.age) == ("kept", Age(90, 0, 10))
    assert "saw 10 rows that are gone" in kept.note()
    refitted = outcome(fitting(tmp_path, *parts[3:]))
    assert refitted.how == "refitted" and "30 rows that are gone" in refitted.why
    assert outcome(fitting(tmp_path, *parts)).age == Age(100, 0, 0)  # the first is still pinned
    assert outcome(fitting(tmp_path, *parts[4:])).age == Age(60, 0, 10)  # and here the second is nearer
    assert outcome(fitting(tmp_path, shard(tmp_path, "other", ["x"]))).how == "made"


def test_never_keeps_whatever_has_come_but_not_for_another_pool(tmp_path: Path) -> None:
    one, two = shard(tmp_path, "one", ["a"]), shard(tmp_path, "two", [str(row) for row in range(99)])
    outcome(fitting(tmp_path, one))
    assert outcome(fitting(tmp_path, one, two, refit="never")).how == "kept"
    assert outcome(fitting(tmp_path, two, refit="never")).how == "made"


def test_what_reads_otherwise_is_gone_or_holds_rows_is_fitted_anew(tmp_path: Path) -> None:
    one, two = shard(tmp_path, "one", list("abcdefghij")), shard(tmp_path, "two", ["z"])
    outcome(fitting(tmp_path, one))
    assert (
        outcome(fitting(tmp_path, one, two, inputs="other ")).why
        == "what it reads of rows that it had seen has changed"
    )
    for file in (tmp_path / "pins" / "fit").glob("*.json"):
        if len(json.loads(file.read_text())["shards"]) > 1:
            file.unlink()
    assert "numbers of single rows or groups" in outcome(fitting(tmp_path, one, two, by_row=True)).why
    shutil.rmtree(tmp_path / "store")
    assert outcome(fitting(tmp_path, one, two)).why == "what had been fitted is no longer in the store"


def test_fits_that_keep_numbers_of_rows_say_so() -> None:
    """Those that look their rows up by key or by the name of a group cannot serve a row that they have not seen."""
    fitted = [load(kind, name) for kind in ("scorers", "passes") for name in CATALOGUE[kind] if _fits(kind, name)]
    assert {one.__name__ for one in fitted if not getattr(one, "fits_rows", False)} == {
        *("CotTrace", "Dart", "Vps", "InContext", "Landmarks")
    }


def _fits(kind: str, name: str) -> bool:
    return hasattr(load(kind, name), "fit")


@pytest.mark.parametrize("text", ["often", "-1%", "120%", "when", ""])
def test_a_refit_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="not understood"):
        Refit.parse(text)


def test_clusters_stay_where_they_were_when_a_few_rows_come(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)

    def rows(name: str, n: int) -> tuple[Shard, Path]:
        place = tmp_path / f"signal-{name}"
        place.mkdir()
        np.save(place / "pooled.npy", draw.normal(size=(n, 4)).astype(np.float32))
        return shard(tmp_path, name, [f"{name}{row}" for row in range(n)]), place

    (old, there), (new, here) = rows("old", 40), rows("new", 4)
    first = PoolView(Pool((old,)), {"tokens": [there]})
    centres = Centres(count=3).fit(first)[0]["centres"]
    held = {"clusters:3": np.asarray(centres)}
    assert (dataclasses.replace(first, centres=held).groups("clusters:3") == first.groups("clusters:3")).all()
    longer = PoolView(Pool((old, new)), {"tokens": [there, here]}, centres=held)
    assert (longer.groups("clusters:3")[:40] == first.groups("clusters:3")).all()
    assert set(longer.groups("clusters:3")[40:]) <= set(first.groups("clusters:3"))


def test_a_training_is_found_again_where_its_rows_are_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    old, more = (
        tiny.make_pool(tmp_path / "old", tiny.make_rows(12)),
        tiny.make_pool(tmp_path / "more", tiny.make_rows(8, 1)),
    )
    longer = Pool((*more.shards, *old.shards))  # a file has come before this one
    assert longer.named([9, 8]) == old.named([1, 0])
    job = TrainingJob(
        store=store,
        trainer="lora",
        settings={"rank": 2, "alpha": 4, "epochs": 1},
        model=ModelRef(name=str(tiny.make_model(tmp_path / "model")), max_tokens=64),
        rows_of=old,
        positions=(3, 1),
        seeds=Seeds(),
        machine=Machine(),
    )
    assert train_one(job).made
    again = train_one(dataclasses.replace(job, rows_of=longer, positions=(11, 9)))
    assert not again.made and again.digest == train_one(job).digest
    assert train_one(dataclasses.replace(job, positions=(1, 3))).made  # another order of rows is another training
