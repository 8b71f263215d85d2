"""Laws of cleaning in a run and by hand: every row told of, old rows found again, lost shards made anew."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

import synthetic
import tiny
from tamis import recipe as recipes
from tamis import runs
from tamis.api import clean, open_pool
from tamis.cleaning.leaving import check
from tamis.cleaning.steps import Step, steps_of
from tamis.engine import machine
from tamis.errors import DataError, RecipeError
from tamis.history.explanation import explain
from tamis.ingest import originals
from tamis.pool import Pool, Shard
from tamis.report import write_report
from tamis.stages.clean import clean as carried_out
from tamis.stages.conduct import Conductor
from tamis.stages.workspace import Workspace
from tamis.values import Dropped, Machine, Need, Patch, Row
from tamis.views import PoolView

BROKEN = "it\u00e2\u20ac\u2122s the sum of 3 and 4"  # UTF-8 read as Windows-1252
RECIPE = """
name: cleaned
pool: {{files: ["{folder}/rows.jsonl"], shard_rows: 8}}
clean:
  - repair-text: {{}}
  - exact
  - where: {{keep: "chars > 20 and meta.rating != 2"}}
subset: {{select: longest, budget: 50%}}
"""


def records() -> list[dict[str, Any]]:
    made = [
        {
            "prompt": f"what is {place} and {place + 1}?",
            "completion": f"the sum is {2 * place + 1}",
            "rating": place % 5,
        }
        for place in range(24)
    ]
    made[3] = {"prompt": "say it", "completion": BROKEN, "rating": 1}
    made[20] = {**made[4], "rating": 3}
    made[21] = {"prompt": "say it", "completion": "it\u2019s the sum of 3 and 4", "rating": 1}  # of the third, mended
    made[22] = {"prompt": "why?", "completion": "so", "rating": 0}
    made[23] = {"prompt": "", "completion": ""}  # quarantined
    return made


@dataclass(frozen=True)
class World:
    folder: Path
    run: Path
    manifest: Mapping[str, Any]
    conductor: Conductor


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("cleaned")
    lines = [json.dumps(record, ensure_ascii=False) for record in records()]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "r.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
    recipe = recipes.load(str(folder / "r.yaml"))
    run = runs.start(recipe, folder / "ws" / "runs")
    conductor = Conductor.of(recipe, Workspace(folder / "ws", machine(workers=1), recipe.model))
    conductor.ingest()
    for stage in recipe.stages:
        conductor.carry_out(stage)
    manifest = runs.finish(conductor, run, time.time())
    write_report(run)
    return World(folder, run, manifest, conductor)


def test_a_run_tells_what_became_of_every_row(world: World) -> None:
    table = pq.read_table(world.run / "ledger.parquet")
    assert len(table) == len(records())
    told = [(one["step"], one["read"], one["dropped"], one["changed"]) for one in world.manifest["cleaning"]]
    left = [row for row in records()[:22] if row["rating"] != 2]
    assert told == [("repair-text", 23, 0, 1), ("exact", 23, 2, 0), ("where", 21, 21 - len(left) + 2, 0)]
    counts = {step["step"]: step["rows"] for step in world.manifest["funnel"]}
    assert list(counts)[:5] == ["read", "ingested", "after repair-text", "after exact", "after where"]
    assert counts["ingested"] == 23 and counts["after where"] == counts["usable"] == world.manifest["pool"]["rows"]
    assert sum(counts[name] for name in ("read",)) == 24 and "Cleaning" in (world.run / "report.html").read_text(
        "utf-8"
    )


def test_a_row_is_explained_with_step_reason_and_winner_and_found_by_the_key_it_was_read_under(world: World) -> None:
    keys = [row["key"] for row in pq.read_table(world.run / "ledger.parquet").sort_by("position").to_pylist()]
    copy = explain(world.run, "rows.jsonl:20")
    assert (copy["verdict"], copy["step"], copy["winner"]) == ("dropped", "exact", keys[4]) and copy["reason"]
    mended = explain(world.run, "rows.jsonl:3")
    assert mended["changed_by"] == ["repair-text"] and mended["read_as"] != mended["key"]
    assert explain(world.run, mended["read_as"])["key"] == mended["key"]
    assert mended["messages"][-1]["content"] == "it\u2019s the sum of 3 and 4"
    assert explain(world.run, "rows.jsonl:21")["winner"] == mended["key"], "a copy that only mending shows"
    assert explain(world.run, "rows.jsonl:22")["reason"] == "'chars > 20 and meta.rating != 2' is false"


def test_the_untouched_record_of_a_changed_row_is_found(world: World) -> None:
    pool = world.conductor.pool
    assert pool is not None
    found = [json.loads(record) for record in originals(pool, range(len(pool)))]
    assert found == [records()[row.position] for row in pool] and BROKEN in [row["completion"] for row in found]


def test_a_clean_pool_needs_no_other_folder_and_another_run_does_nothing(world: World, tmp_path: Path) -> None:
    work = Workspace(tmp_path / "ws", machine(workers=1), world.conductor.work.model)
    pool = open_pool(str(world.folder / "rows.jsonl"), work, shard_rows=8)
    steps = ["repair-text", "exact", {"where": {"keep": "chars > 20 and meta.rating != 2"}}]
    told: list[bool] = []
    kept = clean(pool, steps, out=tmp_path / "out", work=work, say=lambda done: told.append(done.made))
    again = clean(pool, steps, out=tmp_path / "out", work=work, say=lambda done: told.append(done.made))
    assert told == [True] * 3 + [False] * 3 and again == kept
    shutil.rmtree(tmp_path / "ws")
    opened = Pool.open(tmp_path / "out")
    assert [row.key for row in opened] == [row.key for row in kept] and opened.steps == kept.steps
    assert opened.digest == world.manifest["pool"]["digest"]
    with pytest.raises(DataError, match="holds no pool"):
        clean("tamis:target/arithmetic.jsonl", "exact", out=world.folder, work=tmp_path / "other")


@pytest.mark.parametrize("kind", ["shard", "cleaned", "patch"])
def test_what_is_lost_from_the_store_is_made_anew(tmp_path: Path, kind: str) -> None:
    work = Workspace(tmp_path / "ws", machine(workers=1), synthetic_model())
    rows = tiny.make_rows(20)
    rows[5] = dataclasses.replace(rows[5], messages=tiny.chat("say it", BROKEN))
    pool = tiny.make_pool(tmp_path / "pool", rows, shard_rows=6)
    steps = steps_of(["repair-text", {"sources": {"deny": ["words"]}}])
    one = carried_out(pool, steps, work).pool
    for folder in (work.root / "store" / kind).glob("*/*/manifest.json"):
        shutil.rmtree(folder.parent)
    two = carried_out(pool, steps, work).pool
    assert two == one and [row.key for row in two] == [row.key for row in one]


def synthetic_model() -> Any:
    from tamis.models import ModelRef

    return ModelRef(name="tamis:tiny-lm")


@dataclass(frozen=True, kw_only=True)
class Silence:
    """Leaves nothing of texts that begin with s, and tries to change what is fixed where asked to."""

    revision: ClassVar[int] = 1
    label: bool | None = None

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def apply(self, shard: Shard, /) -> Patch:
        changed: dict[int, Row] = {}
        for place, row in enumerate(shard.read()):
            last = row.messages[-1]
            text = "" if last["content"].startswith("s") else last["content"]
            changed[place] = dataclasses.replace(row, messages=(*row.messages[:-1], {**last, "content": text}))
            if self.label is not None:
                changed[place] = dataclasses.replace(changed[place], label=self.label)
        return Patch(rows=changed)


def test_a_row_of_which_a_transform_leaves_nothing_is_dropped_and_others_that_do_not_change_stay(
    tmp_path: Path,
) -> None:
    work = Workspace(tmp_path / "ws", machine(workers=1), synthetic_model())
    rows = [tiny.make_row(tiny.chat("ask", text), key=text, file="tiny.jsonl") for text in ("so", "well", "sure", "no")]
    rows = [dataclasses.replace(row, content=content_of(row)) for row in rows]
    pool = tiny.make_pool(tmp_path / "pool", rows, shard_rows=2)
    found = carried_out(pool, [Step("silence", f"{__name__}:Silence")], work)
    assert [row.key for row in found.pool] == ["well", "no"] and found.pool.files[0]["dropped"] == 2
    assert (found.done[0].dropped, found.done[0].changed) == (2, 0)
    with pytest.raises(DataError, match="changes label of a row"):
        carried_out(pool, [Step("silence", f"{__name__}:Silence", {"label": True})], work)


def content_of(row: Row) -> str:
    from tamis.contents import content_digest

    return content_digest(row)


def test_ratings_lose_the_rows_that_the_pool_loses(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "ws", machine(workers=1), synthetic_model())
    pool = tiny.make_pool(tmp_path / "pool", tiny.make_rows(12), shard_rows=5)
    columns = {"mine.rating": synthetic.column(np.arange(12, dtype=np.float32))}
    steps = steps_of([{"where": {"keep": "mine.rating > 3"}}, {"sources": {"deny": ["words"]}}])
    found = carried_out(pool, steps, work, columns=columns)
    kept = [place for place, row in enumerate(pool) if place > 3 and row.source != "words"]
    assert found.columns["mine.rating"].values.tolist() == kept
    assert [row.key for row in found.pool] == [row.key for row in pool.read(kept)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": np.zeros(3, np.bool_), "reasons": ()},
        {"rows": np.array([True, False]), "reasons": ()},
        {"rows": np.array([True, False]), "reasons": ("",)},
        {"rows": np.array([True, False]), "reasons": ("so",), "winners": ("a", "b")},
    ],
)
def test_a_cleaner_that_does_not_account_for_its_rows_is_a_fault(tmp_path: Path, wrong: dict[str, Any]) -> None:
    pool = tiny.make_pool(tmp_path, tiny.make_rows(2))
    with pytest.raises(DataError, match="a fault of the cleaner"):
        check(Dropped(**wrong), pool, "mine")


def test_every_fault_of_the_head_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    (tmp_path / "rows.jsonl").touch()
    path.write_text(
        f"pool: {{files: ['{tmp_path}/rows.jsonl']}}\nclean:\n  - where: {{keep: 'chars >'}}\n  - exat\n"
        "  - licences: {alow: [mit]}\n  - where: {keep: 'ifdd < 3'}\n  - contamination: {against: ['@target']}\n"
        "  - contamination: {against: [nothing.jsonl]}\nsubset: {select: random, budget: 3}\n",
        encoding="utf-8",
    )
    with pytest.raises(RecipeError) as caught:
        recipes.load(str(path))
    faults = caught.value.faults
    wanted = (
        (3, "'chars >' is not understood"),
        (4, "no cleaner named 'exat'; did you mean 'exact'?"),
        (5, "no setting 'alow'; did you mean 'allow'?"),
        (6, "no column 'ifdd'"),
        (7, "the recipe has no target"),
        (8, "nothing.jsonl"),
    )
    assert len(faults) == len(wanted), faults
    for (line, text), fault in zip(wanted, faults, strict=True):
        assert f"r.yaml:{line}: clean" in fault and text in fault, fault


def test_overrides_reach_the_steps_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    (tmp_path / "rows.jsonl").touch()
    sets = ["clean.where.keep=chars > 3", "clean.exact.keep=last"]
    steps = recipes.load(str(path), sets).clean
    assert [(step.name, dict(step.settings)) for step in steps] == [
        ("repair-text", {}), ("exact", {"keep": "last"}), ("where", {"keep": "chars > 3"}),
    ]  # fmt: skip
    assert [step.name for step in recipes.load(str(path), ["clean=[exact, near, exact]"]).clean] == [
        "exact", "near", "exact-2",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="has no step 'near'"):
        recipes.load(str(path), ["clean.near.threshold=0.5"])


def test_a_step_that_leaves_nothing_is_an_error_that_says_why(tmp_path: Path) -> None:
    pool = tiny.make_pool(tmp_path / "pool", tiny.make_rows(3))
    with pytest.raises(RecipeError, match="leaves no row of 3; reasons: it names no licence"):
        clean(pool, "licences", allow=["mit"], work=tmp_path / "ws")
    with pytest.raises(RecipeError, match="no step is called so; did you mean 'exact'"):
        clean(pool, "exact,near", work=tmp_path / "ws", settings={"exat": {}})


@dataclass(frozen=True, kw_only=True)
class Odd:
    """Drops every second row; holds the pool against nothing."""

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def clean(self, view: PoolView, on: Machine, /) -> Dropped:
        rows = np.arange(len(view)) % 2 == 1
        return Dropped(rows=rows, reasons=("odd",) * int(rows.sum()))


def test_a_third_partys_cleaner_is_named_by_its_class(tmp_path: Path) -> None:
    pool = tiny.make_pool(tmp_path / "pool", tiny.make_rows(6), shard_rows=4)
    left = clean(pool, f"{__name__}:Odd", work=tmp_path / "ws")
    assert [row.position for row in left] == [0, 2, 4] and left.steps[0]["step"] == "Odd"
