"""How the rows of a subset were chosen, in words for its card: recipe, model, pool, what left it, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILES = 50


@dataclass(frozen=True)
class Provenance:
    """`lines`: sentences on how a subset came about. `made`: the day, ISO 8601, "" where it is not known.

    `digest` tells this subset from an earlier one of its name: its first characters, or "".
    """

    lines: tuple[str, ...] = ()
    made: str = ""
    digest: str = ""


def of_run(folder: Path) -> Provenance:
    """What the manifest of a run folder says; nothing where there is none."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Provenance()
    if not isinstance(manifest, dict):
        return Provenance()
    return of_manifest(manifest, _verdict(folder))


def of_manifest(manifest: Mapping[str, Any], verdict: str = "") -> Provenance:
    """What a manifest says."""
    subset = manifest.get("subset") or {}
    lines = tuple(line for line in _lines(manifest, verdict) if line)
    return Provenance(lines, str(manifest.get("finished") or "")[:10], str(subset.get("digest") or "")[:12])


def _lines(manifest: Mapping[str, Any], verdict: str) -> Iterator[str]:
    subset, model = manifest.get("subset") or {}, manifest.get("model") or {}
    pool = manifest.get("pool") or {}
    if subset:
        yield (
            f"Selected by `{subset.get('selector')}` within a budget of {subset.get('budget')}: "
            f"{int(subset.get('rows') or 0):,} rows, {int(subset.get('tokens') or 0):,} tokens, of "
            f"{int(subset.get('usable') or 0):,} usable ones."
        )
    yield f"Recipe `{manifest.get('name')}`, tamis {manifest.get('tamis')}, {manifest.get('finished')}."
    if model.get("name"):
        yield f"Model that scored: `{Path(str(model['name'])).name}` (digest {str(model.get('digest'))[:12]})."
    if seeds := manifest.get("seeds"):
        yield "Seeds: " + ", ".join(f"{name} {seed}" for name, seed in seeds.items()) + "."
    for step in pool.get("steps") or ():
        yield f"Cleaned by `{step.get('step')}`: {_counts(step)}."
    if funnel := manifest.get("funnel"):
        yield "Rows: " + ", ".join(f"{step['rows']:,} {step['step']}" for step in funnel) + "."
    files = pool.get("files") or ()
    for file in files[:_FILES]:
        name, digest = _shown(str(file.get("name"))), str(file.get("digest"))[:12]
        yield f"Read `{name}` (digest {digest}): {int(file.get('rows') or 0):,} rows."
    yield f"And {len(files) - _FILES:,} more files." if len(files) > _FILES else ""
    yield f"Compared with baselines: {verdict}" if verdict else ""


def _shown(name: str) -> str:
    """A file without the folders of this machine; what is remote keeps its address."""
    return name if "://" in name else Path(name).name


def _counts(step: Mapping[str, Any]) -> str:
    found = [f"{int(step[name]):,} {name}" for name in ("dropped", "changed") if step.get(name)]
    return ", ".join(found) or "nothing"


def _verdict(folder: Path) -> str:
    try:
        return str(json.loads((folder / "comparison.json").read_text(encoding="utf-8")).get("verdict") or "")
    except (OSError, ValueError, AttributeError):
        return ""
