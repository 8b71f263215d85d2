"""A tiny random Llama with its own BPE tokenizer and chat template, and small pools: made from nothing for tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tamis import digests
from tamis.intact import seal
from tamis.pool import ROWS, Pool, Shard, encode, schema
from tamis.values import Message, Row

PAD, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
WORDS = (
    "add subtract count sort letter number seven eleven twelve river stone apple answer because therefore first second "
    "total left right metres hours minutes Monday Friday price basket garden teacher question rewrite sentence table"
).split()

_TURN = "{{ '<|' + m['role'] + '|>\n' + (m['content'] or '') }}"
_OPEN = "{% for m in messages %}"
_CLOSE = "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
_MARKED = (
    "{% if m['role'] == 'assistant' %}{{ '<|assistant|>\n' }}{% generation %}{{ m['content'] + '<|end|>' }}"
    "{% endgeneration %}{% else %}" + _TURN + "{{ '<|end|>' }}{% endif %}"
)
TEMPLATES: dict[str, str | None] = {
    "none": None,
    "marks": _OPEN + _MARKED + "{{ '\n' }}" + _CLOSE,
    # the same text, without marks
    "plain": _OPEN + _TURN + "{{ '<|end|>\n' }}" + _CLOSE,
    # writes the BOS text itself
    "bos": "{{ bos_token }}" + _OPEN + _TURN + "{{ '<|end|>\n' }}" + _CLOSE,
    # strips the thinking of every assistant turn but the last
    "rewriting": _OPEN
    + "{% set text = m['content'] %}{% if m['role'] == 'assistant' and not loop.last %}"
    + "{% set text = text.split('</think>')[-1] %}{% endif %}"
    + "{{ '<|' + m['role'] + '|>\n' + text + '<|end|>\n' }}"
    + _CLOSE,
    # no separator between header and response: merges can cross the border
    "merging": _OPEN
    + "{% if m['role'] == 'assistant' %}{{ 'answer' + m['content'] + '<|end|>' }}{% else %}{{ m['content'] + ' ' }}"
    + "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'answer' }}{% endif %}",
    # puts a system turn in where there is none
    "default-system": "{% if messages[0]['role'] != 'system' %}{{ '<|system|>\nBe brief.<|end|>\n' }}{% endif %}"
    + _OPEN
    + _TURN
    + "{{ '<|end|>\n' }}"
    + _CLOSE,
    # refuses roles that it does not know
    "strict": _OPEN
    + "{% if m['role'] not in ['user', 'assistant'] %}{{ raise_exception('role ' + m['role'] + ' is not known') }}"
    + "{% endif %}"
    + _TURN
    + "{{ '<|end|>\n' }}"
    + _CLOSE,
}


def make_tokenizer(folder: Path, *, vocab: int = 384, template: str = "marks", byte_fallback: bool = False) -> Path:
    """Make a BPE tokenizer from a few hundred sentences: byte level, or SentencePiece-like with byte fallback."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = [PAD, BOS, END, *ROLES]
    if byte_fallback:
        raw = Tokenizer(models.BPE(byte_fallback=True, unk_token=None))
        raw.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
        raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
        specials += [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=vocab + 256, special_tokens=specials, show_progress=False)
    else:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=template != "merging")
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        )
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=12)) for _ in range(200)]
    lines += ["answers", "answered", "answering"] * 600 if template == "merging" else []
    raw.train_from_iterator(lines, trainer)
    if byte_fallback:  # byte pieces are ordinary entries of the vocabulary, not special text to be matched in the input
        raw = _demote_bytes(raw)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLES),
        chat_template=TEMPLATES[template],
    )
    tokenizer.save_pretrained(str(folder))
    return folder


def _demote_bytes(raw: Any) -> Any:
    import json

    from tokenizers import Tokenizer

    state = json.loads(raw.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


def make_model(
    folder: Path,
    *,
    hidden: int = 32,
    layers: int = 2,
    vocab: int = 384,
    seed: int = 0,
    template: str = "marks",
    dtype: str = "float32",
    byte_fallback: bool = False,
) -> Path:
    """Make a random Llama (2 heads, tied embeddings) with its tokenizer in `folder`. `template`: see TEMPLATES."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(folder, vocab=vocab, template=template, byte_fallback=byte_fallback)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.3,  # far from uniform, so that scores differ between rows
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(str(folder))
    return folder


def make_adapter(base: Path, folder: Path, *, rank: int = 2, seed: int = 1) -> Path:
    """Make a LoRA adapter on all attention projections of `base` with random (non-zero) A and B."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(model, config)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(str(folder))
    return folder


def chat(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    """Return messages in turn: user, assistant, user and so on."""
    turns: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    turns += [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return tuple(turns)


def make_row(messages: Sequence[Message], **fields: Any) -> Row:
    """One row; `kind` is chat unless given."""
    content = digests.of_json([list(messages), repr(sorted(fields.items()))])
    given: dict[str, Any] = {"key": content, "content": content, "kind": "chat", "source": "made", **fields}
    return Row(messages=tuple(messages), **given)


def make_rows(n: int, seed: int = 0) -> list[Row]:
    """`n` chat rows of one to three exchanges and very different lengths, from three sources; the same every time."""
    draw = random.Random(seed)

    def say(least: int, most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))

    rows = []
    for place in range(n):
        exchanges = draw.choice((1, 1, 1, 2, 3))
        texts = [text for _ in range(exchanges) for text in (say(2, 12) + "?", say(1, 25) + ".")]
        messages = chat(*texts, system=say(2, 5) if place % 4 == 0 else None)
        key = digests.of_json(["tiny", seed, place])
        source = ("sums", "words", "talk")[place % 3]
        rows.append(make_row(messages, key=key, source=source, file="tiny.jsonl", position=place))
    return rows


def make_pool(folder: Path, rows: Sequence[Row], *, shard_rows: int = 10_000) -> Pool:
    """Write a pool of these rows, `shard_rows` to a shard, under `folder`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = []
    for start in range(0, len(rows), shard_rows):
        part = rows[start : start + shard_rows]
        path = folder / f"shard-{start:06d}"
        path.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([encode(row) for row in part], schema=schema()), path / ROWS)
        shards.append(Shard(path, seal(path, {"rows": len(part)}, None, 0.0), len(part)))
    counts = {"rows": len(rows), "kept": len(rows), "quarantined": 0, "dropped": 0}
    return Pool(tuple(shards), ({"name": "tiny.jsonl", **counts},))
