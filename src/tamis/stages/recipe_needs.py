"""Everything that a recipe needs: signals of its scorers, selectors, filters and cleaning, each to be measured once."""

from __future__ import annotations

from collections.abc import Sequence

from tamis.catalogue import build, load
from tamis.column.filtering import needs_of as needs_of_filter
from tamis.recipe import Recipe, Stage, scorer_settings
from tamis.recipe.components import needs_of_pass
from tamis.recipe.heading import rating_stems
from tamis.stages.clean import needs_of as needs_of_cleaning
from tamis.stages.dependence import needs_of_scorers, ordered, stem_of
from tamis.stages.select import mixer_of, needs_with
from tamis.stages.weigh import weigher_of
from tamis.values import Need


def needs_of(recipe: Recipe) -> list[Need]:
    """Everything that the components of a recipe need. Where a token pass runs, it pools too, for the report's map."""
    needs: list[Need] = []
    known = list(rating_stems(recipe.values))
    needs += needs_of_cleaning(recipe.clean, known)
    for stage in recipe.stages:
        if stage.verb == "score":
            own = scorer_settings(stage.settings["score"])
            asked = needs_of_scorers(ordered({name: build("scorers", name, own[name]) for name in own}, known))
            needs += [need for need in asked if need.key != _named(recipe, stage)]
            known += own
        elif stage.verb == "pass":
            needs += needs_of_pass(stage.component, stage.own)
        elif stage.verb == "select":
            weighing = weigher_of(stage.settings.get("weigh"))
            mixer = mixer_of(stage.settings.get("mix"))
            asked = needs_with(build("selectors", stage.component, stage.own), mixer, weighing)
            asked += needs_of_filter(stage.settings.get("where"))
            needs += [*asked, *_column_needs(stage, asked, known)]
    if any(need.key == "tokens" for need in needs):
        needs.append(Need(kind="signal", name="tokens", settings=(("loss", "none"), ("pooled", True))))
    return needs


def _named(recipe: Recipe, stage: Stage) -> str:
    """The signal of the stage that a stage names by `from`, or the empty string."""
    if "from" not in stage.settings:
        return ""
    component = recipe.stage(str(stage.settings["from"])[1:]).component
    return str(getattr(load("passes", component), "makes", component))


def _column_needs(stage: Stage, own: Sequence[Need], known: Sequence[str]) -> list[Need]:
    """Signals under the columns that a filter, a ranking or a mix names."""
    from tamis.catalogue import SCORERS
    from tamis.column.expressions import names

    used = names(str(stage.settings["where"])) if "where" in stage.settings else set()
    used |= {need.name for need in own if need.kind == "column"}
    scorers = sorted(({stem_of(column) for column in used} & set(SCORERS)) - set(known))
    return needs_of_scorers(ordered({name: build("scorers", name, {}) for name in scorers}, known))
