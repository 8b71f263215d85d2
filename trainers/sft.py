"""Fine-tuning by TRL's SFTTrainer, on the tokens and labels of tamis."""

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
    from tamis.training import TrainingRows
    from tamis.values import Machine, Need, Seeds


@dataclass(frozen=True, kw_only=True)
class TrlSft:
    """LoRA fine-tuning by TRL's SFTTrainer (extra `trl`), on the tokens and labels that tamis scores.

    Settings as those of `lora`; the schedule is that of transformers, whose first step of a warm-up has a rate of 0.
    `batch_rows` rows an optimiser step whatever fits on the device. A killed run starts anew. Tokens of weight 0 are no
    labels, and rows without any other are left out; other weights of rows or tokens are refused: TRL has none.
    """

    revision: ClassVar[int] = 1
    takes: ClassVar[Takes] = "tokens"

    rank: int = 128
    alpha: int = 512
    dropout: float = 0.1
    targets: Targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    epochs: int = 4
    learning_rate: float = 2e-4
    schedule: Schedule = "linear"
    warmup: float = 0.03
    batch_rows: int = 32
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float | None = 1.0
    keep: Keep = "last"

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def train(
        self, model: ModelRef, rows: TrainingRows, seeds: Seeds, hooks: Sequence[Hook], out: Path, on: Machine, /
    ) -> Sequence[Checkpoint]:
        """Checkpoints in `out`, in order; errors: TrainError without TRL, on settings or a loss that is not finite."""
        require_trl("trl-sft")
        import numpy as np

        from tamis.models import open_model, open_tokenizer

        check_weights("trl-sft", rows)
        if model.adapter is not None:
            raise TrainError(f"{model.label} has an adapter already: train LoRA from a model without one")
        base = model.resolved(on.device)
        longest = int(np.diff(rows.offsets).max(initial=1))
        keeper = Keeper(trainer=self, base=base, seeds=seeds, rows=rows, hooks=hooks, out=out)
        given = arguments(self, base, longest, seeds, out, on)
        with contained():
            from datasets import Dataset
            from trl.trainer.sft_config import SFTConfig  # inside: importing it draws from a random state
            from trl.trainer.sft_trainer import SFTTrainer

            made: Any = SFTTrainer(
                model=open_model(base, on.device),
                args=SFTConfig(**given, packing=False, dataset_kwargs={"skip_prepare_dataset": True}),
                train_dataset=Dataset.from_dict(_columns(rows)),
                processing_class=copy.deepcopy(open_tokenizer(base.name)),
                peft_config=lora_config(self.rank, self.alpha, self.dropout, self.targets),
            )
            return fit(made, keeper)


def _columns(rows: TrainingRows) -> dict[str, list[list[int]]]:
    """`input_ids` and `labels`, -100 where a token is no label; rows without a label are left out."""
    import numpy as np

    trained = rows.trained if rows.token_weights is None else rows.trained & (rows.token_weights > 0)
    labels = np.where(trained, rows.ids, -100)
    spans = [slice(start, end) for start, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]
    spans = [span for span in spans if trained[span.start + 1 : span.stop].any()]
    if not spans:
        raise TrainError(f"none of the {len(rows)} rows has a trained token of positive weight; nothing to train on")
    return {
        "input_ids": [rows.ids[span].tolist() for span in spans],
        "labels": [labels[span].tolist() for span in spans],
    }
