"""BM25: rows whose prompts share words with the target's, the lexical baseline of targeted selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.errors import DataError, RecipeError
from tamis.values import Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Shard
    from tamis.values import Budget, Machine, Row, Subset
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class Bm25:
    """BM25: rows whose prompts share rare words with the target's prompts (Robertson & Zaragoza, 2009).

    Documents are the prompts of the pool (all turns but the assistant's), queries those of the target rows; words are
    runs of two or more letters or digits in lower case without English stop words. Scores are Lucene's variant, by
    bm25s: the sum over the words of a query of idf · tf / (tf + k1 (1 - b + b · length / mean length)). `turns`:
    `query` lets every target row take turns to pick its best row not taken yet, `mean` ranks by the mean over target
    rows. No model is run. Memory: 4 bytes a word of the pool's prompts and 4 bytes a row and query; no text is kept.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    turns: Literal["query", "mean"] = "query"
    k1: float = 1.5
    b: float = 0.75

    def __post_init__(self) -> None:
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise RecipeError(f"bm25: k1 must not be negative and b lies in [0, 1], got k1 {self.k1}, b {self.b}")

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows, of the pool for the budget; the target is there for its text."""
        return frozenset(
            {Need(kind="signal", name="lengths"), Need(kind="signal", name="lengths", side="target")},
        )

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is the score the row was picked on."""
        import numpy as np

        from tamis.budgets import order_for, order_of, pick, round_robin

        scores = self._scores(view)
        if self.turns == "mean":
            mean = scores.mean(axis=1, dtype=np.float64)
            return pick(view, order_of(mean, view.usable, high=True), budget, mean, unit="BM25")
        best = scores.max(axis=1)
        order, picked_on = order_for(view, budget, lambda rows: round_robin(scores, view.usable, rows))
        gains = best.copy()
        gains[order] = picked_on
        return pick(view, order, budget, best, gains=gains, unit="BM25")

    def _scores(self, view: PoolView) -> NDArray[np.float32]:
        """(n, q) score of every row for every target row that has words."""
        import bm25s
        import numpy as np

        if view.target is None:
            raise DataError("bm25 has no target: name target files in the recipe, or give --target")
        queries = [words for shard in view.target.pool.shards for words in _words(shard) if words]
        if not queries:
            raise DataError("no prompt of the target holds a word of two letters; bm25 has nothing to look for")
        # words that no query asks for count for the length of a document only: all of them become word 0
        known = {word: number for number, word in enumerate(sorted({word for words in queries for word in words}), 1)}
        documents = [
            np.fromiter((known.get(word, 0) for word in words), np.int32, len(words))
            for shard in view.pool.shards
            for words in _words(shard)
        ]
        index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
        if not any(len(words) for words in documents):
            return np.zeros((len(view), len(queries)), np.float32)
        index.index((documents, {"": 0, **known}), show_progress=False)
        scores = np.empty((len(view), len(queries)), np.float32)
        for place, words in enumerate(queries):
            scores[:, place] = index.get_scores_from_ids([known[word] for word in words])
        return scores


def _words(shard: Shard) -> list[list[str]]:
    """Words of the prompt of every row of a shard."""
    import bm25s

    found: Any = bm25s.tokenize(
        [_prompt(row) for row in shard.read()], stopwords="english", return_ids=False, show_progress=False
    )
    return list(found)


def _prompt(row: Row) -> str:
    from tamis.values import text_of

    return "\n".join(text_of(message) for message in row.messages if message.get("role") != "assistant")
