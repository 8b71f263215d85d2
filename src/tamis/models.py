"""Model access: names resolved to folders, identities by content, models and tokenizers opened once a process."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tamis import digests
from tamis.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHIPPED = "tamis:"
_CONTENT = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def shipped(name: str) -> Path:
    """Path of something that tamis ships in `data/`, from a checkout or a wheel: `tamis:tiny-lm` -> `data/tiny-lm`."""
    import importlib.resources

    path = Path(str(importlib.resources.files("tamis"))) / "data" / name.removeprefix(SHIPPED)
    if not path.exists():
        raise RecipeError(f"tamis ships no {name!r}; look into {path.parent} for what there is")
    return path


@functools.lru_cache(maxsize=64)
def folder_of(name: str) -> Path:
    """Local folder of a model: shipped (`tamis:…`), a folder, or a name on the Hugging Face hub (safetensors only)."""
    if name.startswith(SHIPPED):
        return shipped(name)
    if Path(name).is_dir():
        return Path(name)
    if name.startswith(("/", "./", "../", "~")):
        raise ModelError(f"there is no folder {name!r}; give a folder with config.json, or a name on the hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_CONTENT)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model {name!r} is neither a folder nor to be had from the hub ({type(error).__name__}); "
            "check the name, the network and HF_HUB_OFFLINE"
        ) from error


@functools.lru_cache(maxsize=256)
def _content_digest(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    return digests.of_json({name: digests.of_file(folder / name) for name, _, _ in stamp})


def content_digest(folder: Path) -> str:
    """Digest of a model folder's weights, configuration, tokenizer and template; cached by name, size and time."""
    names = sorted({file.name for pattern in _CONTENT for file in folder.glob(pattern) if file.is_file()})
    stamp = tuple((name, (folder / name).stat().st_size, (folder / name).stat().st_mtime_ns) for name in names)
    return _content_digest(folder, stamp)


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """A causal language model: base by name or folder, optional LoRA adapter folder, and how it is run.

    `max_tokens`: longest sequence; longer rows are cut on the `truncation` side. `dtype`: float32, bfloat16 or float16
    (`auto` is resolved by `resolved()` before any identity is computed: bfloat16 on a GPU, else float32).
    `attention`: the attention kernel as transformers names it.
    """

    name: str
    adapter: str | None = None
    max_tokens: int = 2048
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    truncation: Literal["right", "left"] = "right"

    def resolved(self, device: str) -> ModelRef:
        """The same model with `auto` replaced by the dtype for `device`."""
        import dataclasses

        if self.dtype != "auto":
            return self
        return dataclasses.replace(self, dtype="float32" if device == "cpu" else "bfloat16")

    @property
    def digest(self) -> str:
        """Identity by content: weights, tokenizer, template, adapter, and the settings that change numbers."""
        return digests.of_json(
            {
                "base": content_digest(folder_of(self.name)),
                "adapter": content_digest(Path(self.adapter)) if self.adapter else None,
                "max_tokens": self.max_tokens,
                "dtype": self.dtype,
                "attention": self.attention,
                "truncation": self.truncation,
            }
        )

    @property
    def label(self) -> str:
        """Short name for columns and reports: last part of the name, plus the adapter's digest if there is one."""
        base = Path(self.name.removeprefix(SHIPPED)).name
        return f"{base}+{content_digest(Path(self.adapter))[:6]}" if self.adapter else base


@functools.lru_cache(maxsize=8)
def open_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a model, with its chat template. Never runs code from the model's folder."""
    from transformers import AutoTokenizer

    folder = folder_of(name)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises Exception itself for a broken tokenizer.json
        raise ModelError(f"no tokenizer can be read from {folder}: {type(error).__name__}: {error}"[:600]) from error
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer of {name!r} has no fast form; tamis needs character offsets")
    return tokenizer  # type: ignore[no-any-return]


def quiet() -> None:
    """Switch off the progress bars that transformers draws for every model it loads or saves."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def open_model(ref: ModelRef, device: str, *, trainable: bool = False) -> PreTrainedModel:
    """The model on `device` in its dtype, in eval mode, adapter applied (not merged). Not cached: callers keep it."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    quiet()
    folder = folder_of(ref.name)
    dtype = getattr(torch, ref.resolved(device).dtype)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, attn_implementation=ref.attention, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise ModelError(f"no causal language model can be read from {folder}: {error}") from error
    if ref.adapter is not None:
        from peft import PeftModel

        if not (Path(ref.adapter) / "adapter_config.json").is_file():
            raise ModelError(f"{ref.adapter} holds no adapter_config.json: not a LoRA checkpoint")
        with _peft_quiet():
            model = PeftModel.from_pretrained(model, ref.adapter, is_trainable=trainable, autocast_adapter_dtype=False)
    model.config.use_cache = False
    return model.to(device).eval()  # type: ignore[no-any-return]


def skeleton(folder: Path, adapter: Path | None = None) -> Any:
    """The model of a folder without its weights (meta device), with a fresh trainable adapter like that of `adapter`.

    Parameters have the names, shapes and order of the real model's; frozen ones under an adapter are marked so.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"no causal language model can be made from {folder}: {error}") from error
    if adapter is None:
        return model
    from peft import PeftConfig, get_peft_model

    try:
        given: Any = PeftConfig.from_pretrained(str(adapter))
        given.inference_mode, given.base_model_name_or_path = False, None
        with _peft_quiet(), torch.device("meta"):
            return get_peft_model(model, given, autocast_adapter_dtype=False)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"its adapter cannot be put on {folder.name}: {error}") from error


@contextmanager
def _peft_quiet() -> Iterator[None]:
    """PEFT reads an attribute that transformers renamed; nothing a user can change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


@functools.lru_cache(maxsize=2)
def _cached(ref: ModelRef, digest: str, device: str) -> PreTrainedModel:
    return open_model(ref, device)


def cached_model(ref: ModelRef, device: str) -> PreTrainedModel:
    """`open_model`, kept for the next shard of the same process. Read only: do not change its weights or flags."""
    return _cached(ref, ref.digest, device)


def describe(folder: Path) -> dict[str, Any]:
    """Facts of a model folder without loading it: architecture, layers, hidden size, vocabulary."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no readable config.json: {error}") from error
    return {key: config.get(key) for key in ("architectures", "num_hidden_layers", "hidden_size", "vocab_size")}
