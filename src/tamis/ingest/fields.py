"""The fields of a record under the names that the forms know, detected or mapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.ingest.mappings import Rules, nested

TURNS = ("messages", "conversations", "conversation")
PROMPTS = ("instruction", "prompt", "question", "query", "problem")
ANSWERS = ("output", "response", "completion", "answer", "solution")
INPUTS = ("input", "context")
KNOWN = frozenset((*TURNS, *PROMPTS, *ANSWERS, "chosen", "rejected", "text"))


class Fields:
    """The fields of a record that are not null, taken one by one; what is left is meta."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.left = {key: value for key, value in record.items() if value is not None}
        self.names = {key: key for key in self.left}
        self.used: dict[str, str] = {}
        self.extra: dict[str, Any] = {}
        self.rules = Rules()

    @classmethod
    def mapped(cls, record: Mapping[str, Any], rules: Rules) -> Fields:
        """Name the fields of a record as the rules say; where they replace the detection, the others are extra.

        `source`, which says nothing to the model, is found by its name all the same.
        """
        found = {name: item for name, path in rules.fields.items() if (item := nested(record, path)) is not None}
        paths = set(rules.fields.values())
        if "source" not in paths and "source" not in rules.fields and isinstance(record.get("source"), str):
            found["source"] = record["source"]
            paths.add("source")
        fields = cls({} if rules.whole else record)
        fields.rules = rules
        others = record if rules.whole else {name: record.get(name) for name in found}
        fields.extra = {key: item for key, item in others.items() if key not in paths and item is not None}
        fields.left = {key: item for key, item in fields.left.items() if key not in paths and key not in found} | found
        fields.names |= {name: rules.fields.get(name, name) for name in found}
        return fields

    def take(self, canonical: str, *aliases: str) -> Any:
        """Take out the value of the first alias there is, the one that was mapped before all; None without one."""
        for alias in (canonical, *aliases) if self.maps(canonical) else aliases or (canonical,):
            if alias in self.left:
                self.used[canonical] = self.names[alias]
                return self.left.pop(alias)
        return None

    def maps(self, canonical: str) -> bool:
        """Whether the user has named the field of `canonical`."""
        return canonical in self.rules.fields

    def has(self, *names: str) -> bool:
        """Whether one of the names is there and was not taken yet."""
        return any(name in self.left for name in names)

    def meta(self) -> dict[str, Any]:
        """Give what was not used, with a `meta` object of the record opened into it."""
        rest = dict(self.left)
        for key, value in self.extra.items():
            rest[key if key not in rest else f"record_{key}"] = value
        given = rest.pop("meta", {})
        if not isinstance(given, Mapping):
            given = {"meta": given}
        made = dict(given)
        for key, value in rest.items():
            made[key if key not in made else f"record_{key}"] = value
        return made
