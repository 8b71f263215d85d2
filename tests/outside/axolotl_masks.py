"""Axolotl's own preprocessing on a config: what `axolotl preprocess` does, and its collator; imports nothing of tamis.

    python axolotl_masks.py OUT CONFIG...

Runs under an interpreter that has Axolotl. Writes JSON: the versions and, for every config, ids and labels of its rows.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "AXOLOTL_IS_PREPROCESS": "1"}
os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1"}


def collated(dataset: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Every row on its own through the collator that Axolotl trains with: nothing is padded then."""
    from axolotl.utils.collators import DataCollatorForSeq2Seq

    collator = DataCollatorForSeq2Seq(tokenizer, return_tensors="np")
    columns = ("input_ids", "attention_mask", "labels")
    made = (collator([{name: list(row[name]) for name in columns}]) for row in dataset)
    return [{"ids": one["input_ids"][0].tolist(), "labels": one["labels"][0].tolist()} for one in made]


def rows_of(config: str) -> list[dict[str, Any]]:
    """The rows as they are trained; preference rows as the strings that Axolotl gives to TRL."""
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets, load_preference_datasets
    from axolotl.loaders import load_tokenizer

    cfg = load_cfg(config)
    if cfg.rl:
        return [dict(row) for row in load_preference_datasets(cfg=cfg).train_dataset]
    return collated(load_datasets(cfg=cfg).train_dataset, load_tokenizer(cfg))


if __name__ == "__main__":
    out, *configs = sys.argv[1:]
    versions = {name: version(name) for name in ("axolotl", "transformers", "datasets", "torch")}
    found = {"versions": versions, "rows": [rows_of(config) for config in configs]}
    Path(out).write_text(json.dumps(found), encoding="utf-8")
