"""Faults of reasoning traces: repeated steps, an answer that the reasoning does not give, hesitation, and length."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.text.criteria import column
from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Arrays
    from tamis.views import PoolView, ShardSignals

_HESITATION = re.compile(
    r"\b(?:wait|hmm+|hold on|actually|on second thought"
    r"|let me (?:re-?check|re-?think|reconsider|double-check|think again)"
    r"|i(?:'m| am) not (?:so |quite )?sure|maybe|perhaps|alternatively|no,? that(?:'s| is) (?:not|wrong))\b",
    re.IGNORECASE,
)
_STEP = re.compile(r"\n+|(?<=[.?!])\s+")
_VALUE = re.compile(r"=\s*-?[$€£]?\s*(\d[\d,]*(?:\.\d+)?)")
_THOUGHT = re.compile(r"</(?:think|thought|reasoning)>", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class CotTrace:
    """Faults of a reasoning trace: repeated steps, another answer than given, hesitation, length.

    After "Are Reasoning Models More Prone to Hallucination?" (2025). `repeated`: share of steps (lines, sentences) that
    stood there before. `contradiction`: 1 where the answer given is not
    the one that the reasoning came to: inside its thinking tags, in an earlier "the answer is", or behind its last
    equals sign. `hesitation`: "wait", "maybe" and the like per 100 words. `length_residual`: log words of the
    response beyond what the prompt's length foretells over the pool (least squares). Our forms; no published value.

    On model solutions of GSM8K (1,500 rows) wrong ones have the larger `length_residual` (AUC 0.60 [0.57, 0.63]);
    `contradiction` (0.52 [0.49, 0.55]), `repeated` and `hesitation` (0.50) have no clear signal there. Of 1,494 worked
    answers of FLAN's GSM8K 1.1 % are called contradictions, by equations and units that are read wrong.
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The text signal."""
        return frozenset({Need(kind="signal", name="text")})

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        """`line` (2,): intercept and slope of log(1 + words) of responses on that of prompts, over rows with both."""
        import numpy as np

        asked, answered = [np.concatenate(part) for part in zip(*map(_logs, view.shards()), strict=True)]
        asked, answered = asked[answered > 0], answered[answered > 0]
        slope = 0.0
        mean, height = (math.fsum(one) / max(1, len(one)) for one in (asked, answered))  # exact: no order enters
        spread = math.fsum((asked - mean) ** 2)
        if spread > 0:
            slope = math.fsum((asked - mean) * (answered - height)) / spread
        return {"line": np.array([height - slope * mean, slope])}, {"rows": len(asked), "slope": slope}

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `repeated` (share), `contradiction` (0 or 1), `hesitation` (per 100 words), `length_residual`.

        `contradiction` is NaN where no answer is declared, or nothing to compare it with.
        """
        import numpy as np

        from tamis.text.passages import of_row

        reasons = np.array(have["text"]["reason"], np.uint8)
        texts = [of_row(row).response for row in have.shard.read()]
        found = np.array([_contradicts(text) for text in texts], np.float64)
        none = np.where((reasons == 0) & np.isnan(found), int(Reason.NOTHING_TO_CHECK), reasons).astype(np.uint8)
        asked, answered = _logs(have)
        intercept, slope = np.asarray(have["fit"]["line"])
        hesitation = np.array([len(_HESITATION.findall(text)) for text in texts])
        return {
            "repeated": column(np.array([_repeated(text) for text in texts]), "share of steps", reasons),
            "contradiction": column(found, "1 where it contradicts", none),
            "hesitation": column(100 * hesitation / np.maximum(np.expm1(answered), 1), "per 100 words", reasons),
            "length_residual": column(answered - intercept - slope * asked, "log words", reasons),
        }


def _logs(have: ShardSignals) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """log(1 + words) of prompts and of responses."""
    import numpy as np

    from tamis.text.text_statistics import statistic

    signal = have["text"]
    asked, answered = (np.log1p(statistic(np.asarray(signal[field]), "words")) for field in ("prompt", "response"))
    return asked, answered


def _repeated(text: str) -> float:
    from tamis.text.words import plain

    steps = [plain(step.strip()) for step in _STEP.split(text) if step.strip()]
    return 1 - len(set(steps)) / len(steps) if steps else 0.0


def _contradicts(text: str) -> float:
    """1 where the answer given is not what was worked out, 0 where it is, NaN where one of them is not to be found."""
    from tamis.text.arithmetic import final_answers

    thought = list(_THOUGHT.finditer(text))
    if thought:
        inside, outside = text[: thought[-1].start()], text[thought[-1].end() :]
        declared, given = [*final_answers(inside)], [*final_answers(outside)] or [outside.strip().lower()]
    else:
        inside, given = text, [*final_answers(text)]
        declared = given[:-1]
    if not given or not given[-1]:
        return float("nan")
    return _differ(declared[-1], given[-1]) if declared else _differ_from_value(inside, given[-1])


def _differ(declared: str, given: str) -> float:
    """Whether two answers differ: as numbers where both hold one, else as words."""
    from tamis.text.arithmetic import numbers_of
    from tamis.text.words import plain, words_of

    numbers = [numbers_of(one) for one in (declared, given)]
    if all(numbers):
        return float(numbers[0][0] not in numbers[1])
    return float(words_of(plain(declared)) != words_of(plain(given)))


def _differ_from_value(reasoning: str, given: str) -> float:
    """Whether an answer differs from the last number behind an equals sign; NaN where either holds no number."""
    from tamis.text.arithmetic import numbers_of

    values, answers = _VALUE.findall(reasoning), numbers_of(given)
    value = numbers_of(values[-1])[:1] if values else []
    return float(value[0] not in answers) if value and answers else float("nan")
