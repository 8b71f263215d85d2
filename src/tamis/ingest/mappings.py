r"""What the user says about the fields of a record, on the command line and in a recipe alike.

| entry | means |
|---|---|
| `prompt=question` | the prompt stands in the field `question`; likewise every other name of `CANONICAL` |
| `rejected=meta.ranked_answers.-1` | a field inside: dotted names, and places in lists from the front or the back |
| `messages.role=speaker`, `messages.content=text` | the fields of a turn |
| `role.customer=user` | turns that say `customer` are the user's; a role of `ROLES_MEANT` |
| `input.join=\n` | what stands between prompt and input (else an empty line) |
| `answer.empty=prompt` | a row whose last answer is empty is a prompt (else it is refused), as in evaluation sets |

On the command line `--map prompt=question,role.bot=assistant`. In a recipe the same entries under `map:`, or nested:
`map: {messages: {field: talk, role: speaker, content: text}, roles: {user: [customer], assistant: [bot, agent]}}`.
Naming one of prompt, text, messages or chosen replaces the detection as a whole (but for `source`, found by its name);
other entries add to it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tamis.catalogue import nearest
from tamis.errors import RecipeError

CANONICAL = (
    "prompt", "response", "system", "text", "messages", "chosen", "rejected", "label", "tools", "source", "input",
    "history",
)  # fmt: skip
MAIN = frozenset(("prompt", "text", "messages", "chosen"))
ROLES_MEANT = ("system", "user", "assistant", "tool", "function_call")
EXTRA = ("messages.role", "messages.content", "input.join", "answer.empty")
QUESTIONS = {"answer.empty": "prompt"}  # how evaluation sets are read, whose answers are often left out
ROLE = "role."


@dataclass(frozen=True)
class Words:
    """The words of turns: role said -> role meant, and the fields of role and content ("" where they are detected)."""

    roles: Mapping[str, str] = field(default_factory=dict)
    role: str = ""
    content: str = ""


@dataclass(frozen=True)
class Rules:
    """A mapping, sorted: `fields` {canonical: path}, `whole` where it replaces the detection."""

    fields: Mapping[str, str] = field(default_factory=dict)
    words: Words = field(default_factory=Words)
    join: str = "\n\n"
    unanswered: bool = False  # rows without an answer are prompts

    @property
    def whole(self) -> bool:
        """Whether the mapping replaces the detection."""
        return bool(MAIN & set(self.fields))


def flatten(mapping: Mapping[str, Any] | None) -> dict[str, str]:
    """Flat entries of a mapping as a recipe writes it. Raises RecipeError for what is neither text nor one of these."""
    return dict(_entries(mapping or {}))


def _entries(mapping: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in mapping.items():
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            yield str(name), str(value)
        elif name == "roles" and isinstance(value, Mapping):
            for role, words in value.items():
                for word in [words] if isinstance(words, str) else list(words or []):
                    yield f"{ROLE}{word}", str(role)
        elif name == "role" and isinstance(value, Mapping):
            yield from ((f"{ROLE}{word}", str(role)) for word, role in value.items())
        elif name in ("messages", "input", "answer") and isinstance(value, Mapping):
            yield from ((str(name) if key == "field" else f"{name}.{key}", str(item)) for key, item in value.items())
        else:
            raise RecipeError(f"map {name}: expected the name of a field, got {value!r}")


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Refuse entries that mean nothing. Raises RecipeError with all of them."""
    known = [*CANONICAL, *EXTRA]
    faults = []
    for name, value in mapping.items():
        if name.startswith(ROLE):
            if value not in ROLES_MEANT:
                faults.append(f"--map {name}={value}: there is no role {value!r}; expected {', '.join(ROLES_MEANT)}")
        elif name == "answer.empty" and value not in ("prompt", "refuse"):
            faults.append(f"--map {name}={value}: expected prompt or refuse")
        elif name not in known:
            text = f"--map {name}={value}: there is no {name!r}{nearest(name, known)} Known: {', '.join(known)}"
            faults.append(f"{text}, role.WORD")
    if ("chosen" in mapping) != ("rejected" in mapping):
        faults.append("--map names one of chosen and rejected: a preference has both")
    if faults:
        raise RecipeError(faults)


def rules(mapping: Mapping[str, str] | None) -> Rules:
    """The entries of a flat mapping, sorted."""
    return _rules(tuple((mapping or {}).items()))


@functools.lru_cache(maxsize=64)
def _rules(entries: tuple[tuple[str, str], ...]) -> Rules:
    given = dict(entries)
    roles = {name.removeprefix(ROLE): role for name, role in entries if name.startswith(ROLE)}
    words = Words(roles, given.get("messages.role", ""), given.get("messages.content", ""))
    join = given.get("input.join", "\n\n").replace("\\n", "\n")
    fields = {name: path for name, path in entries if name in CANONICAL}
    return Rules(fields, words, join, given.get("answer.empty") == "prompt")


def nested(record: Mapping[str, Any], path: str) -> Any:
    """Value at a field, or at a dotted path of keys and places (-1: the last); None where there is none."""
    if path in record:
        return record[path]
    value: Any = record
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.removeprefix("-").isdigit() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
