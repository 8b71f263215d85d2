"""The rows of an export in order, rendered where labels are asked for; files that appear all at once or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tamis.errors import DataError
from tamis.exporting.provenance import Provenance
from tamis.ingest.tables import plain
from tamis.pool import Pool
from tamis.remote import is_remote
from tamis.values import Kind, Message, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.masks import Linter
    from tamis.models import ModelRef
    from tamis.rendering import Rendered
    from tamis.values import TokenWeights

BATCH = 1024
IGNORED = -100  # the label that cross entropy leaves out, in torch and in every trainer here
_LINE_ENDS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}  # some readers end a line at these


@dataclass(frozen=True)
class Item:
    """One row of an export: its rank, its weight or None, and how the model sees it (None: not asked, or a pair).

    `tokens` (t,) float32: weights of the response tokens of a rendered row, or None.
    """

    rank: int
    row: Row
    weight: float | None
    rendered: Rendered | None = None
    tokens: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Chosen:
    """The rows at `places` of a pool, in this order. With `model` they are rendered, and linted on the way.

    `about`: how they were chosen, for cards.
    """

    pool: Pool
    places: list[int]
    weights: list[float] | None = None
    model: ModelRef | None = None
    linter: Linter | None = None
    tokens: TokenWeights | None = None
    about: Provenance = field(default_factory=Provenance)

    @property
    def model_name(self) -> str:
        """The model whose template renders the rows; empty where none was given."""
        return self.model.name if self.model is not None else ""

    def __iter__(self) -> Iterator[Item]:
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[list[Item]]:
        """Some thousand rows at a time, so that memory does not grow with the subset."""
        for start in range(0, len(self.places), BATCH):
            rows = self.pool.read(self.places[start : start + BATCH])
            rendered = self._rendered(rows)
            if self.linter is not None:
                self.linter.add(rows, rendered)
            weights = [None] * len(rows) if self.weights is None else self.weights[start : start + len(rows)]
            yield [
                Item(start + place, row, weight, one, self._weighed(start + place, one))
                for place, (row, weight, one) in enumerate(zip(rows, weights, rendered, strict=True))
            ]

    def _weighed(self, rank: int, one: Rendered | None) -> NDArray[np.float32] | None:
        """The token weights of a rendered row. DataError where they are those of other tokens."""
        if self.tokens is None or one is None:
            return None
        from tamis.training.weighting import weights_of

        return weights_of(self.tokens, rank, one.ids[one.turn >= 0], self.model_name)

    def _rendered(self, rows: Sequence[Row]) -> list[Rendered | None]:
        if self.model is None:
            return [None] * len(rows)
        from tamis.rendering import render_all

        wanted = [place for place, row in enumerate(rows) if row.kind != "pair"]
        made: list[Rendered | None] = [None] * len(rows)
        for place, one in zip(wanted, render_all([rows[place] for place in wanted], self.model), strict=True):
            made[place] = one
        return made

    def kinds(self) -> Counter[Kind]:
        """How many rows there are of each kind."""
        import numpy as np

        if not self.places:
            return Counter()
        kinds = self.pool.table(["kind"]).column("kind").to_numpy(zero_copy_only=False)
        return Counter(kinds[np.asarray(self.places)].tolist())

    def main_kind(self) -> Kind:
        """The most common kind; chat before others where they are as many."""
        kinds = self.kinds()
        return max(kinds, key=lambda kind: (kinds[kind], kind == "chat")) if kinds else "chat"

    def has_tools(self) -> bool:
        """Whether any row describes tools."""
        import numpy as np

        tools = self.pool.table(["tools"]).column("tools").is_valid().to_numpy(zero_copy_only=False)
        return bool(self.places) and bool(np.asarray(tools)[np.asarray(self.places)].any())


@dataclass
class Notes:
    """What is left out and what is lost, counted while rows are written and said at the end."""

    skipped: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    written: int = 0

    def skip(self, why: str) -> None:
        """Count a row that is left out."""
        self.skipped[why] += 1

    def say(self, text: str, condition: object = True) -> None:
        """Add a note, once, if `condition` holds."""
        if condition and text not in self.said:
            self.said.append(text)

    def lines(self) -> list[str]:
        """All notes: rows left out first, then what rows lost, then what else is to be known."""
        lost = [f"{what} of {count} rows is not carried" for what, count in self.lost.most_common()]
        return [*(f"{count} rows left out: {why}" for why, count in self.skipped.most_common()), *lost, *self.said]

    def check(self, form: str, rows: int) -> None:
        """Raise DataError where rows were asked for and none could be written."""
        if rows and not self.written:
            raise DataError(f"the form {form} can carry none of the {rows} rows: {self.lines()[0]}")


class Files:
    """The files of one export. They are written under hidden names and put in place together by `commit`.

    `known_as`: the path or the address of the main file, where it is to lie in the end.
    """

    def __init__(self, out: Path, known_as: str | Path) -> None:
        self.out = out
        self.folder = str(known_as).rpartition("/")[0] if is_remote(known_as) else out.parent.as_posix()
        self._pending: dict[Path, Path] = {}
        self._open: list[IO[Any]] = []
        out.parent.mkdir(parents=True, exist_ok=True)

    def beside(self, ending: str) -> Path:
        """The file beside the main one with this ending in place of its own."""
        return self.out.with_name(self.out.stem + ending)

    def name(self, path: Path) -> str:
        """Path or address by which others find a file of the export."""
        return f"{self.folder}/{path.name}" if is_remote(self.folder) else path.as_posix()

    def pending(self, path: Path) -> Path:
        """Where to write what shall become `path`."""
        self._pending[path] = path.with_name(f".{path.name}.partial")
        return self._pending[path]

    def text(self, path: Path) -> IO[str]:
        """A text file that shall become `path`; closed by `commit`."""
        file = self.pending(path).open("w", encoding="utf-8", newline="\n")
        self._open.append(file)
        return file

    def binary(self, path: Path) -> IO[bytes]:
        """A file of bytes that shall become `path`; closed by `commit`."""
        file = self.pending(path).open("wb")
        self._open.append(file)
        return file

    def drop(self, path: Path) -> None:
        """Do not keep this file after all."""
        _remove(self._pending.pop(path))

    def commit(self) -> tuple[Path, ...]:
        """Put all files in place; returns them, the main one first."""
        self._close()
        for path, partial in self._pending.items():
            if path.is_dir():
                shutil.rmtree(path)
            partial.replace(path)
        return tuple(sorted(self._pending, key=lambda path: path != self.out))

    def abandon(self) -> None:
        """Remove what was written and not put in place."""
        self._close()
        for partial in self._pending.values():
            _remove(partial)

    def _close(self) -> None:
        for file in self._open:
            with contextlib.suppress(ValueError):
                file.close()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def dump(value: Any) -> str:
    """One line of JSON without infinities and without characters that some readers take for the end of a line."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # a number too large for a float, somewhere in meta: JSON has no infinity
        text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    return text.translate(_LINE_ENDS)


def labels(item: Item) -> dict[str, list[Any]]:
    """`input_ids` and `labels` of a rendered row: the id where it is trained, IGNORED elsewhere.

    A response token of weight 0 is not trained. With token weights, `token_weights`: one number an id, 0 at the prompt.
    """
    import numpy as np

    assert item.rendered is not None
    trained = item.rendered.turn >= 0
    ids = item.rendered.ids.tolist()
    if item.tokens is None:
        weighed = {}
    else:
        weights = np.zeros(len(ids), np.float32)
        weights[trained] = item.tokens
        trained, weighed = weights > 0, {"token_weights": weights.tolist()}
    kept = trained.tolist()
    return {
        "input_ids": ids,
        "labels": [token if on else IGNORED for token, on in zip(ids, kept, strict=True)],
        **weighed,
    }


def unlabelled(item: Item) -> str:
    """Why no token of a row is trained; empty where some are, or where it is not rendered."""
    rendered = item.rendered
    if rendered is None:
        return ""
    if item.tokens is not None and len(item.tokens) and not (item.tokens > 0).any():
        return "every response token has the weight 0"
    if rendered.reason or not (rendered.turn >= 0).any():
        return rendered.reason.text or "no token to train on is left"
    return ""


def with_text_arguments(messages: Sequence[Message]) -> list[Message]:
    """Messages with the arguments of tool calls as JSON text: objects of many shapes are no Arrow column."""
    made = []
    for message in messages:
        calls = message.get("tool_calls")
        made.append({**message, "tool_calls": [_call(call) for call in calls]} if calls else message)
    return made


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    if not isinstance(function.get("arguments"), str):
        function["arguments"] = json.dumps(function.get("arguments"), ensure_ascii=False)
    return {**call, "function": function}
