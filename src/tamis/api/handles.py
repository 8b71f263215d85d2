"""What the verbs of Python hand back: handles that know their pool and workspace, and show themselves in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.api.notebook import ROWS, Card, shown
from tamis.pool import MANIFEST, Pool
from tamis.stages.workspace import Workspace
from tamis.values import Budget, Column, Row, Subset

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.stages.train import Training
    from tamis.values import Items


def keep_pool(pool: Pool, work: Workspace) -> Path:
    """Path of a `pool.json` for this pool in the workspace, so that a subset file can name it."""
    path = work.root / "pools" / pool.digest / MANIFEST
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        pool.save(path)
    return path


@dataclass(frozen=True, repr=False)
class Scored:
    """A pool with columns. `scored["ifd"]` is one column's values, (n,) float32, by full or short name.

    `notes`: what should be known of them. `facts`: what fitted scorers say of the pool, by scorer.
    """

    pool: Pool
    columns: Mapping[str, Column]
    work: Workspace
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self.column(name).values

    def __len__(self) -> int:
        return len(self.pool)

    def column(self, name: str) -> Column:
        """A column with its unit and its reasons; RecipeError with the candidates where the name does not fit one."""
        from tamis.views import resolve_column

        return self.columns[resolve_column(name, list(self.columns))]

    def table(self) -> pa.Table:
        """Key, file, position, source and every column, in the order of the pool; polars and pandas read it."""
        from tamis.stages.score import columns_table

        return columns_table(self.pool, self.columns)

    def save(self, to: str | Path) -> Path | str:
        """Write `table()` as Parquet, or as CSV where the name ends so, also to an address; as `tamis scores` does."""
        from tamis.remote import is_remote, writable
        from tamis.stages.score import write_columns

        with writable(to) as file:
            write_columns(self.pool, self.columns, file)
        return str(to) if is_remote(to) else Path(to)

    def _card(self) -> Card:
        from tamis.stages.score import statistics

        keys = ("scored", "mean", "p5", "p50", "p95")
        rows = []
        for name, column in self.columns.items():
            facts = statistics(column.values)
            rows.append([name, column.unit, *(facts.get(key, "") for key in keys)])
        return Card(f"Scored: {len(self):,} rows, {len(rows)} columns", ("column", "unit", *keys), rows)

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()


@dataclass(frozen=True, repr=False)
class Chosen:
    """Rows chosen from a pool, in the order picked: what `train`, `compare` and `export` take.

    `facts`: rows, tokens and usable rows (before the selection), as far as they are known. `unscored`: rows that a
    filter could not judge. `seconds`: what choosing took, whenever it was done. `notes`: what should be known.
    """

    pool: Pool
    subset: Subset
    work: Workspace
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    seconds: float = 0.0
    unscored: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.subset.positions)

    def __iter__(self) -> Iterator[Row]:
        """The rows in the order picked, some thousand at a time in memory."""
        places = self.subset.positions.tolist()
        for start in range(0, len(places), 4096):
            yield from self.pool.read(places[start : start + 4096])

    def head(self, rows: int = ROWS) -> list[Row]:
        """The first rows picked."""
        return self.pool.read(self.subset.positions[:rows].tolist())

    @property
    def keys(self) -> list[str]:
        """Keys of the rows in the order picked."""
        import numpy as np

        keys = self.pool.table(["key"]).column("key").to_numpy(zero_copy_only=False)
        return [str(key) for key in keys[np.asarray(self.subset.positions)]]

    def save(self, path: str | Path | None = None) -> Path:
        """Write the subset file that the verbs of the command line read; by default into the workspace."""
        from tamis.subsets import save

        digest = self.digest or digests.of_json([self.pool.digest, self.subset.positions.tolist()])
        file = Path(path) if path is not None else self.work.root / "subsets" / f"{digest[:12]}.parquet"
        save(file, self.pool, keep_pool(self.pool, self.work), self.subset)
        return file

    def _card(self) -> Card:
        tokens = f", {self.facts['tokens']:,} tokens" if "tokens" in self.facts else ""
        title = f"{self.name}: {len(self):,} of {len(self.pool):,} rows{tokens}"
        title += f", {self.unscored:,} could not be judged" if self.unscored else ""
        gains = self.subset.gains[:ROWS].tolist()
        rows = [[rank, gain, *shown(row)] for rank, (gain, row) in enumerate(zip(gains, self.head(), strict=True))]
        more = f"and {len(self) - len(rows):,} more" if len(self) > len(rows) else ""
        return Card(title, ("rank", "gain", "source", "asked", "answered"), rows, more)

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()


class Shares(dict[str, Budget]):
    """What each group of a pool gets of a budget, by the group's name."""

    def _card(self) -> Card:
        rows = [[name, str(budget)] for name, budget in self.items()]
        return Card(f"Shares of {len(self)} groups", ("group", "budget"), rows)

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()


class Calibrated(dict[str, Any]):
    """Figures of a score against the truth: `ece`, `brier`, `auroc`, `aurc`, over `rows` of which `right` are right.

    None where a figure has no meaning: ECE and Brier of a score that is no confidence in [0, 1].
    """

    def _card(self) -> Card:
        names = ("auroc", "aurc", "ece", "brier", "error", "tsu")
        rows = [[name, "not defined" if self[name] is None else self[name]] for name in names if name in self]
        title = f"{self['column']} against {self['truth']}: {self['rows']:,} rows, {self['right']:,} right"
        return Card(title, ("figure", "value"), rows)

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()


class Comparison(dict[str, Any]):
    """The content of `comparison.json`: arms, differences with intervals, composition, and one verdict in words."""

    @property
    def verdict(self) -> str:
        """Whether the selection was better than the baselines, in one sentence."""
        return str(self["verdict"])

    def _card(self) -> Card:
        rows = [[arm["name"], arm["mean"], len(arm["runs"]), arm["rows"], arm["tokens"]] for arm in self["arms"]]
        differences = "; ".join(str(difference["verdict"]) for difference in self["differences"])
        return Card(self.verdict, ("arm", str(self["unit"]), "runs", "rows", "tokens"), rows, differences)

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()


@dataclass(frozen=True, repr=False)
class Trained:
    """A fine-tuned model: `model` goes into `evaluate`, `score` and `select` as a model; `path` is its last folder."""

    training: Training

    @property
    def model(self) -> ModelRef:
        """The trained model: the base with its adapter, or the folder of all weights."""
        return self.training.model

    @property
    def path(self) -> Path:
        """Folder of the last checkpoint, as PEFT and transformers read it."""
        return self.training.checkpoints[-1].path

    @property
    def loss(self) -> float | None:
        """Mean training loss of the last epoch, nats per trained token; None where an outside trainer told none."""
        loss = self.training.checkpoints[-1].facts.get("loss")
        return None if loss is None else float(loss)

    def _card(self) -> Card:
        facts = self.training.facts
        kept = self.training.checkpoints[-ROWS:]
        rows = [[one.path.name, one.facts.get("step", ""), one.facts.get("loss", "")] for one in kept]
        title = f"Trained elsewhere: {len(self.training.checkpoints)} checkpoints"
        if "rows" in facts:
            title = f"Trained on {facts['rows']:,} rows, {facts['tokens']:,} tokens, in {self.training.seconds:.1f} s"
        return Card(title, ("checkpoint", "step", "loss"), rows, f"in {self.path}")

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()


@dataclass(frozen=True, repr=False)
class Measured:
    """A model measured on held-out rows: one result an item, and `value`, their mean weighted by tokens or items."""

    items: Items

    @property
    def value(self) -> float:
        """The evaluator's figure, in `items.unit`."""
        return float(self.items.values.sum() / self.items.weights.sum())

    def _card(self) -> Card:
        items = self.items
        title = f"{items.metric}: {self.value:.4f} {items.unit} over {len(items.keys):,} items"
        return Card(f"{title}, {'lower' if items.lower_is_better else 'higher'} is better")

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()
