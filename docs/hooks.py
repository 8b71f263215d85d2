"""MkDocs hook: pages from the code (components by their docstrings, the functions of Python), and CONTRIBUTING.

`pages()` is plain Python and is tested without MkDocs.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import catalogue

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
INTRODUCTION = {
    "cleaners": "A cleaner takes rows out of a pool, a transform changes them, before anything else sees the pool: "
    "`tamis clean POOL --with NAME --set NAME.setting=value`, or the head `clean` of a recipe.",
    "passes": "A pass touches a model and makes a signal, which is kept. Scorers and selectors ask for passes "
    "themselves; what reads checkpoints, a target or an encoder (`influence`, `recorded`, `sentence-embeddings` and "
    "others) is written into a recipe.",
    "scorers": "A scorer turns signals into columns: `tamis score POOL --with NAME`. Its settings are given as "
    "`--set NAME.setting=value`.",
    "selectors": "A selector picks rows within a budget: `tamis select POOL --with NAME --set setting=value`.",
    "weighers": "A weigher gives rows, or their response tokens, weights for training: `--weigh NAME` of `select`.",
    "mixers": "A mixer shares a budget among groups: `tamis mix POOL --with NAME`, or `--mix NAME` of `select`.",
    "trainers": "A trainer fine-tunes a model on a subset: `tamis train SUBSET --with NAME --set setting=value`.",
    "hooks": "A hook sees the steps of a training, and may choose the rows of each: `hooks: {NAME: {…}}` of a `train` "
    "stage. The trainers `lora` and `full` let it choose.",
    "evaluators": "An evaluator measures a model on held-out rows: `tamis eval FILES --with NAME`.",
}


def pages() -> dict[str, str]:
    """Path under the site's sources -> Markdown of every page that is made from code."""
    made = {f"components/{kind}.md": _kind(kind) for kind in catalogue.CATALOGUE}
    made["functions.md"] = _functions()
    made["adding.md"] = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return made


def _kind(kind: str) -> str:
    parts = [f"# {kind.capitalize()}", INTRODUCTION[kind]]
    for name in sorted(catalogue.CATALOGUE[kind]):
        cls = catalogue.load(kind, name)
        parts += [f"## {name}", _prose(cls)]
        rows = [f"| `{field.name}` | `{field.type}` | {_default(field)} |" for field in dataclasses.fields(cls)]
        if rows:
            parts.append("\n".join(["| setting | type | default |", "|---|---|---|", *map(_cell_safe, rows)]))
        if made := _made(cls):
            parts.append(made)
    return "\n\n".join(parts) + "\n"


def _made(cls: type[Any]) -> str:
    """What the working method says it returns: columns and units of a scorer, the order of a selector."""
    for method in ("clean", "apply", "measure", "score", "select", "share", "evaluate", "choose"):
        if method in vars(cls) and (text := inspect.getdoc(vars(cls)[method])):
            return f"Gives: {_markdown(text)}"
    return ""


def _functions() -> str:
    import tamis
    from tamis import api

    parts = ["# Functions", _markdown(inspect.getdoc(api) or "")]
    for name in dir(tamis):
        if name == "__version__":
            continue
        function = getattr(api, name)
        parts += [f"## tamis.{name}", f"```text\n{name}{_signature(function)}\n```", _prose(function)]
    return "\n\n".join(parts) + "\n"


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    parts, keyword = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword:
            parts.append("*")
            keyword = True
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is inspect.Parameter.empty else f" = {parameter.default!r}"
        parts.append(f"{stars}{parameter.name}: {parameter.annotation}{default}")
    text = ",\n    ".join(parts)
    return f"(\n    {text},\n) -> {signature.return_annotation}"


def _prose(value: Any) -> str:
    return _markdown(inspect.getdoc(value) or "")


def _markdown(text: str) -> str:
    """A docstring as Markdown: names such as `file_name` stay as they are, and no HTML is made of it."""
    pieces = re.split(r"(`[^`]*`)", text)
    plain = [piece if piece.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", piece) for piece in pieces]
    return "".join(plain)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    return "required"


def _cell_safe(row: str) -> str:
    """A row of a table in which types such as `str | None` do not end the cell."""
    return re.sub(r"`([^`]*)`", lambda match: "`" + match[1].replace("|", "\\|") + "`", row)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
