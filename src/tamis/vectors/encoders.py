"""Sentence encoders: models of the sentence-transformers kind by name or folder, and the texts of rows for them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis import digests
from tamis.errors import ModelError
from tamis.values import Reason, text_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Machine, Row

What = Literal["instruction", "response", "whole"]
_CONTENT = ("*.safetensors", "*.json", "*.model", "*.txt")


@dataclass(frozen=True, kw_only=True)
class EncoderRef:
    """A sentence encoder by folder, or by name on the Hugging Face hub (safetensors only).

    `max_tokens`: longest text, cut there; None: what the model says itself. `prefix` stands in front of every text
    ("query: " for models that were trained so).
    """

    name: str
    max_tokens: int | None = None
    prefix: str = ""
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    @property
    def digest(self) -> str:
        """Identity by content: every weight, configuration and tokenizer file below the folder, and the settings."""
        from tamis.models import folder_of

        folder = folder_of(self.name)
        names = sorted({file for pattern in _CONTENT for file in folder.rglob(pattern) if file.is_file()})
        stamp = tuple((str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in names)
        content = _content_digest(folder, stamp)
        return digests.of_json({"content": content, "max_tokens": self.max_tokens, "prefix": self.prefix})


@functools.lru_cache(maxsize=64)
def _content_digest(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    return digests.of_json({name: digests.of_file(folder / name) for name, _, _ in stamp})


@functools.lru_cache(maxsize=2)
def _opened(ref: EncoderRef, digest: str, device: str) -> Any:
    """The encoder on `device`; never runs code from its folder. ModelError without the extra, or for no encoder."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ModelError("sentence encoders need the extra `embed`: pip install 'tamis[embed]'") from error
    from tamis.models import folder_of, quiet

    quiet()
    folder = folder_of(ref.name)
    try:
        model = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"no sentence encoder can be read from {folder}: {error}") from error
    if ref.max_tokens is not None:
        model.max_seq_length = min(ref.max_tokens, model.max_seq_length or ref.max_tokens)
    return model.eval()


def encode(ref: EncoderRef, texts: Sequence[str], on: Machine) -> NDArray[np.float32]:
    """(n, d) float32 of unit length, one for each text; NaN where the encoder gave no finite vector."""
    import numpy as np

    from tamis.chat_template import encodable
    from tamis.vectors.index import unit

    model = _opened(ref, ref.digest, on.device)
    batch = max(1, on.tokens_per_batch // (model.max_seq_length or 512))
    given = [ref.prefix + encodable(text) for text in texts]
    found = model.encode(given, batch_size=batch, show_progress_bar=False, convert_to_numpy=True)
    return unit(np.asarray(found, np.float32).reshape(len(texts), -1))


def text_for(row: Row, what: What) -> str | Reason:
    """What is asked (all before the last answer), the last answer (of a pair the chosen), or everything."""
    messages = (*row.messages, *row.chosen)
    if what == "whole":
        parts = messages
    elif row.kind == "text":
        return Reason.WRONG_KIND
    else:
        answered = bool(messages) and messages[-1].get("role") == "assistant"
        if what == "response" and not answered:
            return Reason.NEEDS_ANSWER
        parts = messages[-1:] if what == "response" else messages[: len(messages) - answered]
    text = "\n".join(said for message in parts if (said := text_of(message)))
    return text if text.strip() else Reason.TOO_SHORT
