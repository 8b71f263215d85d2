"""The Croissant description of a dataset folder: JSON-LD of MLCommons' Croissant 1.0, one record set a kind of row.

Source: the Croissant format specification, https://docs.mlcommons.org/croissant/docs/croissant-spec.html. mlcroissant
reads and validates it (a test does).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NAME = "croissant.json"
VERSION = "http://mlcommons.org/croissant/1.0"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def describe(
    name: str, text: str, files: Mapping[str, Path], about: Mapping[str, str], *, made: str, digest: str
) -> dict[str, Any]:
    """The description of a folder whose Parquet files are `files`, by the name of their record set.

    `about` says what columns hold. `made`: the day, ISO 8601. `digest` of the subset is named where it is cited, or ""
    is. Sums are SHA-256 of the files; paths are relative to the folder that holds `data/`. A licence is not named: the
    rows have those of their sources.
    """
    which = f", subset {digest}" if digest else ""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": name,
        "description": text,
        "datePublished": made,
        "version": "1.0.0",
        "citeAs": f"{name}{which}, chosen with tamis on {made}",
        "distribution": [_file(kind, path) for kind, path in files.items()],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": kind,
                "name": kind,
                "key": {"@id": f"{kind}/key"},
                "field": list(_fields(kind, path, about)),
            }
            for kind, path in files.items()
        ],
    }


def _file(kind: str, path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {
        "@type": "cr:FileObject",
        "@id": f"{kind}.parquet",
        "name": f"{kind}.parquet",
        "contentUrl": f"data/{path.name}",
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": digest.hexdigest(),
    }


def _fields(kind: str, path: Path, about: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for column in pq.read_schema(path):
        source = {"fileObject": {"@id": f"{kind}.parquet"}, "extract": {"column": column.name}}
        field = _field(f"{kind}/{column.name}", column.name, column.type, source)
        yield field | {"description": about.get(column.name, column.name)}


def _field(place: str, name: str, kind: Any, source: Mapping[str, Any]) -> dict[str, Any]:
    """A field; a list is repeated, the members of a structure (of messages) are fields below it, found by JSON path."""
    import pyarrow as pa

    field: dict[str, Any] = {"@type": "cr:Field", "@id": place, "name": name}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        field["repeated"] = True
        kind = kind.value_type
    if not pa.types.is_struct(kind):
        return field | {"dataType": _type(kind), "source": dict(source)}
    below = [_field(f"{place}/{one.name}", one.name, one.type, _within(source, one.name)) for one in kind]
    return field | {"subField": below}


def _within(source: Mapping[str, Any], name: str) -> dict[str, Any]:
    step = dict(source.get("transform") or {})
    path = f"{step.get('jsonPath', '$')}[*].{name}" if "transform" in source else f"$[*].{name}"
    return {**source, "transform": {"jsonPath": path}}


def _type(kind: Any) -> str:
    import pyarrow as pa

    checks = (
        (pa.types.is_boolean, "sc:Boolean"),
        (pa.types.is_integer, "sc:Integer"),
        (pa.types.is_floating, "sc:Float"),
    )
    return next((name for check, name in checks if check(kind)), "sc:Text")
