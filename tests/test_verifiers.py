"""Laws of verifiers: what counts as the same answer, where the gold comes from, and that nothing runs unasked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import tiny
from tamis.errors import RecipeError
from tamis.values import Row
from tamis.verifiers import Verify
from tamis.verifiers.answers import boxed, number_of, plain
from tamis.verifiers.execution import Python, code_of, held


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Step 1: 3 + 4 = 7. Answer: 1,234.50.", "1234.5"),
        ("it costs $5 or #### 12", "12"),
        ("#### -0.50 dollars, not 3", "-0.5"),
        (r"so \boxed{\frac{6}{4}} and 9", "3/2"),
        (r"\boxed{4} then \boxed{x + {12}}", "12"),
        (r"\boxed{7", "7"),
        ("minus \u22125", "-5"),
        ("10/2", "5"),
        ("1/0", None),
        ("nothing", None),
        ("0.0", "0"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_the_number_that_an_answer_ends_with(text: str, number: str | None) -> None:
    assert number_of(text) == number


def test_texts_are_compared_without_dress() -> None:
    assert plain(" **Paris**.\n") == plain("paris") == "paris" and plain("\uff21") == "a" and plain(" . ") is None
    assert boxed("none") is None and boxed(r"\boxed{a{b}c}") == "a{b}c"


def _row(answer: str, **meta: object) -> Row:
    return tiny.make_row(tiny.chat("what?", answer), meta=meta)


def test_verifiers_agree_with_the_answers_that_they_are_given() -> None:
    numeric, exact = Verify(), Verify(by="exact")
    gold = numeric.gold_of(_row("I think 12."))
    assert gold is not None and numeric.verifier.right("first 3, then 12.0", gold)
    assert not numeric.verifier.right("12 or 13", gold) and not numeric.verifier.right("none", gold)
    assert exact.verifier.right("The END", "the end.") and not exact.verifier.right("", "the end")
    regex = Verify(by="regex", pattern=r"Answer:\s*(.+)")
    assert regex.verifier.right("x\nAnswer: a  b", "Answer: z\nAnswer: a b") and not regex.verifier.right(
        "a b", "Answer: a b"
    )
    assert regex.gold_of(_row("no such line")) is None and numeric.gold_of(_row("no number")) is None


def test_gold_comes_from_the_answer_or_from_meta() -> None:
    assert Verify(gold="meta.result").gold_of(_row("7", result=8)) == "8"
    assert Verify(gold="meta.result").gold_of(_row("7")) is None
    tests = Verify(by="python", gold="meta.tests", allow_execution=True)
    assert tests.gold_of(_row("", tests=["assert 1", "assert 2"])) == "assert 1\nassert 2"
    prompt = tiny.make_row(tiny.chat("what?"), kind="prompt", meta={"result": 3})
    assert Verify().gold_of(prompt) is None and Verify(gold="meta.result").gold_of(prompt) == "3"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"by": "nummeric"}, "numeric"),
        ({"by": "python", "gold": "meta.t"}, "allow_execution"),
        ({"by": "python", "allow_execution": True}, "gold: meta.NAME"),
        ({"by": "regex"}, "pattern"),
        ({"by": "regex", "pattern": "("}, "regular expression"),
        ({"gold": "answer"}, "meta.NAME"),
        ({"seconds": 0}, "seconds"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Verify(**wrong)  # type: ignore[arg-type]


def test_a_third_party_is_named_by_module_and_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "class Same:\n    def right(self, text, gold):\n        return text == gold\nclass Bad:\n    pass\n"
    (tmp_path / "own_verifiers.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Verify(by="own_verifiers:Same").verifier.right("a", "a")
    before = Verify(by="own_verifiers:Same").digest
    monkeypatch.setattr("own_verifiers.Same.revision", 2, raising=False)
    assert before != Verify(by="own_verifiers:Same").digest != Verify().digest
    for name, said in (("own_verifiers:Bad", "no method"), ("own_verifiers:None_", "cannot be loaded")):
        with pytest.raises(RecipeError, match=said):
            _ = Verify(by=name).verifier
    sys.modules.pop("own_verifiers", None)


def test_code_is_taken_from_the_last_fenced_block() -> None:
    assert code_of("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```\n") == "y = 2\n" and code_of("x = 3") == "x = 3"


@pytest.mark.skipif(sys.platform != "linux", reason="limits and filters are Linux's")
def test_code_is_right_only_if_it_runs_to_the_end() -> None:
    python = Python(seconds=4, memory_mb=256)
    assert python.right("```python\ndef f(x):\n    return x + 1\n```", "assert f(1) == 2")
    assert not python.right("import os\nos._exit(0)", "assert False")
    assert not python.right("import os\nos.fork()", "") and not python.right("import socket", "")
    assert held()[0].startswith("limits")


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="limits and filters are Linux's")
@pytest.mark.parametrize(
    ("attack", "works"),
    [
        ("fork bomb", "import os\nwhile True: os.fork()"),
        ("processes", "import subprocess\nsubprocess.run(['true'])"),
        ("shell", "import os\nassert os.system('true') == 0"),
        ("threads", "import threading\nfor _ in range(50): threading.Thread(target=input).start()"),
        ("memory", "held = b''\nwhile True: held += b'a' * 10**7"),
        ("loop", "while True: pass"),
        ("sleep", "import time\ntime.sleep(1000)"),
        ("deaf sleep", "import signal, time\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\ntime.sleep(1000)"),
        ("big file", "open('a', 'w').write('x' * 10**8)"),
        ("many files", "for n in range(10**6): open(str(n), 'w').close()"),
        ("outside", "open({outside!r}, 'w')"),
        ("outside by link", "import os\nos.symlink({outside!r}, 'b')\nopen('b', 'w')"),
        ("remove", "import os\nos.remove({kept!r})"),
        ("network", "import socket\nsocket.create_connection(('127.0.0.1', {port}))"),
        ("network by another name", "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}')"),
        ("foreign functions", "import ctypes\nctypes.CDLL(None).fork()"),
        ("lifted limits", "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (100, 100))"),
        ("killing", "import os\nos.kill(os.getppid(), 9)"),
        ("environment", "import os\nassert set(os.environ) - {'LC_CTYPE'}"),
        ("early end", "import sys\nsys.exit(0)"),
        ("packages", "import numpy"),
        ("deep recursion", "def f(): return f()\nf()"),
        ("syntax", "def ("),
    ],
)
def test_attacks_fail_and_leave_nothing_behind(attack: str, works: str, tmp_path: Path) -> None:
    import socket
    import tempfile

    kept, outside = tmp_path / "kept", tmp_path / "outside"
    kept.write_text("here")
    before = set(Path(tempfile.gettempdir()).glob("tamis-run-*"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        code = works.replace("{outside!r}", repr(str(outside))).replace("{kept!r}", repr(str(kept)))
        code = code.replace("{port}", str(server.getsockname()[1]))
        assert not Python(seconds=1, memory_mb=256).right(code, ""), attack
        with pytest.raises(TimeoutError):
            server.accept()
    assert kept.read_text() == "here" and not outside.exists()
    assert set(Path(tempfile.gettempdir()).glob("tamis-run-*")) <= before
