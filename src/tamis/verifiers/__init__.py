"""Verifiers: whether an answer is right, by its text, by a number in it, by a pattern, or by running it.

A third party's is named `my_package.module:Class`; it is built without arguments and has `right(text, gold) -> bool`
and, if it likes, `usable(gold) -> bool`, `notes() -> list[str]` and a class variable `revision`.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from tamis import digests
from tamis.errors import RecipeError
from tamis.verifiers.answers import answer_of

if TYPE_CHECKING:
    from tamis.values import Row

KNOWN = ("numeric", "exact", "regex", "python")
META = "meta."


class Verifier(Protocol):
    """Says whether an answer is right."""

    def right(self, text: str, gold: str, /) -> bool:
        """Whether `text` answers as `gold` does."""
        ...


@dataclass(frozen=True, kw_only=True)
class Verify:
    r"""How answers are checked. `by`: one of the verifiers below, or a third party's `my_package.module:Class`.

    `numeric`: the number in the last `\boxed{}`, behind the last `####`, or the last one, equal as numbers. `exact`:
    the whole texts, case, emphasis, white space and the closing point aside. `regex`: what `pattern` finds last in
    both, its first group if it has one. `python`: the code of the answer is run together with `gold`, which holds tests
    (asserts), and must end without an error; only with `allow_execution: true`, within `seconds` and `memory_mb`.

    `gold`: `response`, the row's own answer, or `meta.NAME`. RecipeError for settings that do not go together.
    """

    by: str = "numeric"
    gold: str = "response"
    pattern: str | None = None
    allow_execution: bool = False
    seconds: float = 4.0
    memory_mb: int = 512
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        faults = []
        if self.by not in KNOWN and ":" not in self.by:
            faults.append(f"by is {self.by!r}; expected {', '.join(KNOWN)} or my_package.module:Class")
        if self.gold != "response" and not (self.gold.startswith(META) and len(self.gold) > len(META)):
            faults.append(f"gold is {self.gold!r}; expected response or meta.NAME")
        if (self.by == "regex") != (self.pattern is not None):
            faults.append("`pattern` goes with `by: regex`, and that needs one")
        if self.by == "python" and not self.allow_execution:
            faults.append(
                "by: python runs code that a model wrote; say `allow_execution: true` if this machine may do so"
            )
        if self.by == "python" and self.gold == "response":
            faults.append("by: python needs tests: name them by `gold: meta.NAME` (a text or a list of asserts)")
        if not self.seconds > 0 or self.memory_mb < 64:
            faults.append("seconds must be above 0 and memory_mb at least 64")
        faults += _pattern_faults(self.pattern)
        if faults:
            raise RecipeError([f"verify: {fault}" for fault in faults])

    @property
    def digest(self) -> str:
        """Identity: the settings, and the `revision` of a third party's verifier, if it has one."""
        settings = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return digests.of_json({**settings, "revision": getattr(self.verifier, "revision", None)})

    @property
    def verifier(self) -> Verifier:
        """The verifier itself. RecipeError where a third party's cannot be loaded."""
        if self.by == "python":
            from tamis.verifiers.execution import Python

            return Python(seconds=self.seconds, memory_mb=self.memory_mb)
        if self.by == "regex":
            return Regex(self.pattern or "")
        return Answer(self.by) if self.by in ("numeric", "exact") else _third_party(self.by)  # type: ignore[arg-type]

    def gold_of(self, row: Row) -> str | None:
        """What a row says is right, as text; None where it says nothing that this verifier can use."""
        if self.gold == "response":
            last = row.messages[-1] if row.messages else {}
            gold: Any = last.get("content") if last.get("role") == "assistant" else None
        else:
            gold = row.meta.get(self.gold.removeprefix(META))
        if isinstance(gold, (list, tuple)):
            gold = "\n".join(str(line) for line in gold)
        if gold is None or isinstance(gold, dict) or not str(gold).strip():
            return None
        usable = getattr(self.verifier, "usable", None)
        return str(gold) if usable is None or usable(str(gold)) else None


@dataclass(frozen=True)
class Answer:
    """Compares the answers found in both texts, `numeric` or `exact`; a text without one is wrong."""

    kind: Literal["numeric", "exact"]

    def usable(self, gold: str) -> bool:
        """Whether there is an answer to compare with."""
        return answer_of(gold, self.kind) is not None

    def right(self, text: str, gold: str, /) -> bool:
        """Whether both hold the same answer."""
        found = answer_of(text, self.kind)
        return found is not None and found == answer_of(gold, self.kind)


@dataclass(frozen=True)
class Regex:
    """Compares what a pattern finds last in both texts, white space collapsed; a text without it is wrong."""

    pattern: str

    def usable(self, gold: str) -> bool:
        """Whether the pattern finds something to compare with."""
        return self._found(gold) is not None

    def right(self, text: str, gold: str, /) -> bool:
        """Whether the pattern finds the same in both."""
        found = self._found(text)
        return found is not None and found == self._found(gold)

    def _found(self, text: str) -> str | None:
        compiled = re.compile(self.pattern)
        matches = list(compiled.finditer(text))
        if not matches:
            return None
        return " ".join((matches[-1].group(1 if compiled.groups else 0) or "").split())


def _pattern_faults(pattern: str | None) -> list[str]:
    try:
        re.compile(pattern or "")
    except re.error as error:
        return [f"pattern {pattern!r} is no regular expression: {error}"]
    return []


def _third_party(name: str) -> Verifier:
    module, _, attribute = name.partition(":")
    try:
        verifier: Verifier = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise RecipeError(f"verifier {name!r} cannot be loaded and built without arguments: {error}") from error
    if not callable(getattr(verifier, "right", None)):
        raise RecipeError(f"verifier {name!r} has no method `right(text, gold) -> bool`")
    return verifier
