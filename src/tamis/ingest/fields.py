"""The fields of a record under the names that the forms know, detected or mapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.catalogue import nearest
from tamis.errors import RecipeError

TURNS = ("messages", "conversations", "conversation")
PROMPTS = ("instruction", "prompt", "question", "query", "problem")
ANSWERS = ("output", "response", "completion", "answer", "solution")
INPUTS = ("input", "context")
CANONICAL = (
    "prompt", "response", "system", "text", "messages", "chosen", "rejected", "label", "tools", "source", "input",
)  # fmt: skip
KNOWN = frozenset((*TURNS, *PROMPTS, *ANSWERS, "chosen", "rejected", "text"))


class Fields:
    """The fields of a record that are not null, taken one by one; what is left is meta."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.left = {key: value for key, value in record.items() if value is not None}
        self.names = {key: key for key in self.left}
        self.used: dict[str, str] = {}
        self.extra: dict[str, Any] = {}
        self.mapping: dict[str, str] = {}

    @classmethod
    def mapped(cls, record: Mapping[str, Any], mapping: Mapping[str, str]) -> Fields:
        """Name the fields of a record as `mapping` {canonical: field} says; the others are extra."""
        found = {name: nested(record, path) for name, path in mapping.items()}
        fields = cls(found)
        fields.names = fields.mapping = dict(mapping)
        fields.extra = {key: item for key, item in record.items() if key not in mapping.values() and item is not None}
        return fields

    def take(self, canonical: str, *aliases: str) -> Any:
        """Take out the value of the first alias there is; None without one."""
        for alias in aliases or (canonical,):
            if alias in self.left:
                self.used[canonical] = self.names[alias]
                return self.left.pop(alias)
        return None

    def maps(self, canonical: str) -> bool:
        """Whether the user has named the field of `canonical`."""
        return canonical in self.mapping

    def has(self, *names: str) -> bool:
        """Whether one of the names is there and was not taken yet."""
        return any(name in self.left for name in names)

    def meta(self) -> dict[str, Any]:
        """Give what was not used, with a `meta` object of the record opened into it."""
        rest = {**self.left, **self.extra}
        given = rest.pop("meta", {})
        if not isinstance(given, Mapping):
            given = {"meta": given}
        made = dict(given)
        for key, value in rest.items():
            made[key if key not in made else f"record_{key}"] = value
        return made


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Refuse canonical names that there are not, and a mapping that gives no text to train on."""
    faults = [
        f"--map {name}={path}: there is no {name!r}{nearest(name, list(CANONICAL))} Known: {', '.join(CANONICAL)}"
        for name, path in mapping.items()
        if name not in CANONICAL
    ]
    if mapping and not faults and not set(mapping) & {"prompt", "text", "messages", "chosen"}:
        faults.append("--map names none of prompt, text, messages, chosen: nothing would be left of a row")
    if faults:
        raise RecipeError(faults)


def nested(record: Mapping[str, Any], path: str) -> Any:
    """Value at a field, or at a dotted path of keys and places; None where there is none."""
    if path in record:
        return record[path]
    value: Any = record
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
