"""What the report says in words and tables: the verdict, the key numbers, where rows were lost, the quarantine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tamis.ledger import kind_of
from tamis.report.charts import items_only_mark
from tamis.report.folder import RunFolder
from tamis.report.inert import clean
from tamis.report.wording import count, finite, seconds, share

MAX_LOSSES = 25
MAX_QUARANTINED = 30
MAX_EXCERPT = 240
MAX_FACTS = 8


@dataclass(frozen=True)
class Fact:
    """One key number: what it is, its value and a remark below it."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Verdict:
    """Sentence at the top, what it rests on, and its state: better, worse, unclear, or none without a comparison."""

    sentence: str
    state: str
    remark: str = ""


def verdict(run: RunFolder) -> Verdict:
    """Sentence at the top: the comparison's own verdict, the brackets at its end set apart, or what was selected."""
    comparison = run.comparison
    if comparison is not None:
        sentence = clean(comparison.get("verdict")) or "The comparison states no verdict."
        if (parts := re.fullmatch(r"(.+\S)\s+\(([^()]+)\)\.?", sentence, re.DOTALL)) is not None:
            return Verdict(f"{parts.group(1)}.", _state(comparison), parts.group(2))
        return Verdict(sentence, _state(comparison))
    subset = run.manifest.get("subset") or {}
    if finite(subset.get("rows")) is None:
        return Verdict("This run selected no subset.", "none")
    selected = f"{clean(subset.get('selector', 'the selector'))} selected {count(subset['rows'])}"
    usable = _funnel(run).get("usable")
    return Verdict(f"{selected} of {count(usable)} usable rows." if usable else f"{selected} rows.", "none")


def _state(comparison: Mapping[str, Any]) -> str:
    rows = [row for row in comparison.get("differences") or () if row.get("arm") == "random"]
    mean = finite(rows[0].get("mean")) if rows else None
    if mean is None or not rows[0].get("clear"):
        return "unclear"
    return "better" if (mean < 0) == bool(comparison.get("lower_is_better", True)) else "worse"


def key_numbers(run: RunFolder) -> list[Fact]:
    """Numbers one would ask for first; each is left out where the run folder does not hold it."""
    funnel, manifest = _funnel(run), run.manifest
    subset, model = manifest.get("subset") or {}, manifest.get("model") or {}
    files = (manifest.get("pool") or {}).get("files") or ()
    facts = []
    if (read := funnel.get("read")) is not None:
        facts.append(
            Fact("rows read", count(read), f"from {count(len(files))} file{'s' * (len(files) != 1)}" * bool(files))
        )
    if (usable := funnel.get("usable")) is not None and read:
        facts.append(Fact("usable rows", count(usable), f"{share(usable / read)} of the rows read"))
    if finite(subset.get("rows")) is not None:
        of = f"{share(subset['rows'] / usable)} of the usable rows" if usable else ""
        facts.append(Fact("rows selected", count(subset["rows"]), of))
    if finite(subset.get("tokens")) is not None:
        budget = f"budget {clean(subset['budget'])}" if subset.get("budget") else ""
        facts.append(Fact("tokens selected", count(subset["tokens"]), budget))
    spent = [value for stage in manifest.get("stages") or () if (value := finite(stage.get("seconds"))) is not None]
    if spent:
        found = sum(1 for stage in manifest["stages"] if not stage.get("made", True))
        facts.append(Fact("time", seconds(sum(spent)), f"{found} of {len(spent)} stages found done" if found else ""))
    if model.get("name"):
        facts.append(
            Fact("model", PurePath(clean(model["name"])).name, f"cut at {count(model.get('max_tokens'))} tokens")
        )
    return facts


def _funnel(run: RunFolder) -> dict[str, float]:
    steps = run.manifest.get("funnel") or ()
    return {str(step.get("step")): rows for step in steps if (rows := finite(step.get("rows"))) is not None}


def losses(run: RunFolder) -> list[dict[str, Any]]:
    """Where rows were lost: verdict, step, reason and rows, most rows first; the tail is summed in a last line."""
    ledger = run.table("ledger", "verdict", "step", "reason")
    if ledger is None:
        return []
    columns = (ledger[name].to_pylist() for name in ("verdict", "step", "reason"))
    rows_lost = (key for key in zip(*columns, strict=True) if key[0] != "selected")
    alike = {"ingest", *(clean(step.get("step")) for step in run.manifest.get("cleaning") or ())}  # reasons in detail
    lost = Counter((*key[:2], kind_of(str(key[2])) if key[1] in alike else key[2]) for key in rows_lost)
    ranked = lost.most_common()
    lines = [
        {"verdict": clean(key[0]), "step": clean(key[1]), "reason": clean(key[2], MAX_EXCERPT), "rows": rows}
        for key, rows in ranked[:MAX_LOSSES]
    ]
    if tail := ranked[MAX_LOSSES:]:
        rest = {"verdict": "", "step": "", "reason": f"{count(len(tail))} rarer reasons"}
        lines.append({**rest, "rows": sum(rows for _, rows in tail)})
    return lines


def cleaning(run: RunFolder) -> list[dict[str, Any]]:
    """What every step of the cleaning did: rows in, dropped and changed, and what it found, in words."""
    return [
        {
            "step": clean(step.get("step")),
            **{name: finite(step.get(name)) or 0 for name in ("read", "dropped", "changed")},
            "facts": "; ".join(f"{clean(name).replace('_', ' ')} {_said(one)}" for name, one in _facts(step)),
        }
        for step in run.manifest.get("cleaning") or ()
    ]


def _facts(step: Mapping[str, Any]) -> list[tuple[str, Any]]:
    facts = step.get("facts")
    return list(facts.items()) if isinstance(facts, Mapping) else []


def _said(value: Any) -> str:
    """A fact in few words: a number, a table by its largest entries, or text."""
    if isinstance(value, Mapping):
        parts = [f"{clean(name) or '(none)'} {_said(one)}" for name, one in list(value.items())[:MAX_FACTS]]
        return ", ".join(parts) + (f" and {len(value) - MAX_FACTS} more" if len(value) > MAX_FACTS else "")
    if isinstance(value, list):
        return ", ".join(_said(one) for one in value[:MAX_FACTS]) + (" …" if len(value) > MAX_FACTS else "")
    number = finite(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return clean(value, MAX_EXCERPT) if number is None else count(number) if number == int(number) else f"{number:.4g}"


def quarantined(run: RunFolder) -> tuple[list[dict[str, Any]], int]:
    """Quarantined rows for the table and how many there are in all.

    Reasons take turns, so that a reason that is rare is seen beside one that fills a file.
    """
    table = run.table("quarantine", "file", "reason", "excerpt", "position")
    if table is None:
        return [], 0
    rows = [row for row in table.to_pylist() if row.get("verdict", "quarantined") == "quarantined"]
    turn: Counter[Any] = Counter()
    order: list[tuple[int, int]] = []
    for row in rows:
        order.append((turn[row["reason"]], len(order)))
        turn[row["reason"]] += 1
    picked = [rows[place] for _, place in sorted(order)[:MAX_QUARANTINED]]
    lines = [
        {
            "file": PurePath(clean(row["file"])).name,
            "position": row["position"],
            "reason": clean(row["reason"], MAX_EXCERPT),
            "excerpt": clean(row["excerpt"], MAX_EXCERPT),
        }
        for row in picked
    ]
    return lines, len(rows)


def differences(run: RunFolder) -> list[dict[str, Any]]:
    """Lines of the table of differences, with the mark of an interval over items only."""
    rows = (run.comparison or {}).get("differences") or ()
    return [{**row, "mark": items_only_mark(row)} for row in rows]


def provenance(run: RunFolder) -> list[tuple[str, dict[str, Any]]]:
    """Tables of what reproduces the run: inputs, seeds, machine and versions; what is unknown is left out."""
    manifest = run.manifest
    model, pool = manifest.get("model") or {}, manifest.get("pool") or {}
    inputs = {
        "model": model.get("name"),
        "model digest": model.get("digest"),
        "pool digest": pool.get("digest"),
        "target": _target(manifest.get("target") or {}),
    }
    tables = {
        "Inputs": inputs,
        "Seeds": manifest.get("seeds") or {},
        "Machine": manifest.get("machine") or {},
        "Versions": {"tamis": manifest.get("tamis"), **(manifest.get("versions") or {})},
    }
    known = {name: {key: value for key, value in rows.items() if value is not None} for name, rows in tables.items()}
    return [(name, rows) for name, rows in known.items() if rows]


def _target(target: Mapping[str, Any]) -> str | None:
    if finite(target.get("rows")) is None:
        return None
    files = [
        clean(file.get("name")) if isinstance(file, Mapping) else clean(file) for file in target.get("files") or ()
    ]
    return f"{count(target['rows'])} rows" + (f" of {', '.join(files)}" if files else "")
