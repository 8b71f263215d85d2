"""A training script of somebody else: plain transformers and PEFT, row by row. Knows nothing of tamis."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing` is deprecated", category=FutureWarning)


def main() -> None:
    """Train, or misbehave as `--do` says."""
    parse = argparse.ArgumentParser()
    for name in ("data", "model", "out", "seed"):
        parse.add_argument(f"--{name}", required=True)
    parse.add_argument("--epochs", type=float, default=1)
    parse.add_argument("--lr", type=float, default=1e-3)
    parse.add_argument("--do", default="train")
    asked = parse.parse_args()
    out = Path(asked.out)
    print(f"training on {asked.data}", flush=True)
    if asked.do == "fail":
        (out / "left.txt").write_text("left")
        sys.exit("out of luck")
    if asked.do == "hang":
        time.sleep(600)
    if asked.do == "nothing":
        return
    if asked.do == "pickle":
        (out / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (out / "adapter_model.bin").write_bytes(b"\x80")
        return
    train(asked, out)


def train(asked: argparse.Namespace, out: Path) -> None:
    """AdamW on the labels of the file, four rows a step."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(int(asked.seed))
    rows = [json.loads(line) for line in Path(asked.data).read_text(encoding="utf-8").splitlines()]
    model: Any = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    full = asked.do == "full"
    if not full:
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj"]))
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=asked.lr)
    steps = 0
    for _ in range(round(asked.epochs)):
        order = torch.randperm(len(rows)).tolist()
        for start in range(0, len(rows), 4):
            for place in order[start : start + 4]:
                ids, labels = (torch.tensor([rows[place][name]]) for name in ("input_ids", "labels"))
                (model(input_ids=ids, labels=labels).loss / 4).backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
    model.save_pretrained(out)
    (out / "trainer_state.json").write_text(json.dumps({"global_step": steps}))
    torch.save(optimizer.state_dict(), out / "optimizer.pt")


if __name__ == "__main__":
    main()
