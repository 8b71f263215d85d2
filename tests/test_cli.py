"""The command line: every verb does its work, `--json` prints one object, exit codes say what happened (DESIGN §4)."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import small
from small import Run, World
from tamis import cli
from tamis.catalogue import CATALOGUE

TRAINING = ("--set", "epochs=1", "--set", "rank=2", "--set", "alpha=4", "--set", "batch_rows=4")


@dataclass(frozen=True)
class Answer:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The one object on standard output."""
        assert self.code == 0, self.err
        assert len(self.out.splitlines()) == 1
        return json.loads(self.out)


Ask = Callable[..., Answer]


@pytest.fixture(name="ask")
def _ask(capsys: pytest.CaptureFixture[str]) -> Iterator[Ask]:
    """Run the command line in this process; what it changes in the process is put back."""
    handler, logger = signal.getsignal(signal.SIGTERM), logging.getLogger("tamis")
    before = logger.handlers[:], logger.level, logger.propagate

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main([str(argument) for argument in arguments])
            raise SystemExit(0)
        out, err = capsys.readouterr()
        code = left.value.code
        return Answer(code if isinstance(code, int) else 0, out, err)

    yield run
    signal.signal(signal.SIGTERM, handler)
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return small.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the one workspace that the verbs share."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def done(world: World, place: Path) -> Run:
    """Make a run for the verbs that look at one, without comparing."""
    recipe = world.recipe.read_text(encoding="utf-8").partition("proof:")[0]
    short = world.folder / "short.yaml"
    short.write_text(recipe, encoding="utf-8")
    return small.conduct(World(world.folder, short, world.rows), place)


@pytest.fixture(scope="module")
def pool(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tamis.api import open_pool

    folder = tmp_path_factory.mktemp("pool")
    open_pool([str(world.folder / "pool" / "*.jsonl")], out=folder)
    return folder


def test_ingest_reads_a_pool_counts_what_it_refused_and_stands_by_the_gate(
    ask: Ask, world: World, tmp_path: Path
) -> None:
    files = (world.folder / "pool" / "first.jsonl", world.folder / "pool" / "second.jsonl")
    found = ask("ingest", *files, "--out", tmp_path / "pool", "--json").value
    assert found["rows"] == world.rows - len(small.BROKEN)
    assert sum(found["quarantine"].values()) == len(small.BROKEN) == sum(one["quarantined"] for one in found["files"])
    assert ask("ingest", *files, "--out", tmp_path / "pool", "--max-bad", "50%").code == 0
    refused = ask("ingest", *files, "--out", tmp_path / "pool", "--max-bad", "1%")
    assert refused.code == 3 and "5 of 71" in refused.err


def test_ingest_previews_and_writes_nothing(ask: Ask, world: World, tmp_path: Path) -> None:
    seen = ask("ingest", world.folder / "target.jsonl", "--preview", 2, "--out", tmp_path / "pool")
    assert seen.code == 0 and "[chat]" in seen.out and not (tmp_path / "pool").exists()


def test_the_verbs_over_a_pool_work_one_after_the_other(
    ask: Ask, world: World, place: Path, pool: Path, tmp_path: Path
) -> None:
    model = ("--model", world.folder / "model", "--max-tokens", 96)
    common = (*model, "--workspace", place, "--json")
    scored = ask("score", pool, "--with", "perplexity,length", "--workers", 1, *common).value
    assert "perplexity.response@model" in scored["columns"]
    assert scored["columns"]["perplexity.response@model"]["scored"] == 64
    again = ask("score", pool, "--with", "perplexity", "--workers", 1, *common).value
    assert all(one["made"] == 0 for one in again["passes"].values())
    listed = ask("columns", pool, "--workspace", place, "--json").value
    assert set(scored["columns"]) <= set(listed["columns"])
    written = ask("scores", pool, "--to", tmp_path / "scores.parquet", "--workspace", place, "--json").value
    assert written["rows"] == len(pq.read_table(tmp_path / "scores.parquet")) == 66

    where = "perplexity.response < 1e9 and source == 'sums'"
    kept = ask("filter", pool, "--where", where, "--out", tmp_path / "kept.parquet", *common).value
    assert kept["kept"] == 32
    top = ("--with", "top", "--set", "by=perplexity.response", "--budget", "5", "--out", tmp_path / "top.parquet")
    assert ask("select", pool, *top, *common).value["rows"] == 5
    shares = ask("mix", pool, "--with", "equal", "--budget", "10", *common).value
    assert shares["unit"] == "rows" and sum(shares["shares"].values()) == 10

    subset, tuned = tmp_path / "top.parquet", tmp_path / "tuned"
    trained = ask("train", subset, "--out", tuned, "--workers", 1, *TRAINING, *common).value
    assert trained["rows"] == 5 and (tuned / "adapter_config.json").is_file()
    held_out = world.folder / "eval.jsonl"
    before = ask("eval", held_out, *common).value
    after = ask("eval", held_out, "--adapter", tuned, *common).value
    assert before["items"] == after["items"] == 6 and before["value"] != after["value"]
    against = ("--evaluate", held_out, "--against", "random", "--runs", 1, "--workers", 1)
    compared = ask("compare", subset, *against, *TRAINING, *common).value
    assert {arm["name"] for arm in compared["arms"]} == {"top", "untouched", "random"} and compared["verdict"]
    for form in ("jsonl", "trl", "parquet"):
        out = tmp_path / f"out-{form}.{'parquet' if form == 'parquet' else 'jsonl'}"
        assert ask("export", subset, "--to", form, "--out", out, *common).value["rows"] == 5 and out.is_file()


def test_select_less_runs_what_it_needs(ask: Ask, world: World, place: Path, pool: Path, tmp_path: Path) -> None:
    warm_up = [part for pair in TRAINING[1::2] for part in ("--set", f"warm_up.{pair}")]
    asked = ("select", pool, "--with", "less", "--budget", "4", "--out", tmp_path / "less.parquet", *warm_up)
    common = ("--model", world.folder / "model", "--max-tokens", 96, "--workspace", place, "--workers", 1)
    without = ask(*asked, *common)
    assert without.code == 2 and "target" in without.err
    found = ask(*asked, *common, "--target", world.folder / "target.jsonl")
    assert found.code == 0 and found.out.startswith("pass ") and "4 of 64 usable rows" in found.out


def test_the_verbs_over_a_run_say_why_and_where(ask: Ask, done: Run, place: Path) -> None:
    ledger = pq.read_table(done.folder / "ledger.parquet").to_pylist()
    best = next(row for row in ledger if row["rank"] == 0)
    told = ask("explain", "latest", best["key"], "--workspace", place)
    assert told.code == 0 and "SELECTED by less, rank 0" in told.out and "[assistant]" in told.out
    broken = next(row for row in ledger if row["verdict"] == "quarantined")
    found = ask("explain", "latest", f"{broken['file']}:{broken['position']}", "--workspace", place, "--json").value
    assert found["verdict"] == "quarantined" and found["reason"]
    assert ask("explain", "latest", "0", "--workspace", place).code == 2
    assert ask("explain", "nothing-like-it", best["key"], "--workspace", place).code == 2
    (done.folder / "report.html").unlink()
    assert Path(ask("report", "--workspace", place, "--json").value["report"]).is_file()


def test_the_verbs_over_recipes_check_and_plan_without_training(ask: Ask, world: World, place: Path) -> None:
    checked = ask("check", world.recipe, "--json").value
    assert [stage["name"] for stage in checked["stages"]][-1] == "proof" and checked["faults"] == []
    planned = ask("plan", world.recipe, "--workspace", place, "--workers", 1, "--json").value
    assert planned["rows"] == 66 and planned["usable"] == 64 and planned["hours"] > 0
    arms = {step["stage"] for step in planned["steps"]}
    assert {"proof: less", "proof: random", "proof: longest", "proof: full", "warmup", "influence"} <= arms
    assert "less" in ask("recipes", "--json").value["recipes"]
    assert "select: less" in ask("recipes", "less").out


def test_list_and_doctor(ask: Ask, tmp_path: Path) -> None:
    assert ask("list", "--json").value.keys() == CATALOGUE.keys()
    assert set(ask("list", "selectors", "--json").value["selectors"]) == set(CATALOGUE["selectors"])
    assert "perplexity" in ask("list", "scorers").out
    assert ask("list", "--help").code == 0 and ask("list", "--nothing").code == 2
    wrong = ask("list", "selector")
    assert wrong.code == 2 and "selectors" in wrong.err
    checks = ask("doctor", "--workspace", tmp_path, "--json").value["checks"]
    assert all(check["ok"] or check["optional"] for check in checks)


FAULTS = {
    "a component": ("select: less,", "select: lesss,", "lesss"),
    "a setting": ("budget: 25%", "budgett: 25%", "budget"),
    "a reference": ('from: "@influence", budget', 'from: "@influense", budget', "@influense"),
    "a cycle": ("on: {select: random, budget: 16, seed: 1}", 'on: "@subset"', "cycle"),
    "a budget": ("budget: 25%", "budget: 250%", "250%"),
    "no budget": ("budget: 25%", "budget: -4", "-4"),
    "a file": ("target.jsonl", "targets.jsonl", "targets.jsonl"),
    "a baseline": ("longest, full", "shortest, full", "shortest"),
    "not YAML": ("name: small", "name: [small", "small.yaml"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("verb", ["check", "run", "plan", "serve"])
def test_a_fault_in_a_recipe_is_code_2_and_nothing_is_started(
    ask: Ask, world: World, verb: str, fault: str, tmp_path: Path
) -> None:
    old, new, told = FAULTS[fault]
    text = world.recipe.read_text(encoding="utf-8")
    assert old in text
    recipe = tmp_path / "small.yaml"
    recipe.write_text(text.replace(old, new), encoding="utf-8")
    where = () if verb == "check" else ("--workspace", tmp_path / "work")
    every = ("--every", "1h") if verb == "serve" else ()
    answer = ask(verb, recipe, *where, *every)
    assert answer.code == 2 and told in answer.err, answer.err
    assert "Traceback" not in answer.err and not answer.out
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_all_faults_are_listed_at_once_with_their_lines(ask: Ask, world: World, tmp_path: Path) -> None:
    text = world.recipe.read_text(encoding="utf-8")
    for name in ("a component", "a file", "a baseline"):
        old, new, _ = FAULTS[name]
        text = text.replace(old, new)
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text(text, encoding="utf-8")
    answer = ask("run", recipe, "--workspace", tmp_path / "work", "--json")
    found = json.loads(answer.out)
    assert answer.code == 2 and found["error"] == "RecipeError" and len(found["faults"]) >= 3
    for name, told in (("target", "targets.jsonl"), ("subset", "lesss"), ("proof", "shortest")):
        assert any(told in fault and name in fault and "wrong.yaml:" in fault for fault in found["faults"]), name


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "no-such-recipe"), "no-such-recipe"),
        (("run", "no/such/file.yaml"), "file.yaml"),
        (("score", "no-such-file.jsonl", "--with", "length"), "no-such-file.jsonl"),
        (("score", "POOL", "--with", "perplexity"), "--model"),
        (("score", "POOL", "--with", "perplexityy", "--model", "MODEL"), "perplexity"),
        (("score", "POOL", "--with", "perplexity", "--model", "no/such/folder"), "no/such/folder"),
        (("filter", "POOL", "--where", "perplexity.nothing <"), "perplexity"),
        (("select", "POOL", "--with", "randomm", "--budget", "5"), "random"),
        (("select", "POOL", "--with", "random", "--budget", "many"), "many"),
        (("select", "POOL", "--with", "random", "--budget", "5", "--set", "sede=1"), "seed"),
        (("mix", "POOL", "--with", "equall", "--budget", "5"), "equal"),
        (("train", "no-such-subset.parquet", "--model", "MODEL"), "no-such-subset.parquet"),
        (("eval", "no-such-file.jsonl", "--model", "MODEL"), "no-such-file.jsonl"),
        (("report", "no-such-run"), "no-such-run"),
        (("serve", "less"), "--every"),
        (("nothing",), "nothing"),
    ],
)
def test_wrong_input_is_code_2_with_a_message(
    ask: Ask, world: World, pool: Path, arguments: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("TAMIS_WORKSPACE", str(tmp_path / "work"))
    known = {"POOL": str(pool), "MODEL": str(world.folder / "model")}
    answer = ask(*[known.get(part, part) for part in arguments])
    assert answer.code == 2 and told in answer.err, answer.err
    assert "Traceback" not in answer.err and not answer.out


def test_json_is_asked_for_anew_by_every_command(ask: Ask) -> None:
    assert ask("list", "--json").out.startswith("{") and not ask("list").out.startswith("{")


def test_ctrl_c_is_code_130(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(workspace: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tamis.operations.diagnosis.diagnose", interrupt)
    answer = ask("doctor", "--json")
    assert answer.code == 130 and json.loads(answer.out)["error"] == "Stopped" and "goes on" in answer.err
