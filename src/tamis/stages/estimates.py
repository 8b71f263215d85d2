"""Estimates of single stages for a plan: tokens, forward passes and disk of passes and trainings, from settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tamis.catalogue import build, load
from tamis.errors import RecipeError
from tamis.recipe import Recipe, Stage, scorer_settings
from tamis.recipe.components import build_unfilled
from tamis.stages.footprint import Sizes, Work, sizes_of
from tamis.stages.load import folders_of
from tamis.stages.measure import SHARED
from tamis.stages.serving import has_model

# Work relative to one forward over the same tokens: a backward costs two forwards, less without weight gradients.
TRAINING_FORWARDS = 3.0
GRADIENT_FORWARDS = 3.0
TOKENS_FORWARDS = 1.7  # both views: prompt+response, and the response alone
PAIRS_FORWARDS = 2.0
TARGET_SWEEPS = 2  # norms first, then the mean of what is left
SPAN_SWEEPS = 2  # products of all pairs of target rows, then the basis
NOT_ESTIMATED = "not estimated"
KERNEL_FLOPS = 1e9  # a second, of interpolation


@dataclass(frozen=True)
class Step:
    """One line of a plan. `forwards`: forward passes over `tokens` that are still to be done; `share` is done.

    `seconds`: work that is no forward pass. `estimated` is False where the time is not known, and counts as none.
    `kind`: what it does with a model, which says its memory. `lanes`: workers that it can use, 0 for all. `trained`:
    parameters that a training trains.
    """

    stage: str
    what: str
    rows: int
    tokens: int
    forwards: float
    disk: int = 0
    done: str = ""
    seconds: float = 0.0
    estimated: bool = True
    kind: Work = "forward"
    lanes: int = 0
    trained: int = 0

    def used(self, workers: int) -> int:
        """Workers that it uses of so many."""
        return min(workers, self.lanes or workers)

    def line(self, tokens_per_second: float, workers: int = 1) -> dict[str, Any]:
        """The step for people and for `--json`; `tokens_per_second` of one worker."""
        minutes = (self.tokens * self.forwards / (tokens_per_second * self.used(workers)) + self.seconds) / 60
        facts = {"stage": self.stage, "what": self.what, "rows": self.rows, "tokens": self.tokens, "done": self.done}
        timed = {"minutes": float(f"{minutes:.4g}") if self.estimated else NOT_ESTIMATED, "disk_bytes": self.disk}
        return {**facts, **timed}


@dataclass(frozen=True)
class Size:
    """Rows and tokens that a stage goes over."""

    rows: int
    tokens: int


def pass_step(recipe: Recipe, stage: Stage, over: Size, target: Size) -> Step:
    """One pass stage over the rows of `over`; one that nobody can estimate says so."""
    component = build_unfilled(stage.component, stage.own)
    known: dict[str, Callable[..., Step]] = {
        "utility": _utility,
        "influence": _influence,
        "gradients": _gradients,
        "gradient-query": _query,
        "landmarks": _landmarks,
        "trajectories": _trajectories,
        "gradient-norms": _norms,
    }
    if stage.component in known:
        return known[stage.component](recipe, stage, component, over, target)
    if stage.component in SHARED or hasattr(component, "forwards"):
        return Step(
            stage.name,
            stage.component,
            over.rows,
            over.tokens,
            forwards_of(component),
            bytes_of(component, over.rows, over.tokens),
        )
    return Step(stage.name, f"{stage.component}: {NOT_ESTIMATED}", over.rows, over.tokens, 0.0, estimated=False)


def bytes_of(component: Any, rows: int, tokens: int) -> int:
    """Bytes that the signal of a pass takes at most: by token what the token pass keeps of each, else a few numbers."""
    if type(component) is not load("passes", "tokens"):
        return 100 * rows + 6 * tokens
    vectors = component.pooled + component.pooled_mean + component.pooled_last
    width: int = sizes_of(component.model).width if vectors else 0
    kept = 0 if component.loss == "none" else 16 + 8 * component.top + 4 * component.alone
    return int(rows * (100 + 4 * width * vectors) + tokens * kept)


def forwards_of(component: Any) -> float:
    """Forward passes over the tokens of a pool that a pass makes: what it says itself, none without a model, or one."""
    if (said := getattr(component, "forwards", None)) is not None:
        return float(said)
    cls = type(component)
    if cls is load("passes", "tokens"):
        return TOKENS_FORWARDS if getattr(component, "alone", True) else 1.0
    if cls is load("passes", "pairs"):
        return PAIRS_FORWARDS
    return 1.0 if has_model(cls) and cls is not load("passes", "lengths") else 0.0


def _influence(recipe: Recipe, stage: Stage, component: Any, over: Size, target: Size) -> Step:
    kept = _counted(recipe, stage, component)
    curvature = component.source.asked.curvature != "none"
    drawn = round(over.tokens * min(1.0, component.curvature_rows / max(1, over.rows))) if curvature else 0
    tokens = (over.tokens + TARGET_SWEEPS * target.tokens + drawn) * kept
    what = f"influence, {_checkpoints_said(kept)}{_layers_said(component)}{', curvature' if curvature else ''}"
    what += " (more where the vectors of all tasks exceed vector_bytes)" if component.by == "row" else ""
    return Step(stage.name, what, over.rows, tokens, _forwards(component), 16 * over.rows * kept, kind="gradients")


def _gradients(recipe: Recipe, stage: Stage, component: Any, over: Size, target: Size) -> Step:
    kept = _counted(recipe, stage, component)
    size = f"{component.projection} to {component.numbers(target.rows)} numbers, {component.encoding}"
    what = f"gradients, {_checkpoints_said(kept)}{_layers_said(component)}, {size}"
    disk = component.row_bytes(kept, target.rows) * over.rows
    tokens = (over.tokens + (SPAN_SWEEPS * target.tokens if component.reads_target else 0)) * kept
    return Step(stage.name, what, over.rows, tokens, _forwards(component), disk, kind="gradients")


def _trajectories(recipe: Recipe, stage: Stage, component: Any, over: Size, target: Size) -> Step:
    """A forward pass for every checkpoint, and one for the model before them where it is asked for."""
    kept = checkpoints_of(recipe, stage) + component.start
    what = f"trajectories, losses under {kept} models"
    return Step(stage.name, what, over.rows, over.tokens * kept, 1.0, 4 * over.rows * kept)


def _norms(recipe: Recipe, stage: Stage, component: Any, over: Size, target: Size) -> Step:
    """A forward and a backward pass under the model, or under every checkpoint."""
    kept = checkpoints_of(recipe, stage) if "checkpoints" in stage.settings else 1
    what = f"gradient-norms under {kept} model{'s' * (kept != 1)}{_layers_said(component)}"
    return Step(stage.name, what, over.rows, over.tokens * kept, _forwards(component), 4 * over.rows * kept)


def _query(recipe: Recipe, stage: Stage, component: Any, over: Size, target: Size) -> Step:
    """The target's gradients, and one reading of the store."""
    store = recipe.stage(str(stage.settings["from"])[1:])
    stored = build_unfilled(store.component, store.own)
    kept = _counted(recipe, store, stored)
    read = stored.row_bytes(kept, target.rows) * over.rows
    what = f"gradient-query, {target.rows} target rows, reads {read / 1e6:,.0f} MB of gradients"
    tokens = TARGET_SWEEPS * target.tokens * kept
    return Step(stage.name, what, over.rows, tokens, _forwards(stored), 16 * over.rows * kept, seconds=read / 1e9)


def _landmarks(recipe: Recipe, stage: Stage, component: Any, over: Size, target: Size) -> Step:
    """Kernels of all rows with the landmarks, and the fit, cubic in them; the model's pass has a line of its own."""
    marks = min(component.most, over.rows)
    flops = 300.0 * over.rows * marks + 2.0 * marks**3 + 40.0 * min(marks, 1000) ** 3
    what = f"landmarks, at most {marks:,}; other rows interpolated"
    return Step(stage.name, what, over.rows, 0, 0.0, 16 * over.rows, seconds=flops / KERNEL_FLOPS)


def _utility(recipe: Recipe, stage: Stage, component: Any, over: Size, target: Size) -> Step:
    """Every row once as a demonstration and once without one, and the tokens of the query for every pair."""
    pairs = over.rows if component.candidates == "all" else min(component.per_row, over.rows)
    sides = 1 if component.stage == "instruction" else 2
    what = f"utility, {over.rows * pairs * sides:,} pairs ({component.candidates})"
    disk = 16 * over.rows * pairs * sides + 9 * over.tokens
    return Step(stage.name, what, over.rows, over.tokens * (2 + pairs * sides), 1.0, disk)


def _counted(recipe: Recipe, stage: Stage, component: Any) -> int:
    """Checkpoints that count: all of the stage that is referred to, or the last."""
    return 1 if component.source.use == "last" else checkpoints_of(recipe, stage)


def checkpoints_of(recipe: Recipe, stage: Stage) -> int:
    """Checkpoints that the stage referred to by `checkpoints` is going to leave."""
    warm_up = recipe.stage(str(stage.settings["checkpoints"])[1:])
    if warm_up.verb == "load":
        return len(folders_of(warm_up.settings["load"]))
    trainer = build("trainers", warm_up.component, warm_up.own)
    return int(trainer.epochs) if getattr(trainer, "keep", "last") == "every-epoch" else 1


def _forwards(component: Any) -> float:
    """A forward, and a backward as far as the layers that count; for names of layers, at most."""
    words = component.layers.split()
    share = float(words[1].removesuffix("%")) / 100 if component.layers.startswith("last ") else 1.0
    return 1.0 + (GRADIENT_FORWARDS - 1.0) * share


def _checkpoints_said(kept: int) -> str:
    return f"{kept} checkpoint{'s' * (kept != 1)}"


def _layers_said(component: Any) -> str:
    return "" if component.layers == "all" else f", layers {component.layers}"


def training_step(
    stage: str,
    trainer: str,
    settings: Mapping[str, Any],
    over: Size,
    target: Size,
    sizes: Sizes,
    *,
    runs: int = 1,
    hooks: Any = None,
) -> Step:
    """One training, or `runs` of them alike, with the passes of its hooks; a hook that nobody knows says so.

    `sizes`: those of the model, for the checkpoints on disk and for memory.
    """
    built = build("trainers", trainer, settings)
    epochs = getattr(built, "epochs", None) or 1  # a command may not say
    what = f"{trainer}, {epochs} epochs" + (f", {runs} runs" if runs > 1 else "")
    tokens = over.tokens * epochs * runs
    disk, trained = runs * sizes.checkpoints(built), sizes.trained(built)
    step = Step(
        *(stage, what, over.rows, tokens, TRAINING_FORWARDS, disk), kind="training", lanes=runs, trained=trained
    )
    for name, own in scorer_settings(hooks).items():
        step = _with_hook(step, name, own, built, target, (epochs, runs))
    return step


def _with_hook(
    step: Step, name: str, own: Mapping[str, Any], trainer: Any, target: Size, times: tuple[int, int]
) -> Step:
    """A training with what a hook does beside it; `times`: epochs and runs."""
    if name not in ("greats", "dft", "iw-sft", "q-tuning", "record-losses"):
        return dataclasses.replace(step, what=f"{step.what}, hook {name} {NOT_ESTIMATED}")
    hook = build_unfilled(name, own, "hooks")
    if name == "greats":
        return _with_greats(step, hook, trainer, target, times[0] * times[1])
    forwards = step.forwards
    if name == "iw-sft":  # the rows once, before the first step
        forwards += 1 / times[0]
    elif name == "q-tuning":  # every batch forward, and training on what is left of it
        forwards = forwards * hook.rows + 1
    return dataclasses.replace(step, what=f"{step.what}, {name}", forwards=forwards)


def _with_greats(step: Step, hook: Any, trainer: Any, target: Size, epochs: int) -> Step:
    """GREATS: gradients of every batch and, every few steps, of some target rows; training itself on what it keeps."""
    batches = epochs * step.rows / max(1, getattr(trainer, "batch_rows", 1))
    some = min(1.0, hook.rows / max(1, target.rows)) * target.tokens * batches / hook.every
    forwards = step.forwards * hook.share + GRADIENT_FORWARDS * (1 + some / max(1, step.tokens))
    return dataclasses.replace(step, what=f"{step.what}, greats", forwards=forwards)


def load_step(stage: Stage) -> Step:
    """Checkpoints taken over: no forward pass; their files are copied."""
    try:
        folders = folders_of(stage.settings["load"])
    except RecipeError as error:  # said by `check` already, unless the folder has gone since
        return Step(stage.name, f"load: {error}", 0, 0, 0.0, estimated=False)
    disk = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    return Step(stage.name, f"load, {_checkpoints_said(len(folders))}", 0, 0, 0.0, disk)
