"""Filter expressions over columns and row fields, read with `ast` against a white list and never evaluated as code.

    ifd < 1 and (lang == "en" or source in ["oasst", "lima"]) and 2 <= perplexity.response < 50

Comparisons (chained too), `in`, `not in`, `and`, `or`, `not`, names, numbers and strings; nothing else. Names may hold
dots, hyphens and an `@model`: `gradient-similarity.gsm8k@base-4m`. There is no arithmetic, so a hyphen inside a name
is part of it. A comparison with NaN (or an absent text) is neither true nor false, so that `not` does not let the row
pass either; a row whose fate hangs on it does not pass and counts as not scored.
"""

from __future__ import annotations

import ast
import itertools
import keyword
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from tamis.errors import RecipeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Lookup = Callable[[str], NDArray[Any]]

_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>(?<![\w.])\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?)
      | (?P<name>[^\W\d]\w*(?:-(?=\w)\w+|\.(?=\w)\w+)*(?:@[\w./+-]*[\w+])?)""",
    re.VERBOSE,
)
_LONGEST, _DEEPEST = 10_000, 100


@dataclass(frozen=True)
class _Parsed:
    """The tree, with every name replaced by a plain one of the same length; `names` maps these back."""

    tree: ast.expr
    names: Mapping[str, str]
    text: str


def names(text: str) -> set[str]:
    """Names of the columns and fields that an expression uses. Raises RecipeError where it is wrong."""
    parsed = _parse(text)
    found = {parsed.names[node.id] for node in ast.walk(parsed.tree) if isinstance(node, ast.Name)}
    _check(parsed, parsed.tree)
    return found


def numeric(text: str) -> set[str]:
    """Names that an expression compares with a number, or that stand alone. Raises RecipeError where it is wrong."""
    parsed = _parse(text)
    _check(parsed, parsed.tree)
    found: set[str] = set()
    for node in ast.walk(parsed.tree):
        if isinstance(node, ast.BoolOp):
            found |= {value.id for value in node.values if isinstance(value, ast.Name)}
        elif isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Name):
            found.add(node.operand.id)
        elif isinstance(node, ast.Compare):
            found |= _used(node) if any(_is_number(term) for term in _terms(node)) else set()
    found |= {parsed.tree.id} if isinstance(parsed.tree, ast.Name) else set()
    return {parsed.names[name] for name in found}


def _terms(node: ast.Compare) -> Iterator[ast.expr]:
    """Everything that is compared, the items of lists one by one."""
    for term in (node.left, *node.comparators):
        yield from term.elts if isinstance(term, (ast.List, ast.Tuple, ast.Set)) else [term]


def _is_number(node: ast.expr) -> bool:
    return isinstance(_literal(node), (int, float))


def evaluate(text: str, lookup: Lookup, n: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows for which an expression holds, and rows that it could not judge.

    `lookup(name)` gives the (n,) values of a column or field. Returns `mask` (n,) bool, and `unscored` (n,) bool: rows
    that do not pass only because a value is NaN or None. Raises RecipeError where the expression is wrong.
    """
    import numpy as np

    parsed = _parse(text)
    _check(parsed, parsed.tree)
    values = {name: np.asarray(lookup(parsed.names[name])) for name in sorted(_used(parsed.tree))}
    for name, array in values.items():
        if array.shape != (n,):
            raise RecipeError(f"{parsed.names[name]} has shape {array.shape}, expected one value for each of {n} rows")
    missing = {name: _missing(array) for name, array in values.items()}
    true, false = _Evaluation(parsed, values, missing, n).of(parsed.tree)
    return true, ~true & ~false


def _deep(tree: ast.AST) -> bool:
    level: list[ast.AST] = [tree]
    for _ in range(_DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return False
    return True


def _used(tree: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _parse(text: str) -> _Parsed:
    if not text.strip() or len(text) > _LONGEST:
        raise RecipeError(f"a filter expression of {len(text)} characters; expected something like 'ifd < 1'")
    plain_of: dict[str, str] = {}
    spare = (word for word in map("_{}".format, itertools.count()) if word not in text)

    def plain(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None or keyword.iskeyword(name):
            return match[0]
        if name not in plain_of:
            plain_of[name] = name if name.isascii() and name.isidentifier() else next(spare)
        return plain_of[name].ljust(len(name))

    lead = len(text) - len(text.lstrip())
    replaced = _TOKEN.sub(plain, re.sub(r"[\r\n]", " ", text).strip())
    try:
        tree = ast.parse(replaced, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = (getattr(error, "offset", None) or 1) + lead
        reason = str(getattr(error, "msg", error))
        raise RecipeError(f"{text!r} is not understood at character {place}: {reason}") from error
    if _deep(tree):
        raise RecipeError(f"{text[:80]!r}… is nested more than {_DEEPEST} levels deep; join comparisons with and, or")
    return _Parsed(tree, {word: name for name, word in plain_of.items()}, text)


def _refuse(parsed: _Parsed, node: ast.AST, why: str) -> NoReturn:
    place = getattr(node, "col_offset", 0) + 1 + len(parsed.text) - len(parsed.text.lstrip())
    raise RecipeError(
        f"{parsed.text!r} is not understood at character {place}: {why}; expected columns compared with numbers or "
        "texts (<, <=, >, >=, ==, !=, in, not in) and joins comparisons with and, or, not"
    )


def _check(parsed: _Parsed, node: ast.expr) -> None:
    """Refuse everything that is not on the white list, with its place."""
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            _check(parsed, value)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check(parsed, node.operand)
    elif isinstance(node, ast.Compare):
        _check_comparison(parsed, node)
    elif not isinstance(node, ast.Name):
        _refuse(parsed, node, f"{_what(node)} where a comparison was expected")


def _check_comparison(parsed: _Parsed, node: ast.Compare) -> None:
    terms = [node.left, *node.comparators]
    for operator, term in zip(node.ops, node.comparators, strict=True):
        listed = isinstance(operator, (ast.In, ast.NotIn))
        if isinstance(operator, (ast.Is, ast.IsNot)):
            _refuse(parsed, term, "'is'")
        if listed and not isinstance(term, (ast.List, ast.Tuple, ast.Set)):
            _refuse(parsed, term, "'in' without a list")
        if listed and len(node.ops) > 1:
            _refuse(parsed, node, "'in' inside a chain of comparisons")
        for item in term.elts if listed and isinstance(term, (ast.List, ast.Tuple, ast.Set)) else [term]:
            _check_term(parsed, item, literal=listed)
    _check_term(parsed, node.left)
    if not any(isinstance(term, ast.Name) for term in terms):
        _refuse(parsed, node, "a comparison without a column")


def _check_term(parsed: _Parsed, node: ast.expr, *, literal: bool = False) -> None:
    if isinstance(node, ast.Name) and not literal:
        return
    if _literal(node) is None:
        expected = "number or text" if literal else "name, number or text"
        _refuse(parsed, node, f"{_what(node)} where a {expected} was expected")


def _literal(node: ast.expr) -> str | float | bool | None:
    """Value of a number, text, True or False, with a sign; None for anything else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _literal(node.operand)
        if isinstance(value, (str, bool)) or value is None:
            return None
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float)):
        return node.value
    return None


def _what(node: ast.AST) -> str:
    words = {ast.Call: "a call", ast.BinOp: "arithmetic", ast.Attribute: "an attribute", ast.Subscript: "an index"}
    return words.get(type(node), type(node).__name__.lower())


def _missing(array: NDArray[Any]) -> NDArray[np.bool_]:
    import numpy as np

    if array.dtype.kind == "f":
        return np.asarray(np.isnan(array), np.bool_)
    if array.dtype.kind == "O":
        return np.array([value is None or value != value for value in array], np.bool_)
    return np.zeros(array.shape, np.bool_)


@dataclass(frozen=True)
class _Evaluation:
    """Three-valued logic by two masks: rows where a part is true, and rows where it is false. Neither: not known."""

    parsed: _Parsed
    values: Mapping[str, NDArray[Any]]
    missing: Mapping[str, NDArray[np.bool_]]
    n: int

    def of(self, node: ast.expr) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Find the rows where a checked expression is true, and those where it is false."""
        import numpy as np

        if isinstance(node, ast.BoolOp):
            parts = [self.of(value) for value in node.values]
            every, some = np.logical_and.reduce, np.logical_or.reduce
            true, false = [part[0] for part in parts], [part[1] for part in parts]
            return (every(true), some(false)) if isinstance(node.op, ast.And) else (some(true), every(false))
        if isinstance(node, ast.UnaryOp):
            true_, false_ = self.of(node.operand)
            return false_, true_
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        assert isinstance(node, ast.Name)
        return self._alone(node)

    def _alone(self, node: ast.Name) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        value, known = self.values[node.id], ~self.missing[node.id]
        if value.dtype.kind not in "biufO":
            _refuse(self.parsed, node, f"{self.parsed.names[node.id]} is text and stands alone")
        true = known & (value == True)  # noqa: E712  elementwise
        return true, known & ~true

    def _comparison(self, node: ast.Compare) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        import numpy as np

        true, known = np.ones(self.n, np.bool_), np.ones(self.n, np.bool_)
        for term in (node.left, *node.comparators):
            if isinstance(term, ast.Name):
                known &= ~self.missing[term.id]
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            true &= self._compare(left, operator, right, known)
            left = right
        return true & known, known & ~true

    def _compare(
        self, left: ast.expr, operator: ast.cmpop, right: ast.expr, known: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """One comparison on the rows that are known; False elsewhere."""
        import numpy as np

        result = np.zeros(self.n, np.bool_)
        if not known.any():  # nothing to tell texts from numbers by
            return result
        one = self._term(left, known)
        if isinstance(operator, (ast.In, ast.NotIn)):
            assert isinstance(right, (ast.List, ast.Tuple, ast.Set))
            held = np.zeros(len(one), np.bool_)
            for item in right.elts:
                held |= self._apply(ast.Eq(), one, self._term(item, known), left)
            result[known] = ~held if isinstance(operator, ast.NotIn) else held
            return result
        result[known] = self._apply(operator, one, self._term(right, known), left)
        return result

    def _term(self, node: ast.expr, known: NDArray[np.bool_]) -> Any:
        import numpy as np

        if isinstance(node, ast.Name):
            array = self.values[node.id][known]
            return np.array(array.tolist()) if array.dtype.kind == "O" else array
        return np.full(int(known.sum()), _literal(node))

    def _apply(self, operator: ast.cmpop, left: Any, right: Any, node: ast.expr) -> NDArray[np.bool_]:
        import numpy as np

        texts = [side.dtype.kind == "U" for side in (left, right)]
        if len(left) and texts[0] != texts[1]:
            _refuse(self.parsed, node, "a text is compared with a number")
        names = {
            ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal", ast.Eq: "equal",
            ast.NotEq: "not_equal",
        }  # fmt: skip
        return np.asarray(getattr(np, names[type(operator)])(left, right), np.bool_)
