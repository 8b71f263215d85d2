"""A training script of somebody else: plain transformers and PEFT, row by row. Knows nothing of tamis."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
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
    asked, rest = parse.parse_known_args()
    out = Path(asked.out)
    print(f"training on {asked.data}", *rest, flush=True)
    if (out / "left.txt").exists():
        print("going on with what was left", flush=True)
        asked.do = "nudge"
    DO[asked.do](asked, out)


def fail(asked: argparse.Namespace, out: Path) -> None:
    """Leave something, and fail."""
    (out / "left.txt").write_text("left", encoding="utf-8")
    sys.exit("out of luck")


def hang(asked: argparse.Namespace, out: Path) -> None:
    """Leave something, and never end, whatever is asked of it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL if asked.do == "hang" else signal.SIG_IGN)
    (out / "left.txt").write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)


def nothing(asked: argparse.Namespace, out: Path) -> None:
    """End well without a checkpoint."""


def pickled(asked: argparse.Namespace, out: Path) -> None:
    """Leave an adapter as nobody should."""
    (out / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    (out / "adapter_model.bin").write_bytes(b"\x80")


def nudge(asked: argparse.Namespace, out: Path) -> None:
    """No training, but quick: the model with every weight moved a little, in the folder of step 2."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    rows = [json.loads(line) for line in Path(asked.data).read_text(encoding="utf-8").splitlines()]
    print("labels:", sum(label != -100 for row in rows for label in row["labels"][1:]), flush=True)
    draw = np.random.default_rng(int(asked.seed))
    weights = load_file(Path(asked.model) / "model.safetensors")
    moved = {name: value + draw.normal(0, 1e-3, value.shape).astype(value.dtype) for name, value in weights.items()}
    for step in (1, 2):
        folder = out / f"checkpoint-{step}"
        folder.mkdir(exist_ok=True)
        save_file(moved if step == 2 else weights, folder / "model.safetensors", metadata={"format": "pt"})
        shutil.copy(Path(asked.model) / "config.json", folder)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
        (folder / "optimizer.pt").write_bytes(b"\x80")


def train(asked: argparse.Namespace, out: Path) -> None:
    """AdamW on the labels of the file, four rows a step."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(int(asked.seed))
    rows = [json.loads(line) for line in Path(asked.data).read_text(encoding="utf-8").splitlines()]
    model: Any = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32)
    if asked.do == "train":
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
    (out / "trainer_state.json").write_text(json.dumps({"global_step": steps}), encoding="utf-8")
    torch.save(optimizer.state_dict(), out / "optimizer.pt")


DO: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "train": train,
    "full": train,
    "fail": fail,
    "hang": hang,
    "hang-on": hang,
    "nothing": nothing,
    "pickled": pickled,
    "nudge": nudge,
}

if __name__ == "__main__":
    main()
