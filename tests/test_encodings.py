"""Law: what is stored of a vector gives back its products, within the error that its encoding promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tamis.errors import StoreError
from tamis.gradient import encodings
from tamis.gradient.encodings import Encoding, blocks, decode, encode, products, row_bytes, storage, width

NAMES: tuple[Encoding, ...] = ("float16", "int8", "bit")


def vectors(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Unit rows, as projected gradients are."""
    made: torch.Tensor = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    scaled: torch.Tensor = made / made.norm(dim=1, keepdim=True)
    return scaled


def back(x: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    stored, scales = encode(x, encoding)
    return decode(torch.from_numpy(stored), encoding, torch.empty_like(x)) * torch.from_numpy(scales)[:, None]


@pytest.mark.parametrize("encoding", NAMES)
def test_a_row_takes_the_bytes_that_are_said(encoding: Encoding) -> None:
    stored, scales = encode(vectors(3, 20), encoding)
    assert stored.shape == (3, width(encoding, 20)) and stored.dtype == storage(encoding)
    assert scales.shape == (3,) and scales.dtype == np.float32
    assert (
        stored[0].nbytes + scales[0].nbytes
        == row_bytes(encoding, 20)
        == {"float16": 44, "int8": 24, "bit": 7}[encoding]
    )


def test_numbers_come_back_within_half_a_step() -> None:
    x = vectors(40, 512)
    largest = x.abs().amax(1, keepdim=True)
    assert ((back(x, "float16") - x).abs() <= largest * 2**-11).all()
    assert ((back(x, "int8") - x).abs() <= largest / 127 * 0.5001).all()
    assert (back(x, "bit").sign() == x.sign()).all()


@pytest.mark.parametrize("factor", [1e-30, 1e-9, 1.0, 1e9])
@pytest.mark.parametrize("encoding", NAMES)
def test_rows_are_scaled_before_they_are_cut(encoding: Encoding, factor: float) -> None:
    x = vectors(5, 64)
    torch.testing.assert_close(back(x * factor, encoding) / factor, back(x, encoding), rtol=1e-3, atol=1e-5)


def test_one_bit_keeps_the_product_of_a_row_with_itself() -> None:
    x = vectors(6, 333)
    torch.testing.assert_close((back(x, "bit") * x).sum(1), torch.ones(6), rtol=1e-5, atol=0)


@pytest.mark.parametrize("encoding", NAMES)
def test_a_row_of_zeros_has_products_of_zero(encoding: Encoding) -> None:
    stored, scales = encode(torch.zeros(2, 24), encoding)
    assert not products(stored, encoding, torch.ones(1, 3, 24), scales[:, None]).any()


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("encoding", NAMES)
def test_products_are_those_of_what_is_stored(
    encoding: Encoding, mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "BLOCK_NUMBERS", 72 * 5)  # five rows a block, and a rest
    rows, checkpoints, dim = 23, 2, 72
    parts = [vectors(rows, dim, seed) for seed in range(checkpoints)]
    coded = [encode(part, encoding) for part in parts]
    features: NDArray[np.generic] = np.concatenate([stored for stored, _ in coded], axis=1)
    scales = np.stack([scale for _, scale in coded], axis=1)
    if mapped:
        np.save(tmp_path / "features.npy", features)
        features = np.load(tmp_path / "features.npy", mmap_mode="r")
    queries = torch.stack([vectors(4, dim, 7 + seed) for seed in range(checkpoints)])
    found = products(features, encoding, queries, scales)
    assert found.shape == (rows, checkpoints, 4) and found.dtype == np.float64
    for number, part in enumerate(parts):
        wanted = back(part, encoding).double() @ queries[number].double().T
        np.testing.assert_allclose(found[:, number], wanted.numpy(), atol=1e-6)


def test_blocks_of_a_mapped_array_are_read_and_not_mapped(tmp_path: Path) -> None:
    whole = np.arange(77 * 5, dtype=np.int8).reshape(77, 5)
    np.save(tmp_path / "a.npy", whole)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    read = [(start, block.copy(), type(block)) for start, block in blocks(mapped, 10)]
    assert [start for start, _, _ in read] == list(range(0, 77, 10)) and {kind for _, _, kind in read} == {np.ndarray}
    np.testing.assert_array_equal(np.concatenate([block for _, block, _ in read]), whole)
    with (tmp_path / "a.npy").open("r+b") as file:
        file.truncate(300)
    with pytest.raises(StoreError, match="ends before its last row"):
        list(blocks(mapped, 10))
