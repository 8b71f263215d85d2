"""Direct preference optimisation by TRL's DPOTrainer, on the tokens of tamis."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import TrainError
from tamis.trainers.adapters import Targets, lora_config
from tamis.trainers.hugging_face import Keeper, arguments, check_weights, contained, fit, require_trl
from tamis.trainers.schedule import Keep, Schedule
from tamis.training import Takes
from tamis.training.checkpoints import Checkpoint

if TYPE_CHECKING:
    from tamis.models import ModelRef
    from tamis.protocols import Hook
    from tamis.training import TrainingPairs, TrainingRows
    from tamis.values import Machine, Need, Seeds


@dataclass(frozen=True, kw_only=True)
class TrlDpo:
    """Direct preference optimisation on pairs with LoRA by TRL's DPOTrainer (extra `trl`).

    The loss of a pair (Rafailov et al. 2023, arXiv:2305.18290) is -log sigmoid(`beta` · (log-ratio of the chosen answer
    - that of the rejected)), log-ratios against the model before training, summed over answer tokens; the tokens are
    those that tamis renders and scores. No dropout (as in TRL). The other settings as those of `trl-sft`. A killed run
    starts anew. Row weights are refused.
    """

    revision: ClassVar[int] = 1
    takes: ClassVar[Takes] = "pairs"

    beta: float = 0.1
    rank: int = 16
    alpha: int = 32
    targets: Targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    epochs: int = 1
    learning_rate: float = 5e-5
    schedule: Schedule = "linear"
    warmup: float = 0.03
    batch_rows: int = 16
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float | None = 1.0
    keep: Keep = "last"

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the pairs."""
        return frozenset()

    def train(
        self, model: ModelRef, rows: TrainingPairs, seeds: Seeds, hooks: Sequence[Hook], out: Path, on: Machine, /
    ) -> Sequence[Checkpoint]:
        """Checkpoints in `out`, in order; errors: TrainError without TRL, on settings or a loss that is not finite."""
        require_trl("trl-dpo")
        import numpy as np

        from tamis.models import open_model, open_tokenizer

        check_weights("trl-dpo", rows)
        if model.adapter is not None:
            raise TrainError(f"{model.label} has an adapter already: train LoRA from a model without one")
        base = model.resolved(on.device)
        longest = max(int(np.diff(side.offsets).max(initial=1)) for side in (rows.chosen, rows.rejected))
        keeper = Keeper(trainer=self, base=base, seeds=seeds, rows=rows, hooks=hooks, out=out)
        given = arguments(self, base, 2 * longest, seeds, out, on)
        tokenizer: Any = copy.deepcopy(open_tokenizer(base.name))  # TRL sets its padding token
        with contained():
            from datasets import Dataset
            from trl.trainer.dpo_config import DPOConfig  # inside: importing it draws from a random state
            from trl.trainer.dpo_trainer import DPOTrainer

            made: Any = DPOTrainer(
                model=open_model(base, on.device),
                args=DPOConfig(**given, beta=self.beta, remove_unused_columns=False),
                train_dataset=Dataset.from_dict(_stand_in(tokenizer)),
                processing_class=tokenizer,
                data_collator=_collate,
                # with a fresh adapter the reference is the model with the adapter switched off; DPOTrainer would
                # otherwise load one from the folder that the model's configuration names
                peft_config=lora_config(self.rank, self.alpha, 0.0, self.targets),
            )
            made.train_dataset = Dataset.from_dict({"chosen": _sides(rows.chosen), "rejected": _sides(rows.rejected)})
            return fit(made, keeper)


def _stand_in(tokenizer: Any) -> dict[str, list[str]]:
    """One pair for DPOTrainer to tokenise in its own way; the real ones come after that, as tokens of tamis."""
    return {"prompt": [tokenizer.eos_token], "chosen": ["b"], "rejected": ["c"]}


def _sides(rows: TrainingRows) -> list[dict[str, list[int]]]:
    spans = [slice(start, end) for start, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]
    return [{"ids": rows.ids[span].tolist(), "answer": rows.trained[span].astype(int).tolist()} for span in spans]


def _collate(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """All chosen sides, then all rejected ones, padded on the right: the batch that DPOTrainer expects."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    sides = [pair[side] for side in ("chosen", "rejected") for pair in pairs]

    def padded(parts: list[list[int]]) -> Any:
        return pad_sequence([torch.tensor(part, dtype=torch.long) for part in parts], batch_first=True)

    return {
        "input_ids": padded([side["ids"] for side in sides]),
        "attention_mask": padded([[1] * len(side["ids"]) for side in sides]),
        "completion_mask": padded([[0, *side["answer"][1:]] for side in sides]),
    }
