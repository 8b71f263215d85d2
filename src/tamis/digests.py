"""Digests: 128-bit BLAKE2b over canonical JSON and over files. They are the identities of the store."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BYTES = 16


def of_bytes(data: bytes) -> str:
    """Hexadecimal 128-bit BLAKE2b of `data` (32 characters)."""
    return hashlib.blake2b(data, digest_size=BYTES).hexdigest()


def of_file(path: Path) -> str:
    """Digest of a file's bytes, read in blocks of 1 MiB."""
    state = hashlib.blake2b(digest_size=BYTES)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def canonical(value: Any) -> Any:
    """`value` as plain JSON: anything with a `digest` becomes that digest, other dataclasses become their fields.

    So a setting that refers to a pool, a model or a checkpoint enters an identity by content, never by path.
    """
    if (digest := getattr(value, "digest", None)) is not None and not isinstance(value, type):
        return {"digest": str(digest)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: canonical(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((canonical(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot enter an identity: give it a digest, or leave it out")


def of_json(value: Any) -> str:
    """Digest of `canonical(value)` written with sorted keys and no spaces."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return of_bytes(text.encode("utf-8", "surrogatepass"))


def of_component(component: Any, inputs: Mapping[str, Any] | None = None) -> str:
    """Identity of a component's work: class, `revision`, settings and the digests of its inputs (DESIGN §5).

    A field with `metadata={"science": False}` (a time limit) cannot change the result and is left out.
    """
    kind = type(component)
    settings = {
        field.name: getattr(component, field.name)
        for field in dataclasses.fields(component)
        if field.metadata.get("science", True)
    }
    return of_json(
        {
            "component": f"{kind.__module__}:{kind.__qualname__}",
            "revision": kind.revision,
            "settings": settings,
            "inputs": dict(inputs or {}),
        }
    )
