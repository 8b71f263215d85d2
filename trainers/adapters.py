"""The LoRA adapter that the trainers of this folder share: its configuration, and how it is saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from peft import LoraConfig

Targets = tuple[str, ...] | Literal["all-linear"]


def lora_config(rank: int, alpha: int, dropout: float, targets: Sequence[str] | str) -> LoraConfig:
    """PEFT's configuration of an adapter for a causal language model."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )


def save_adapter(peft: Any, base: str, folder: Path) -> None:
    """Adapter weights and configuration as PEFT writes them, with the model's name as given and lists in order."""
    from peft import get_peft_model_state_dict

    from tamis.store import write_json, write_tensors

    config = peft.peft_config["default"]
    config.save_pretrained(str(folder))
    file = folder / "adapter_config.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    facts |= {"base_model_name_or_path": base, "inference_mode": True}
    if isinstance(facts["target_modules"], list):
        facts["target_modules"].sort()  # PEFT keeps a set, whose order changes from process to process
    write_json(file, facts)
    state = get_peft_model_state_dict(peft, save_embedding_layers=False)
    write_tensors(
        folder / "adapter_model.safetensors",
        {name: value.detach().contiguous().cpu() for name, value in state.items()},
        {"format": "pt"},
        durable=False,
    )
