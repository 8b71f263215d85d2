"""Laws of duplicates: sets and signatures as defined, all pairs of a small set found, shards do not matter."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from tamis.cleaners.exact import Exact
from tamis.cleaners.near import Near
from tamis.contents import content_digest
from tamis.duplicates.keeping import best
from tamis.duplicates.scanning import Unit, scanned
from tamis.duplicates.shingling import shingled
from tamis.errors import RecipeError
from tamis.pool import Pool
from tamis.scorers.passes.hashes import Hashes
from tamis.scorers.passes.minhash import MinHash
from tamis.store import save_arrays
from tamis.text.minhash import EMPTY, collision_probability, layout, signatures
from tamis.text.words import Numbers, plain, words_of
from tamis.values import Column, Dropped, Machine, Row
from tamis.views import PoolView, ShardSignals

ON = Machine()
TEXT = st.text(max_size=60) | st.text("aZ \xe9'\u2019_0\uff11\u0663 \n\u4f60\u30a2.\u0130\xdf\u0149\u0308", max_size=40)


def jaccard(one: str, other: str, n: int = 5, numbers: Numbers = "keep") -> float:
    """Similarity by the definition: sets of runs of words, of all words where there are fewer."""
    sets = []
    for text in (one, other):
        words = words_of(plain(text, numbers))
        runs = {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}
        sets.append(runs or ({tuple(words)} if words else set()))
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1]) if sets[0] | sets[1] else 0.0


def viewed(folder: Path, rows: Sequence[Row], shard_rows: int = 7, near: MinHash | None = None) -> PoolView:
    """Signals `minhash` and `hashes` of a pool of these rows, as the passes leave them."""
    return measured(tiny.make_pool(folder, rows, shard_rows=shard_rows), folder, near)


def measured(pool: Pool, folder: Path, near: MinHash | None = None, **parts: object) -> PoolView:
    folders: dict[str, list[Path]] = {"minhash": [], "hashes": []}
    for number, shard in enumerate(pool.shards):
        for name, measure in (("minhash", near or MinHash()), ("hashes", Hashes(ngrams=()))):
            folders[name].append(folder / f"{name}-{number}")
            folders[name][-1].mkdir()
            save_arrays(folders[name][-1], measure.measure(shard, ShardSignals(shard, {}), ON))
    return PoolView(pool, folders, **parts)  # type: ignore[arg-type]


def written(count: int, seed: int, edits: float = 0.3) -> list[str]:
    """Texts of 12 to 60 words, many of them edited copies of others."""
    draw = np.random.default_rng(seed)
    made: list[list[str]] = []
    for _ in range(count):
        words = [f"w{number}" for number in draw.integers(0, 400, draw.integers(12, 60))]
        if made and draw.random() < 0.6:
            words = list(made[int(draw.integers(len(made)))])
            for _ in range(int(draw.integers(0, max(1, int(edits * len(words) / 4))))):
                words[int(draw.integers(len(words)))] = f"w{draw.integers(0, 400)}"
        made.append(words)
    return [" ".join(words) for words in made]


def rows_of(texts: Sequence[str], first: int = 0) -> list[Row]:
    return [tiny.make_row(tiny.chat(text, f"{text} indeed"), position=first + at) for at, text in enumerate(texts)]


# words, shingles, signatures


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=4), st.sampled_from(["keep", "zero"]))
def test_compiled_words_are_those_of_the_definition(texts: list[str], numbers: Numbers) -> None:
    flat = scanned(texts, "words", numbers)
    words = [words_of(plain(text, numbers)) for text in texts]
    assert np.diff(flat.offsets).tolist() == [len(one) for one in words]
    every = list(itertools.chain.from_iterable(words))
    pairs = set(zip(every, flat.hashes.tolist(), strict=True))
    assert len(pairs) == len(set(every)) == len(set(flat.hashes.tolist())), "equal hashes for equal words, and only so"
    assert flat.lengths.tolist() == [len(word) for word in every]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text("aB \xe91\uff12 \n\t.\u4f60", max_size=20), min_size=1, max_size=4),
    st.sampled_from(["keep", "zero"]),
)
def test_characters_are_those_of_the_plain_text_with_white_space_as_one(texts: list[str], numbers: Numbers) -> None:
    flat = scanned(texts, "characters", numbers)
    said = [" ".join(plain(text, numbers).split()) for text in texts]
    assert np.diff(flat.offsets).tolist() == [len(text) for text in said]
    assert len(set(zip("".join(said), flat.hashes.tolist(), strict=True))) == len(set("".join(said)))


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_hashes_are_those_of_yesterday(unit: Unit) -> None:
    """Signatures are kept for years: a change of hashing is a change of revision, and of this test."""
    sets = shingled(["Give three tips for staying healthy, please.", "short one"], 5, unit, "keep")
    found = signatures(sets, 4, 1)
    golden = {"words": [3, 1], "characters": [40, 5]}[unit]
    assert sets.lengths.tolist() == golden
    assert found.tolist() == GOLDEN[unit]


GOLDEN = {
    "words": [[110387928, 205264722, 1293699104, 1935389335], [3279826158, 1496783929, 4080677890, 1894577445]],
    "characters": [[83542563, 90080200, 126315459, 57955552], [732621103, 615984200, 524153927, 1135366027]],
}


def test_texts_shorter_than_a_shingle_are_like_their_equals_alone() -> None:
    sets = shingled(["a b", "A, b!", "a", "a b c", "?!", "", "x y z q r"], 5, "words", "keep")
    assert sets.lengths.tolist() == [1, 1, 1, 1, 0, 0, 1]
    assert len(np.unique(sets.values)) == 4 and sets.values[0] == sets.values[1]
    assert (signatures(sets, 8, 1)[4:6] == EMPTY).all()


def test_agreement_of_signatures_estimates_the_jaccard_similarity() -> None:
    draw = np.random.default_rng(0)
    first = [f"w{number}" for number in draw.integers(0, 400, 300)]
    for kept in (0.95, 0.7, 0.3):
        second = first[: int(300 * kept)] + [f"w{number}" for number in draw.integers(0, 400, 300 - int(300 * kept))]
        texts = [" ".join(first), " ".join(second)]
        found = signatures(shingled(texts, 5, "words", "keep"), 512, 1)
        true = jaccard(texts[0], texts[1])
        agreed = (found[0] == found[1]).mean()
        assert agreed == pytest.approx(true, abs=4 * (true * (1 - true) / 512) ** 0.5 + 1e-9)
    assert (signatures(shingled(texts, 5, "words", "keep"), 64, 1) == found[:, :64]).all()


def test_bands_are_the_longest_that_meet_often_enough() -> None:
    for similarity in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        bands, rows = layout(similarity, 128, 0.95)
        assert bands * rows <= 128 and collision_probability(similarity, bands, rows) >= 0.95
        assert rows == 128 or collision_probability(similarity, 128 // (rows + 1), rows + 1) < 0.95


# near


def groups_by_hand(texts: Sequence[str], threshold: float) -> list[int]:
    """All pairs, by the definition; the lowest row of each group."""
    label = list(range(len(texts)))
    for i, j in itertools.combinations(range(len(texts)), 2):
        if jaccard(texts[i], texts[j]) >= threshold - 1e-9 and label[i] != label[j]:
            low, high = sorted((label[i], label[j]))
            label = [low if one == high else one for one in label]
    return label


def said(rows: Sequence[Row]) -> list[str]:
    return ["\n".join(message["content"] for message in row.messages) for row in rows]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_groups_are_those_of_all_pairs(tmp_path: Path, threshold: float) -> None:
    """What is dropped is right without exception; what should be, is missed in at most 2 % (none of these is)."""
    rows = rows_of(written(60, 3))
    view = viewed(tmp_path, rows)
    expected = np.array([label != at for at, label in enumerate(groups_by_hand(said(rows), threshold))])
    found = Near(threshold=threshold).clean(view, ON)
    assert expected.sum() > 10 and not (found.rows & ~expected).any()
    assert (found.rows & expected).sum() >= 0.98 * expected.sum()
    keys = [row.key for row in rows]
    for place, winner, reason in zip(np.flatnonzero(found.rows).tolist(), found.winners, found.reasons, strict=True):
        kept = keys.index(winner)
        assert kept < place and not found.rows[kept], "the first of a group stays"
        assert winner in reason and f"{jaccard(said(rows)[place], said(rows)[kept]):.2f}" in reason


def test_shards_do_not_matter(tmp_path: Path) -> None:
    rows = rows_of(written(40, 4))
    answers = [Near().clean(viewed(tmp_path / str(size), rows, size), ON) for size in (3, 7, 100)]
    assert answers[0].rows.any()
    for other in answers[1:]:
        assert (answers[0].rows == other.rows).all() and answers[0].reasons == other.reasons


def test_more_rows_never_bring_one_back(tmp_path: Path) -> None:
    """With `keep: first`, a row that was dropped stays so, whatever is appended."""
    rows = rows_of(written(60, 5))
    masks = [Near().clean(viewed(tmp_path / str(count), rows[:count]), ON).rows for count in (20, 40, 60)]
    for shorter, longer in itertools.pairwise(masks):
        assert not (shorter & ~longer[: len(shorter)]).any()


@pytest.mark.parametrize("keep", ["first", "last", "longest", "meta.score", "-meta.score"])
def test_the_row_that_stays_is_the_one_asked_for(tmp_path: Path, keep: str) -> None:
    base = " ".join(f"w{at}" for at in range(60))
    texts = [base, f"{base} and more", f"{base} x", "something else that is not like it at all"]
    scores = [0.5, None, 0.9, 0.1]
    rows = [
        tiny.make_row(tiny.chat("q", text), position=at, meta={"score": score} if score is not None else {})
        for at, (text, score) in enumerate(zip(texts, scores, strict=True))
    ]
    found = Near(keep=keep).clean(viewed(tmp_path, rows), ON)
    stays = {"first": 0, "last": 2, "longest": 1, "meta.score": 2, "-meta.score": 0}[keep]
    assert found.rows.tolist() == [at != stays and at < 3 for at in range(4)]
    assert set(found.winners) == {rows[stays].key}


def test_numbers_keep_templated_problems_apart_unless_zeroed(tmp_path: Path) -> None:
    texts = [
        f"Tom has {a} apples and buys {b} more at the shop for {c} dollars each. How many apples has Tom got, "
        "and what did he pay for all of the new ones in dollars when the shop was about to close?"
        for a, b, c in ((3, 4, 5), (17, 21, 2), (40, 9, 8))
    ]
    rows = rows_of(texts)
    assert not Near().clean(viewed(tmp_path / "keep", rows), ON).rows.any()
    zeroed = viewed(tmp_path / "zero", rows, near=MinHash(numbers="zero"))
    assert Near(numbers="zero").clean(zeroed, ON).rows.tolist() == [False, True, True]


def test_rows_of_unlike_labels_and_other_rejected_answers_are_no_duplicates(tmp_path: Path) -> None:
    text = " ".join(f"w{at}" for at in range(30))
    other = " ".join(f"v{at}" for at in range(60))
    rows = [
        tiny.make_row(tiny.chat("q", text), kind="rated", label=True, position=0),
        tiny.make_row(tiny.chat("q", text), kind="rated", label=False, position=1),
        tiny.make_row(tiny.chat("q", text), kind="rated", label=True, position=2),
        tiny.make_row(tiny.chat("q")[:1], kind="pair", position=3, **pair(text, other)),
        tiny.make_row(tiny.chat("q")[:1], kind="pair", position=4, **pair(text, text[::-1])),
        tiny.make_row(tiny.chat("q")[:1], kind="pair", position=5, **pair(text, other)),
    ]
    assert np.flatnonzero(Near().clean(viewed(tmp_path, rows), ON).rows).tolist() == [2, 5]


def pair(chosen: str, rejected: str) -> dict[str, object]:
    return {
        name: ({"role": "assistant", "content": text},) for name, text in (("chosen", chosen), ("rejected", rejected))
    }


def test_a_crowd_of_equals_is_one_group_and_a_crowd_of_a_template_is_told_of(tmp_path: Path) -> None:
    equal = viewed(tmp_path / "equal", rows_of(["the same long text of eight words here"] * 400), 200)
    found = Near().clean(equal, ON)
    assert found.rows.sum() == 399 and not found.notes and found.facts["pairs verified"] <= 2 * 399
    draw = np.random.default_rng(0)
    stem = " ".join(f"w{at}" for at in range(40))
    texts = [f"{stem} {' '.join(f'x{number}' for number in draw.integers(0, 10**6, 30))}" for _ in range(300)]
    crowd = viewed(
        tmp_path / "crowd", [tiny.make_row(tiny.chat(text, "y"), position=at) for at, text in enumerate(texts)]
    )
    loose = Near(threshold=0.75).clean(crowd, ON)
    assert not loose.rows.any()


# exact


def test_exact_duplicates_by_content_prompt_response_and_words(tmp_path: Path) -> None:
    said = [("Ask me", "Answer it"), ("ask me!", "answer it"), ("Ask me", "Answer it"), ("Ask me", "other"), ("?", "")]
    rows = [tiny.make_row(tiny.chat(*both), position=at, source=f"s{at}") for at, both in enumerate(said)]
    rows = [dataclasses.replace(row, content=content_digest(row)) for row in rows]
    view = viewed(tmp_path / "words", rows)

    def dropped(**settings: str) -> list[int]:
        return np.flatnonzero(Exact(**settings).clean(view, ON).rows).tolist()  # type: ignore[arg-type]

    assert dropped() == [2] and dropped(normalise="words", of="text") == [1, 2]
    assert dropped(of="prompt", normalise="words") == [1, 2, 3] and dropped(of="response", normalise="words") == [1, 2]
    found = Exact(keep="last").clean(view, ON)
    assert np.flatnonzero(found.rows).tolist() == [0] and found.winners == (rows[2].key,)
    assert found.reasons == (f"duplicate of {rows[2].key}",)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30), st.integers(0, 3))
def test_the_worthiest_of_each_group_stays_and_ties_go_to_the_first(labels: list[int], seed: int) -> None:
    worth = np.random.default_rng(seed).integers(0, 3, len(labels)).astype(float)
    kept = best(np.array(labels, np.int64), worth).winner.tolist()
    for place, label in enumerate(labels):
        same = [other for other, one in enumerate(labels) if one == label]
        assert kept[place] == max(same, key=lambda other: (worth[other], -other))


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"threshold": 0.0}, {"threshold": 1.5}, {"shingle": 0}, {"keep": "-"}, {"index": "../up"}):
        with pytest.raises(RecipeError):
            Near(**wrong)
    with pytest.raises(RecipeError, match="normalise"):
        Exact(normalise="words")


def test_a_column_of_a_scorer_says_who_stays(tmp_path: Path) -> None:
    rows = rows_of(["one and the same text of some words"] * 3)
    view = viewed(tmp_path, rows)
    values = Column(values=np.array([1, 3, np.nan], np.float32), unit="", reasons=np.array([0, 0, 6], np.uint8))
    found: Dropped = Near(keep="quality").clean(PoolView(view.pool, view.signal_folders, {"quality.score": values}), ON)
    assert found.rows.tolist() == [True, False, True]
