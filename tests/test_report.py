"""The report: one file, inert, honest about what is missing, with the numbers of the run folder."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from run_folders import HOSTILE, Page, fabricate
from tamis.errors import DataError
from tamis.report import distributions, points, summary, wording, write_report
from tamis.report.charts import items_only_mark
from tamis.report.folder import read_run_folder
from tamis.report.inert import clean, clean_tree, embedded_json, plotly_lines, plotly_text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fabricate(tmp_path_factory.mktemp("hostile") / "run", rows=300, hostile=True)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(hostile: Path) -> Page:
    return Page((hostile / "report.html").read_text(encoding="utf-8"))


def charts_of(page: Page) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    charts: list[dict[str, Any]] = json.loads(page.scripts[0], parse_constant=refuse)
    return charts


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def test_no_text_of_a_dataset_becomes_an_element(page: Page) -> None:
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3
    assert not {"img", "iframe", "object", "form", "svg"} & set(tags)
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "src" not in attributes, tag
        if tag == "a":
            assert str(attributes["href"]).startswith("#")


def test_dataset_text_stands_in_the_page_as_it_was(hostile: Path, page: Page) -> None:
    for text in HOSTILE:
        assert clean(text) in page.text
    for row in json.loads((hostile / "examples.json").read_text())["kept"]:
        assert clean(row["prompt"]) in page.text
        assert clean(row["response"]) in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", page.text)


def test_only_line_breaks_and_bold_are_markup_in_charts(page: Page) -> None:
    for text in strings([[chart["data"], chart["layout"]] for chart in charts_of(page)]):
        assert not set(re.findall("<[^>]*>?", text)) - {"<br>", "<b>", "</b>"}, text


def test_the_data_block_is_json_that_cannot_end_its_element(page: Page) -> None:
    assert not set("<>&") & set(page.scripts[0])
    assert page.scripts[0].isascii()
    assert {chart["name"] for chart in charts_of(page)} >= {"funnel", "arms", "differences", "map", "stages", "score-0"}


def test_the_policy_allows_exactly_the_two_scripts_of_the_report(page: Page) -> None:
    policy = next(str(a["content"]) for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    allowed = re.search("script-src ([^;]*);", policy)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts[1:]]
    assert allowed is not None
    assert allowed.group(1).split() == [f"'sha256-{digest}'" for digest in digests]
    assert "connect-src" not in policy
    assert "http" not in policy


def test_nothing_is_loaded_from_anywhere(hostile: Path) -> None:
    text = (hostile / "report.html").read_text(encoding="utf-8")
    outside = text[: text.index('<script type="application/json"')]
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", outside)
    assert "@import" not in outside
    assert "url(" not in outside


FILES: tuple[str, ...] = ("manifest.json", "recipe.lock.yaml", "ledger.parquet", "subset.parquet", "quarantine.parquet")
FILES += ("columns.parquet", "map.parquet", "examples.json", "comparison.json")
SENTENCES = {
    "comparison.json": "trained and compared nothing",
    "columns.parquet": "no columns of scores",
    "map.parquet": "holds no map",
    "examples.json": "holds no examples",
    "recipe.lock.yaml": "no recipe.lock.yaml",
}


@pytest.mark.parametrize("absent", FILES)
def test_what_the_folder_lacks_is_left_out_with_a_sentence(tmp_path: Path, absent: str) -> None:
    folder = fabricate(tmp_path / "run", rows=80)
    (folder / absent).unlink()
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert SENTENCES.get(absent, "tamis") in page.text
    assert len(charts_of(page)) >= 5


def test_an_empty_folder_gives_a_report_and_no_folder_an_error(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "This run selected no subset." in page.text
    assert charts_of(page) == []
    with pytest.raises(DataError, match="not a run folder"):
        write_report(tmp_path / "nowhere")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", rows=80)
    (folder / "comparison.json").write_text('{"metric": ')
    (folder / "examples.json").write_text("[1]")
    (folder / "ledger.parquet").write_bytes(b"PAR1 no PAR1")
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    for name in ("comparison.json is not JSON", "examples.json holds no JSON object", "ledger.parquet is not readable"):
        assert name in page.text


def test_the_report_is_the_same_twice_and_leaves_no_other_file(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", rows=80)
    before = sorted(folder.iterdir())
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert sorted(folder.iterdir()) == sorted([*before, folder / "report.html"])


def test_histograms_equal_a_plain_count(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", rows=400)
    chart = distributions.score_charts(read_run_folder(folder))[0]
    table, subset = pq.read_table(folder / "columns.parquet"), pq.read_table(folder / "subset.parquet")
    assert chart.title == table.column_names[1]
    keys, chosen = table["key"].to_pylist(), set(subset["key"].to_pylist())
    values = {key: value for key, value in zip(keys, table[1].to_pylist(), strict=True) if value == value}
    low, high = np.quantile(np.array(list(values.values()), dtype=np.float64), (0.01, 0.99))
    width = (high - low) / distributions.BINS
    for trace, rows in zip(chart.data, (list(values), [key for key in values if key in chosen]), strict=True):
        counts = [0] * distributions.BINS
        for key in rows:
            counts[min(max(int((values[key] - low) // width), 0), distributions.BINS - 1)] += 1
        assert trace["y"][: distributions.BINS] == pytest.approx([n / len(rows) for n in counts], abs=1e-6)
    assert f"{len(keys) - len(values)} not scored" in chart.note


def test_lost_rows_add_up_to_the_rows_not_selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "MAX_LOSSES", 3)
    folder = fabricate(tmp_path / "run", rows=400, hostile=True)
    lines = summary.losses(read_run_folder(folder))
    verdicts = pq.read_table(folder / "ledger.parquet")["verdict"].to_pylist()
    assert len(lines) == 4
    assert sum(line["rows"] for line in lines) == len(verdicts) - verdicts.count("selected")


def test_the_map_draws_every_selected_row_and_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "MAX_POINTS", 100)
    folder = fabricate(tmp_path / "run", rows=600)
    table = pq.read_table(folder / "map.parquet")
    chart = points.map_chart(read_run_folder(folder))
    assert chart is not None
    pool, subset = chart.data
    assert len(subset["x"]) == sum(table["selected"].to_pylist())
    assert len(pool["x"]) + len(subset["x"]) == 100
    assert f"{table.num_rows - 100:,} more" in chart.note


def test_groups_that_a_reader_may_mark_name_the_right_points(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", rows=200)
    rows = pq.read_table(folder / "map.parquet").to_pylist()
    chart = points.map_chart(read_run_folder(folder))
    assert chart is not None
    for field, groups in chart.groups.items():
        for selected, codes in zip((False, True), groups["codes"], strict=True):
            names = [groups["names"][code].rsplit(" (", 1)[0] for code in codes]
            assert names == [row[field] for row in rows if row["selected"] is selected]


def test_composition_without_a_comparison_is_counted_from_the_ledger(tmp_path: Path) -> None:
    folder = fabricate(tmp_path / "run", rows=400)
    (folder / "comparison.json").unlink()
    ledger = pq.read_table(folder / "ledger.parquet").to_pylist()
    (chart,) = distributions.composition_charts(read_run_folder(folder))
    pool, subset = chart.data
    groups = [text.strip() for text in chart.layout["yaxis"]["ticktext"]]
    for trace, verdicts in ((pool, ("dropped", "selected")), (subset, ("selected",))):
        rows = [row["source"] for row in ledger if row["verdict"] in verdicts]
        assert trace["x"] == pytest.approx([rows.count(group) / len(rows) for group in groups])


def test_an_interval_over_items_only_is_marked(tmp_path: Path) -> None:
    assert items_only_mark({"over": "items"}) == " †"
    assert items_only_mark({"over": "items and runs"}) == ""
    text = Page(write_report(fabricate(tmp_path / "run", rows=80)).read_text(encoding="utf-8")).text
    assert "full †" in text
    assert "the interval is over items only" in text


@pytest.mark.parametrize(
    ("differences", "state"),
    [
        ([{"arm": "random", "mean": -0.2, "clear": True}], "better"),
        ([{"arm": "random", "mean": 0.2, "clear": True}], "worse"),
        ([{"arm": "random", "mean": -0.2, "clear": False}], "unclear"),
        ([], "unclear"),
    ],
)
def test_the_header_says_clear_only_where_the_comparison_does(
    tmp_path: Path, differences: list[dict[str, Any]], state: str
) -> None:
    facts = {"verdict": "A sentence.", "lower_is_better": True, "differences": differences}
    (tmp_path / "comparison.json").write_text(json.dumps(facts))
    assert summary.verdict(read_run_folder(tmp_path)) == summary.Verdict("A sentence.", state)
    row = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert ("the interval excludes zero and every run agrees" in row.text) == (state == "better")


def test_text_is_made_inert() -> None:
    assert clean("a\r\nb\rc\td\x00\x9f\ud800\u202e") == "a\nb\nc\td" + "\ufffd" * 4
    assert clean("abcdef", 3) == "abc … (cut)"
    assert clean(None) == ""
    assert clean_tree({"\x00": [float("nan"), float("inf"), 1.5, "\x07", None, True]}) == {
        "\ufffd": [None, None, 1.5, "\ufffd", None, True]
    }
    assert plotly_text("<b>a</b>\n& &lt;") == "&lt;b&gt;a&lt;/b&gt; &amp; &amp;lt;"
    assert plotly_lines("<i> " * 20, 40).count("<br>") == 1
    assert embedded_json({"a": "</script>&\u2028"}) == '{"a":"\\u003c/script\\u003e\\u0026\\u2028"}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded_json(float("nan"))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (wording.count(12345), "12,345"),
        (wording.count(None), wording.NONE),
        (wording.decimal(1.23456), "1.235"),
        (wording.decimal(0.000123456), "0.0001235"),
        (wording.decimal(-2345.6), "\u22122,346"),
        (wording.decimal(float("nan")), wording.NONE),
        (wording.signed(0.0421), "+0.0421"),
        (wording.signed(-0.3637), "\u22120.364"),
        (wording.share(0.0523), "5.2%"),
        (wording.share(0.68), "68%"),
        (wording.scientific(0.0003), "0.0003"),
        (wording.seconds(0.42), "0.4 s"),
        (wording.seconds(59.7), "1 min 00 s"),
        (wording.seconds(3911), "1 h 05 min"),
        (wording.times(9.42), "9.4\u00d7"),
        (wording.times(0.069), "0.07\u00d7"),
    ],
)
def test_numbers_are_written_as_one_would_say_them(written: str, expected: str) -> None:
    assert written == expected
