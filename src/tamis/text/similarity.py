"""How alike texts are, as lists of words: word overlap, distinct n-grams, self-BLEU."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

Words = Sequence[str]


def grams(words: Words, size: int) -> list[tuple[str, ...]]:
    """All runs of `size` words, in order; none where there are fewer words."""
    return [tuple(words[place : place + size]) for place in range(len(words) - size + 1)]


def jaccard(one: Words, two: Words) -> float:
    """Share of the words of both that both have, in [0, 1]; two texts without words are the same.

    >>> jaccard("a b c".split(), "b c d".split())
    0.5
    """
    first, second = set(one), set(two)
    return len(first & second) / len(first | second) if first | second else 1.0


def distinct(texts: Sequence[Words], size: int) -> float:
    """Different n-grams over all n-grams of the texts together, in (0, 1]; NaN where no text holds one."""
    found = [gram for words in texts for gram in grams(words, size)]
    return len(set(found)) / len(found) if found else math.nan


def self_bleu(texts: Sequence[Words], size: int) -> float:
    """Mean BLEU of every text against all others, n-grams up to `size`, in [0, 1]; NaN for fewer than two texts."""
    if len(texts) < 2:
        return math.nan
    scores = [bleu(words, [*texts[:place], *texts[place + 1 :]], size) for place, words in enumerate(texts)]
    return math.fsum(scores) / len(scores)


def bleu(words: Words, references: Sequence[Words], size: int) -> float:
    """BLEU of Papineni et al. 2002 without smoothing: clipped precisions, their geometric mean, brevity penalty.

    >>> bleu("a b c".split(), ["a b c d".split()], 2) == math.exp(1 - 4 / 3)
    True
    """
    logs = []
    for length in range(1, size + 1):
        counts = collections.Counter(grams(words, length))
        most: collections.Counter[tuple[str, ...]] = collections.Counter()
        for reference in references:
            most |= collections.Counter(grams(reference, length))
        matched = sum(min(count, most[gram]) for gram, count in counts.items())
        if not matched:
            return 0.0
        logs.append(math.log(matched / counts.total()))
    nearest = min((len(one) for one in references), key=lambda length: (abs(length - len(words)), length))
    return math.exp(math.fsum(logs) / size + min(0.0, 1.0 - nearest / len(words)))
