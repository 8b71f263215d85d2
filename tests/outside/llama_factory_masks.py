"""LLaMA-Factory's own preprocessing on a data set: loader, template, processor, collator; imports nothing of tamis.

    python llama_factory_masks.py OUT CONFIG...

A CONFIG is JSON: `model`, `dataset_dir`, `dataset`, `stage`, `cutoff_len`. No template is named, so that LLaMA-Factory
reads that of the tokenizer. Runs under an interpreter that has LLaMA-Factory. Writes JSON: the versions and, for every
config, ids and labels of its rows.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import sys
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"DISABLE_VERSION_CHECK": "1"}
if importlib.util.find_spec("torchaudio") is None:  # imported for sound alone, and not to be had for torch without CUDA
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)


def rows_of(config: dict[str, Any], work: Path) -> list[dict[str, Any]]:
    """The rows as they are trained, each on its own through the collator: nothing is padded then."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import AutoTokenizer, Seq2SeqTrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(config["model"], padding_side="right")
    model_args = ModelArguments(model_name_or_path=config["model"], cache_dir=str(work / "cache"))
    data_args = DataArguments(
        dataset=config["dataset"],
        dataset_dir=config["dataset_dir"],
        cutoff_len=config["cutoff_len"],
        overwrite_cache=True,
        packing=False,
    )
    training_args = Seq2SeqTrainingArguments(output_dir=str(work / "out"), report_to=[], use_cpu=True)
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    stage = config["stage"]
    made = get_dataset(template, model_args, data_args, training_args, stage, tokenizer)["train_dataset"]
    if stage != "sft":
        return [{name: value for name, value in row.items() if value is not None} for row in made]
    collator = SFTDataCollatorWith4DAttentionMask(template=template, tokenizer=tokenizer, label_pad_token_id=-100)
    batches = (collator([row]) for row in made)
    return [{"ids": one["input_ids"][0].tolist(), "labels": one["labels"][0].tolist()} for one in batches]


if __name__ == "__main__":
    out, *configs = (Path(name) for name in sys.argv[1:])
    versions = {name: version(name) for name in ("llamafactory", "transformers", "datasets", "torch")}
    settings = [json.loads(config.read_text(encoding="utf-8")) for config in configs]
    found = {"versions": versions, "rows": [rows_of(one, out.parent) for one in settings]}
    out.write_text(json.dumps(found), encoding="utf-8")
