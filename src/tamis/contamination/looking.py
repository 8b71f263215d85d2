"""From texts of evaluation items to what is looked for: headers, runs, questions before choices, short texts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.contamination.items import LEAST, SHORT
from tamis.contamination.letters import Stream
from tamis.contamination.looked import SEED, Looked, Runs, Wholes, before

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.contamination.items import Item, Rules

CHOICES = re.compile(
    r"[?:.\n]\s*(?:(?:the\s+|answer\s+)?(?:options|choices)\s*:|answer\s+format|\(?\s?a\s?[).]"
    r"|(?:answer|option|solution|choice)\s?1\s*:)|\n\s*[-*\u2022]\s",
    re.IGNORECASE,
)


def look_for(items: Sequence[Item], rules: Rules) -> Looked:
    """Everything that is looked for, from the texts of the items, set by set."""
    import numpy as np

    sets = sorted({item.set for item in items})
    parts = [_of_set([place for place, item in enumerate(items) if item.set == name], items, rules) for name in sets]
    ordered = tuple(items[place] for part in parts for place in part.places)
    begun = np.cumsum([0, *(len(part.places) for part in parts)]).tolist()
    runs = [dataclasses.replace(part.runs, items=part.runs.items + begun[i]) for i, part in enumerate(parts)]
    wholes = [dataclasses.replace(part.wholes, items=part.wholes.items + begun[i]) for i, part in enumerate(parts)]
    return Looked(
        rules,
        ordered,
        np.concatenate([[0], np.cumsum(np.concatenate([[], *(np.diff(part.starts) for part in parts)]))]).astype(
            np.int64
        ),
        np.concatenate([np.zeros(0, bool), *(part.counts for part in parts)]),
        np.concatenate([np.zeros(0, bool), *(part.stems for part in parts)]),
        np.concatenate([np.zeros(0, bool), *(part.strict for part in parts)]),
        np.concatenate([np.zeros(0, bool), *(part.numbers for part in parts)]),
        Runs.of(runs),
        Wholes.of(wholes),
    )


@dataclass(frozen=True, eq=False)
class _Set:
    """What is looked for of one set; items are numbered within it."""

    places: list[int]
    starts: NDArray[np.int64]
    counts: NDArray[np.bool_]
    stems: NDArray[np.bool_]
    strict: NDArray[np.bool_]
    numbers: NDArray[np.bool_]
    runs: Runs
    wholes: Wholes


def _of_set(places: list[int], items: Sequence[Item], rules: Rules) -> _Set:
    import numpy as np

    own = [items[place] for place in places]
    stream = Stream.of([item.text for item in own])
    starts = np.searchsorted(stream.tokens, stream.texts).astype(np.int64)
    tenth = max(2, len(own) // 10)
    limit = min(rules.shared, tenth)  # what all of a small set share says nothing either
    numbers = np.array([chr(code).isdecimal() for code in stream.letters[stream.tokens].tolist()], bool)
    runs = _runs(stream, starts, limit, rules.n)
    inside = _covered(len(stream.tokens), starts[runs.items] + runs.first, runs.tokens)
    counts = inside & ~_headers(stream, starts, tenth, rules.header)
    strict = _each(counts, starts) < SHORT
    stems = counts & _in_front_of_choices(own, starts)
    short = _short_questions(stream, starts, stems & ~np.repeat(strict, np.diff(starts)), limit)
    wholes = _wholes(stream, starts, counts, own, short)
    stems &= np.repeat(_each(stems, starts) >= SHORT, np.diff(starts))
    counts = np.where(np.repeat(strict, np.diff(starts)), inside, counts)
    return _Set(places, starts, counts, stems, strict, numbers, runs, wholes)


def _each(mask: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(items,) how many tokens of every item are True."""
    total = before(mask)
    return total[starts[1:]] - total[starts[:-1]]


def _in_front_of_choices(items: Sequence[Item], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(tokens,) whether a token stands in front of the choices of its item; False where it offers none."""
    import numpy as np

    found = [CHOICES.search(item.text) for item in items]
    stream = Stream.of([item.text[: one.start() + 1] if one else "" for item, one in zip(items, found, strict=True)])
    ends = starts[:-1] + np.diff(np.searchsorted(stream.tokens, stream.texts))
    return np.arange(starts[-1]) < np.repeat(ends, np.diff(starts))


def _covered(size: int, first: NDArray[np.int64], tokens: NDArray[np.int64] | int) -> NDArray[np.bool_]:
    """(size,) tokens inside a run of `tokens` that begins at any of `first`."""
    import numpy as np

    change = np.zeros(size + 1, np.int64)
    np.add.at(change, first, 1)
    np.add.at(change, first + tokens, -1)
    return np.asarray(np.cumsum(change)[:size] > 0)


def _ends(stream: Stream) -> NDArray[np.int64]:
    """(k + 1,) letters with which tokens begin, and the end of the stream."""
    import numpy as np

    return np.concatenate([stream.tokens, [len(stream.letters)]])


def _places(starts: NDArray[np.int64], n: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First tokens of all runs of `n[i]` tokens inside item i, and the items."""
    import numpy as np

    sizes = np.maximum(np.diff(starts) - n + 1, 0)
    items = np.repeat(np.arange(len(sizes)), sizes)
    begun = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    return starts[:-1][items] + np.arange(len(items)) - begun[items], items


def _frequency(hashes: NDArray[np.uint64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """(r,) in how many items each run stands."""
    import numpy as np

    code = np.unique(hashes, return_inverse=True)[1].reshape(-1).astype(np.int64)
    pairs = np.unique(code * (int(items.max(initial=0)) + 1) + items)
    times = np.bincount(pairs // (int(items.max(initial=0)) + 1), minlength=1)
    return times[code].astype(np.int64)


def _headers(stream: Stream, starts: NDArray[np.int64], limit: int, n: int) -> NDArray[np.bool_]:
    """(tokens,) whether a token stands in a run of `n` tokens that more than `limit` items have."""
    import numpy as np

    first, items = _places(starts, np.full(len(starts) - 1, n))
    ends = _ends(stream)
    hashes = stream.hashes(stream.tokens[first], ends[first + n] - ends[first])
    return _covered(len(stream.tokens), first[_frequency(hashes, items) > limit], n)


def _runs(stream: Stream, starts: NDArray[np.int64], limit: int, n: int) -> Runs:
    """Runs of n tokens (of a shorter item all of them) that at most `limit` items have."""
    import numpy as np

    sizes = np.diff(starts)
    first, items = _places(starts, np.where(sizes < SHORT, sizes + 1, np.minimum(n, sizes)))
    tokens = np.minimum(n, sizes)[items]
    ends = _ends(stream)
    lengths = ends[first + tokens] - ends[first]
    hashes = stream.hashes(ends[first], lengths)
    kept = np.flatnonzero(_frequency(hashes, items) <= limit)
    seeds = stream.hashes(ends[first], np.where(lengths < SEED, SHORT, SEED))
    own = (items, first - starts[items], tokens)
    return Runs(seeds[kept], hashes[kept], lengths[kept], *(array[kept] for array in own))


def _short_questions(
    stream: Stream, starts: NDArray[np.int64], stems: NDArray[np.bool_], limit: int
) -> list[tuple[int, int, int]]:
    """(item, first token, end) of questions before choices that are too short for runs, and that few items share."""
    import numpy as np

    sizes, ends = _each(stems, starts), _ends(stream)
    items = np.flatnonzero((sizes >= LEAST) & (sizes < SHORT))
    total = before(stems)
    first = np.searchsorted(total, total[starts[items]], side="right") - 1
    last = np.searchsorted(total, total[starts[items + 1]], side="left")
    unbroken = last - first == sizes[items]
    items, first, last = items[unbroken], first[unbroken], last[unbroken]
    hashes = stream.hashes(ends[first], ends[last] - ends[first])
    _, code, times = np.unique(hashes, return_inverse=True, return_counts=True)
    few = times[code.reshape(-1)] <= limit
    return list(zip(items[few].tolist(), first[few].tolist(), last[few].tolist(), strict=True))


def _wholes(
    stream: Stream,
    starts: NDArray[np.int64],
    counts: NDArray[np.bool_],
    items: Sequence[Item],
    questions: list[tuple[int, int, int]],
) -> Wholes:
    """Prompts of which fewer than SHORT tokens count: all of the text, and sentences that tell it from others.

    Answers are not among them: "yes" and "42" are answers of everything. `questions` are looked for in the same way.
    """
    import numpy as np

    found = [one for one in questions if items[one[0]].part == "prompt"]  # item, first token, end
    borders = np.searchsorted(stream.tokens, stream.borders)  # tokens with which a line, a sentence, a text begins
    place = np.searchsorted(borders, np.arange(len(counts)), side="right")
    begin, stop = borders[place - 1], borders[np.minimum(place, len(borders) - 1)]
    for number in np.flatnonzero(_each(counts, starts) < SHORT).tolist():
        start, end = int(starts[number]), int(starts[number + 1])
        own = start + np.flatnonzero(counts[start:end])
        if items[number].part == "answer" or start == end:
            continue
        found.append((number, start, end))
        if len(own) and LEAST <= (tail := int(stop[own[-1]])) - (head := int(begin[own[0]])) < end - start:
            found.append((number, head, tail))
    table, ends = np.array(found, np.int64).reshape(-1, 3), _ends(stream)
    lengths = ends[table[:, 2]] - ends[table[:, 1]]
    hashes = stream.hashes(ends[table[:, 1]], lengths)
    first = table[:, 1] - starts[table[:, 0]]
    return Wholes(lengths, hashes, table[:, 0], first, table[:, 2] - table[:, 1])
