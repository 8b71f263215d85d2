"""Near-duplicates: speed, recall and precision against datasketch's MinHashLSH on 50,000 documents.

    python benchmarks/dedup.py [--quick] [--json]

Documents are real rows (TAMIS_REAL_DATA; without it the shipped pool, repeated as far as it goes) of many sets, and a
fifth are copies of these with words changed, taken out and put in, so that pairs of every similarity are there. Truth
is exact: all pairs whose sets of 5-word shingles have a Jaccard similarity of at least 0.7, by a join over the rarest
shingles (prefix filtering, which misses none), made of Python sets.

Every contender runs in a process of its own, on one thread, on all documents. Seconds are those of the processor, for
the machine may be shared; loops are compiled before the clock runs. tamis: from texts to groups. datasketch: words to
shingles to MinHash (128 permutations, its default hash) to MinHashLSH(threshold=0.7), query and insert of every
document; words are cut for it outside of its time. Recall: true pairs that end in one group, where datasketch's groups
are what its candidates connect. Precision: of the rows dropped where the first of each group stays, those that exact
groups drop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.ingest import ingest
from tamis.ragged import Ragged
from tamis.store import Store
from tamis.text.passages import of_row
from tamis.text.words import plain, words_of

THRESHOLD, SHINGLE, PERMUTATIONS = 0.7, 5, 128
DOCUMENTS, QUICK = 50_000, 5_000
REAL = (
    "alpaca_random_9k.jsonl.gz alpaca_claude_t45.jsonl.gz evol_instruct_1k_score.jsonl.gz lima_1k.jsonl.gz "
    "flan_cot_gsm8k.jsonl.gz flan_cot_ecqa.jsonl.gz flan_cot_creak.jsonl.gz gpteacher_roleplay.jsonl.gz "
    "gpteacher_codegen.jsonl.gz oasst1_valid_953.jsonl.gz t0_p3_50k.jsonl.zst"
).split()
ALIKE = 5_000  # documents of one file at most


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} documents")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--run", nargs=2, metavar=("CONTENDER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        contend(options.run[0], Path(options.run[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), QUICK if options.quick else DOCUMENTS)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))


def measured(folder: Path, count: int) -> dict[str, Any]:
    """All figures, for `count` documents."""
    load = os.getloadavg()[0]
    texts = documents(folder, count)
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    say(f"{len(texts):,} documents, {sum(map(len, texts)) / len(texts):.0f} characters each")
    started = time.process_time()
    true = all_pairs([words_of(plain(text)) for text in texts])
    say(f"{len(true):,} pairs of at least {THRESHOLD} in {time.process_time() - started:.0f} s")
    figures = {name: contender(name, folder, true, len(texts)) for name in ("tamis", "datasketch")}
    ours, theirs = figures["tamis"], figures["datasketch"]
    return {
        "speedup_vs_datasketch": round(theirs["seconds"] / ours["seconds"], 2),
        "recall": ours["recall"],
        "recall_datasketch": theirs["recall"],
        "precision": ours["precision"],
        "precision_datasketch": theirs["precision"],
        "documents": len(texts),
        "true_pairs": len(true),
        "threshold": THRESHOLD,
        "contenders": figures,
        "versions": {
            "datasketch": version("datasketch"),
            "numpy": version("numpy"),
            "python": platform.python_version(),
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread each, load {load:.1f} before",
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


# documents


def documents(folder: Path, count: int) -> list[str]:
    """Four fifths real rows, one fifth edits of them, in an order drawn by a seed."""
    root = os.environ.get("TAMIS_REAL_DATA")
    files = [str(Path(root) / "pool" / name) for name in REAL] if root else ["tamis:pool.jsonl.gz"]
    draw = np.random.default_rng(0)
    texts: list[str] = []
    for file in files:
        rows = [of_row(row).whole for row in ingest([file], Store(folder / "store"))]
        texts += [rows[place] for place in draw.permutation(len(rows))[:ALIKE]]
    originals = [texts[place] for place in draw.permutation(len(texts))[: count * 4 // 5]]
    places = draw.integers(0, len(originals), len(originals) // 4).tolist()
    every = [*originals, *[edited(originals[place], draw) for place in places]]
    return [every[place] for place in draw.permutation(len(every))]


def edited(text: str, draw: np.random.Generator) -> str:
    """A copy in which up to a tenth of the words were changed, taken out, or have a new one behind them."""
    words = text.split(" ")
    for _ in range(int(draw.integers(0, max(1, len(words) // 10) + 1))):
        place, how = int(draw.integers(len(words))), int(draw.integers(3))
        words[place] = ("changed", "", f"{words[place]} added")[how]
    return " ".join(words)


# truth


def all_pairs(documents: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """(p, 2) all pairs i < j whose sets of shingles are as alike as the threshold, exactly.

    Of two such sets, ordered by how rare their shingles are, the first |x| - ceil(t |x|) + 1 share one (Chaudhuri et
    al. 2006), so that only those that do are looked at.
    """
    sets = [shingles_of(words) for words in documents]
    counts = Counter(shingle for one in sets for shingle in one)
    holders: dict[int, list[int]] = {}
    found: list[tuple[int, int]] = []
    for place, one in enumerate(sets):
        rarest = sorted(one, key=lambda shingle: (counts[shingle], shingle))
        prefix = rarest[: len(one) - int(np.ceil(THRESHOLD * len(one) - 1e-9)) + 1] if one else []
        for other in {before for shingle in prefix for before in holders.get(shingle, ())}:
            small, large = sorted((len(one), len(sets[other])))
            if small >= THRESHOLD * large - 1e-9:
                shared = len(one & sets[other])
                if shared >= THRESHOLD * (small + large - shared) - 1e-9:
                    found.append((other, place))
        for shingle in prefix:
            holders.setdefault(shingle, []).append(place)
    return np.array(found, np.int64).reshape(-1, 2)


def shingles_of(words: Sequence[str]) -> set[int]:
    """Hashes (of this process) of all runs of five words; of all words where there are fewer."""
    runs = {hash(tuple(words[at : at + SHINGLE])) for at in range(len(words) - SHINGLE + 1)}
    return runs or ({hash(tuple(words))} if words else set())


def groups_of(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(n,) the group of every document, by what pairs connect."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = coo_matrix((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    labels: NDArray[np.int64] = connected_components(edges, directed=False)[1].astype(np.int64)
    return labels


def dropped(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) documents that are not the first of their group."""
    gone = np.ones(len(labels), np.bool_)
    gone[np.unique(labels, return_index=True)[1]] = False
    return gone


# contenders


def contender(name: str, folder: Path, true: NDArray[np.int64], count: int) -> dict[str, Any]:
    """Run one in a process of its own, and hold its groups against the truth."""
    command = [sys.executable, __file__, "--run", name, str(folder)]
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env={**os.environ, **threads})
    labels = np.load(folder / f"{name}.npy")
    figures: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    exact, gone = dropped(groups_of(true, count)), dropped(labels)
    figures |= {
        "recall": round(float((labels[true[:, 0]] == labels[true[:, 1]]).mean()), 4),
        "precision": round(float((gone & exact).sum() / max(1, gone.sum())), 4),
        "recall_of_rows": round(float((gone & exact).sum() / max(1, exact.sum())), 4),
        "dropped": int(gone.sum()),
        "dropped_by_truth": int(exact.sum()),
    }
    say(f"{name}: {figures}")
    return figures


def contend(name: str, folder: Path) -> None:
    """In the contender's process: groups and seconds into the folder."""
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    labels, seconds = tamis_groups(texts) if name == "tamis" else datasketch_groups(texts)
    np.save(folder / f"{name}.npy", labels)
    total = round(sum(seconds.values()), 3)
    (folder / f"{name}.json").write_text(json.dumps({"seconds": total, "parts": seconds}), encoding="utf-8")


def clock() -> Iterator[float]:
    """Seconds of the processor since the last question."""
    last = time.process_time()
    while True:
        now = time.process_time()
        yield round(now - last, 3)
        last = now


class Held:
    """Sets in memory, as `Sets` asks for them."""

    def __init__(self, sets: Ragged) -> None:
        self.sets = sets

    def __call__(self) -> Ragged:
        """The sets."""
        return self.sets


def tamis_groups(texts: list[str]) -> tuple[NDArray[np.int64], dict[str, float]]:
    """Texts to groups by what the pass `minhash` and the cleaner `near` are made of, in shards of 1,024."""
    from tamis.duplicates.near import Layout, components
    from tamis.duplicates.sets import Sets
    from tamis.duplicates.shingling import shingled
    from tamis.text.minhash import layout, signatures

    def groups(some: list[str]) -> tuple[NDArray[np.int64], dict[str, float]]:
        since = clock()
        next(since)
        sets = [shingled(some[at : at + 1024], SHINGLE, "words", "keep") for at in range(0, len(some), 1024)]
        seconds = {"texts to shingles": next(since)}
        made = [signatures(one, PERMUTATIONS, 1) for one in sets]
        seconds["signatures"] = next(since)
        found = components(
            lambda: made,
            Sets.of([Held(one) for one in sets]),
            Layout(*layout(THRESHOLD, PERMUTATIONS, 0.95), THRESHOLD),
        )
        seconds["pairs verified and joined"] = next(since)
        say(f"tamis: {found.counts}")
        return found.labels, seconds

    groups(texts[:50])  # compiles
    return groups(texts)


def datasketch_groups(texts: list[str]) -> tuple[NDArray[np.int64], dict[str, float]]:
    """Shingles to candidates by MinHashLSH, and what these connect."""
    from datasketch import MinHash, MinHashLSH

    words = [words_of(plain(text)) for text in texts]
    since = clock()
    next(since)
    sets = [
        {" ".join(one[at : at + SHINGLE]).encode() for at in range(max(1, len(one) - SHINGLE + 1))} for one in words
    ]
    seconds = {"shingles": next(since)}
    made = MinHash.bulk(sets, num_perm=PERMUTATIONS)
    seconds["signatures"] = next(since)
    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    pairs: list[tuple[int, int]] = []
    for place, one in enumerate(made):
        pairs += [(before, place) for before in lsh.query(one)]
        lsh.insert(place, one)
    seconds["query and insert"] = next(since)
    return groups_of(np.array(pairs, np.int64).reshape(-1, 2), len(texts)), seconds


if __name__ == "__main__":
    main()
