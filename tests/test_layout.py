"""Laws of the house: folders without __init__.py, layers, lazy imports (DESIGN §2)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tamis.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]
CORE = ROOT / "src" / "tamis"
FOLDERS = ("cleaners", "scorers", "selectors", "trainers", "evaluators", "flows")
HEAVY = {"torch", "transformers", "datasets", "faiss", "polars", "prefect", "ray", "numpy", "pyarrow", "pydantic"}
HEAVY |= {"peft", "accelerate", "sklearn", "plotly", "safetensors", "trl"}
GPU_BOX = {
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "numpy",
    "pyarrow",
}  # all a GPU machine may have
TRL_CODE = ("trainers/sft.py", "trainers/dpo.py", "trainers/hugging_face.py")  # need the extra `trl`
MATHEMATICS = (
    "answers",
    "contamination",
    "demonstrations",
    "duplicates",
    "gradient",
    "prediction",
    "privacy",
    "submodular",
    "text",
    "training",
    "vectors",
    "verifiers",
)
GPU_CODE = (
    "models",
    "engine",
    "rendering",
    "chat_template",
    "batching",
    "prediction/forward",
    "prediction/likelihood",
    "prediction/pooled",
    "prediction/predictions",
    "prediction/scored",
)


def imports(tree: ast.AST, *, top: bool = False) -> Iterator[str]:
    """Modules that a file imports, in full; with `top` only those that run when it is imported."""
    for node in _running(tree) if top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements outside functions and `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _running(node)


def tree_of(file: Path) -> ast.AST:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def files_of(folder: Path) -> list[Path]:
    """Python files that really lie in a folder: links to other folders are not followed."""
    found = []
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not (Path(path) / name).is_symlink()]
        found += [Path(path) / name for name in names if name.endswith(".py")]
    return sorted(found)


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def core_files() -> list[Path]:
    """List the core, stages included; the command line and the report stand above everything."""
    return [file for file in files_of(CORE) if file.relative_to(CORE).parts[0] not in ("cli", "report")]


def component_files() -> list[Path]:
    return [file for folder in FOLDERS for file in files_of(ROOT / folder)]


def test_folders_at_the_root_have_no_init_and_are_linked_into_the_package() -> None:
    for folder in (*FOLDERS, "recipes", "data"):
        assert (ROOT / folder).is_dir() and not (ROOT / folder).is_symlink()
        assert not list((ROOT / folder).rglob("__init__.py")), f"{folder}/ shadows a module of the same name with one"
        link = CORE / folder
        assert link.is_symlink() and link.readlink() == Path("../..") / folder


def test_the_core_imports_no_component_and_no_flow() -> None:
    banned = tuple(f"tamis.{name}" for name in (*FOLDERS, "cli"))
    for file in core_files():
        wrong = [name for name in imports(tree_of(file)) if name.startswith(banned)]
        if file == CORE / "api" / "proving.py":  # the verb `run` of Python is the flow
            wrong = [name for name in wrong if not name.startswith("tamis.flows")]
        assert not wrong, f"{named(file)} imports {wrong}; components are found through the catalogue"


def test_packages_of_mathematics_know_no_stage_no_recipe_and_no_run() -> None:
    banned = tuple(f"tamis.{name}" for name in ("stages", "recipe.", "api", "history", "runs", "cli", "report"))
    for folder in MATHEMATICS:
        for file in files_of(CORE / folder):
            wrong = [name for name in imports(tree_of(file)) if name.startswith(banned)]
            assert not wrong, f"{named(file)} imports {wrong}"


def test_folders_import_the_core_only() -> None:
    for folder in ("cleaners", "scorers", "selectors", "trainers", "evaluators"):
        banned = tuple(f"tamis.{name}" for name in (*FOLDERS, "stages", "cli", "report", "api") if name != folder)
        for file in files_of(ROOT / folder):
            wrong = [name for name in imports(tree_of(file)) if name.startswith(banned)]
            assert not wrong, f"{named(file)} imports {wrong}"


def test_components_never_import_each_other() -> None:
    modules = {entry.partition(":")[0] for table in CATALOGUE.values() for entry in table.values()}
    for file in component_files():
        wrong = modules & set(imports(tree_of(file)))
        assert not wrong, f"{named(file)} imports the component {wrong}: share code through the core"


def test_only_flows_import_prefect() -> None:
    for file in [*files_of(CORE), *component_files()]:
        if file.is_relative_to(ROOT / "flows"):
            continue
        wrong = [name for name in imports(tree_of(file)) if name.partition(".")[0] == "prefect"]
        assert not wrong, f"{named(file)} imports prefect; only flows/ may"


def test_imports_are_absolute() -> None:
    for file in [*files_of(CORE), *component_files()]:
        relative = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.ImportFrom) and node.level]
        assert not relative, f"{named(file)} has a relative import"


def test_heavy_modules_are_imported_inside_functions() -> None:
    for file in [*files_of(CORE), *component_files()]:
        heavy = HEAVY - {"prefect", "pydantic"} if file.is_relative_to(ROOT / "flows") else HEAVY
        wrong = {name.partition(".")[0] for name in imports(tree_of(file), top=True)} & heavy
        assert not wrong, f"{named(file)} imports {wrong} when it is imported"


def gpu_files() -> list[Path]:
    named_files = [CORE / f"{name}.py" for name in GPU_CODE]
    return [
        *named_files,
        *files_of(CORE / "gradient"),
        *files_of(ROOT / "scorers" / "passes"),
        *files_of(ROOT / "trainers"),
    ]


def test_what_runs_on_a_gpu_machine_needs_only_what_is_there() -> None:
    # of models.py alone, the hub is asked for names that are no folders; transformers itself brings it
    allowed = GPU_BOX | set(sys.stdlib_module_names) | {"tamis", "huggingface_hub", "jinja2", "tokenizers"}
    for file in gpu_files():
        extra = {"trl", "datasets"} if named(file) in TRL_CODE else set()
        wrong = {name.partition(".")[0] for name in imports(tree_of(file))} - allowed - extra
        assert not wrong, f"{named(file)} imports {wrong}"


BARE = """
import importlib.machinery, os, sys
absent = {absent!r}
find = importlib.machinery.PathFinder.find_spec

def only_what_is_there(name, path=None, target=None):
    return None if name.partition(".")[0] in absent else find(name, path, target)

importlib.machinery.PathFinder.find_spec = staticmethod(only_what_is_there)
sys.path.insert(0, {tests!r})
from pathlib import Path
import tiny
from tamis.evaluators.held_out import HeldOutLoss
from tamis.models import ModelRef
from tamis.rendering import render_rows
from tamis.scorers.passes.influence import Influence
from tamis.scorers.passes.tokens import Tokens
from tamis.trainers.lora import Lora
from tamis.values import Machine, Seeds
from tamis.views import ShardSignals

folder, on = Path({folder!r}), Machine()
model = ModelRef(name=str(tiny.make_model(folder / "model")), max_tokens=64, dtype="float32")
pool = tiny.make_pool(folder / "pool", tiny.make_rows(5))
lora = Lora(rank=2, alpha=4, epochs=1, batch_rows=4, keep="every-epoch")
left = lora.train(model, render_rows(tiny.make_rows(5), model), Seeds(), (), folder / "out", on)
have = ShardSignals(pool.shards[0], {{}})
assert (Tokens(model=model, pooled=True).measure(pool.shards[0], have, on)["reason"] == 0).all()
assert (Influence(checkpoints=tuple(left), target=pool).measure(pool.shards[0], have, on)["reason"] == 0).all()
assert len(HeldOutLoss().evaluate(left[-1].model(), pool, on).keys) == 5
assert not absent & {{name.partition(".")[0] for name in sys.modules}}
"""
ABSENT = (
    "numba datasets faiss polars prefect ray pydantic sklearn plotly typer rich pandas scipy trl sqlalchemy fastapi"
)


def test_passes_and_trainers_run_where_only_torch_and_its_companions_are_installed(tmp_path: Path) -> None:
    code = BARE.format(absent=set(ABSENT.split()), tests=str(ROOT / "tests"), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    for file in [*files_of(CORE), *component_files()]:
        if file.name in ("__init__.py", "__main__.py"):
            continue
        inside_package = file.is_relative_to(CORE) and file.parent != CORE
        assert inside_package or file.stem not in sys.stdlib_module_names or file.parent.name == "stages", named(file)
    assert not [file for file in component_files() if file.stem in sys.stdlib_module_names]


def test_there_are_no_catch_all_modules() -> None:
    for file in [*files_of(CORE), *component_files()]:
        assert file.stem not in ("utils", "util", "base", "helpers", "common", "misc"), named(file)


# The tokenizers library raises Exception itself, for a broken tokenizer.json.
MAY_CATCH_ALL = {"src/tamis/models.py"}


def test_forbidden_ways_are_not_taken() -> None:
    for file in [*files_of(CORE), *component_files()]:
        tree = tree_of(file)
        assert not {"pickle", "marshal", "shelve", "dill"} & {name.partition(".")[0] for name in imports(tree)}, named(
            file
        )
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                broad = caught in ("everything", "Exception", "BaseException")
                assert not broad or named(file) in MAY_CATCH_ALL, f"{named(file)}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) == "False", named(file)
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", named(file)


LISTING = """
import sys
from tamis.cli import main
try:
    main({arguments!r})
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
heavy = {heavy!r} & {{name.partition(".")[0] for name in sys.modules}}
assert not heavy, sorted(heavy)
"""


@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["list", "selectors"]])
def test_help_and_list_load_no_heavy_module(arguments: list[str]) -> None:
    code = LISTING.format(arguments=arguments, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "less" in done.stdout or "Usage" in done.stdout


def test_importing_tamis_loads_no_heavy_module() -> None:
    modules = ["tamis", *{entry.partition(":")[0] for table in CATALOGUE.values() for entry in table.values()}]
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
heavy = {HEAVY!r} & {{name.partition(".")[0] for name in sys.modules}}
assert not heavy, sorted(heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
