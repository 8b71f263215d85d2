"""Law: the batched token pass gives what a plain pass over one sequence at a time gives, whatever the batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import tiny
from tamis.batching import batches, with_halving
from tamis.errors import ModelError, RecipeError
from tamis.models import ModelRef, open_model, open_tokenizer
from tamis.pool import Shard
from tamis.rendering import render, render_all
from tamis.scorers.passes.lengths import Lengths
from tamis.scorers.passes.tokens import Tokens
from tamis.values import Machine, Reason, Row
from tamis.views import ShardSignals

ROWS = tiny.make_rows(24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def ref(folder: Path) -> ModelRef:
    return ModelRef(name=str(tiny.make_model(folder / "model")), dtype="float32")


def measure(
    one: Tokens | Lengths, rows: list[Row], folder: Path, tokens_per_batch: int = 512
) -> dict[str, NDArray[Any]]:
    shard = tiny.make_pool(folder, rows).shards[0] if rows else empty(folder)
    return dict(one.measure(shard, ShardSignals(shard, {}), Machine(tokens_per_batch=tokens_per_batch)))


def empty(folder: Path) -> Shard:
    import pyarrow.parquet as pq

    from tamis.pool import ROWS as FILE
    from tamis.pool import schema

    pq.write_table(schema().empty_table(), folder / FILE)
    return Shard(folder, "0", 0)


def plain(model: Any, ids: list[int]) -> dict[str, NDArray[np.float64]]:
    """Statistics of every token from one unbatched forward pass, in float64; NaN for the first."""
    import torch

    with torch.no_grad():
        made = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    log_p = made.logits[0].double().log_softmax(-1).numpy()
    found = {name: np.full(len(ids), np.nan) for name in ("nll", "entropy", "square", "rank", "hidden_norm", "best")}
    for place in range(1, len(ids)):
        before = log_p[place - 1]
        found["nll"][place] = -before[ids[place]]
        found["entropy"][place] = -(np.exp(before) * before).sum()
        found["square"][place] = (np.exp(before) ** 2).sum()
        found["rank"][place] = 1 + (before > before[ids[place]]).sum()
        found["hidden_norm"][place] = np.linalg.norm(made.hidden_states[-1][0, place - 1].double().numpy())
        found["best"][place] = before.argmax()
    return found


def per_row(model: Any, row: Row, ref: ModelRef) -> dict[str, Any]:
    """Score, as the oracle, the whole row, and every turn written out as text behind its header and tokenised anew."""
    tokenizer: Any = open_tokenizer(ref.name)
    made = tokenizer.apply_chat_template(list(row.messages), return_dict=True, return_assistant_tokens_mask=True)
    kept = slice(0, ref.max_tokens) if ref.truncation == "right" else slice(-ref.max_tokens, None)
    ids, mask = made["input_ids"][kept], np.array(made["assistant_masks"], bool)[kept]
    mask[0] = False
    found = plain(model, ids)
    header = tokenizer("<|assistant|>\n")["input_ids"]
    alone = np.full(len(ids), np.nan)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        room = len(ids) - (stop - start)
        context = header[max(0, len(header) - room) :]
        alone[start:stop] = plain(model, context + ids[start:stop])["nll"][len(context) :]
    return {**found, "alone": alone[mask], "mask": mask}


@pytest.mark.parametrize(("max_tokens", "truncation"), [(2048, "right"), (40, "right"), (40, "left")])
@pytest.mark.parametrize("adapted", [False, True])
def test_both_views_equal_a_plain_pass_over_each_row(
    ref: ModelRef, folder: Path, tmp_path: Path, max_tokens: int, truncation: Any, adapted: bool
) -> None:
    ref = dataclasses.replace(ref, max_tokens=max_tokens, truncation=truncation)
    if adapted:
        if not (folder / "adapter").exists():
            tiny.make_adapter(Path(ref.name), folder / "adapter")
        ref = dataclasses.replace(ref, adapter=str(folder / "adapter"))
    got = measure(Tokens(model=ref, loss="all", alone=True), ROWS, tmp_path)
    model = open_model(ref, "cpu")
    assert len(np.unique(got["turn"])) > 2
    for place, row in enumerate(ROWS):
        want = per_row(model, row, ref)
        mine = slice(got["nll_offsets"][place], got["nll_offsets"][place + 1])
        mask = want["mask"]
        np.testing.assert_array_equal(got["turn"][mine] >= 0, mask[1:])
        np.testing.assert_allclose(got["nll"][mine], want["nll"][1:], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got["entropy"][mine].astype(float), want["entropy"][1:], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(got["square"][mine], want["square"][1:], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(got["hidden_norm"][mine].astype(float), want["hidden_norm"][1:], rtol=1e-3)
        for mixed, name in ((got["rank"], "rank"), (got["top_id"][:, 0], "best")):
            assert (mixed[mine] != want[name][1:]).mean() < 0.01  # equal within rounding
        alone = got["alone_nll"][got["alone_offsets"][place] : got["alone_offsets"][place + 1]]
        np.testing.assert_allclose(alone, want["alone"], rtol=1e-4, atol=1e-5)
        paired = np.isfinite(want["alone"])
        sums = {
            "response_nll_sum": want["nll"][mask].sum(),
            "entropy_sum": want["entropy"][mask].sum(),
            "prompt_nll_sum": want["nll"][1:][~mask[1:]].sum(),
            "alone_nll_sum": want["alone"][paired].sum(),
            "ifd_response_sum": want["nll"][mask][paired].sum(),
        }
        np.testing.assert_allclose([got[name][place] for name in sums], list(sums.values()), rtol=1e-4, atol=1e-5)
        counts = [got[name][place] for name in ("response_count", "prompt_count", "alone_count")]
        assert counts == [mask.sum(), len(mask) - 1 - mask.sum(), paired.sum()]
        assert got["reason"][place] == (Reason.NONE if mask.any() else Reason.ALL_MASKED)


def test_the_adapter_counts(ref: ModelRef, folder: Path, tmp_path: Path) -> None:
    adapter = tiny.make_adapter(Path(ref.name), tmp_path / "adapter", seed=5)
    base = measure(Tokens(model=ref), ROWS[:4], tmp_path)
    changed = measure(Tokens(model=dataclasses.replace(ref, adapter=str(adapter))), ROWS[:4], tmp_path)
    assert np.abs(base["nll"] - changed["nll"]).max() > 0.01


def test_scores_do_not_depend_on_batches(ref: ModelRef, tmp_path: Path) -> None:
    one = Tokens(model=ref, loss="all", alone=True, pooled=True, pooled_mean=True, pooled_last=True)
    small, large = (measure(one, ROWS, tmp_path, tokens) for tokens in (64, 4096))
    again = measure(one, ROWS, tmp_path, 4096)
    for name, array in large.items():
        if array.dtype.kind == "f":
            spread = 1e-4 * float(np.nanstd(array.astype(np.float64)))
            step = 1e-3 * np.abs(array.astype(np.float64)) if array.dtype == np.float16 else 0  # its last bit
            assert (np.abs(small[name].astype(np.float64) - array) <= spread + step).all(), name
        else:
            np.testing.assert_array_equal(small[name], array)
        np.testing.assert_array_equal(again[name], array)  # bitwise on one machine profile


def test_richer_passes_give_what_poorer_ones_give(ref: ModelRef, tmp_path: Path) -> None:
    rich = measure(Tokens(model=ref, loss="all", alone=True, top=5, pooled=True), ROWS, tmp_path)
    poor = measure(Tokens(model=ref, loss="response", alone=True), ROWS, tmp_path)
    once = measure(Tokens(model=ref), ROWS, tmp_path)
    vectors = measure(Tokens(model=ref, loss="none", pooled=True), ROWS, tmp_path)
    for name in ("nll", "square", "hidden_norm", "top_logprob"):
        mine = rich[name][rich["turn"] >= 0]
        np.testing.assert_allclose(mine[:, :2] if mine.ndim > 1 else mine, poor[name], rtol=1e-3, atol=1e-5)
    for name in ("alone_nll", "response_nll_sum", "alone_nll_sum", "ifd_response_sum", "entropy_sum"):
        np.testing.assert_allclose(rich[name], poor[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rich["pooled"], vectors["pooled"], atol=1e-5)
    assert set(vectors) == {"pooled", "reason"} and "prompt_nll_sum" not in poor
    views = {"alone_offsets", "alone_nll", "alone_nll_sum", "alone_count", "ifd_response_sum"}
    assert set(poor) - set(once) == views and set(once) <= set(poor)


def test_merging_passes_takes_the_richer_of_both(ref: ModelRef, tmp_path: Path) -> None:
    a, b = Tokens(model=ref, loss="none", pooled=True), Tokens(model=ref, loss="response")
    assert a.merge(b) == b.merge(a) == Tokens(model=ref, loss="response", pooled=True)
    assert b.merge(Tokens(model=ref, loss="all")) == Tokens(model=ref, loss="all")
    both = Tokens(model=ref, alone=True, pooled_mean=True).merge(Tokens(model=ref, top=9, pooled_last=True))
    assert both == Tokens(model=ref, alone=True, top=9, pooled_mean=True, pooled_last=True)
    with pytest.raises(RecipeError, match="models differ"):
        a.merge(Tokens(model=dataclasses.replace(ref, max_tokens=7)))
    with pytest.raises(RecipeError, match="nothing to measure"):
        measure(Tokens(model=ref, loss="none"), ROWS[:1], tmp_path)
    for wrong in ({"top": 0}, {"top": 65}, {"loss": "none", "alone": True}):
        with pytest.raises(RecipeError, match="tokens"):
            Tokens(model=ref, **cast("Any", wrong))


def test_pooled_vectors_are_means_of_last_hidden_states_or_the_last_one(ref: ModelRef, tmp_path: Path) -> None:
    import torch

    got = measure(Tokens(model=ref, loss="none", pooled=True, pooled_mean=True, pooled_last=True), ROWS, tmp_path)
    model: Any = open_model(ref, "cpu")
    for place, one in enumerate(render_all(ROWS, ref)):
        with torch.no_grad():
            ids = torch.from_numpy(one.ids)[None].long()
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].double().numpy()
        mean = sum((t + 1) * states[t] for t in range(len(states))) / sum(range(1, len(states) + 1))
        for name, want in (("pooled", mean), ("pooled_mean", states.mean(0)), ("pooled_last", states[-1])):
            np.testing.assert_allclose(got[name][place], want / np.linalg.norm(want), atol=1e-5)


def test_rows_without_an_answer_are_measured_as_far_as_they_go(ref: ModelRef, tmp_path: Path) -> None:
    asked = tiny.make_row(tiny.chat("first second?"), kind="prompt")
    refused = tiny.make_row([{"role": "user", "content": "y"}, {"role": "assistant", "content": ["x"]}])
    free = tiny.make_row([{"role": "user", "content": "river stone"}], kind="text")
    one = Tokens(model=ref, loss="all", alone=True, pooled=True)
    got = measure(one, [ROWS[0], asked, refused, free], tmp_path)
    assert got["reason"].tolist() == [0, Reason.NEEDS_ANSWER, Reason.TEMPLATE, 0]
    assert got["response_count"][1] == 0 and got["prompt_count"][1] > 3 and got["prompt_nll_sum"][1] > 0
    assert got["response_count"][2] == got["prompt_count"][2] == 0 and not got["pooled"][2].any()
    # plain text has no prompt that could be taken away: one view only
    assert got["response_count"][3] > 0 and got["alone_count"][3] == 0
    assert np.isnan(got["alone_nll"][got["alone_offsets"][3] :]).all()


def test_values_that_are_not_finite_stay_with_their_row(
    ref: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tamis.prediction.forward import Forward

    good = measure(Tokens(model=ref), ROWS, tmp_path)
    predictions = Forward.predictions

    def broken(self: Forward, ids: Any, hidden: Any, rows: Any, places: Any, top: int) -> Any:
        found = predictions(self, ids, hidden, rows, places, top)
        return dataclasses.replace(found, nll=found.nll.masked_fill((ids == 300).any(1)[rows], float("nan")))

    monkeypatch.setattr(Forward, "predictions", broken)
    got = measure(Tokens(model=ref), ROWS, tmp_path)
    sick = np.array([300 in one.ids for one in render_all(ROWS, ref)])
    assert sick.any() and not sick.all()
    assert (got["reason"] == np.where(sick, Reason.NOT_FINITE, Reason.NONE)).all()
    np.testing.assert_array_equal(got["response_nll_sum"][~sick], good["response_nll_sum"][~sick])


def test_an_empty_shard_gives_empty_arrays(ref: ModelRef, tmp_path: Path) -> None:
    got = measure(Tokens(model=ref, loss="all", pooled=True), [], tmp_path)
    assert got["pooled"].shape == (0, 32) and len(got["reason"]) == 0 and got["nll_offsets"].tolist() == [0]
    assert len(measure(Lengths(model=ref), [], tmp_path)["tokens"]) == 0


def configurations() -> dict[str, Any]:
    from transformers import CohereConfig, FalconH1Config, Gemma2Config, GPT2Config, GraniteConfig

    size: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    mamba: dict[str, Any] = {
        "mamba_d_ssm": 16,
        "mamba_n_heads": 2,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
        "mamba_chunk_size": 8,
    }
    return {
        "gemma2": Gemma2Config(**size, head_dim=8, final_logit_softcapping=2.0),
        "granite": GraniteConfig(**size, logits_scaling=4.0),
        "cohere": CohereConfig(**size, logit_scale=3.0),
        "gpt2": GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1),
        # multiplies its logits with a setting that this code does not know
        "falcon-h1": FalconH1Config(**size, **mamba, lm_head_multiplier=5.0),
    }


@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere", "gpt2", "falcon-h1"])
def test_losses_are_those_of_the_models_own_logits(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tamis.prediction.forward import forward_of

    torch.manual_seed(0)
    config = configurations()[name]
    config.initializer_range = 0.5
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    parts = forward_of(model)
    assert parts.whole == (name == "falcon-h1")
    assert forward_of(model) is parts
    ids = torch.randint(2, 50, (2, 9))
    real = torch.ones_like(ids, dtype=torch.bool)
    rows, places = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 8, 3, 5])
    with torch.inference_mode():
        hidden = parts.hidden(ids, real)
        found = parts.predictions(ids, hidden, rows, places, 3)
        losses = parts.losses(ids, hidden, rows, places)
        logits = model(input_ids=ids).logits[rows, places - 1]
    compare(found, logits, ids[rows, places])
    torch.testing.assert_close(losses, found.nll, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.hidden_norm, hidden[rows, places - 1].norm(dim=-1))


def compare(found: Any, logits: Any, gold: Any) -> None:
    """Statistics against their formulas over all logits, in float64; excluded tokens (-inf) count nothing."""
    import torch

    log_p = logits.double().log_softmax(-1)
    chosen = log_p.gather(1, gold[:, None])
    weighted = torch.where(log_p.isfinite(), log_p.exp() * log_p, 0.0)
    want = {
        "nll": -chosen[:, 0],
        "entropy": -weighted.sum(-1),
        "square": log_p.exp().square().sum(-1),
        "top_logprob": log_p.sort(-1, descending=True).values[:, : found.top_logprob.shape[1]],
    }
    for name, values in want.items():
        torch.testing.assert_close(getattr(found, name).double(), values, rtol=1e-4, atol=1e-5)
    near = 1e-5 * logits.abs().amax()  # a rounding's width: whether such a one is above is anybody's guess
    least, most = (1 + (log_p > chosen + width).sum(-1) for width in (near, -near))
    assert ((least <= found.rank) & (found.rank <= most)).all()
    torch.testing.assert_close(found.top_logprob.double(), log_p.gather(1, found.top_id.long()), rtol=1e-4, atol=1e-5)
    assert all(len(set(ids)) == len(ids) for ids in found.top_id.tolist())
    for name, kind in (("nll", torch.float32), ("rank", torch.int32), ("top_id", torch.int32)):
        assert getattr(found, name).dtype == kind


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("scale", [0.3, 8.0])
def test_statistics_from_tiles_are_those_of_the_whole_prediction(
    monkeypatch: pytest.MonkeyPatch, compiled: bool, scale: float
) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tamis.prediction import forward, predictions

    monkeypatch.setattr(predictions, "_compiled", lambda: compiled)
    monkeypatch.setattr(forward, "POSITIONS", 7)
    monkeypatch.setattr(forward, "TILE_BYTES", 4 * 7 * 100)  # tiles of 100 tokens
    sizes: list[int] = []
    for kind in (predictions._Looped, predictions._Torch):

        def watched(self: Any, logits: Any, start: int, take: Any = kind.take) -> None:
            sizes.append(4 * logits.numel())
            take(self, logits, start)

        monkeypatch.setattr(kind, "take", watched)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=517, hidden_size=24, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    model: Any = LlamaForCausalLM(config).eval()
    parts = forward.forward_of(model)
    torch.nn.init.normal_(model.lm_head.weight, std=scale)
    ids = torch.randint(0, 517, (3, 11))
    rows, places = torch.arange(3).repeat_interleave(10), torch.arange(1, 11).repeat(3)
    with torch.inference_mode():
        hidden = parts.hidden(ids, torch.ones_like(ids, dtype=torch.bool))
        found = parts.predictions(ids, hidden, rows, places, 4)
        logits = model(input_ids=ids).logits[rows, places - 1]
        losses = parts.losses(ids, hidden, rows, places)
    compare(found, logits, ids[rows, places])
    torch.testing.assert_close(losses, found.nll, rtol=1e-5, atol=1e-5)
    assert len(sizes) > 50 and max(sizes) <= 4 * 7 * 100


@pytest.mark.parametrize("compiled", [True, False])
def test_excluded_and_broken_logits_stay_with_their_prediction(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    import torch

    from tamis.prediction import predictions

    monkeypatch.setattr(predictions, "_compiled", lambda: compiled)
    out = -torch.inf
    logits = torch.tensor(
        [[out, out, 0.0, 0.0], [2.0, 1.0, out, out], [0.0, 1.0, torch.nan, 2.0], [3.0, 1.0, 0.5, 0.0]]
    )
    gold = torch.tensor([2, 1, 0, 3])

    def run(top: int) -> Any:
        running = predictions.begin(logits.gather(1, gold[:, None])[:, 0], gold, top)
        for start in (0, 2):
            running.take(logits[:, start : start + 2], start)
        return running

    found, nll = run(1).all(torch.zeros(4)), run(0).nll()
    good = torch.tensor([0, 1, 3])
    compare(
        predictions.Predictions(**{name: value[good] for name, value in vars(found).items()}), logits[good], gold[good]
    )
    assert found.rank[good].tolist() == [1, 2, 4]  # equal logits are not above
    assert nll[2].isnan() and found.nll[2].isnan() and found.entropy[2].isnan() and nll[good].isfinite().all()


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 100))
def test_batches_hold_every_sequence_once_within_the_bound(lengths: list[int], bound: int) -> None:
    made = batches(np.array(lengths, np.int64), bound)
    assert sorted(place for batch in made for place in batch.tolist()) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) and (len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= bound)
    flat = [(lengths[place], place) for batch in made for place in batch.tolist()]
    assert flat == sorted(flat)


def test_a_batch_too_large_for_the_gpu_is_halved() -> None:
    import torch

    def run(batch: NDArray[np.int64]) -> list[int]:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("full")
        return cast("list[int]", batch.tolist())

    assert [place for part in with_halving(run, np.arange(7)) for place in part] == list(range(7))

    def never(batch: NDArray[np.int64]) -> list[int]:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(ModelError, match="one sequence alone"):
        list(with_halving(never, np.arange(3)))


def test_lengths_count_what_the_trainer_sees(ref: ModelRef, tmp_path: Path) -> None:
    short = dataclasses.replace(ref, max_tokens=25)
    answers = [tiny.chat("", text)[1:] for text in ("a b c", "a")]
    pair = tiny.make_row(tiny.chat("one two"), kind="pair", chosen=answers[0], rejected=answers[1])
    rows = [*ROWS, pair, tiny.make_row(tiny.chat("x y"), kind="prompt")]
    got = measure(Lengths(model=short), rows, tmp_path)
    for place, row in enumerate(rows):  # preference tuning sees both sides of a pair
        sides = [render(row, short, side=side) for side in (("chosen", "rejected") if row is pair else ("chosen",))]
        assert got["tokens"][place] == sum(len(one.ids) for one in sides) <= 25 * len(sides)
        assert got["full_tokens"][place] == sum(one.full_tokens for one in sides)
        assert got["response_tokens"][place] == sum((one.turn >= 0).sum() for one in sides)
        assert got["reason"][place] == sides[0].reason
    first = ROWS[0].messages
    assert got["characters"][0] == sum(len(message["content"]) for message in first)
    assert got["words"][0] == sum(len(message["content"].split()) for message in first)
    assert got["turns"][0] == sum(message["role"] == "assistant" for message in first)
    assert (got["characters"][-2], got["response_characters"][-2], got["words"][-2], got["turns"][-2]) == (12, 5, 5, 1)
    assert got["turns"][-1] == 0 and got["reason"][-1] == Reason.NEEDS_ANSWER


@pytest.mark.real
def test_a_real_model_on_real_rows(real_data: Path, real_models: Path, tmp_path: Path) -> None:
    import gzip
    import itertools
    import json

    ref = ModelRef(name=str(real_models / "base-4m"), dtype="float32", max_tokens=256)
    rows = []
    for name in ("flan_cot_gsm8k", "lima_1k", "oasst1_zh_sft", "glaive_toolcall_en_demo", "alpaca_longest_1k"):
        with gzip.open(real_data / "pool" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            for line in itertools.islice(file, 4):
                messages = [{key: m[key] for key in ("role", "content")} for m in json.loads(line)["messages"]]
                rows.append(tiny.make_row(messages))
    got = measure(Tokens(model=ref, loss="all", alone=True), rows, tmp_path)
    model = open_model(ref, "cpu")
    for place, row in enumerate(rows):
        want = per_row(model, row, ref)
        mine = slice(got["nll_offsets"][place], got["nll_offsets"][place + 1])
        np.testing.assert_allclose(got["nll"][mine], want["nll"][1:], rtol=1e-4, atol=1e-4)
        paired = np.isfinite(want["alone"])
        np.testing.assert_allclose(got["alone_nll_sum"][place], want["alone"][paired].sum(), rtol=1e-4)
