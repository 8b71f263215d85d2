"""Law: ratings are the model's next-token probabilities of the labels; scorers over them follow their papers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tiny
from tamis import recipe
from tamis.answers.rating_prompts import SHIPPED, RatingSet, exchanges, rating_set
from tamis.answers.readouts import Readings, label_ids
from tamis.answers.sampling import Drawn, Sample, Sampling
from tamis.errors import DataError, ModelError, RecipeError
from tamis.models import ModelRef, open_model, open_tokenizer
from tamis.pool import Shard
from tamis.scorers.alpagasus import AlpaGasus
from tamis.scorers.deita import Deita, DeitaComplexity, DeitaQuality
from tamis.scorers.ds2 import Ds2
from tamis.scorers.mods import ModsNecessity
from tamis.scorers.passes.ratings import Ratings
from tamis.scorers.rating import Rating
from tamis.scorers.selectit import SelectIt
from tamis.stages.dependence import needs_of_scorers, ordered
from tamis.stages.measure import richest
from tamis.stages.score import score
from tamis.stages.workspace import Workspace
from tamis.store import save_arrays
from tamis.values import Machine, Reason, Row
from tamis.views import ShardSignals

OWN = RatingSet(
    name="own", templates=("{instruction} {response} {x}?", "say: {response}"), labels=("1", "2", "count"), raw=True
)


def rows() -> list[Row]:
    made = tiny.make_rows(4, seed=3)
    return [
        dataclasses.replace(made[0], messages=tiny.chat("add {response}?", "seven", "count?", "eleven", system="Be")),
        made[1],
        tiny.make_row(tiny.chat("river?"), kind="prompt"),
        tiny.make_row([{"role": "user", "content": "stone"}], kind="text"),
        tiny.make_row(tiny.chat("add " * 300, "eleven")),
        tiny.make_row(
            tiny.chat("price?"), kind="pair", chosen=tiny.chat("", "left")[1:], rejected=tiny.chat("", "x")[1:]
        ),
    ]


@pytest.fixture(scope="module")
def ref(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(name=str(tiny.make_model(tmp_path_factory.mktemp("model"))), dtype="float32", max_tokens=260)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    return tiny.make_pool(tmp_path_factory.mktemp("pool"), rows()).shards[0]


@pytest.fixture(scope="module")
def measured(ref: ModelRef, shard: Shard) -> Mapping[str, NDArray[Any]]:
    sets = (OWN, "deita-complexity", "deita-quality")
    return Ratings(model=ref, sets=sets).measure(shard, ShardSignals(shard, {}), Machine())


def by_hand(ref: ModelRef, text: str, labels: tuple[str, ...], *, raw: bool) -> list[float]:
    """One prompt at a time, the whole vocabulary, every token whose text is the label once blanks are off."""
    import torch

    tokenizer: Any = open_tokenizer(ref.name)
    if not raw:
        messages = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        chances = torch.softmax(open_model(ref, "cpu")(input_ids=ids).logits[0, -1].double(), -1)
    told = [tokenizer.decode([place]).removeprefix(" ") for place in range(len(chances))]
    found = [sum(float(chances[place]) for place, word in enumerate(told) if word == label) for label in labels]
    return [*found, 1 - sum(found)]


def test_the_pass_is_the_softmax_of_each_prompt_by_itself(ref: ModelRef, measured: Mapping[str, NDArray[Any]]) -> None:
    row = rows()[0]
    told = "System: Be\nUser: add {response}?\nAssistant: seven\nUser: count?"
    texts = OWN.texts(told, "eleven")
    assert texts[0] == f"{told} eleven {{x}}?", "braces of the row's text, and unknown ones, stay as they are"
    for place, text in enumerate(texts):
        np.testing.assert_allclose(measured[OWN.key][0, place], by_hand(ref, text, OWN.labels, raw=True), atol=1e-6)
    np.testing.assert_allclose(measured[OWN.key][[0, 1, 5]].sum(-1), 1, atol=1e-6)
    assert exchanges(row, SHIPPED["deita-quality"]) == [("add {response}?", "seven"), ("count?", "eleven")]
    (asked,) = SHIPPED["deita-quality"].texts("count?", "eleven")
    np.testing.assert_allclose(
        measured["deita-quality"][1, 0], by_hand(ref, asked, SHIPPED["deita-quality"].labels, raw=True), atol=1e-6
    )


def test_the_question_is_a_user_turn_of_the_template(ref: ModelRef, shard: Shard) -> None:
    chat = dataclasses.replace(OWN, raw=False)
    found = Ratings(model=ref, sets=(chat,)).measure(shard, ShardSignals(shard, {}), Machine())
    text = OWN.texts("price?", "left")[1]
    np.testing.assert_allclose(found[chat.key][5, 1], by_hand(ref, text, OWN.labels, raw=False), atol=1e-6)
    assert found["parameters"].tolist() == [open_model(ref, "cpu").num_parameters()] * 6


def test_rows_that_cannot_be_asked_about_have_a_reason(measured: Mapping[str, NDArray[Any]]) -> None:
    asked, kind, cut = Reason.NEEDS_ANSWER, Reason.WRONG_KIND, Reason.CUT
    assert measured[f"{OWN.key}_reason"].tolist() == [0, 0, asked, kind, cut, 0]
    assert measured["deita-complexity_reason"].tolist() == [0, 0, 0, kind, cut, 0]
    assert measured["reason"].tolist() == [0, 0, asked, kind, cut, 0]
    assert np.isnan(measured[OWN.key][[2, 3, 4]]).all()
    turns = np.diff(measured["deita-quality_offsets"]).tolist()
    assert turns[0] == 2 and turns[2:] == [0, 0, 0, 1]


def test_labels_are_found_through_the_tokenizer_and_others_refused(ref: ModelRef, tmp_path: Path) -> None:
    tokenizer: Any = open_tokenizer(ref.name)
    (one, word) = label_ids(ref.name, ("1", "count"))
    assert {tokenizer.decode([token]).strip() for token in one} == {"1"}
    assert {tokenizer.decode([token]) for token in word} == {"count", " count"}
    with pytest.raises(ModelError, match="'yes' is no single token"):
        label_ids(ref.name, ("yes", "no"))
    pieces = str(tiny.make_tokenizer(tmp_path / "pieces", byte_fallback=True))
    opened: Any = open_tokenizer(pieces)
    for label, ids in zip(("second", "count"), label_ids(pieces, ("second", "count")), strict=True):
        assert ids and {opened.convert_ids_to_tokens([token])[0].lstrip("▁") for token in ids} == {label}


def test_sets_are_checked_and_passes_over_several_are_one(ref: ModelRef) -> None:
    both = Ratings(model=ref, sets=("selectit", OWN)).merge(Ratings(model=ref, sets=("alpagasus", "selectit")))
    assert both.sets == ("selectit", OWN, "alpagasus")
    other = dataclasses.replace(OWN, raw=False)
    assert len({one.key for one in (OWN, other, SHIPPED["yes-no"])}) == 3 and SHIPPED["yes-no"].key == "yes-no"
    assert both.merge(Ratings(model=ref, sets=(other,))).sets == (*both.sets, other)
    with pytest.raises(RecipeError, match="did you mean 'alpagasus'"):
        Ratings(model=ref, sets=("alpagassus",))
    with pytest.raises(RecipeError, match="neither"):
        dataclasses.replace(OWN, templates=("how good?",))
    assert dict(next(iter(Rating(by="judge").needs)).settings) == {"sets": ("yes-no",)}
    assert next(iter(DeitaQuality().needs)).key == next(iter(AlpaGasus().needs)).key == "ratings@judge"


def given(folder: Path, made: Mapping[str, Any], key: str = "ratings", meta: Any = ({}, {}, {})) -> ShardSignals:
    """Write the signal `ratings` of three rows down instead of measuring it."""
    folder.mkdir(exist_ok=True)
    save_arrays(folder, {name: np.asarray(array) for name, array in made.items()})
    listed = [dataclasses.replace(row, meta=one) for row, one in zip(tiny.make_rows(3), meta, strict=True)]
    return ShardSignals(tiny.make_pool(folder / "pool", listed).shards[0], {key: folder})


def test_golden_token_scores_of_selectit() -> None:
    """All mass on 5, spread evenly, all on 1, half on 4 and half on 5: 1.2788, 0, 0.2558, 0.3090."""
    shares = np.array([[0, 0, 0, 0, 1], [0.2] * 5, [1, 0, 0, 0, 0], [0, 0, 0, 0.5, 0.5]])
    np.testing.assert_allclose(SelectIt().points(shares), [1.2788, 0, 0.2558, 0.3090], atol=5e-5)
    np.testing.assert_allclose(SelectIt(softmax="once").points(shares[[0, 2]]), [5, 1])


def test_selectit_by_hand_at_the_level_of_sentence_and_model(tmp_path: Path) -> None:
    """Rewordings 1 to 4 all on 5, the fifth even: s = (1.2788 x 4, 0), mean 1.0230, std 0.5115: 1.0230 / 1.1023.

    The judge, thrice as large, gives 1.2788 throughout: 0.25 x 0.9281 + 0.75 x 1.2788 = 1.1911.
    """
    sure, even = [0, 0, 0, 0, 0.5, 0.5], [0.1] * 5 + [0.5]
    none = [[np.nan] * 6] * 5
    reason = np.array([0, 0, Reason.NEEDS_ANSWER], np.uint8)
    own = {"selectit": [[sure] * 4 + [even], [even] * 5, none], "selectit_reason": reason, "reason": reason}
    judge = {**own, "selectit": [[sure] * 5, [sure] * 5, none], "parameters": [3, 3, 3]}
    have = given(tmp_path / "own", {**own, "parameters": [1, 1, 1]})
    other = given(tmp_path / "judge", judge)
    both = ShardSignals(have.shard, {**have.folders, "ratings@judge": other.folders["ratings"]})
    columns = SelectIt(level="model", models=("model", "judge")).score(both)
    np.testing.assert_allclose(columns["sentence"].values[:2], [1.0230 / 1.1023, 0], atol=1e-4)
    np.testing.assert_allclose(columns["model"].values[:2], [1.1911, 0.9591], atol=1e-4)
    np.testing.assert_array_equal(columns["score"].values, columns["model"].values)
    np.testing.assert_allclose(columns["outside"].values[:2], 0.5)
    assert SelectIt(template=4).score(have)["token"].values[0] == pytest.approx(0, abs=1e-6)
    assert set(SelectIt().score(have)) == {"token", "sentence", "score", "outside"}
    assert columns["model"].reasons.tolist() == [0, 0, Reason.NEEDS_ANSWER]
    with pytest.raises(RecipeError, match="mean over several models"):
        SelectIt(level="model")


def test_deita_by_hand(tmp_path: Path) -> None:
    """Row 0 has two turns: complexity 1 and 6, quality 2 and 3.5, so Σ c q = 2 + 21 = 23; row 1: 4 x 5. Row 2: none."""

    def mass(**labels: float) -> list[list[float]]:
        return [[labels.get(f"d{digit}", 0) for digit in range(1, 7)] + [1 - sum(labels.values())]]

    reason = np.array([0, 0, Reason.CUT], np.uint8)
    made = {
        "deita-complexity": [mass(d1=0.5), mass(d6=0.1), mass(d4=1)],
        "deita-quality": [mass(d2=1), mass(d1=0.2, d6=0.2), mass(d5=0.7)],
        **{f"deita-{name}_offsets": np.array([0, 2, 3, 3]) for name in ("complexity", "quality")},
        **{f"deita-{name}_reason": reason for name in ("complexity", "quality")},
        "reason": reason,
    }
    have = given(tmp_path / "judge", made, "ratings@judge")
    np.testing.assert_allclose(DeitaComplexity().score(have)["score"].values[:2], [3.5, 4])
    np.testing.assert_allclose(DeitaComplexity(turns="last").score(have)["score"].values[:2], [6, 4])
    np.testing.assert_allclose(DeitaQuality().score(have)["score"].values[:2], [2.75, 5])
    np.testing.assert_allclose(DeitaQuality().score(have)["outside"].values[:2], [0.3, 0.3], atol=1e-6)
    np.testing.assert_allclose(Deita().score(have)["score"].values[:2], [23, 20])
    np.testing.assert_allclose(Deita(turns="mean").score(have)["score"].values[:2], [11.5, 20])
    np.testing.assert_allclose(Deita(turns="max").score(have)["score"].values[:2], [21, 20])
    assert Deita().score(have)["score"].reasons.tolist() == [0, 0, Reason.CUT]


def test_alpagasus_takes_ratings_as_given_or_the_expected_digit(tmp_path: Path) -> None:
    one = [[[0.1, 0, 0, 0, 0.1, 0.2, 0.6]]] * 3
    none = np.zeros(3, np.uint8)
    made = {"alpagasus": one, "alpagasus_reason": none, "reason": none}
    have = given(tmp_path / "judge", made, "ratings@judge", ({"rating": 4.5}, {"rating": -1}, {}))
    np.testing.assert_allclose(AlpaGasus().score(have)["score"].values, [3.5] * 3, rtol=1e-6)
    column = AlpaGasus(column="meta.rating").score(have)["score"]
    assert column.values[0] == 4.5 and column.reasons.tolist() == [0, Reason.NOT_MEASURED, Reason.NOT_MEASURED]
    ten = given(tmp_path / "ten", made, "ratings@judge", ({"rating": 9}, {}, {}))
    with pytest.raises(DataError, match="scale ends at 5"):
        AlpaGasus(column="meta.rating").score(ten)


def test_necessity_is_the_judge_s_view_of_the_generated_answer(ref: ModelRef, shard: Shard, tmp_path: Path) -> None:
    """The answers rated are those that were generated, an empty one too; below the threshold a row is necessary."""
    answers = [None, "seven", "river", None, None, ""]
    reason = np.array([answer is None for answer in answers], np.uint8)
    drawn = Drawn([[Sample(answer, 1, 0.0, 1)] if answer is not None else [] for answer in answers], [None] * 6, reason)
    (tmp_path / "generations").mkdir()
    save_arrays(tmp_path / "generations", drawn.arrays(greedy=False))
    have = ShardSignals(shard, {"generations": tmp_path / "generations"})
    scorer = ModsNecessity(prompts=OWN, threshold=1.5)
    found = Ratings(model=ref, **dict(next(iter(scorer.needs)).settings)).measure(shard, have, Machine())
    expected = by_hand(ref, OWN.texts("river?", "river")[1], OWN.labels, raw=True)
    np.testing.assert_allclose(found[f"{OWN.key}+generated"][2, 1], expected, atol=1e-6)
    (tmp_path / "ratings").mkdir()
    save_arrays(tmp_path / "ratings", found)
    columns = scorer.score(ShardSignals(shard, {"ratings@judge": tmp_path / "ratings"}))
    read = Readings.of(found, dataclasses.replace(OWN, of="generated"))
    assert read.owner.tolist() == [1, 2, 5]
    np.testing.assert_allclose(columns["score"].values[[1, 2, 5]], read.expected(OWN), rtol=1e-6)
    assert columns["necessary"].values[[1, 2, 5]].tolist() == [float(value < 1.5) for value in read.expected(OWN)]
    assert columns["necessary"].reasons[[0, 3]].tolist() == [Reason.NEEDS_ANSWER, Reason.WRONG_KIND]
    assert rating_set("yes-no+generated").key == next(iter(ModsNecessity().needs)).settings[0][1][0].key


RECIPE = """
model: {name: "tamis:tiny-lm"}
pool: {files: ["tamis:pool.jsonl.gz"]}
scores: {score: {alpagasus: SETTINGS}}
subset: {select: top, by: alpagasus, where: "alpagasus >= 4.5", budget: 10%}
"""


def test_a_judge_is_asked_for_only_where_no_column_is_given(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.replace("SETTINGS", "{column: meta.rating}"), encoding="utf-8")
    assert [stage.name for stage in recipe.load(str(file)).stages] == ["scores", "subset"]
    file.write_text(RECIPE.replace("SETTINGS", ""), encoding="utf-8")
    with pytest.raises(RecipeError, match="judge"):
        recipe.load(str(file))


def test_one_pass_of_the_judge_and_one_of_the_model_serve_all_of_them(ref: ModelRef, tmp_path: Path) -> None:
    """Rating, its correction by DS2, and the necessity of rows; answers are drawn before they are judged."""
    pool = tiny.make_pool(tmp_path / "pool", tiny.make_rows(9, seed=4), shard_rows=5)
    short = dataclasses.replace(OWN, templates=("{instruction} {response}",), labels=("1", "2", "3"))
    scorers: dict[str, Any] = {
        "ds2": Ds2(rating="rating.score", k=2),
        "rating": Rating(prompts=OWN, by="judge"),
        "mods-necessity": ModsNecessity(prompts=short, sampling=Sampling(samples=1, max_tokens=3)),
        "selectit": SelectIt(prompts=short),
    }
    needs = needs_of_scorers(ordered(scorers))
    judge = dataclasses.replace(ref, max_tokens=250)
    at = Workspace(tmp_path / "work", Machine(), ref, judge=judge, settings_of_passes=richest(needs))
    found = score(pool, scorers, at)
    made = {name: entry["made"] for name, entry in at.work.passes.items()}
    assert made == {"lengths": 2, "tokens": 2, "generations": 2, "ratings": 2, "ratings@judge": 2}
    label = ref.label
    rated, mended = (found.columns[f"{name}@{label}"] for name in ("rating.score", "ds2.label"))
    np.testing.assert_array_equal(np.floor(rated.values + 0.5), mended.values)
    assert np.isfinite(found.columns[f"mods-necessity.score@{label}"].values).all()
    assert any("labels were replaced" in note for note in found.notes)
    nobody = dataclasses.replace(at, judge=None)
    with pytest.raises(RecipeError, match="needs a judge model: give"):
        score(pool, scorers, nobody)
