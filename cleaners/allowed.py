"""Lists of what may stay: by licence, and by source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import RecipeError
from tamis.values import Dropped, Machine, Need

if TYPE_CHECKING:
    from tamis.views import PoolView

SHOWN = 60  # characters of a name that a row brings along


@dataclass(frozen=True, kw_only=True)
class Licences:
    """Drops rows whose licence is not on the list, or is on a list of refused ones.

    A row's licence stands in its `meta` under the first of `fields` that it has: a name, or several in a list, of which
    every one must pass. Names are compared without case; `*` stands for any text, as in `cc-by-*` (which `cc-by-nc-4.0`
    passes too: list what you mean). A row that names no licence is dropped, unless `allow_missing`. Raises RecipeError
    where neither list names anything.
    """

    revision: ClassVar[int] = 1
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    fields: tuple[str, ...] = ("license", "licence", "license_name")
    allow_missing: bool = False

    def __post_init__(self) -> None:
        _need_a_list("licences", self.allow, self.deny)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def clean(self, view: PoolView, on: Machine, /) -> Dropped:
        """Rows without a licence that may stay. `facts["licences"]`: rows by licence, "" for none."""
        return _judged((self._of(text) for text in _records(view, "meta")), "licence", self, self.allow_missing)

    def _of(self, text: str) -> tuple[str, ...]:
        import json

        meta = json.loads(text)
        found = next((meta[name] for name in self.fields if meta.get(name) not in (None, "", [])), ())
        names = found if isinstance(found, list) else (found,) if found != () else ()
        return tuple(str(name).strip() for name in names)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Drops rows whose source is not on the list, or is on a list of refused ones.

    The source of a row is what its file says of it, else the name of the file. Names are compared without case; `*`
    stands for any text. Raises RecipeError where neither list names anything.
    """

    revision: ClassVar[int] = 1
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _need_a_list("sources", self.allow, self.deny)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def clean(self, view: PoolView, on: Machine, /) -> Dropped:
        """Rows of a source that may not stay. `facts["sources"]`: rows by source."""
        return _judged(((text,) for text in _records(view, "source")), "source", self, missing_stays=False)


def _need_a_list(name: str, allow: Sequence[str], deny: Sequence[str]) -> None:
    if not allow and not deny:
        raise RecipeError(f"{name}: needs a list of names, `allow` or `deny`")


def _records(view: PoolView, column: str) -> Iterator[str]:
    for shard in view.pool.shards:
        yield from shard.table([column]).column(column).to_pylist()


def _judged(rows: Iterable[tuple[str, ...]], what: str, lists: Any, missing_stays: bool) -> Dropped:
    """Hold the names of every row against the lists `allow` and `deny`."""
    import collections

    import numpy as np

    reasons: list[str] = []
    leaves: list[bool] = []
    counts: collections.Counter[str] = collections.Counter()
    known: dict[tuple[str, ...], str] = {}
    for names in rows:
        if names not in known:
            known[names] = _why(names, what, lists, missing_stays)
        counts[" and ".join(names)[:SHOWN]] += 1
        leaves.append(known[names] != "")
        reasons += [known[names]] if known[names] else []
    facts = {f"{what}s": dict(counts.most_common(50))}
    return Dropped(rows=np.array(leaves, np.bool_), reasons=tuple(reasons), facts=facts)


def _why(names: tuple[str, ...], what: str, lists: Any, missing_stays: bool) -> str:
    """Why a row with these names leaves; the empty string where it stays."""
    if not any(names):
        return "" if missing_stays else f"it names no {what}"
    for name in names:
        if _matches(name, lists.deny):
            return f"its {what} {name[:SHOWN]!r} is refused"
        if lists.allow and not _matches(name, lists.allow):
            return f"its {what} {name[:SHOWN]!r} is not on the list"
    return ""


def _matches(name: str, patterns: Sequence[str]) -> bool:
    from fnmatch import fnmatchcase

    # a bracket would be a set of characters; nobody means that in the name of a licence
    return any(fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]")) for pattern in patterns)
