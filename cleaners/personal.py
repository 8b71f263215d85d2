"""Personal data: masked, or a reason to drop a row."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.privacy import personal
from tamis.privacy.rows import mask_rows, rows_that_hold
from tamis.privacy.spans import Span
from tamis.values import Dropped, Machine, Need, Patch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tamis.pool import Shard
    from tamis.views import PoolView

Kind = Literal["EMAIL", "PHONE", "CREDIT_CARD", "IBAN", "IP_ADDRESS", "US_SSN", "CRYPTO_WALLET"]


@dataclass(frozen=True, kw_only=True)
class MaskPii:
    """Puts placeholders such as <EMAIL> in the place of personal data; the row keeps its place.

    `kinds` are found by the pattern recognisers of Presidio (Microsoft, MIT), which know forms and checksums and no
    language: names of people and places stay. `least`: their score from which a find counts. `regions`: countries
    whose national telephone numbers are known. `reserved`: mask addresses that nobody can have, too (127.0.0.1,
    …@example.com). Needs the extra `tamis[pii]`. What is found is counted by kind and written nowhere.

    In 1,800 rows of six public instruction sets one place was found falsely (the number of a paragraph, as an IP
    address) and two rightly; in 200 web pages 20 rightly and 8 falsely (bar codes and a date).
    """

    revision: ClassVar[int] = 1
    kinds: tuple[Kind, ...] = ("EMAIL", "PHONE", "CREDIT_CARD", "IBAN", "IP_ADDRESS", "US_SSN", "CRYPTO_WALLET")
    least: float = 0.4
    regions: tuple[str, ...] = ("US",)
    reserved: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def apply(self, shard: Shard, /) -> Patch:
        """Rows with something to mask. Facts: places masked, by kind."""
        return mask_rows(shard, _find(self))


@dataclass(frozen=True, kw_only=True)
class Pii:
    """Drops rows that hold personal data.

    Settings as of `mask-pii`; `most`: a row may hold so many places and stay. Neither the reasons nor the excerpts of
    dropped rows show what was found.
    """

    revision: ClassVar[int] = 1
    withheld: ClassVar[bool] = True
    kinds: tuple[Kind, ...] = ("EMAIL", "PHONE", "CREDIT_CARD", "IBAN", "IP_ADDRESS", "US_SSN", "CRYPTO_WALLET")
    least: float = 0.4
    regions: tuple[str, ...] = ("US",)
    reserved: bool = False
    most: int = 0

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def clean(self, view: PoolView, on: Machine, /) -> Dropped:
        """Rows that hold more than `most` places. Facts: rows by kind."""
        return rows_that_hold(view, _find(self), self.most + 1)


def _find(settings: MaskPii | Pii) -> Callable[[str], list[Span]]:
    own: dict[str, Any] = {"least": settings.least, "regions": settings.regions, "reserved": settings.reserved}
    return functools.partial(personal.find, kinds=settings.kinds, **own)
