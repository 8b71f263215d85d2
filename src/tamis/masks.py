"""The mask linter: rows as the tokenizer that will train them renders them, and what is wrong with their labels.

| code | level | what was found |
|---|---|---|
| no-labels | fault | no token of the row is trained: no answer, refused by the template, or all of it cut away |
| no-spans | fault | the template rewrites earlier turns, so that no exact mask exists |
| stop-token | fault | a trained answer whose stop token (end of sequence, end of turn) is not trained |
| answer-cut | fault | an answer of which a part is cut away by the limit of tokens |
| turns-lost | fault | assistant turns of which nothing is left within the limit of tokens |
| double-bos | fault | the row begins with two BOS tokens |
| template-differs | fault | text or trained characters are not those of the model that the rows were scored with |
| no-generation-marks | warning | the template does not tell TRL (`assistant_only_loss`) what the assistant wrote |
| bos-twice-as-text | warning | template and tokenizer both put BOS in front: rendered text, tokenised again, has two |
| context-cut | warning | tokens were cut, but none of an answer |

Clean data gives no finding.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tamis.chat_template import MARKS, ChatTemplate, RowRefused, chat_template
from tamis.errors import ModelError
from tamis.values import Reason, Row

if TYPE_CHECKING:
    from tamis.models import ModelRef
    from tamis.rendering import Rendered

Level = Literal["fault", "warning"]
EXAMPLES = 3
BATCH = 512
TAIL = 4  # a stop token is looked for among the last tokens of an answer: templates put line ends around it

_CODES: dict[str, tuple[Level, str]] = {
    "no-labels": ("fault", "have no token to train on"),
    "no-spans": ("fault", "cannot be masked exactly"),
    "stop-token": (
        "fault",
        "train no stop token behind an answer: the model will not learn to stop; the template must write the end "
        "token inside its generation marks, and it must be a special token of the tokenizer",
    ),
    "answer-cut": ("fault", "lose a part of an answer to the limit of tokens; raise max_tokens or leave them out"),
    "turns-lost": ("fault", "lose whole assistant turns to the limit of tokens; raise max_tokens or leave them out"),
    "double-bos": ("fault", "begin with two BOS tokens; the text or the template holds one too many"),
    "template-differs": ("fault", "are rendered or masked otherwise than by the model they were scored with"),
    "no-generation-marks": (
        "warning",
        "rendered by a template without {% generation %} marks: TRL's assistant_only_loss cannot mask them; export "
        "with labels, or give the template marks",
    ),
    "bos-twice-as-text": (
        "warning",
        "rendered by a template that writes BOS for a tokenizer that adds it too: a trainer that tokenises the "
        "rendered text must do so with add_special_tokens=False",
    ),
    "context-cut": ("warning", "are cut at the limit of tokens, outside the answers"),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault: how many rows have it, what it is and what to change, and up to three of the rows."""

    code: str
    level: Level
    rows: int
    text: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f" (for example {', '.join(self.examples)})" if self.examples else ""
        return f"{self.rows} rows {self.text}{where}"


@dataclass(frozen=True)
class MaskReport:
    """What the linter found over `rows` rows, faults first; empty on clean data."""

    rows: int
    findings: tuple[Finding, ...] = ()

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that spoil a training run; warnings are left out."""
        return tuple(finding for finding in self.findings if finding.level == "fault")


def lint(rows: Iterable[Row], model: ModelRef, *, scored_with: ModelRef | None = None) -> MaskReport:
    """Render every row as `model` will see it, and report faults of the masks; see the table of this module.

    `scored_with`: the model whose scores chose the rows; its template is compared where it is not the same.
    """
    linter = Linter(model, scored_with=scored_with)
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            linter.add(batch)
            batch = []
    linter.add(batch)
    return linter.report()


@dataclass
class Linter:
    """Collects findings batch by batch, so that an export can lint the rows that it renders anyway."""

    model: ModelRef
    scored_with: ModelRef | None = None
    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)

    @functools.cached_property
    def template(self) -> ChatTemplate:
        """The template of the model that will be trained."""
        return chat_template(self.model.name)

    @functools.cached_property
    def specials(self) -> frozenset[int]:
        """Ids that can end an answer: special tokens of the tokenizer, and the ends that the model's folder names."""
        return frozenset(int(token) for token in _special_ids(self.template.tokenizer)) | _ends(self.model.name)

    @functools.cached_property
    def marked(self) -> bool:
        """Whether the template marks what the assistant writes."""
        return self.template.default or bool(MARKS.search(str(self.template.tokenizer.chat_template)))

    @functools.cached_property
    def adds_bos_twice(self) -> bool:
        """Whether the tokenizer puts BOS in front of a text of this template that begins with it."""
        tokenizer: Any = self.template.tokenizer
        bos = tokenizer.bos_token_id
        if bos is None or self.template.default:
            return False
        if "bos_token" not in str(tokenizer.chat_template) and tokenizer.bos_token not in str(tokenizer.chat_template):
            return False
        return list(tokenizer(f"{tokenizer.bos_token}a")["input_ids"][:2]) == [bos, bos]

    @functools.cached_property
    def other(self) -> ChatTemplate | None:
        """The template that the rows were scored with, if it is another one."""
        if self.scored_with is None:
            return None
        other = chat_template(self.scored_with.name)
        same = other.default == self.template.default and (
            other.tokenizer.chat_template == self.template.tokenizer.chat_template
            and other.tokenizer.special_tokens_map == self.template.tokenizer.special_tokens_map
        )
        return None if same else other

    def add(self, rows: Sequence[Row], rendered: Sequence[Rendered | None] = ()) -> None:
        """Lint these rows; `rendered` holds what is rendered already (None where it is not), in the same order."""
        given = list(rendered) or [None] * len(rows)
        self.rows += len(rows)
        missing = [place for place, one in enumerate(given) if one is None]
        sides: list[tuple[Row, Rendered]] = [
            (row, one) for row, one in zip(rows, given, strict=True) if one is not None
        ]
        sides += self._render([rows[place] for place in missing], "chosen")
        sides += self._render([row for row in rows if row.kind == "pair"], "rejected")
        for row in rows:
            self._judge_template(row)
        found: dict[str, dict[str, Row]] = {}
        for row, one in sides:
            for code in self._judge(row, one):
                found.setdefault(code, {})[row.key] = row  # both sides of a pair are one row
        for code, bad in found.items():
            for row in bad.values():
                self._found(code, row)

    def _render(self, rows: Sequence[Row], side: Literal["chosen", "rejected"]) -> list[tuple[Row, Rendered]]:
        from tamis.rendering import render_all

        if not rows:
            return []
        try:
            return list(zip(rows, render_all(rows, self.model, side=side), strict=True))
        except ModelError as error:
            if len(rows) == 1:
                self._found("no-spans", rows[0])
                self.reasons[str(error)] += 1
                return []
            return [pair for row in rows for pair in self._render([row], side)]

    def _judge(self, row: Row, one: Rendered) -> list[str]:
        ids, turn = one.ids.tolist(), one.turn.tolist()
        found = []
        bos = self.template.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            found.append("double-bos")
        if one.reason:
            self.reasons[one.reason.text] += 1
            return [*found, "no-labels"]
        if row.kind == "text":
            return [*found, *(["context-cut"] if one.truncated else [])]
        if not self.marked:
            found.append("no-generation-marks")
        if self.adds_bos_twice:
            found.append("bos-twice-as-text")
        cut = self._cuts(ids, turn, one) if one.truncated else []
        whole = [number for number in sorted(set(turn) - {-1}) if not (cut and turn[-1] == number)]
        if any(not self._stops(ids, turn, number) for number in whole):
            found.append("stop-token")
        return found + cut

    def _stops(self, ids: Sequence[int], turn: Sequence[int], number: int) -> bool:
        own = [token for token, owner in zip(ids, turn, strict=True) if owner == number]
        return any(token in self.specials for token in own[-TAIL:])

    def _cuts(self, ids: Sequence[int], turn: Sequence[int], one: Rendered) -> list[str]:
        left = set(turn) - {-1}
        found = ["turns-lost"] if len(left) < len(one.headers) else []
        if self.model.truncation == "right":
            inside = turn[-1] >= 0 and not self._stops(ids, turn, turn[-1])
        else:
            # the first token is never trained: an answer that goes on at the second was cut
            inside = len(turn) > 1 and turn[1] >= 0 and tuple(ids[:1]) != (one.headers or ((),))[turn[1]][-1:]
        return [*found, *(["answer-cut"] if inside else [])] or ["context-cut"]

    def _judge_template(self, row: Row) -> None:
        if self.other is None or row.kind in ("text", "prompt"):
            return
        mine, theirs = _said(self.template, row), _said(self.other, row)
        if mine != theirs:
            self._found("template-differs", row)

    def _found(self, code: str, row: Row) -> None:
        self.counts[code] += 1
        kept = self.examples.setdefault(code, [])
        if len(kept) < EXAMPLES:
            kept.append(f"{row.file}:{row.position}" if row.file else f"key {row.key[:8]}")

    def report(self) -> MaskReport:
        """The findings so far, in the order of the table."""
        found = []
        for code, (level, text) in _CODES.items():
            if not self.counts[code]:
                continue
            if code == "no-labels":
                why = [reason for reason in self.reasons if reason in {one.text for one in Reason}]
                text = f"{text}: {'; '.join(why)}"
            if code == "no-spans":
                text = f"{text}: {next(reason for reason in self.reasons if 'exact' in reason)}"
            rows, examples = self.counts[code], tuple(self.examples[code])
            found.append(Finding(code=code, level=level, rows=rows, text=text, examples=examples))
        return MaskReport(self.rows, tuple(found))


def _special_ids(tokenizer: Any) -> set[int]:
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    never = {tokenizer.bos_token_id, tokenizer.unk_token_id} - {tokenizer.eos_token_id}
    return (set(tokenizer.all_special_ids) | added) - never


def _ends(name: str) -> frozenset[int]:
    """Token ids at which generation ends, as `generation_config.json` and `config.json` of the model say."""
    from tamis.models import folder_of

    found: set[int] = set()
    for file in ("generation_config.json", "config.json"):
        try:
            ends = json.loads((folder_of(name) / file).read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError):  # a tokenizer alone has neither
            continue
        found.update(ends if isinstance(ends, list) else [] if ends is None else [ends])
    return frozenset(found)


def _said(template: ChatTemplate, row: Row) -> tuple[str, tuple[tuple[int, int], ...]] | None:
    """Text of the row and the characters of it that are trained; None where the template cannot take the row."""
    try:
        if row.kind == "pair":
            laid = template.lay((*row.messages, *row.chosen), row.tools, first=len(row.messages))
        else:
            laid = template.lay(row.messages, row.tools)
    except (RowRefused, ModelError):
        return None
    return laid.text, tuple(span for turn in laid.turns for span in turn.spans)
