"""Law: a pass with `only` measures the rows of an earlier selection and no other, and says so of all the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import small
import tamis
import tiny
from tamis import recipe as recipes
from tamis.errors import DataError, RecipeError
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.scorers.passes.lengths import Lengths
from tamis.scorers.passes.tokens import Tokens
from tamis.stages.measure import measure
from tamis.stages.only import measure_only, part_of
from tamis.stages.signals import Signal, view_of
from tamis.stages.workspace import Workspace
from tamis.store import load_arrays
from tamis.values import Machine, Reason

PLACES = [13, 2, 3, 0, 16, 12, 3]  # of 18 rows in shards of 4: none in the second shard, one twice
BUDGET = "25%"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> small.World:
    return small.make_world(tmp_path_factory.mktemp("only"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(name=str(tiny.make_model(tmp_path_factory.mktemp("base"))), max_tokens=96, dtype="float32")


def place_of(folder: Path, base: ModelRef) -> Workspace:
    return Workspace(folder / "work", Machine(tokens_per_batch=256), base)


def pool_of(folder: Path, count: int = 18) -> Pool:
    return tiny.make_pool(folder / "pool", tiny.make_rows(count, seed=4), shard_rows=4)


def test_picked_rows_have_the_values_of_a_pass_over_all_rows_and_the_others_none(
    tmp_path: Path, base: ModelRef
) -> None:
    pool, work = pool_of(tmp_path), place_of(tmp_path, base)
    component = Tokens(model=base, loss="all", alone=True, pooled=True)
    whole = view_of(pool, {"tokens": measure(pool, "tokens", component, work)})
    part = measure_only(pool, PLACES, "tokens", component, work)
    assert part.name == "tokens" and len(part.folders) == len(pool.shards)
    picked = np.isin(np.arange(len(pool)), PLACES)
    for number, shard in enumerate(view_of(pool, {"tokens": part}).shards()):
        here = picked[pool.starts[number] : pool.starts[number + 1]]
        full, found = dict(list(whole.shards())[number]["tokens"]), dict(shard["tokens"])
        assert set(full) == set(found)
        assert found["reason"].tolist() == np.where(here, full["reason"], Reason.NOT_MEASURED).tolist()
        for name in ("pooled", "response_nll_sum"):
            assert np.allclose(found[name][here], full[name][here], atol=1e-5) and np.isnan(found[name][~here]).all()
        for row in range(len(here)):
            for name, offsets in (("nll", "nll_offsets"), ("turn", "nll_offsets"), ("alone_nll", "alone_offsets")):
                mine, other = (side[name][side[offsets][row] : side[offsets][row + 1]] for side in (found, full))
                assert np.allclose(mine, other, atol=1e-4, equal_nan=True) if here[row] else len(mine) == 0


def test_a_changed_selection_measures_the_changed_shards_alone(tmp_path: Path, base: ModelRef) -> None:
    pool, work, component = pool_of(tmp_path), place_of(tmp_path, base), Tokens(model=base)

    def run(places: list[int], of: Pool = pool) -> Signal:
        return measure_only(of, places, "tokens", component, work)

    first = run(PLACES)
    assert first.made == 3 and run(sorted(set(PLACES))).made == 0, "the order of the picks changes nothing"
    second = run([*PLACES, 14])
    same = [one == two for one, two in zip(first.identities, second.identities, strict=True)]
    assert second.made == 1 and same == [True, True, True, False, True]
    longer = Pool((*pool.shards, tiny.make_pool(tmp_path / "more", tiny.make_rows(4, seed=9)).shards[0]))
    third = run([*PLACES, 19], longer)
    assert third.made == 1 and third.identities[:5] == first.identities, "appended data leaves old shards alone"
    other = measure_only(pool, PLACES, "tokens", Tokens(model=base, loss="all"), work)
    assert other.made == 3 and not set(other.identities) & set(first.identities)


def test_a_part_keeps_rows_in_their_order_and_refuses_to_be_empty(tmp_path: Path, base: ModelRef) -> None:
    pool, work = pool_of(tmp_path), place_of(tmp_path, base)
    part = part_of(pool, PLACES, work.store)
    assert [row.key for row in part.pool] == [row.key for row in pool.read(sorted(set(PLACES)))]
    for wrong in ([], [18], [-1]):
        with pytest.raises(DataError, match="rows asked of a pool of 18"):
            part_of(pool, wrong, work.store)


def test_a_pass_that_reads_signals_is_refused_with_what_to_do(tmp_path: Path, base: ModelRef) -> None:
    class Reader(Lengths):
        @property
        def needs(self) -> Any:
            return frozenset({recipes_need})

    from tamis.values import Need

    recipes_need = Need(kind="signal", name="tokens")
    pool, work = pool_of(tmp_path), place_of(tmp_path, base)
    with pytest.raises(RecipeError, match="reader reads tokens: give `only` to the stage that measures that"):
        measure_only(pool, PLACES, "reader", Reader(model=base), work)


def prefiltered(world: small.World, folder: Path) -> Path:
    text = world.recipe.read_text(encoding="utf-8")
    text = text.replace('target: "@target"}\nsim', 'only: "@near"}\nsim')
    text = text.replace("score: [perplexity, ifd, length]", "score: [length]")
    text = text.replace("warmup:", f"near: {{select: rds-plus, budget: {BUDGET}}}\nwarmup:")
    path = folder / "prefiltered.yaml"
    text = text.partition("final:")[0].replace('"@influence", budget: 25%', '"@influence", budget: 5%')
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_ranks_only_what_the_first_selection_left(world: small.World, tmp_path: Path) -> None:
    import dataclasses
    import json

    import pyarrow.parquet as pq

    run = small.conduct(dataclasses.replace(world, recipe=prefiltered(world, tmp_path)), tmp_path / "work")
    ledger = pq.read_table(run.folder / "ledger.parquet").to_pylist()
    columns = pq.read_table(run.folder / "columns.parquet").to_pylist()
    scored = sum(any(row[name] == row[name] for name in row if name.startswith("gradient-")) for row in columns)
    assert scored == 16, "a quarter of 64 usable rows"
    assert sum(row["verdict"] == "selected" for row in ledger) == 3
    assert sum(row["reason"] == "not ranked: not measured" for row in ledger) == 48
    manifest = json.loads((run.folder / "manifest.json").read_text(encoding="utf-8"))
    assert any("influence was measured on 16 of 66 rows" in text for text in manifest["notes"])


def test_python_measures_influence_on_an_earlier_selection(world: small.World, tmp_path: Path) -> None:
    work = tamis.workspace(tmp_path / "work", str(world.folder / "model"), max_tokens=96, workers=1)
    pool = tamis.open_pool(str(world.folder / "pool" / "first.jsonl"), work=work)
    target = str(world.folder / "target.jsonl")
    near = tamis.select(pool, "rds-plus", 12, target=target, work=work)
    warm_up = {"epochs": 1, "rank": 2, "alpha": 4}
    picked = tamis.select(
        pool, "less", 5, target=target, only=near.save(tmp_path / "near.parquet"), warm_up=warm_up, work=work
    )
    assert len(picked.subset.positions) == 5 and set(picked.subset.positions) <= set(near.subset.positions)
    with pytest.raises(RecipeError, match="measures no influence"):
        tamis.select(pool, "longest", 5, only=near, work=work)
    other = tamis.open_pool(str(world.folder / "pool" / "second.jsonl"), work=work)
    with pytest.raises(RecipeError, match="chosen from another pool"):
        tamis.select(other, "less", 5, target=target, only=near, warm_up=warm_up, work=work)


def test_a_recipe_says_what_only_may_name(tmp_path: Path) -> None:
    text = """
pool: {files: ["tamis:pool.jsonl.gz"]}
target: {files: ["tamis:target/arithmetic.jsonl"]}
warmup: {train: lora, on: {select: random, budget: 5%, seed: 1}}
influence: {pass: influence, checkpoints: "@warmup", only: ONLY}
subset: {select: less, from: "@influence", budget: 5%}
"""
    for only, fault in (('"@warmup"', "@warmup is a train stage; expected one that has select"), ("5%", "@stage")):
        path = tmp_path / "faulty.yaml"
        path.write_text(text.replace("ONLY", only), encoding="utf-8")
        with pytest.raises(RecipeError, match=fault):
            recipes.load(str(path))


def test_shipped_arrays_of_an_unmeasured_shard_have_the_shape_of_measured_ones(tmp_path: Path, base: ModelRef) -> None:
    pool, work = pool_of(tmp_path), place_of(tmp_path, base)
    found = [load_arrays(folder) for folder in measure_only(pool, [0], "lengths", Lengths(model=base), work).folders]
    for arrays, shard in zip(found, pool.shards, strict=True):
        assert {name: array.dtype for name, array in arrays.items()} == {n: a.dtype for n, a in found[0].items()}
        assert all(len(array) == shard.rows for array in arrays.values())
    assert all((arrays["reason"] == Reason.NOT_MEASURED).all() for arrays in found[1:])
