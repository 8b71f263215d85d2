"""Every command, recipe and piece of Python on the pages, carried out as a reader would, page by page (soak tier).

Lines go through bash in a folder that holds small files under the names that the pages use. What is not carried out as
it stands is in one of three tables here: what is put in its place (`INSTEAD`), what is added so that it ends within
seconds (`ADDED`), and what cannot run at all, with the reason (`NOT_RUN`). A block of a kind that is not known fails.
"""

from __future__ import annotations

import configparser
import gzip
import itertools
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from pages import PAGES, ROOT, Block, blocks, named, stray_fences

SAMPLE = 60  # rows of the shipped pool
SECONDS = 600  # for one command, on a busy machine
READY_SECONDS, STOP_SECONDS = 600, 120
COMMANDS = {"console", "python", "yaml", "ini"}  # languages that are carried out; others hold no command

INSTEAD = {  # on the pages -> here
    "tamis:pool.jsonl.gz": "pool.jsonl.gz",  # its first rows: in full it takes minutes
    "tamis:eval/": "tamis:target/",  # 8 items for 100
    "tamis dedup january ": "tamis dedup pool.jsonl.gz ",  # a reader's files of two months
    "tamis dedup february ": "tamis dedup clean ",
    "/srv/curation": "srv/curation",  # not ours to write to
    "--device cuda": "--device cpu",  # no GPU here; the same option of the same verb
}
LESS = " --set pool.files=[pool.jsonl.gz] --set proof.evaluate.files=[few_shot.jsonl] --set proof.learning_rates=[2e-3]"
ADDED = {  # a command that begins so -> what is appended
    "tamis plan less": LESS,
    "tamis run less --set proof.runs=5": LESS + " --set proof.with=[random]",
    "tamis run less": LESS + " --set proof.runs=1",
}
SHORTER = ("proof.runs=1", "proof.with=[random]", "warmup.epochs=2")  # for recipes on a page that have the stage
NOT_RUN = {  # a line of a page -> (why it is not run, what is run in its place)
    "make demo": ("sets up .venv from a registry; its job is `tamis run less`, run here", "make -n -C {root} demo"),
    "make test": ("sets up .venv from a registry; its tests are these", "make -n -C {root} test"),
    'python -m pytest tests/test_contracts.py tests/test_readme.py -k "surprise or cheap or table"': (
        "runs tests of a checkout with one more scorer; test_contributing.py runs it in a copy",
        "grep -q 'blocks(.GUIDE., language=.console.)' {root}/tests/test_contributing.py",
    ),
    "make check": ("sets up .venv from a registry; its tests are these", "make -n -C {root} check"),
    "pip install -c constraints.txt -e '.[dev]'": (
        "installs from a registry",
        "test -s {root}/constraints.txt && grep -q '^dev = ' {root}/pyproject.toml",
    ),
    "prefect worker start --pool curation": (
        "runs until it is stopped; test_deploy.py runs one",
        "prefect worker start --help > /dev/null",
    ),
    "prefect --no-prompt deploy --prefect-file prefect.yaml --all": (
        "asks a server; test_deploy.py applies such a file",
        "grep -q 'entrypoint: tamis.flows.curate.curate' prefect.yaml",
    ),
    "prefect automation create --from-file deploy/automations.yaml": (
        "asks a server; test_deploy.py creates them",
        "test -s {root}/deploy/automations.yaml",
    ),
    "cd deploy && cp .env.example .env": ("the reader's folder is no checkout", "test -s {root}/deploy/.env.example"),
    "docker compose up -d --build": ("pulls images", "test -s {root}/deploy/compose.yaml"),
    "pip install 'tamis[ray]'": ("installs from a registry", "grep -q '^ray = ' {root}/pyproject.toml"),
    "export RAY_ADDRESS=10.0.0.7:6379": ("a cluster that is not there", "true"),
    "tamis run less --engine ray --workspace /shared/tamis": (
        "over a cluster; test_ray.py runs one of this machine",
        "tamis check less",
    ),
    "tamis ingest 's3://lake/raw/*.jsonl' --out pool": (
        "needs a bucket; test_remote.py reads one",
        "grep -q 's3://lake/in/' {root}/tests/test_remote.py",
    ),
    "tamis scores pool --to s3://lake/scores.parquet": (
        "needs a bucket",
        "tamis scores pool --to=file://$PWD/lake/scores.parquet && test -s lake/scores.parquet",
    ),
    "tamis export subset.parquet --to jsonl --out s3://lake/subset.jsonl": (
        "needs a bucket; test_remote.py writes to one",
        "tamis select pool --with random --budget 10 --out subset.parquet"
        " && tamis export subset.parquet --to jsonl --out=file://$PWD/lake/subset.jsonl && test -s lake/subset.jsonl",
    ),
    "tamis run my.yaml --publish s3://lake/runs": (
        "needs a bucket; test_remote.py publishes to one",
        "tamis check less",
    ),
    "tamis publish latest --to s3://lake/runs": ("needs a bucket", "tamis publish --help > /dev/null"),
    'command: "accelerate launch --num_processes 8 my_training.py --data {subset} --model {model} --out {out}"': (
        "a launcher over eight devices",
        "tamis check {recipe}",
    ),
}
BEFORE = {  # pages that use what another page has made -> the commands that made it
    "docs/cluster.md": ["tamis ingest data.jsonl --out pool"],
    "docs/trainers.md": [
        "tamis ingest data.jsonl --out pool",
        "tamis select pool --with random --budget 10 --out subset.parquet",
        "tamis ingest pairs.jsonl --out pairs",
        "tamis select pairs --with random --budget 6 --out pairs.parquet",
        # as the Trainer leaves it, but for the optimiser (test_optimizer_states has all): raw gradients
        "tamis train subset.parquet --with lora --model Qwen/Qwen2.5-0.5B --set rank=4 --out runs/my-run/checkpoint-2",
        'echo \'{"global_step": 2, "epoch": 1.0, "log_history": [{"step": 2, "learning_rate": 1e-3}]}\''
        " > runs/my-run/checkpoint-2/trainer_state.json",
    ],
    "CONTRIBUTING.md": ["tamis ingest data.jsonl --out pool"],
}
SERVED = """\
name: nightly
pool: {files: [data.jsonl]}
subset: {select: random, budget: 10%}
"""
TRAINING = """\
import runpy, sys
sys.argv += ["--do", "nudge"]
runpy.run_path("TRAINER", run_name="__main__")
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def fill(folder: Path) -> None:
    """Small files under the names of the pages: data, ratings, a hub's models and data set, a training script."""
    with gzip.open(ROOT / "data" / "pool.jsonl.gz", "rb") as file:
        lines = [line for line, _ in zip(file, range(SAMPLE), strict=False)]
    with gzip.open(folder / "pool.jsonl.gz", "wb") as packed:
        packed.writelines(numbered(lines))
    rows = list(readable(numbered(lines)))
    for name in ("data.jsonl", "raw/a.jsonl", "raw/b.jsonl", "org/set/train.jsonl"):
        write_lines(folder / name, rows)
    for name in ("target", "few_shot", "held_out", "trained_on"):
        shutil.copy(ROOT / "data" / "target" / "arithmetic.jsonl", folder / f"{name}.jsonl")
    fill_tables(folder, rows)
    for name in ("my-model", "Qwen/Qwen2.5-0.5B", "HuggingFaceTB/SmolLM2-135M"):
        shutil.copytree(ROOT / "data" / "tiny-lm", folder / name)
    write(folder / "my.yaml", SERVED)
    write(folder / "my_training.py", TRAINING.replace("TRAINER", str(ROOT / "tests" / "outside_trainer.py")))


def numbered(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The same lines with a field `id`, by which the pages join ratings; broken ones as they are."""
    for number, line in enumerate(lines):
        yield line.replace(b"{", f'{{"id": "row-{number}", '.encode(), 1)


def readable(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # a planted fault
            continue
        if isinstance(row, dict) and isinstance(row.get("output"), str) and isinstance(row.get("input"), str):
            yield {
                name: row[name] for name in ("id", "instruction", "input", "output", "source", "meta") if name in row
            }


def fill_tables(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The same rows in the shapes that the pages name, and ratings of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{**row, "meta": None} for row in rows]), folder / "more.parquet")
    asked = [(row["instruction"], row["output"]) for row in rows if row["instruction"] and row["output"]]
    write_lines(folder / "mine.jsonl", [{"question": one, "solution": other} for one, other in asked])
    talks = [[{"who": "user", "said": one}, {"who": "bot", "said": other}] for one, other in asked]
    write_lines(folder / "chats.jsonl", [{"talk": talk} for talk in talks])
    pairs = [
        {"prompt": one, "chosen": other, "rejected": f"{other} Or not."} for one, other in dict(asked[:24]).items()
    ]
    write_lines(folder / "pairs.jsonl", pairs)
    ratings = [f"{row['id']},{place},{place % 5},{place % 2}\n" for place, row in enumerate(rows)]
    write(folder / "my_ratings.csv", "id,position,rating,correct\n" + "".join(ratings))


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A reader's folder; an environment where `tamis` is this checkout and `site` holds packages of the reader."""
    folder, bin_ = tmp_path / "reader", tmp_path / "bin"
    folder.mkdir()
    bin_.mkdir()
    fill(folder)
    command = bin_ / "tamis"
    write(command, f"#!{sys.executable}\nimport sys\nfrom tamis.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("TAMIS_WORKSPACE", "PREFECT_API_URL")
    }
    environment["PATH"] = os.pathsep.join([str(bin_), str(Path(sys.executable).parent), environment["PATH"]])
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(tmp_path / "site"), *filter(None, given)])
    return folder, environment


def cpu() -> float:
    """Seconds of processor time of the processes that ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def one_core() -> None:
    """A machine of one core runs passes without worker processes, each of which would import torch."""
    cores = sorted(os.sched_getaffinity(0))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {cores[worker % len(cores)]})
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell in the background hands down that Ctrl-C is ignored


class Reader:
    """Carries out blocks of a page in a folder, and notes what went wrong."""

    def __init__(self, folder: Path, environment: Mapping[str, str], server: Callable[[], str]) -> None:
        self.folder, self.environment, self.server = folder, environment, server
        self.faults: list[str] = []
        self.script = ""  # Python blocks that follow each other are one script
        self.recipes = 0

    def carry_out(self, block: Block) -> None:
        if block.language != "python":
            self.script = ""
        getattr(self, f"_{block.language}")(block)

    def _console(self, block: Block) -> None:
        for line in block.lines:
            if line in NOT_RUN:
                self.run(NOT_RUN[line][1].format(root=ROOT))
            elif line.startswith("tamis serve "):
                self.serve(here(line))
            else:
                more = next((more for start, more in ADDED.items() if line.startswith(start)), "")
                self.run(here(line) + more, line)

    def _python(self, block: Block) -> None:
        if block.mark == "component":  # the guide names the file that it lies in
            write(self.folder.parent / "site" / "my_package" / "scoring.py", block.text)
            return
        self.script += here(block.text)
        write(self.folder / "block.py", self.script)
        self.run("python block.py")

    def _yaml(self, block: Block) -> None:
        import yaml

        self.recipes += 1
        name = f"recipe{self.recipes}.yaml"
        write(self.folder / name, here(block.text))
        refused = [NOT_RUN[line.strip()][1] for line in block.text.splitlines() if line.strip() in NOT_RUN]
        stages = yaml.safe_load(block.text)
        shorter = [f"--set {more}" for more in SHORTER if shortens(more, stages)]
        self.run(refused[0].format(recipe=name) if refused else " ".join(["tamis run", name, *shorter]))

    def _ini(self, block: Block) -> None:
        """A unit of systemd: its command has a verb and options that exist."""
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(block.text)
        words = shlex.split(unit["Service"]["ExecStart"])
        assert Path(words[0]).name == "tamis", words
        assert Path(words[0]).is_relative_to(unit["Service"]["WorkingDirectory"]), words
        parse(words[1:])

    def run(self, line: str, written: str | None = None) -> None:
        """Run a line through bash; what it says it writes must be there afterwards."""
        environment = dict(self.environment)
        if line.startswith(("tamis run ", "tamis deploy ")):  # one server for all of them; `tamis serve` starts its own
            environment["PREFECT_API_URL"] = self.server()
        started, used = time.monotonic(), cpu()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            preexec_fn=one_core,
        )
        print(f"{time.monotonic() - started:6.1f} s, {cpu() - used:5.1f} s of CPU  {line}")
        if done.returncode:
            self.faults.append(f"{line}\nended with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-3000:]}")
        for name in outputs(line):
            if not (self.folder / name).exists():
                self.faults.append(f"{line}\nhas not written {name}")

    def serve(self, line: str) -> None:
        """`tamis serve` comes up, is healthy, knows its schedule, and ends on Ctrl-C with all that it started."""
        wanted = {"--cron": shlex.split(line)[-1], "--every": "3600"}[shlex.split(line)[-2]]
        with (self.folder / "serve.log").open("w+") as log:
            started = subprocess.Popen(
                ["bash", "-c", line],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=one_core,
            )
            children: list[psutil.Process] = []
            try:
                schedules = wait_for_schedule(started, wanted)
                children = psutil.Process(started.pid).children(recursive=True)
                os.killpg(started.pid, signal.SIGINT)
                code = started.wait(STOP_SECONDS)
            finally:
                started.kill()
            log.seek(0)
            text = log.read()
        if wanted not in schedules or code not in (0, 130):
            self.faults.append(f"{line}\nended with {code}, schedules {schedules}: {text[-3000:]}")
        left = psutil.wait_procs(children, timeout=STOP_SECONDS)[1]
        if left:
            self.faults.append(f"{line}\nleft behind {left}")


def shortens(setting: str, stages: dict[str, Any]) -> bool:
    """Whether a recipe has the stage of a setting, as something that is trained or compared and not loaded."""
    stage = stages.get(setting.partition(".")[0], {"load": None})
    return "load" not in stage


def wait_for_schedule(serving: subprocess.Popen[bytes], wanted: str) -> str:
    """Schedules that the server of this `tamis serve` has, as soon as the one wanted is there; old ones stay."""
    found = ""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and serving.poll() is None:
        for url in servers(serving.pid):
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                    assert json.loads(answer.read()) is True
                request = urllib.request.Request(
                    f"{url}/deployments/filter", b"{}", {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(request, timeout=5) as answer:
                    found = json.dumps([one["schedules"] for one in json.loads(answer.read())])
            except OSError:
                continue
            if wanted in found:
                return found
        time.sleep(0.2)
    return found


def servers(pid: int) -> Iterator[str]:
    for child in psutil.Process(pid).children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if "tamis.flows.server" in words:
            yield f"http://127.0.0.1:{words[-1]}/api"


def here(text: str) -> str:
    """Text of a page with the names that cannot be had here replaced."""
    for name, other in INSTEAD.items():
        text = text.replace(name, other)
    return text


def outputs(line: str) -> Iterator[str]:
    """Files and folders that a command says it writes."""
    words = shlex.split(line)
    for option, name in itertools.pairwise(words):
        if option in ("--out", ">") or (option == "--to" and "." in name):
            yield name


def parse(words: list[str]) -> None:
    """Check verb and options of a command of tamis, and start nothing; typer raises for what does not exist."""
    import typer

    from tamis.cli.app import app

    group = typer.main.get_command(app)
    context = group.make_context("tamis", list(words))
    name, verb, rest = group.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[attr-defined]
    with verb.make_context(name, rest, parent=context) as inner:
        assert inner.params, words


WITH_COMMANDS = [page for page in PAGES if any(block.language in COMMANDS for block in blocks([page]))]


@pytest.mark.soak
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=named)
def test_everything_on_a_page_works_in_its_order(
    page: Path, place: tuple[Path, dict[str, str]], request: pytest.FixtureRequest
) -> None:
    reader = Reader(*place, lambda: str(request.getfixturevalue("prefect_api")))
    for line in BEFORE.get(named(page), []):
        reader.run(line)
    assert not reader.faults
    for block in blocks([page]):
        if block.language in COMMANDS:
            reader.carry_out(block)
    assert not reader.faults, "\n\n".join(reader.faults)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "ARCHITECTURE.md"], ids=named)
def test_every_block_is_of_a_kind_that_is_carried_out_or_holds_no_command(page: Path) -> None:
    assert not stray_fences(page), "a fence that the tests do not read: indented, quoted or unclosed"
    for block in blocks([page]):
        assert block.language in {*COMMANDS, "text", ""}, f"no test carries out blocks of {block.language}"
        typed = [line for line in block.text.splitlines() if line.startswith("$ ")]
        if block.language == "console":
            assert typed == block.text.splitlines(), "a line of a console block does not begin with `$ `"
        elif block.language in ("text", ""):
            assert not typed and not re.search(r"^(tamis|make|pip|python3?) ", block.text, re.M), block.text


def test_what_is_not_run_stands_on_a_page_and_has_its_reason() -> None:
    lines = {line for block in blocks(PAGES, "console") for line in block.lines}
    lines |= {line.strip() for block in blocks(PAGES, "yaml") for line in block.text.splitlines()}
    assert set(NOT_RUN) <= lines, set(NOT_RUN) - lines
    assert all(reason and other for reason, other in NOT_RUN.values())
    everything = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not [name for name in (*INSTEAD, *ADDED) if name not in everything]
    assert set(BEFORE) <= {named(page) for page in WITH_COMMANDS}
