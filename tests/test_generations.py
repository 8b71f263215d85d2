"""Laws of the generations pass: every sample is its own draw from the model, whoever is in the batch; servers too."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tamis
import tiny
from tamis import digests, draws
from tamis.answers.generating import pick
from tamis.answers.sampling import Samples, Sampling, Server, asked, stream
from tamis.errors import ModelError
from tamis.models import ModelRef, cached_model, open_tokenizer
from tamis.pool import Pool
from tamis.rendering import generation_prompt
from tamis.scorers.passes.generations import Generations
from tamis.values import Machine, Row
from tamis.views import ShardSignals

SAMPLING = Sampling(samples=3, max_tokens=7, temperature=0.9, top_p=0.8, greedy=True, seed=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(name=str(tiny.make_model(tmp_path_factory.mktemp("model"))), max_tokens=512, dtype="float32")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    several = tiny.chat("seven?", "eleven", "and twelve?")
    pair = tiny.make_row(several, kind="pair", chosen=tiny.chat("", "a")[1:], rejected=tiny.chat("", "b")[1:])
    return [*tiny.make_rows(3, seed=2), pair, tiny.make_row(tiny.chat("a text"), kind="text")]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> Pool:
    return tiny.make_pool(tmp_path_factory.mktemp("pool"), rows)


def measured(pool: Pool, model: ModelRef, sampling: Sampling, on: Machine | None = None) -> dict[str, NDArray[Any]]:
    shard = pool.shards[0]
    made = Generations(model=model, sampling=sampling).measure(shard, ShardSignals(shard, {}), on or Machine())
    return dict(made)


@pytest.fixture(scope="module")
def signal(pool: Pool, model: ModelRef) -> dict[str, NDArray[Any]]:
    return measured(pool, model, SAMPLING)


def written(prompt: list[int], model: ModelRef, bits: int | None) -> tuple[list[int], float]:
    """One answer, slowly: the whole text through the model for every token, nothing kept, nobody beside it."""
    import torch

    opened = cached_model(model, "cpu")
    end = open_tokenizer(model.name).eos_token_id
    ids, nll = list(prompt), 0.0
    for step in range(SAMPLING.max_tokens):
        with torch.inference_mode():
            logits = opened(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()
        logs = logits - np.logaddexp.reduce(logits)
        if bits is None:
            token = int(logits.argmax())
        else:
            heated = np.exp(logits / SAMPLING.temperature - (logits / SAMPLING.temperature).max())
            heated /= heated.sum()
            order = np.argsort(-heated, kind="stable")
            kept = order[: int(np.searchsorted(np.cumsum(heated[order]), SAMPLING.top_p)) + 1]
            share = np.zeros_like(heated)
            share[kept] = heated[kept]
            uniform = draws.uniform(draws.at(np.array([bits], np.uint64), step))[0]
            token = int(np.flatnonzero(np.cumsum(share) > uniform * share.sum())[0])
        nll -= float(logs[token])
        ids.append(token)
        if token == end:
            break
    return ids[len(prompt) :], nll


def test_every_sample_is_what_a_lone_draw_from_the_model_gives(
    signal: dict[str, NDArray[Any]], rows: list[Row], model: ModelRef
) -> None:
    samples, tokenizer = Samples(signal), open_tokenizer(model.name)
    assert signal["count"].tolist() == [3, 3, 3, 3, 0] and signal["reason"].tolist() == [0, 0, 0, 0, 4]
    for place, row in enumerate(rows[:4]):
        prompt = generation_prompt((*asked(row), {"role": "assistant", "content": ""}), model)
        for number, text in enumerate(samples.texts(place)):
            ids, nll = written(prompt, model, stream(SAMPLING.seed, row.key, number))
            said = str(tokenizer.decode(ids, skip_special_tokens=True))
            assert text == said.encode("utf-8", "replace").decode()
            assert samples.of("tokens", place)[number] == len(ids)
            assert samples.of("nll", place)[number] == pytest.approx(nll, rel=1e-4)
            closed = ids[-1] == tokenizer.eos_token_id
            assert samples.of("finish", place)[number] == (1 if closed else 2)
        ids, nll = written(prompt, model, None)
        assert samples.greedy(place) == tokenizer.decode(ids, skip_special_tokens=True)
        assert signal["greedy_nll"][place] == pytest.approx(nll, rel=1e-4)


def test_a_pair_is_asked_its_last_question_and_a_chat_that_before_its_answer(rows: list[Row]) -> None:
    assert asked(rows[3]) == rows[3].messages and asked(rows[0]) == rows[0].messages[:-1]


def test_more_samples_begin_with_the_fewer_and_another_seed_gives_others(
    signal: dict[str, NDArray[Any]], pool: Pool, model: ModelRef
) -> None:
    fewer = Samples(measured(pool, model, dataclasses.replace(SAMPLING, samples=1, greedy=False)))
    assert all(fewer.texts(row) == Samples(signal).texts(row)[:1] for row in range(4))
    assert fewer.greedy(0) is None
    other = Samples(measured(pool, model, dataclasses.replace(SAMPLING, samples=1, greedy=False, seed=6)))
    assert any(other.texts(row) != fewer.texts(row) for row in range(4))


def test_draws_have_the_shares_of_the_model() -> None:
    import torch

    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(4000, 1)
    uniform = torch.as_tensor((np.arange(4000) + 0.5) / 4000)
    for sampling, shares in (
        (Sampling(), (0.5, 0.3, 0.15, 0.05)),
        (Sampling(top_p=0.79), (0.625, 0.375, 0, 0)),
        (Sampling(temperature=0.5), np.array([0.25, 0.09, 0.0225, 0.0025]) / 0.365),
    ):
        drawn = np.bincount(pick(logits, uniform, sampling).numpy(), minlength=4) / 4000
        assert np.abs(drawn - np.asarray(shares)).max() <= 1 / 4000 + 1e-9


def test_early_stopping_draws_less_and_keeps_the_beginning(
    signal: dict[str, NDArray[Any]], pool: Pool, model: ModelRef
) -> None:
    sampling = dataclasses.replace(SAMPLING, stop="beta", confidence=0.75, answers="exact", greedy=False)
    stopped = Generations(model=model, sampling=sampling)
    assert "biased" in stopped.notes()[0]
    some, whole = Samples(measured(pool, model, sampling)), Samples(signal)
    assert some.signal["count"].tolist() == [1, 1, 1, 1, 0]
    assert all(some.texts(row) == whole.texts(row)[:1] for row in range(4))


def test_scorers_share_one_pass_settings_given_to_one_serve_all_and_other_settings_draw_anew(
    pool: Pool, model: ModelRef, tmp_path: Path
) -> None:
    own = {"sampling": {"samples": 2, "max_tokens": 4}, "verify": {"by": "exact"}}
    found = tamis.score(pool, {"semantic-entropy": {}, "vps": {}, "pass-rate": own}, model=model, work=tmp_path)
    assert np.nanmax(found.columns[f"pass-rate.n@{model.label}"].values) == 2
    store = found.work.store
    drawn = len(list(store.entries("signal")))
    again = tamis.score(pool, {"dart": own, "sampled-entropy": {}}, model=model, work=tmp_path)
    assert again.columns and len(list(store.entries("signal"))) == drawn
    fewer = {**own, "sampling": {"samples": 1, "max_tokens": 4}}
    found = tamis.score(pool, {"pass-rate": fewer}, model=model, work=tmp_path)
    assert np.nanmax(found.columns[f"pass-rate.n@{model.label}"].values) == 1, "not the two of another run"


# servers


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    script = Path(__file__).with_name("answering_server.py")
    process = subprocess.Popen([sys.executable, str(script), "--key", "open"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MY_KEY", "open")
    monkeypatch.setattr("tamis.answers.completions.PAUSE_SECONDS", 0.01)


def asked_of(at: str, folder: Path, by: ModelRef, *questions: str, **given: Any) -> Samples:
    server = Server(**{"url": at, "model": "canned", "key": "MY_KEY", "retries": 2, **given})
    rows = [tiny.make_row(tiny.chat(text, "7"), key=str(place)) for place, text in enumerate(questions)]
    sampling = Sampling(samples=2, temperature=0.5, top_p=0.9, max_tokens=9, greedy=True, seed=3, server=server)
    return Samples(measured(tiny.make_pool(folder, rows), by, sampling))


def test_a_server_gives_samples_that_are_stored_like_the_others(url: str, tmp_path: Path, model: ModelRef) -> None:
    samples = asked_of(url, tmp_path, model, "one", "refuse this", "quiet", "busy 2")
    assert samples.signal["reason"].tolist() == [0, 14, 0, 0] and samples.signal["count"].tolist() == [2, 0, 2, 2]
    for row in (0, 2, 3):
        seeds = [stream(3, str(row), number) & 0x7FFFFFFF for number in range(2)]
        assert samples.texts(row) == [f"seed {seed} heat 0.5 top 0.9 most 9" for seed in seeds]
        assert samples.greedy(row) == "seed 0 heat 0 top 1 most 9"
    assert samples.of("nll", 0).tolist() == [2.0, 2.0] and samples.of("tokens", 0).tolist() == [2, 2]
    assert np.isnan(samples.of("nll", 2)).all() and samples.of("tokens", 2).tolist() == [7, 7]
    assert samples.of("finish", 0).tolist() == [1, 1]


def test_requests_under_way_are_bounded(url: str, tmp_path: Path, model: ModelRef) -> None:
    asked_of(url, tmp_path, model, *[f"question {place}" for place in range(12)], concurrency=3)
    with urllib.request.urlopen(url.removesuffix("/v1") + "/seen") as answer:
        assert json.load(answer)["most"] <= 8, "the default of other tests of this server, at most"


@pytest.mark.parametrize(
    ("given", "question", "said"),
    [
        ({"key": None}, "one", "answers 401.*`key`"),
        ({"key": "NOT_SET_ANYWHERE"}, "one", "'NOT_SET_ANYWHERE', which is not set"),
        ({"model": "other"}, "one", "404.*other does not exist"),
        ({}, "refuse", "refuses all 1 requests.*too long"),
        ({}, "stray", "does not answer as chat completions do"),
        ({}, "busy 9", "answers 503.*tried 3 times"),
        ({"url": "http://127.0.0.1:9/v1"}, "one", "cannot be reached.*tried 3 times"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_clear_error(
    url: str, tmp_path: Path, model: ModelRef, given: dict[str, Any], question: str, said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        asked_of(url, tmp_path, model, question, **given)


def test_the_identity_of_served_samples_is_url_and_name_and_the_notes_say_so(url: str, model: ModelRef) -> None:
    def identity(**given: Any) -> str:
        server = Server(**{"url": url, "model": "canned", **given})
        return digests.of_component(Generations(model=model, sampling=Sampling(server=server)))

    assert identity() == identity(concurrency=1, retries=9, key="MY_KEY") != identity(model="other")
    server = Server(url=url, model="canned")
    assert "known by these names" in Generations(model=model, sampling=Sampling(server=server)).notes()[0]
