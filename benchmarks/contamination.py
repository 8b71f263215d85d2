"""Contamination: recall and precision on evaluation items planted into real pools, and on overlaps that were there.

    python benchmarks/contamination.py [--quick] [--json]

Needs TAMIS_REAL_DATA (default ../shared/data). The pool is made of real rows of the same kinds as the evaluation sets
(training parts of the same sets, collections made from them, Alpaca, P3): the negatives. Into it items of every set are
planted, each in one edit of its dress (verbatim, case, punctuation away, punctuation to spaces, white space, a frame
around it, all together) and in one place (prompt of a row, a later turn, answer, chosen or rejected answer of a pair).

Truth of a row: an item was planted in it, or the letters and digits of an item stand in it in a row (of an item under 8
tokens: it is a whole message, or line), found by plain substring search that shares no code with the gate. Recall is
over those rows, precision over rows flagged. What is flagged and in neither is listed: `near` says how much of the
item's words such rows hold, in order, by difflib.

Further: coverage and n against each other; paraphrases (gsm_hard, phrasings of the shipped generator, answers rewritten
by a model), by words and by embeddings; seconds and memory for a pool of copies of real rows.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contamination_paraphrases import paraphrases
from contamination_rows import DATA, plain, prompt_of, records, texts_of, tokens, write

import tamis
from tamis.contamination.items import Rules, items_of
from tamis.contamination.looking import look_for
from tamis.contamination.search import search
from tamis.ingest.mappings import QUESTIONS
from tamis.pool import Pool

SETS = (
    *("gsm8k_test", "aqua_test", "multiarith", "addsub", "singleeq", "mathqa_test", "strategyqa", "truthfulqa"),
    *("commonsenseqa_dev", "mmlu_51_subjects", "bbh_20_tasks", "boolq_test", "arc_easy_test", "arc_challenge_test"),
    *("openbookqa_test", "piqa_test", "siqa_test", "winogrande_test", "math_test_5000", "mbpp_test_500", "coin_flip"),
    *("last_letters", "xquad_en", "xquad_de", "xquad_ru", "xquad_ar", "xquad_zh"),
)
NEGATIVES = (
    *("target/gsm8k_train", "target/aqua_dev", "target/openbookqa_train", "target/boolq_train"),
    *("target/arc_easy_train", "target/arc_challenge_train", "target/commonsenseqa_train"),
    *("pool/flan_cot_aqua", "pool/flan_cot_ecqa", "pool/flan_cot_strategyqa", "pool/flan_cot_qasc", "pool/lima_1k"),
    *("pool/alpaca_random_9k", "pool/code_alpaca_2k", "pool/oasst1_valid_953", "rating/gsm8k_model_solutions"),
)
QUICK_SETS = ("gsm8k_test", "aqua_test", "multiarith", "strategyqa", "boolq_test", "truthfulqa")
QUICK_NEGATIVES = ("target/gsm8k_train", "target/aqua_dev", "pool/flan_cot_aqua", "pool/lima_1k")
SEED = 8
SHORT = 8


def framed(text: str) -> str:
    """The item inside an instruction."""
    return f"Below is a task.\n\n### Instruction:\n{text}\n\n### Response:"


EDITS: dict[str, Callable[[str], str]] = {
    "verbatim": lambda text: text,
    "case": lambda text: text.swapcase(),
    "punctuation away": lambda text: re.sub(r"[^\w\s]|_", "", text),
    "punctuation to spaces": lambda text: re.sub(r"[^\w\s]|_", " ", text),
    "other punctuation": lambda text: (
        text.replace(",", ";").replace(".", " .").replace("'", "\u2019").replace("?", " ?!")
    ),
    "white space": lambda text: "  " + re.sub(r"\s+", "\n ", text) + " ",
    "frame": framed,
    "all": lambda text: framed(re.sub(r"\s+", "  ", re.sub(r"[^\w\s]|_", "", text.upper()))),
}


def main() -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="six sets, four negatives, 100,000 rows for speed")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--most", type=int, default=100_000, help="rows of each file of negatives")
    parser.add_argument("--only", choices=("planted", "paraphrases", "speed"))
    parser.add_argument("--speed", nargs=2, metavar=("POOL", "SET"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.speed:
        print(json.dumps(timed(Path(given.speed[0]), Path(given.speed[1]))))
        return
    found: dict[str, Any] = {"versions": {"tamis": tamis.__version__, "numpy": np.__version__}}
    found["machine"] = {"cpu": platform.machine(), "cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as place:
        parts = {"planted": planted, "paraphrases": paraphrases, "speed": speed}
        for name, part in parts.items():
            if given.only in (None, name):
                found |= part(Path(place), given.quick, given.most)
    print(json.dumps(found, indent=None if given.json else 1, ensure_ascii=False))


# planted items


def plant(text: str, place: int) -> dict[str, Any]:
    """A row that holds a text in one of five places."""
    user, bot = ({"role": role, "content": "Fine, thank you."} for role in ("user", "assistant"))
    asks, says = {"role": "user", "content": text}, {"role": "assistant", "content": text}
    rows: list[dict[str, Any]] = [
        {"messages": [asks, bot]},
        {"messages": [user, bot, asks, bot]},
        {"messages": [user, says]},
        {"messages": [user], "chosen": [says], "rejected": [bot]},
        {"messages": [user], "chosen": [bot], "rejected": [says]},
    ]
    return rows[place % len(rows)]


def planted(place: Path, quick: bool, most: int) -> dict[str, Any]:
    """Recall and precision by set and by edit, what else was flagged, and the choice of n and coverage."""
    draw = random.Random(SEED)
    sets, negatives = (QUICK_SETS, QUICK_NEGATIVES) if quick else (SETS, NEGATIVES)
    evaluation = {name: [record for record in records(f"target/{name}")] for name in sets}
    pool = [record for name in negatives for record in list(records(name))[:most]]
    print(f"{len(pool):,} rows that were there", file=sys.stderr)
    truth: dict[int, set[str]] = defaultdict(set)
    edits: dict[int, str] = {}
    for name, items in evaluation.items():
        for number, record in enumerate(draw.sample(items, min(len(items), 200))):
            edit = list(EDITS)[number % len(EDITS)]
            text = EDITS[edit](prompt_of(record))
            if not plain(text):
                continue
            edits[len(pool)] = edit
            truth[len(pool)].add(name)
            pool.append(plant(text, number // len(EDITS)))
    started = time.perf_counter()
    for row, name in there(pool, evaluation):
        truth[row].add(name)
    print(f"truth by substring search: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    made = write(place / "pool.jsonl", pool, place)
    files = [str(DATA / "target" / f"{name}.jsonl.gz") for name in sets]
    against = [tamis.open_pool([file], work=place, mapping=QUESTIONS) for file in files]
    items = items_of(against, "prompt")
    places = made.table(["position"]).column("position").to_pylist()
    truth = {row: names for row, names in truth.items() if row in set(places)}
    found: dict[str, Any] = {"sets": {}, "choice": {}}
    for n in (8,) if quick else (8, 13):
        table = search(made, look_for(items, Rules(n=n)), 0.75)
        for coverage in (0.8, 0.9, 0.95, 1.0):
            flagged = flagged_of(table, coverage, places)
            found["choice"][f"n {n}, coverage {coverage}"] = rates(flagged, truth)
            if (n, coverage) == (8, 0.95):
                found |= by_set(flagged, truth, edits, evaluation, pool)
    return found


def flagged_of(table: Any, coverage: float, places: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Position in the file (`places`, by place in the pool) of every row with an item -> the best line of each set."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for line in table.to_pylist():
        name = line["set"].partition(".")[0]
        if line["kind"] in ("words", "whole") and line["score"] >= coverage:
            place = places[line["place"]]
            if name not in found[place] or found[place][name]["score"] < line["score"]:
                found[place][name] = line
    return found


def rates(flagged: Mapping[int, Any], truth: Mapping[int, set[str]]) -> dict[str, Any]:
    """Recall and precision over pairs of a row and a set."""
    said = {(row, name) for row, names in flagged.items() for name in names}
    true = {(row, name) for row, names in truth.items() for name in names}
    hit = len(said & true)
    return {"recall": round(hit / len(true), 5), "precision": round(hit / max(1, len(said)), 5), "flagged": len(said)}


def by_set(
    flagged: Mapping[int, Mapping[str, Any]],
    truth: Mapping[int, set[str]],
    edits: Mapping[int, str],
    evaluation: Mapping[str, Sequence[Mapping[str, Any]]],
    pool: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Figures of every set and edit, and what was flagged that is in no truth."""
    sets: dict[str, Any] = {}
    for name, items in evaluation.items():
        true, said = ({row for row, names in rows.items() if name in names} for rows in (truth, flagged))
        extra = sorted(said - true)
        close = [likeness(items[flagged[row][name]["position"]], pool[row]) for row in extra]
        sets[name] = {
            "planted": len(true & set(edits)),
            "there": len(true - set(edits)),
            "recall": round(len(true & said) / max(1, len(true)), 4),
            "precision": round(len(true & said) / max(1, len(said)), 4),
            "other": len(extra),
            "other_near": sum(value >= 0.9 for value in close),
        }
    kinds: dict[str, list[bool]] = defaultdict(list)
    for row, edit in edits.items():
        kinds[edit] += [name in flagged.get(row, {}) for name in truth.get(row, ())]
    worst = {key: min(one[key] for one in sets.values()) for key in ("recall", "precision")}
    total = rates(flagged, truth)
    counted = sum(one["other"] - one["other_near"] for one in sets.values())
    return {
        **{key: total[key] for key in ("recall", "precision")},
        "precision_near_counted_right": round(1 - counted / max(1, total["flagged"]), 5),
        "worst_recall": worst["recall"],
        "sets": sets,
        "edits": {edit: round(float(np.mean(found)), 4) for edit, found in kinds.items()},
        "missed": missed(flagged, truth, edits, pool),
    }


def missed(
    flagged: Mapping[int, Any], truth: Mapping[int, set[str]], edits: Mapping[int, str], pool: Sequence[Any]
) -> list[dict[str, str]]:
    """The first rows that hold an item and were not flagged."""
    found = []
    for row, names in truth.items():
        for name in sorted(names - set(flagged.get(row, {}))):
            found.append(
                {"set": name, "edit": edits.get(row, "there"), "text": max(texts_of(pool[row]), key=len)[:160]}
            )
    return [{"missed": str(len(found))}, *found[:12]]


def likeness(item: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """Share of the item's words that the row holds in order, of the best text."""
    asked = re.findall(r"\w+", question_of(prompt_of(item)).casefold())
    best = 0.0
    for text in texts_of(row):
        said = re.findall(r"\w+", question_of(text).casefold())
        blocks = difflib.SequenceMatcher(None, asked, said, autojunk=False).get_matching_blocks()
        best = max(best, sum(block.size for block in blocks) / max(1, len(asked)))
    return best


WRAPPING = re.compile(
    r"^Please (?:choose|answer)[^:]*: "
    r"|\s*(?:\n\(?A\)|\n+(?:Answer|Solution|Option) ?1|The options:|\n+Answer format).*",
    re.DOTALL,
)


def question_of(text: str) -> str:
    """What an item asks, without the sentence that all of its set have in front, and without choices."""
    return WRAPPING.sub("", text)


def there(
    pool: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[int, str]]:
    """Rows of the pool in which an item, or the question of one with choices, stands letter for letter."""
    whole, inside = sought(evaluation)
    for number, row in enumerate(pool):
        for text in texts_of(row):
            yield from ((number, name) for piece in pieces(text) for name in whole.get(piece, ()))
            letters = plain(text)
            yield from (
                (number, name) for size, heads in inside.items() if heads for name in held(letters, size, heads)
            )


Heads = dict[str, list[tuple[str, str]]]


def held(letters: str, size: int, heads: Heads) -> Iterator[str]:
    """Sets of which an item stands in some letters."""
    for start in range(len(letters) - size + 1):
        for item, name in heads.get(letters[start : start + size], ()):
            if letters.startswith(item, start):
                yield name


def sought(evaluation: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[dict[str, set[str]], dict[int, Heads]]:
    """Letters of short items, and of the others by their first 24 or 8 letters; and of which set they are."""
    whole: dict[str, set[str]] = defaultdict(set)
    inside: dict[int, Heads] = {size: defaultdict(list) for size in (24, 8)}
    for name, items in evaluation.items():
        for asked in {one for item in items for one in (prompt_of(item), question_of(prompt_of(item)))}:
            letters = plain(asked)
            size = next((size for size in inside if len(letters) >= size), 0)
            if tokens(asked) < SHORT or not size:
                whole[letters].add(name)
            else:
                inside[size][letters[:size]].append((letters, name))
    return whole, inside


def pieces(text: str) -> Iterator[str]:
    """What a short item may be: the message, or a line, a sentence, the rest behind a colon of at least five words."""
    yield plain(text)
    for line in re.split(r"[\n\r]+", text):
        parts = [one for one in re.split(r"[.!?:;]+", line) if one.strip()]
        for first in range(len(parts)):
            for last in range(first + 1, min(first + 3, len(parts)) + 1):
                said = " ".join(parts[first:last])
                if len(said) < 200 and tokens(said) >= 5:  # no item under 8 tokens is longer
                    yield plain(said)


# speed


def speed(place: Path, quick: bool, most: int) -> dict[str, Any]:
    """Seconds and memory of one process for GSM8K's test set in a pool of copies of real rows, at two sizes."""
    names = ["target/gsm8k_train", "pool/alpaca_random_9k", "pool/lima_1k"]
    base = tamis.open_pool([str(DATA / f"{name}.jsonl.gz") for name in names], work=place)
    against = tamis.open_pool([str(DATA / "target" / "gsm8k_test.jsonl.gz")], work=place)
    (place / "against").mkdir()
    against.save(place / "against" / "pool.json")
    found: dict[str, Any] = {}
    for rows in (25_000, 100_000) if quick else (250_000, 1_000_000):
        copies = -(-rows // len(base))
        folder = place / f"copies_{rows}"
        folder.mkdir()
        Pool(base.shards * copies, base.files).save(folder / "pool.json")
        command = [sys.executable, __file__, "--speed", str(folder), str(place / "against")]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        found[str(rows)] = json.loads(done.stdout)
        print(rows, found[str(rows)], file=sys.stderr)
    return {"speed": found}


def timed(pool: Path, against: Path) -> dict[str, Any]:
    """Of this process: seconds on the clock and of work, and peak memory, for one search."""
    opened, sets = Pool.open(pool), Pool.open(against)
    clock, work = time.perf_counter(), time.process_time()
    table = search(opened, look_for(items_of([sets], "prompt"), Rules()), 0.95)
    return {
        "rows": len(opened),
        "seconds": round(time.perf_counter() - clock, 1),
        "cpu_seconds": round(time.process_time() - work, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "found": len(table),
    }


if __name__ == "__main__":
    main()
