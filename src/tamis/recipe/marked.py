"""YAML read safely into plain values, with the line of every setting, environment variables and `--set` overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
Where = tuple[str, ...]
MOST_VALUES, MOST_LEVELS = 100_000, 100  # of a YAML document
MOST_BYTES = 1 << 18  # of a recipe; YAML is read at some 50 kB a second of a processor
NAMED = ("model", "judge", "reference")  # a bare name stands for `{name: …}`


@dataclass
class Marked:
    """`values`: the document as plain Python. `lines`: line of each setting by its keys. `faults`: all."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Where, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def fault(self, path: Sequence[str], message: str) -> None:
        """Note a fault at a setting, or at the nearest one above it that has a line."""
        where = tuple(path)
        while where and where not in self.lines:
            where = where[:-1]
        line = f":{self.lines[where]}" if where in self.lines else ""
        self.faults.append(
            f"{self.name}{line}: {'.'.join(path)}: {message}" if path else f"{self.name}{line}: {message}"
        )


def read(path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Marked:
    """Read a YAML file; syntax faults, tags, double keys and unset variables end up in `faults`."""
    import yaml

    marked = Marked(str(path))
    if path.exists() and not path.is_file():
        raise RecipeError(f"{path}: the recipe is no file (a folder, a pipe or a device)")
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise RecipeError(
                f"{path}: {size:,} bytes, more than a recipe has ({MOST_BYTES:,}); name files by patterns"
            )
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise RecipeError(f"{path}: the recipe cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: the recipe is not UTF-8: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from error
    except RecursionError as error:
        raise RecipeError(f"{path}: not YAML: nested too deeply") from error
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{path}: a recipe is a mapping of names to settings; see `tamis recipes`")
    check_size(node, str(path))
    marked.values = _plain(node, (), marked, os.environ if environment is None else environment) or {}
    for override in overrides:
        apply_override(marked, override)
    return marked


def check_size(node: Any, name: str) -> None:
    """Refuse a YAML document whose anchors make it endless, or larger than any recipe (100,000 values), or deep.

    Aliases are one node in memory and many values in what they stand for: a few lines can say billions.
    """
    counts: dict[int, int] = {}

    def count(one: Any, above: tuple[int, ...]) -> int:
        if id(one) in above:
            raise RecipeError(f"{name}: a YAML anchor holds itself")
        if len(above) > MOST_LEVELS:
            raise RecipeError(f"{name}: nested more than {MOST_LEVELS} levels deep")
        if id(one) not in counts:
            parts = one.value if isinstance(one.value, list) else []
            flat = [part for item in parts for part in (item if isinstance(item, tuple) else (item,))]
            counts[id(one)] = 1 + sum(count(part, (*above, id(one))) for part in flat)
        return counts[id(one)]

    if node is not None and count(node, ()) > MOST_VALUES:
        raise RecipeError(f"{name}: its anchors stand for more than {MOST_VALUES:,} values; write them out")


def _plain(node: Any, path: Where, marked: Marked, environment: Mapping[str, str]) -> Any:
    import yaml

    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
        marked.fault(path, f"the YAML tag {node.tag!r} is not allowed in a recipe; write plain values")
        return None
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(getattr(key_node, "value", ""))
            here = (*path, key)
            if key in found:
                marked.fault(here, "is given twice; keep one")
            marked.lines[here] = key_node.start_mark.line + 1
            found[key] = _plain(value_node, here, marked, environment)
        return found
    if isinstance(node, yaml.SequenceNode):
        marked.lines |= {(*path, str(place)): item.start_mark.line + 1 for place, item in enumerate(node.value)}
        return [_plain(item, (*path, str(number)), marked, environment) for number, item in enumerate(node.value)]
    return _scalar(node, path, marked, environment)


def _scalar(node: Any, path: Where, marked: Marked, environment: Mapping[str, str]) -> Any:
    import yaml

    if "${" in node.value:
        missing = [name for name, default in _VARIABLE.findall(node.value) if name not in environment and not default]
        for name in missing:
            if "${" + name + ":-" not in node.value:
                marked.fault(path, f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        text = _VARIABLE.sub(lambda match: environment.get(match[1], match[2] or ""), node.value)
        return text if node.style in ("'", '"') else _parse(text)
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        marked.fault(path, f"cannot be read: {error}")
        return None


def _parse(text: str) -> Any:
    try:
        return safe_load(text, text[:40])
    except ValueError:
        return text


def safe_load(text: str, name: str) -> Any:
    """YAML as plain values: no tags, no bombs. ValueError where it is no YAML, RecipeError where it is a bomb."""
    import yaml

    try:
        check_size(yaml.compose(text, Loader=yaml.SafeLoader), name)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise RecipeError(f"{name}: nested too deeply") from error


def apply_override(marked: Marked, override: str) -> None:
    """Apply one `a.b=c`; the value is read as YAML. Missing levels are made; a list is replaced as a whole.

    Below a list of names and of `{name: settings}` (the steps of `clean`) a key is one of these names.
    """
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        marked.faults.append(f"--set {override}: expected NAME=VALUE, for example --set subset.budget=10%")
        return
    keys = name.strip().split(".")
    place = marked.values
    for number, key in enumerate(keys[:-1]):
        below = place[key] = {} if place.get(key) is None else place[key]
        if place is marked.values and key in NAMED and isinstance(below, str):
            below = place[key] = {"name": below}
        if isinstance(below, list):
            below = _named(below, keys[number + 1])
            if below is None and key == "clean":
                marked.faults.append(f"--set {override}: {key!r} has no step {keys[number + 1]!r} to set something of")
                return
        if not isinstance(below, dict):
            marked.faults.append(f"--set {override}: {key!r} is not a mapping, so nothing can be set below it")
            return
        place = below
    place[keys[-1]] = _parse(text)


def _named(entries: list[Any], name: str) -> dict[str, Any] | None:
    """The first mapping of a list that holds `name`; where the name stands alone it becomes one. None: not there."""
    for number, entry in enumerate(entries):
        if entry == name:
            entries[number] = {name: {}}
        if isinstance(entries[number], dict) and name in entries[number]:
            found: dict[str, Any] = entries[number]
            return found
    return None
