"""A subset as files for somebody else's trainer. What a form cannot carry is said in `notes`, never dropped silently.

| form | what is written |
|---|---|
| jsonl | key, source, kind, messages (or prompt, chosen, rejected), tools, label, meta, weight, masks, token weights |
| parquet | the pool's own columns (messages as JSON text), rank, weight, masks, token weights |
| hf | a folder with Parquet, a dataset card and its Croissant description: `datasets.load_dataset(folder)` reads it |
| trl | what TRL's trainers read: SFT, DPO and KTO columns; token ids and labels |
| axolotl | messages with `train` and `train_detail`; a `datasets:` block; token ids where its rule masks otherwise |
| llama-factory | sharegpt JSON (SFT, `ranking`, `kto_tag`) and its entry in `dataset_info.json` |
| original | the untouched input rows, byte for byte |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.catalogue import nearest
from tamis.errors import DataError, RecipeError
from tamis.exporting import axolotl, hub_folder, llama_factory, tables, trl
from tamis.exporting.chosen import Chosen, Files, Notes
from tamis.exporting.provenance import Provenance
from tamis.pool import Pool
from tamis.remote import is_remote, writable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.masks import MaskReport
    from tamis.models import ModelRef
    from tamis.values import TokenWeights

_WRITERS: dict[str, Callable[[Chosen, Files, Notes], None]] = {
    "jsonl": tables.write_jsonl,
    "parquet": tables.write_parquet,
    "hf": hub_folder.write,
    "trl": trl.write,
    "axolotl": axolotl.write,
    "llama-factory": llama_factory.write,
    "original": tables.write_original,
}
FORMS = tuple(_WRITERS)
FOR_TRAINERS = ("trl", "axolotl", "llama-factory")  # forms whose rows are linted when a model is given
_WEIGHED = ("jsonl", "parquet", "hf")  # forms that carry the weight of every token; the others masks at most
_MASKED = ("trl", "axolotl")


@dataclass(frozen=True)
class Export:
    """What was written: the main file, all files, how many rows they hold, and what they do not carry.

    Addresses where it was sent to remote storage.

    `masks`: what the mask linter found, for the forms that it runs on; else None.
    """

    path: Path | str
    rows: int
    notes: tuple[str, ...] = ()
    files: tuple[Path | str, ...] = ()
    masks: MaskReport | None = None


def export(
    pool: Pool,
    positions: Sequence[int] | NDArray[np.int64],
    out: str | Path,
    form: str,
    *,
    weights: Sequence[float] | NDArray[np.float32] | None = None,
    tokens: TokenWeights | None = None,
    model: ModelRef | None = None,
    scored_with: ModelRef | None = None,
    about: Provenance | None = None,
) -> Export:
    """Write the rows at `positions`, in this order, to `out` (a path, or an address: s3://…), whole or not at all.

    `weights`: one training weight a row; `tokens`: weights of response tokens, which need a model. `model` is the one
    that will be trained: with it the forms carry turn masks and token ids with labels that equal tamis's token for
    token, and the mask linter looks at the rows for trainers, against the template of `scored_with` if that is given.
    `about`: how the rows were chosen, for the card of the form that has one.

    Raises RecipeError for an unknown form, DataError for weights that do not fit, also those of other tokens than
    `model` would be trained on, or a form that can carry none of the rows.
    """
    check_form(form)
    if weights is not None and len(weights) != len(positions):
        raise DataError(f"got {len(weights)} weights for {len(positions)} rows; expected one for each")
    if tokens is not None and len(tokens) != len(positions):
        raise DataError(f"got token weights of {len(tokens)} rows for {len(positions)} rows; expected those of each")
    places = [int(place) for place in positions]
    linter = _linter(form, model, scored_with)
    given = None if weights is None else [float(weight) for weight in weights]
    chosen = Chosen(pool, places, given, None if form == "original" else model, linter, tokens, about or Provenance())
    with writable(out) as local:
        files, notes = Files(local, out), Notes()
        try:
            _WRITERS[form](chosen, files, notes)
            notes.say(not_carried(form, tokens, chosen.model), tokens is not None)
            notes.check(form, len(places))
            written = files.commit()
        finally:
            files.abandon()
    found = None if linter is None else linter.report()
    lines = notes.lines() + [f"masks: {finding}" for finding in (found.findings if found else ())]
    there = tuple(f"{files.folder}/{path.relative_to(local.parent).as_posix()}" for path in written)
    return Export(out, notes.written, tuple(lines), there if is_remote(out) else written, found)


def not_carried(form: str, tokens: TokenWeights | None, model: ModelRef | None) -> str:
    """What of token weights a form does not carry, as a sentence; empty where it carries all."""
    if tokens is None:
        return ""
    if form not in (*_WEIGHED, *_MASKED):
        return f"no token weights: {form} has no place for them, and every response token is trained alike"
    if model is None:
        return "no token weights: they belong to token ids, so name the model that will be trained"
    if form in _MASKED and not tokens.masks:
        return f"the trainers of {form} weigh no tokens: those of weight 0 are masked, all others count the same"
    return ""


def check_form(form: Any) -> None:
    """Raise RecipeError, with the nearest name, where there is no such form."""
    if form not in FORMS:
        raise RecipeError(
            f"there is no export form {form!r}{nearest(str(form), list(FORMS))} Known: {', '.join(FORMS)}"
        )


def _linter(form: str, model: ModelRef | None, scored_with: ModelRef | None) -> Any:
    if model is None or form not in FOR_TRAINERS:
        return None
    from tamis.masks import Linter

    return Linter(model, scored_with=scored_with)
