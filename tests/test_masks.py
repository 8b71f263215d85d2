"""The mask linter finds every planted fault, names the rows, and says nothing about clean data."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import tiny
from tamis.chat_template import chat_template
from tamis.cli import main
from tamis.exporting import export
from tamis.masks import MaskReport, lint
from tamis.models import ModelRef
from tamis.values import Row

SAY = "{{ '<|' + m['role'] + '|>\n' }}"
LOOP = "{% for m in messages %}"
OTHERS = "{% else %}{{ m['content'] + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
IF = "{% if m['role'] == 'assistant' %}"
PLANTED = {
    # marks that end before the stop token; an end that is no token; no end at all
    "stop outside": LOOP + SAY + IF + "{% generation %}{{ m['content'] }}{% endgeneration %}{{ '<|end|>' }}" + OTHERS,
    "stop as text": LOOP + SAY + IF + "{% generation %}{{ m['content'] + '[END]' }}{% endgeneration %}" + OTHERS,
    "no stop": LOOP + SAY + IF + "{% generation %}{{ m['content'] }}{% endgeneration %}" + OTHERS,
    "no stop, no marks": LOOP + SAY + "{{ m['content'] + '\n' }}{% endfor %}",
    "two bos": "{{ bos_token + bos_token }}" + str(tiny.TEMPLATES["marks"]),
    "never trained": LOOP + SAY + "{% generation %}{% endgeneration %}{{ m['content'] + '<|end|>\n' }}{% endfor %}",
}
Make = Callable[..., ModelRef]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a model whose tokenizer has this template."""

    def made(template: str, name: str = "model", **settings: Any) -> ModelRef:
        folder = tiny.make_tokenizer(tmp_path / name, template="marks")
        (folder / "chat_template.jinja").write_text(tiny.TEMPLATES.get(template) or template)
        return ModelRef(name=str(folder), **settings)

    return made


def codes(report: MaskReport) -> dict[str, int]:
    return {finding.code: finding.rows for finding in report.findings}


ROWS: Sequence[Row] = tiny.make_rows(12)
PAIR = tiny.make_row(
    tiny.chat("seven?"),
    kind="pair",
    chosen=({"role": "assistant", "content": "eleven."},),
    rejected=({"role": "assistant", "content": "stone " * 60},),
)


def test_clean_data_is_passed_in_silence(make: Make) -> None:
    rated = tiny.make_row(tiny.chat("a?", "b."), kind="rated", label=True)
    text = tiny.make_row([{"role": "document", "content": "stone river"}], kind="text")
    report = lint([*ROWS, PAIR, rated, text], make("marks"), scored_with=make("marks", "other"))
    assert report.rows == 15 and report.findings == ()


def test_the_shipped_model_and_its_kind_of_data_are_clean() -> None:
    assert lint(ROWS, ModelRef(name="tamis:tiny-lm", max_tokens=1024)).findings == ()


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("stop outside", {"stop-token": 12}),
        ("stop as text", {"stop-token": 12}),
        ("no stop", {"stop-token": 12}),
        ("no stop, no marks", {"stop-token": 12, "no-generation-marks": 12}),
        ("two bos", {"double-bos": 12}),
        ("never trained", {"no-labels": 12}),
        ("plain", {"no-generation-marks": 12}),
        ("bos", {"no-generation-marks": 12}),
    ],
)
def test_a_planted_fault_of_the_template_is_found_and_nothing_else(
    make: Make, template: str, wanted: dict[str, int]
) -> None:
    report = lint(ROWS, make(PLANTED.get(template, template)))
    assert codes(report) == wanted
    assert all(finding.examples[0] == "tiny.jsonl:0" for finding in report.findings)


def test_answers_cut_on_the_right_are_told_from_lost_turns_and_cut_context(make: Make) -> None:
    long = "stone " * 40
    cut = tiny.make_row(tiny.chat("a?", long), file="f", position=1)
    lost = tiny.make_row(tiny.chat("a?", "b.", long, "c."), file="f", position=2)
    gone = tiny.make_row(tiny.chat(long, "b."), file="f", position=3)
    fits = tiny.make_row(tiny.chat("a?", "b."), file="f", position=4)
    tail = tiny.make_row((*tiny.chat("a?", "b."), {"role": "user", "content": long}), file="f", position=5)
    report = lint([cut, lost, gone, fits, tail], make("marks", max_tokens=32))
    found = {finding.code: (finding.rows, finding.examples) for finding in report.findings}
    assert found == {
        "no-labels": (1, ("f:3",)),
        "answer-cut": (1, ("f:1",)),
        "turns-lost": (1, ("f:2",)),
        "context-cut": (1, ("f:5",)),
    }
    assert [finding.code for finding in report.faults] == ["no-labels", "answer-cut", "turns-lost"]


def test_answers_cut_on_the_left_are_found(make: Make) -> None:
    cut = tiny.make_row(tiny.chat("a?", "stone " * 40))
    context = tiny.make_row(tiny.chat("stone " * 40, "b."))
    report = lint([cut, context], make("marks", max_tokens=32, truncation="left"))
    assert codes(report) == {"answer-cut": 1, "context-cut": 1}


def test_an_answer_that_fits_to_the_last_token_is_not_cut(make: Make) -> None:
    model = make("marks")
    row = tiny.make_row(tiny.chat("a?", "stone river."))
    text = chat_template(model.name).lay(row.messages).text
    size = len(chat_template(model.name).tokenizer(text, add_special_tokens=False)["input_ids"])
    for short, wanted in ((0, {}), (1, {"context-cut": 1}), (2, {"answer-cut": 1})):  # 1: the line end behind the stop
        assert codes(lint([row], ModelRef(name=model.name, max_tokens=size - short))) == wanted


def test_both_sides_of_a_pair_are_looked_at_and_counted_once(make: Make) -> None:
    assert codes(lint([PAIR], make("marks", max_tokens=32))) == {"answer-cut": 1}
    assert codes(lint([PAIR], make(PLANTED["no stop"], "other"))) == {"stop-token": 1}


def test_rows_without_an_answer_or_refused_by_the_template_have_no_labels(make: Make) -> None:
    asked = tiny.make_row(tiny.chat("a?"), kind="prompt")
    system = tiny.make_row(tiny.chat("a?", "b.", system="Be brief."))
    found = lint([asked, system, *ROWS[1:2]], make("strict"))
    (finding,) = (one for one in found.findings if one.code == "no-labels")
    assert finding.rows == 2 and "needs an answer" in finding.text and "refuses the row" in finding.text


def test_a_template_that_rewrites_history_is_a_finding_and_not_a_crash(make: Make) -> None:
    good = tiny.make_row(tiny.chat("a?", "b."))
    bad = tiny.make_row(tiny.chat("a?", "<think>x</think>b.", "c?", "d."))
    report = lint([good, bad, good], make("rewriting"))
    assert codes(report)["no-spans"] == 1
    assert "rewrites earlier turns" in report.findings[0].text


def test_a_template_other_than_the_one_scored_with_is_found(make: Make) -> None:
    scored = make("default-system", "scored")
    system = tiny.make_row(tiny.chat("a?", "b.", system="Be long."))
    rows = [*ROWS[1:4], system]
    assert codes(lint(rows, make("plain"), scored_with=scored))["template-differs"] == 3  # not the row with a system
    # the same text, but the line end behind the stop token is trained by one of them alone
    assert codes(lint(rows, make("marks", "marked"), scored_with=make("plain"))) == {"template-differs": 4}


def test_a_tokenizer_that_adds_bos_to_a_template_that_writes_it_is_told(make: Make) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    model = make("{{ bos_token }}" + str(tiny.TEMPLATES["marks"]))
    file = Path(model.name) / "tokenizer.json"
    raw = Tokenizer.from_file(str(file))
    raw.post_processor = TemplateProcessing(
        single=f"{tiny.BOS} $A", special_tokens=[(tiny.BOS, raw.token_to_id(tiny.BOS))]
    )
    raw.save(str(file))
    report = lint(ROWS, model)
    assert codes(report) == {"bos-twice-as-text": 12} and not report.faults


def test_bos_in_the_text_of_the_row_is_a_double_bos(make: Make) -> None:
    template = "{{ bos_token }}{{ messages[0]['content'] }}{% generation %}{{ messages[1]['content'] + '<|end|>' }}"
    rows = [tiny.make_row(tiny.chat(f"{tiny.BOS}seven?", "b.")), tiny.make_row(tiny.chat("seven?", "b."))]
    assert codes(lint(rows, make(template + "{% endgeneration %}"))) == {"double-bos": 1}


def test_an_export_for_a_trainer_is_linted(make: Make, tmp_path: Path) -> None:
    pool = tiny.make_pool(tmp_path / "pool", [*ROWS, PAIR])
    for form in ("trl", "axolotl", "llama-factory"):
        clean = export(pool, range(13), tmp_path / f"{form}.json", form, model=make("marks"))
        assert clean.masks is not None and clean.masks.findings == () and clean.masks.rows == 13
        bad = export(pool, range(13), tmp_path / f"{form}.json", form, model=make(PLANTED["no stop"], "bad"))
        assert any(note.startswith("masks: 13 rows train no stop token") for note in bad.notes)


@pytest.mark.parametrize(("template", "code"), [("marks", 0), ("no stop", 1)])
def test_doctor_ends_with_1_where_masks_are_faulty(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], template: str, code: int
) -> None:
    pool = tiny.make_pool(tmp_path / "pool", ROWS)
    pool.save(tmp_path / "pool" / "pool.json")
    model = make(PLANTED.get(template, template))
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--masks", str(tmp_path / "pool"), "--model", model.name, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == code and found["rows"] == 12
    assert [one["code"] for one in found["findings"]] == ["stop-token"] * code
