"""Law: projections are linear, unbiased, of the promised variance, and the same bits for whatever batch and block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tamis.errors import ModelError, RecipeError
from tamis.gradient import projections
from tamis.gradient.counters import below, bits, key_of, signs
from tamis.gradient.projections import Kind, Projection, hadamard

KINDS: tuple[Kind, ...] = ("sjlt", "rotation", "srht", "rademacher", "logra")
SIZES = {"a": 300, "b": 64, "c": 1}  # layers: longer than dim, as long, and of one number
SHAPES = {"a": (20, 15), "b": (8, 8), "c": (1, 1)}
DIM = 64


def sketched(projection: Projection, x: torch.Tensor, stream: int = 0, order: str = "abc") -> torch.Tensor:
    """Project rows (b, 365), layer by layer in the order given."""
    sketch = projection.sketch(stream, "cpu", SHAPES)
    parts = dict(zip(SIZES, x.split(list(SIZES.values()), 1), strict=True))
    sums = sketch.start(len(x))
    for name in order:
        sketch.add(name, parts[name].clone(), sums)
    return sketch.finish(sums)


def matrix(projection: Projection, stream: int = 0) -> torch.Tensor:
    """The whole projection, (365, dim), from the unit vectors."""
    return sketched(projection, torch.eye(sum(SIZES.values())), stream)


def splitmix(state: int) -> int:
    """Oracle: SplitMix64's finaliser in Python's whole numbers."""
    mask = (1 << 64) - 1
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


def test_bits_are_those_of_splitmix64() -> None:
    # seed 0 gives 0xe220a8397b1dcdaf first: the published test vector of the generator
    assert int(bits(0, torch.tensor([1]))[0]) % (1 << 64) == 0xE220A8397B1DCDAF
    key = key_of("sjlt", 0, 1, "layer")
    counters = [0, 1, 5, 2**31, 2**40 + 3]
    found = [int(number) % (1 << 64) for number in bits(key, torch.tensor(counters))]
    assert found == [splitmix((key + counter * 0x9E3779B97F4A7C15) % (1 << 64)) for counter in counters]
    assert len({key_of(0, 1, "a"), key_of(0, 1, "b"), key_of(1, 0, "a"), key_of(0, 11, ""), key_of(0, 1, 1)}) == 5


def test_draws_are_uniform_and_a_block_of_signs_is_a_block_of_all_signs() -> None:
    drawn = below(bits(7, torch.arange(200_000)), 50)
    assert int(drawn.min()) == 0 and int(drawn.max()) == 49
    counts = torch.bincount(drawn).double()
    assert float(((counts - 4000) ** 2 / 4000).sum()) < 90  # chi-square of 49 degrees: 99.97 %
    whole = signs(3, 0, 40, 2, "cpu")
    assert whole.shape == (40, 128) and set(whole.unique().tolist()) == {-1.0, 1.0}
    for start, stop in ((0, 1), (7, 19), (39, 40)):
        assert torch.equal(signs(3, start, stop, 2, "cpu"), whole[start:stop])
    first = bits(3, torch.arange(2)).tolist()
    by_hand = [[1.0 - 2.0 * ((word >> place) & 1) for place in range(64)] for word in first]
    assert whole[0].tolist() == by_hand[0] + by_hand[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_projection_is_linear_and_does_not_see_batches_or_the_order_of_layers(kind: Kind) -> None:
    projection = Projection(kind=kind, dim=DIM, nonzeros=4)
    x = torch.randn(9, sum(SIZES.values()), generator=torch.Generator().manual_seed(1))
    whole = sketched(projection, x)
    torch.testing.assert_close(whole, x @ matrix(projection), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([sketched(projection, row[None]) for row in x]), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sketched(projection, x, order="cab"), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_is_what_its_name_says(kind: Kind) -> None:
    found = matrix(Projection(kind=kind, dim=DIM, nonzeros=4))
    torch.testing.assert_close(found.square().sum(1), torch.ones(len(found)), atol=1e-4, rtol=0)  # unit vectors stay so
    entries = (found.abs() > 1e-6).sum(1)
    assert set(entries.tolist()) == {{"sjlt": 4, "rotation": 1, "srht": DIM, "rademacher": DIM, "logra": 16}[kind]}
    if kind == "sjlt":  # one entry in each of the four ranges of buckets
        assert ((found.view(-1, 4, DIM // 4).abs() > 0).sum(2) == 1).all()
    if kind == "rotation":  # the coordinates of one block never meet
        for block in found[: 4 * DIM].split(DIM):
            torch.testing.assert_close(block @ block.T, torch.eye(DIM))
    if kind == "srht":  # a layer no longer than dim is only turned
        torch.testing.assert_close(found[300:364] @ found[300:364].T, torch.eye(64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_are_unbiased_with_a_variance_of_one_over_dim(kind: Kind) -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(2, sum(SIZES.values()), generator=draw)
    x[1] += x[0]
    x /= x.norm(dim=1, keepdim=True)
    exact = float(x[0] @ x[1])
    found = []
    for seed in range(400):
        one, two = sketched(Projection(kind=kind, dim=DIM, seed=seed), x)
        found.append(float(one @ two))
    bound = (1 + exact**2) / DIM  # of a dense projection of unit vectors; the others lie near or below
    assert abs(np.mean(found) - exact) < 4 * (max(bound, float(np.var(found))) / 400) ** 0.5
    if kind != "logra":  # whose sides are small: about √dim instead of dim
        assert 0.5 * bound < np.var(found) < 1.4 * bound
        return
    assert np.var(found) < 8 * bound
    with pytest.raises(ModelError, match="leaves no number"):
        Projection(kind=kind, dim=2).sketch(0, "cpu", SHAPES)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_streams_and_layers_have_matrices_of_their_own(kind: Kind) -> None:
    base = Projection(kind=kind, dim=DIM)
    assert torch.equal(matrix(base), matrix(base))
    assert not torch.equal(matrix(base), matrix(base, stream=1))
    assert not torch.equal(matrix(base), matrix(Projection(kind=kind, dim=DIM, seed=1)))
    assert not torch.equal(matrix(base)[:64], matrix(base)[300:364])


def test_dense_blocks_of_any_size_are_the_same_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    projection = Projection(kind="rademacher", dim=128)
    x = torch.randn(3, sum(SIZES.values()), generator=torch.Generator().manual_seed(3))
    whole = sketched(projection, x)
    sketch: Any = projection.sketch(0, "cpu", SHAPES)
    for numbers in (1, 128 * 7, 128 * 64):
        monkeypatch.setattr(projections, "BLOCK_NUMBERS", numbers)
        torch.testing.assert_close(sketched(projection, x), whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(sketch.matrix("a", 10, 20), sketch.matrix("a", 0, 300)[10:20])


@pytest.mark.parametrize("kind", ["sjlt", "rotation", "srht"])
def test_what_does_not_fit_the_cache_is_drawn_anew(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, sum(SIZES.values()), generator=torch.Generator().manual_seed(4))
    kept = sketched(Projection(kind=kind, dim=DIM), x)
    monkeypatch.setattr(projections, "CACHE_BYTES", 0)
    sketch: Any = Projection(kind=kind, dim=DIM).sketch(0, "cpu", SHAPES)
    assert torch.equal(sketched(Projection(kind=kind, dim=DIM), x), kept)
    sketch.add("a", x[:, :300].clone(), sketch.start(2))
    assert not sketch.kept


def test_a_long_layer_is_transformed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "HADAMARD", 100)
    found = matrix(Projection(kind="srht", dim=DIM))
    torch.testing.assert_close(found.square().sum(1), torch.ones(len(found)), atol=1e-4, rtol=0)
    assert not torch.equal(found[:100], found[100:200])


def test_the_transform_is_hadamards() -> None:
    scipy_order = torch.ones(1, 1)
    for _ in range(7):
        scipy_order = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), scipy_order)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(hadamard(x), x @ scipy_order, atol=1e-4, rtol=1e-5)


def test_settings_that_do_not_fit_are_refused() -> None:
    for settings in ({"dim": 0}, {"nonzeros": 0}, {"dim": 10, "nonzeros": 4}, {"kind": "rademacher", "dim": 100}):
        with pytest.raises(RecipeError):
            Projection(**settings)
