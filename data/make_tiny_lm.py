"""Trains the embedded language model `tiny-lm` from scratch on text that the generator makes from a seed of its own.

Usage: ``OMP_NUM_THREADS=1 python data/make_tiny_lm.py [folder]`` (default: ``tiny-lm`` beside this file). Minutes.
The text is broad, but holds only a trickle of the target skills, so that there is something to learn.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.data import make_pool
from tamis.data.skills import SKILLS

if TYPE_CHECKING:
    from torch import Tensor

SEED = "tamis tiny-lm 1"
TARGET_SKILLS = ("arithmetic",)
TARGET_SHARE = 0.015
ROWS = 12_000
EPOCHS = 2
BATCH = 32
PEAK_RATE = 4e-3
VOCABULARY = 1536
CONTEXT = 512
SPECIAL = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>")
TEMPLATE = (
    "{% if tools %}{{ '<|system|>\nTools: ' + (tools | tojson) + '\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] or '' }}"
    "{% if m['tool_calls'] %}{{ m['tool_calls'] | tojson }}{% endif %}{{ '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ (m['content'] or '') + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def prompt(record: dict[str, Any]) -> str:
    """Join instruction and input as the ingest of alpaca rows does."""
    return f"{record['instruction']}\n\n{record['input']}" if record["input"] else str(record["instruction"])


def make_rows() -> list[dict[str, Any]]:
    """Make the training rows: no task of the target and evaluation files, target skills at `TARGET_SHARE` in all."""
    held_out: set[str] = set()
    make_pool.make_eval(held_out)
    make_pool.make_target(held_out)
    target = round(TARGET_SHARE * ROWS / len(TARGET_SKILLS))
    others = [name for name in SKILLS if name not in TARGET_SKILLS]
    rest = (ROWS - target * len(TARGET_SKILLS)) // len(others)
    rows: list[dict[str, Any]] = []
    for name, skill in SKILLS.items():
        rng = random.Random(f"{SEED} {name}")
        for _ in range(target if name in TARGET_SKILLS else rest):
            # A copy of the set: rows may repeat each other, but never meet a held-out task.
            rows.append(make_pool.make_record(name, skill.pool_phrasings, rng, set(held_out)))
    random.Random(SEED).shuffle(rows)
    return rows


def make_tokenizer(rows: list[dict[str, Any]]) -> Any:
    """Train a byte-level BPE with single digits on the rows; offsets are exact, and special tokens come first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator((f"{prompt(row)}\n{row['output']}" for row in rows), trainer=trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        extra_special_tokens=list(SPECIAL[2:]),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(tokenizer: Any) -> Any:
    """Initialise a Llama of about 0.6M parameters, embeddings tied, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: Any, rows: list[dict[str, Any]]) -> list[list[int]]:
    """Token ids of the rows in the chat template."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt(row)}, {"role": "assistant", "content": row["output"]}], tokenize=False
        )
        for row in rows
    ]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


def batches(ids: list[list[int]], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield padded batches of similar length in random order: ids and labels (-100 on padding), (rows, tokens)."""
    import torch

    rng = random.Random(f"{SEED} epoch {epoch}")
    order = sorted(range(len(ids)), key=lambda row: (len(ids[row]), rng.random()))
    groups = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    rng.shuffle(groups)
    for group in groups:
        rows = [torch.tensor(ids[row]) for row in group]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
        yield padded, labels


def train(model: Any, ids: list[list[int]]) -> float:
    """Train on all tokens with AdamW, a short rise and a cosine fall; return the mean loss of the last 50 steps."""
    import torch

    steps = EPOCHS * math.ceil(len(ids) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 50, 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
    )
    losses: list[float] = []
    model.train()
    for epoch in range(EPOCHS):
        for padded, labels in batches(ids, epoch):
            loss = model(input_ids=padded, attention_mask=(labels != -100).long(), labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            if len(losses) % 50 == 0:
                sys.stderr.write(json.dumps({"step": len(losses), "of": steps, "loss": round(losses[-1], 3)}) + "\n")
    model.eval()
    return sum(losses[-50:]) / len(losses[-50:])


def write(folder: Path) -> None:
    """Train tokenizer and model, and save them to the folder."""
    import torch

    torch.set_num_threads(1)
    rows = make_rows()
    tokenizer = make_tokenizer(rows)
    model = make_model(tokenizer)
    train(model, encode(tokenizer, rows))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "tiny-lm")
