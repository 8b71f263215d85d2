"""Credentials: masked, or a reason to drop a row."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.privacy import credentials
from tamis.privacy.rows import mask_rows, rows_that_hold
from tamis.values import Dropped, Machine, Need, Patch

if TYPE_CHECKING:
    from tamis.pool import Shard
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class MaskSecrets:
    """Puts placeholders such as <AWS_KEY> in the place of keys, tokens and passwords.

    They are found by the plugins of detect-secrets (Yelp, Apache-2.0) that know the form of a credential, and private
    keys as whole blocks; nothing is sent anywhere to see whether it is valid. `guess` adds what a name (`password =`)
    or its disorder makes suspicious: in data for training most of that are examples. Needs the extra `tamis[pii]`. What
    is found is counted by kind and written nowhere.

    In 2,000 rows (six public instruction sets, two of them code, and 200 web pages) nothing was found by its form, and
    nothing was there; `guess` found 14 places, all of them placeholders or digests.
    """

    revision: ClassVar[int] = 1
    guess: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def apply(self, shard: Shard, /) -> Patch:
        """Rows with something to mask. Facts: places masked, by kind."""
        return mask_rows(shard, functools.partial(credentials.find, kinds=_kinds(self.guess)))


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Drops rows that hold keys, tokens or passwords.

    `guess` as of `mask-secrets`. Neither the reasons nor the excerpts of dropped rows show what was found.
    """

    revision: ClassVar[int] = 1
    withheld: ClassVar[bool] = True
    guess: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def clean(self, view: PoolView, on: Machine, /) -> Dropped:
        """Rows that hold a credential. Facts: rows by kind."""
        return rows_that_hold(view, functools.partial(credentials.find, kinds=_kinds(self.guess)))


def _kinds(guess: bool) -> tuple[str, ...]:
    return (*credentials.KINDS, *(credentials.GUESSED if guess else ()))
