"""The steps of a cleaning as they are asked for: names with settings, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tamis.catalogue import build
from tamis.errors import RecipeError

FORM = "a list of steps, each a name or `{name: {setting: value}}`"


@dataclass(frozen=True)
class Step:
    """One step: its name in ledger and report, the cleaner or transform, its settings as written, and where they stand.

    `path`: keys below the list of steps, for messages that name a line.
    """

    name: str
    component: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    path: tuple[str, ...] = ()

    def built(self) -> Any:
        """The component. RecipeError with every fault of its settings."""
        return build("cleaners", self.component, self.settings)


def steps_of(value: Any) -> list[Step]:
    """Steps of a `clean` head, or of `--with a,b`: names, or names with settings; one that comes twice gets a number.

    Raises RecipeError where `value` is neither.
    """
    counts: Counter[str] = Counter()
    steps = []
    for path, component, settings in _entries(value, ()):
        stem = component.rpartition(":")[2]
        counts[stem] += 1
        steps.append(Step(stem if counts[stem] == 1 else f"{stem}-{counts[stem]}", component, settings, path))
    return steps


def _entries(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, Mapping[str, Any]]]:
    if isinstance(value, str):
        yield from ((path, name.strip(), {}) for name in value.split(",") if name.strip())
    elif isinstance(value, Mapping):
        for name, settings in value.items():
            if settings is not None and not isinstance(settings, Mapping):
                raise RecipeError(f"the settings of {name} are a mapping, as in `{name}: {{}}`; got {settings!r}")
            yield (*path, str(name)), str(name), dict(settings or {})
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _entries(item, (*path, str(number)))
    elif value is not None:
        raise RecipeError(f"expected {FORM}; got {value!r}")
