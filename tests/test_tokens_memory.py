"""Law: logits are never held beyond a bounded tile, whatever the vocabulary (a soak test in a process of its own)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GIGABYTE = 10**9
SCORE = """
import json, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
import tiny
from tamis.models import ModelRef, cached_model
from tamis.scorers.passes.tokens import Tokens
from tamis.values import Machine
from tamis.views import ShardSignals

folder = Path(sys.argv[1])
tiny.make_tokenizer(folder / "model")
config = LlamaConfig(
    vocab_size=150_000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
LlamaForCausalLM(config).save_pretrained(folder / "model")
shard = tiny.make_pool(folder, tiny.make_rows(1000)).shards[0]
one = Tokens(model=ModelRef(name=str(folder / "model"), dtype="float32"), loss="all", alone=True, pooled=True, top=5)
cached_model(one.model, "cpu")

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

before = memory("VmRSS")
got = one.measure(shard, ShardSignals(shard, {}), Machine())
print(json.dumps({"extra": memory("VmHWM") - before, "tokens": len(got["nll"]), "reasons": int(got["reason"].sum())}))
"""


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads peak memory from /proc")
def test_a_vocabulary_of_150000_scores_1000_rows_within_a_gigabyte_beside_the_model(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n{SCORE}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tokens"] > 20_000 and found["reasons"] == 0
    assert found["tokens"] * 150_000 * 4 > 10 * GIGABYTE  # what logits of all scored tokens would take
    assert found["extra"] <= GIGABYTE
