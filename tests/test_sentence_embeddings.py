"""Law: a sentence encoder's vectors stand in for hidden states, and its content is their identity."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import synthetic
import tiny
import tiny_encoder
from tamis import digests
from tamis.errors import DataError
from tamis.pool import Pool
from tamis.scorers.passes.sentence_embeddings import SentenceEmbeddings
from tamis.values import Machine, Reason
from tamis.vectors.embeddings import of_side
from tamis.vectors.encoders import EncoderRef, text_for
from tamis.views import ShardSignals


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EncoderRef:
    return EncoderRef(name=str(tiny_encoder.make_encoder(tmp_path_factory.mktemp("made") / "encoder")))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    odd = [
        tiny.make_row(tiny.chat("first?"), kind="prompt"),
        tiny.make_row([{"role": "user", "content": "stone"}], kind="text"),
    ]
    return tiny.make_pool(tmp_path_factory.mktemp("pool"), [*tiny.make_rows(4), *odd])


@pytest.mark.skipif(tiny_encoder.ABSENT, reason=tiny_encoder.REASON)
def test_vectors_are_the_encoder_s_mean_of_last_states_one_text_at_a_time(encoder: EncoderRef, pool: Pool) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    found = SentenceEmbeddings(encoder=encoder).measure(pool.shards[0], ShardSignals(pool.shards[0], {}), Machine())
    tokenizer, model = AutoTokenizer.from_pretrained(encoder.name), AutoModel.from_pretrained(encoder.name).eval()
    for row, vector in zip(pool.shards[0].read()[:5], found["pooled"], strict=False):
        ids = tokenizer(text_for(row, "instruction"), return_tensors="pt", truncation=True, max_length=48)["input_ids"]
        with torch.inference_mode():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert found["reason"].tolist() == [0, 0, 0, 0, 0, Reason.WRONG_KIND] and not found["pooled"][5].any()


def test_texts_of_a_row(pool: Pool) -> None:
    rows = pool.shards[0].read()
    last = rows[0].messages[-1]["content"]
    assert text_for(rows[0], "response") == last
    assert text_for(rows[0], "whole") == f"{text_for(rows[0], 'instruction')}\n{last}"
    assert text_for(rows[4], "response") is Reason.NEEDS_ANSWER and text_for(rows[5], "whole") == "stone"
    assert text_for(tiny.make_row(tiny.chat(" ", "x")), "instruction") is Reason.TOO_SHORT


def test_every_file_of_the_encoder_and_its_settings_are_in_the_identity(encoder: EncoderRef, tmp_path: Path) -> None:
    def identity(**settings: object) -> str:
        ref = EncoderRef(**{"name": str(tmp_path / "other"), **settings})  # type: ignore[arg-type]
        return digests.of_component(SentenceEmbeddings(encoder=ref))

    made = tiny_encoder.make_encoder(tmp_path / "other")
    same = digests.of_component(SentenceEmbeddings(encoder=encoder))
    assert identity() == same and identity(prefix="query: ") != same != identity(max_tokens=8)
    pooling = json.loads((made / "1_Pooling/config.json").read_text(encoding="utf-8"))
    (made / "1_Pooling/config.json").write_text(json.dumps({**pooling, "x": 1}), encoding="utf-8")
    assert identity() != same


def test_vectors_of_two_encoders_are_not_compared(tmp_path: Path) -> None:
    target = synthetic.view(tmp_path / "t", synthetic.rows(3), {"tokens": {"pooled": np.eye(3, dtype=np.float32)}})
    made = {"tokens": {"pooled": np.eye(3, 5, dtype=np.float32)}}
    with pytest.raises(DataError, match="both must come from one model"):
        of_side(synthetic.view(tmp_path / "p", synthetic.rows(3), made, target=target), "target", "got-d")
