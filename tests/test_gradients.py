"""Law: batched per-example gradients are the gradients of batch-1 backward passes, to the last digits of float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from tamis.errors import ModelError
from tamis.gradient.per_example import example_losses, linear_layers, lora_layers, pad, per_example
from tamis.models import ModelRef, open_model
from tiny import make_adapter, make_model

Tokens = tuple[Any, Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("gradients")
    base = make_model(root / "base")
    return base, make_adapter(base, root / "adapter", rank=3)


def double(base: Path, adapter: Path | None = None) -> Any:
    model: Any = open_model(ModelRef(name=str(base), adapter=str(adapter) if adapter else None), "cpu").double()
    return model.requires_grad_(False)


def ragged(n: int, seed: int = 0) -> list[Tokens]:
    """Rows of very different lengths; labels with holes, at the very end, at the very start, or one alone."""
    draw = np.random.default_rng(seed)
    rows = []
    for length in draw.integers(3, 30, n):
        labels = draw.random(length) < 0.4
        labels[draw.integers(1, length)] = True
        rows.append((draw.integers(0, 380, length).astype(np.int32), labels))
    rows[0][1][:] = False
    rows[0][1][-1] = True
    rows[1][1][:] = True
    return rows


def plain(model: Any, names: list[str], row: Tokens) -> tuple[float, dict[str, torch.Tensor]]:
    """Oracle: one row, full logits, autograd on the parameters."""
    parameters = dict(model.named_parameters())
    wanted = [parameters[name].requires_grad_(True) for name in names]
    ids = torch.tensor(row[0][None].astype(np.int64))
    labels = torch.where(torch.tensor(row[1])[None], ids, -100)
    logits = model(input_ids=ids).logits
    loss = functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)
    gradients = torch.autograd.grad(loss, wanted)
    for parameter in wanted:
        parameter.requires_grad_(False)
    return float(loss.detach()), dict(zip(names, gradients, strict=True))


def batched(model: Any, layers: dict[str, Any], rows: list[Tokens]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    found: dict[str, torch.Tensor] = {}
    ids, labels = pad(rows, "cpu")
    losses = per_example(model, layers, ids, labels, lambda name, gradient: found.update({name: gradient.clone()}))
    return losses, found


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_batched_gradients_are_batch_one_gradients(folders: tuple[Path, Path], kind: str) -> None:
    base, adapter = folders
    model = double(base, adapter if kind == "lora" else None)
    layers = lora_layers(model) if kind == "lora" else linear_layers(model)
    rows = ragged(9)
    losses, found = batched(model, layers, rows)
    assert set(found) == set(layers) and set(layers) <= {name for name, _ in model.named_parameters()}
    for place, row in enumerate(rows):
        loss, wanted = plain(model, list(layers), row)
        assert float(losses[place]) == pytest.approx(loss, rel=1e-12)
        scale = max(float(gradient.abs().max()) for gradient in wanted.values())
        assert scale > 0
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name][place], gradient, rtol=1e-9, atol=1e-12 * scale)


def test_padding_and_tokens_without_label_contribute_exact_zeros(folders: tuple[Path, Path]) -> None:
    model = double(*folders)
    layers = lora_layers(model)
    rows = ragged(4)
    ids, labels = pad(rows, "cpu")
    other = ids.clone()
    for line, (tokens, _) in enumerate(rows):
        other[line, len(tokens) :] = 7  # another padding token
    results = []
    for tokens in (ids, other):
        kept: dict[str, torch.Tensor] = {}
        per_example(model, layers, tokens, labels, lambda name, gradient, kept=kept: kept.update({name: gradient}))  # type: ignore[misc]
        results.append(kept)
    for name in layers:
        assert torch.equal(results[0][name], results[1][name])


def test_no_parameter_gets_a_gradient_and_no_hook_is_left(folders: tuple[Path, Path]) -> None:
    model = double(*folders)
    batched(model, lora_layers(model), ragged(2))
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_layers_come_last_first_and_one_at_a_time(folders: tuple[Path, Path]) -> None:
    model = double(*folders)
    layers = lora_layers(model)
    order: list[str] = []
    ids, labels = pad(ragged(3), "cpu")
    per_example(model, layers, ids, labels, lambda name, _: order.append(name))
    depth = [int(name.split("layers.")[1].split(".")[0]) for name in order]
    assert depth == sorted(depth, reverse=True) and len(order) == len(set(order)) == len(layers)


def test_losses_are_means_over_labels_and_selected_logits_are_the_full_ones(folders: tuple[Path, Path]) -> None:
    model = double(*folders)
    rows = ragged(5, seed=3)
    ids, labels = pad(rows, "cpu")
    with torch.no_grad():
        found = example_losses(model, ids, labels)
        logits = model(input_ids=ids).logits.log_softmax(-1)
    for place, (tokens, marks) in enumerate(rows):
        labelled = [t for t in range(1, len(tokens)) if marks[t]]
        mean = -sum(float(logits[place, t - 1, tokens[t]]) for t in labelled) / len(labelled)
        assert float(found[place]) == pytest.approx(mean, rel=1e-12)


def test_models_without_lora_are_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ModelError, match="no LoRA module"):
        lora_layers(double(folders[0]))
