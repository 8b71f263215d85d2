"""The table of components: the papers' names in lower case with hyphens -> "module:Class". Listing is free."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from tamis.errors import RecipeError

PASSES = {
    "attention": "tamis.scorers.passes.attention:Attention",
    "generations": "tamis.scorers.passes.generations:Generations",
    "gradient-norms": "tamis.scorers.passes.gradient_norms:GradientNorms",
    "gradient-query": "tamis.scorers.passes.gradient_query:GradientQuery",
    "gradients": "tamis.scorers.passes.gradients:Gradients",
    "hashes": "tamis.scorers.passes.hashes:Hashes",
    "in-context": "tamis.scorers.passes.in_context:InContext",
    "influence": "tamis.scorers.passes.influence:Influence",
    "landmarks": "tamis.scorers.passes.landmarks:Landmarks",
    "language": "tamis.scorers.passes.language:Language",
    "lengths": "tamis.scorers.passes.lengths:Lengths",
    "minhash": "tamis.scorers.passes.minhash:MinHash",
    "pairs": "tamis.scorers.passes.pairs:Pairs",
    "ratings": "tamis.scorers.passes.ratings:Ratings",
    "recorded": "tamis.scorers.passes.recorded:Recorded",
    "reversed": "tamis.scorers.passes.reversed:Reversed",
    "sentence-embeddings": "tamis.scorers.passes.sentence_embeddings:SentenceEmbeddings",
    "text": "tamis.scorers.passes.text:Text",
    "tokens": "tamis.scorers.passes.tokens:Tokens",
    "trajectories": "tamis.scorers.passes.trajectories:Trajectories",
    "utility": "tamis.scorers.passes.utility:Utility",
    "verdicts": "tamis.scorers.passes.verdicts:Verdicts",
}
SCORERS = {
    "alpagasus": "tamis.scorers.alpagasus:AlpaGasus",
    "blend": "tamis.scorers.blend:Blend",
    "c4": "tamis.scorers.heuristics:C4",
    "cascades": "tamis.scorers.cascades:Cascades",
    "cge": "tamis.scorers.novelty:Cge",
    "concept-label": "tamis.scorers.concept_label:ConceptLabel",
    "constraint-satisfaction": "tamis.scorers.constraint_satisfaction:ConstraintSatisfaction",
    "context-dependency": "tamis.scorers.context:ContextDependency",
    "cot-trace": "tamis.scorers.cot_trace:CotTrace",
    "dart": "tamis.scorers.pass_rates:Dart",
    "dataset-complexity": "tamis.scorers.dataset_complexity:DatasetComplexity",
    "deconfound": "tamis.scorers.deconfound:Deconfound",
    "deita": "tamis.scorers.deita:Deita",
    "deita-complexity": "tamis.scorers.deita:DeitaComplexity",
    "deita-quality": "tamis.scorers.deita:DeitaQuality",
    "ds2": "tamis.scorers.ds2:Ds2",
    "el2n": "tamis.scorers.el2n:El2n",
    "entropy": "tamis.scorers.uncertainty:Entropy",
    "error-propagation": "tamis.scorers.error_propagation:ErrorPropagation",
    "fineweb": "tamis.scorers.heuristics:FineWeb",
    "forgetting": "tamis.scorers.forgetting:Forgetting",
    "gopher": "tamis.scorers.heuristics:Gopher",
    "gradient-similarity": "tamis.scorers.gradients:GradientSimilarity",
    "grand": "tamis.scorers.gradient_norm:Grand",
    "ifd": "tamis.scorers.difficulty:Ifd",
    "instag": "tamis.scorers.instag:InsTag",
    "language": "tamis.scorers.language:Language",
    "least-confidence": "tamis.scorers.uncertainty:LeastConfidence",
    "length": "tamis.scorers.length:Length",
    "linguistic-confidence": "tamis.scorers.linguistic_confidence:LinguisticConfidence",
    "long-output": "tamis.scorers.long_output:LongOutput",
    "look-before-you-leap": "tamis.scorers.uncertainty:LookBeforeYouLeap",
    "margin": "tamis.scorers.uncertainty:Margin",
    "massive-sft": "tamis.scorers.dataset_perplexity:MassiveSft",
    "mods-necessity": "tamis.scorers.mods:ModsNecessity",
    "nuggets": "tamis.scorers.nuggets:Nuggets",
    "pair-length": "tamis.scorers.preference:PairLength",
    "pair-margin": "tamis.scorers.preference:PairMargin",
    "pair-perplexity": "tamis.scorers.preference:PairPerplexity",
    "pair-uncertainty": "tamis.scorers.preference:PairUncertainty",
    "pass-rate": "tamis.scorers.pass_rates:PassRate",
    "perplexity": "tamis.scorers.perplexity:Perplexity",
    "predictive-entropy": "tamis.scorers.uncertainty:PredictiveEntropy",
    "r-ifd": "tamis.scorers.difficulty:ReversedIfd",
    "rating": "tamis.scorers.rating:Rating",
    "refusal": "tamis.scorers.refusal:Refusal",
    "sampled-entropy": "tamis.scorers.sampling:SampledEntropy",
    "selectit": "tamis.scorers.selectit:SelectIt",
    "semantic-entropy": "tamis.scorers.sampling:SemanticEntropy",
    "think-prune-train": "tamis.scorers.pass_rates:ThinkPruneTrain",
    "token-shift": "tamis.scorers.novelty:TokenShift",
    "uit-denoising": "tamis.scorers.dataset_perplexity:UitDenoising",
    "variation-ratio": "tamis.scorers.sampling:VariationRatio",
    "vps": "tamis.scorers.pass_rates:Vps",
}
WEIGHERS = {
    "dft": "tamis.scorers.base_weights:Dft",
    "entropy-weights": "tamis.scorers.base_weights:EntropyWeights",
    "iw-sft": "tamis.scorers.base_weights:IwSft",
    "stm": "tamis.scorers.stm:Stm",
    "token-shift": "tamis.scorers.token_shift:TokenShift",
}
SELECTORS = {
    "badge": "tamis.selectors.badge:Badge",
    "band": "tamis.selectors.ranking:Band",
    "bm25": "tamis.selectors.bm25:Bm25",
    "bottom": "tamis.selectors.ranking:Bottom",
    "cabs-dm": "tamis.selectors.cabs:CabsDm",
    "cabs-fm": "tamis.selectors.cabs:CabsFm",
    "ccs": "tamis.selectors.strata:Ccs",
    "coverage-gap": "tamis.selectors.coverage_gap:CoverageGap",
    "d-optimal": "tamis.selectors.spanning:DOptimal",
    "deita": "tamis.selectors.deita_filter:Deita",
    "delift": "tamis.selectors.delift:Delift",
    "delift-se": "tamis.selectors.delift:DeliftSe",
    "disparity-min": "tamis.selectors.disparity:DisparityMin",
    "disparity-sum": "tamis.selectors.disparity:DisparitySum",
    "dpp": "tamis.selectors.spanning:Dpp",
    "dsir": "tamis.selectors.dsir:Dsir",
    "facility-location": "tamis.selectors.submodular:FacilityLocation",
    "feature-based": "tamis.selectors.features:FeatureBased",
    "feddca": "tamis.selectors.feddca:FedDca",
    "got-d": "tamis.selectors.got_d:GotD",
    "graph-cut": "tamis.selectors.submodular:GraphCut",
    "k-center": "tamis.selectors.k_center:KCenter",
    "k-means-balanced": "tamis.selectors.balanced:KMeansBalanced",
    "knn-uniform": "tamis.selectors.neighbours:KnnUniform",
    "less": "tamis.selectors.less:Less",
    "longest": "tamis.selectors.baselines:Longest",
    "mig": "tamis.selectors.mig:Mig",
    "q-tuning": "tamis.selectors.q_tuning:QTuning",
    "random": "tamis.selectors.baselines:Random",
    "rds-plus": "tamis.selectors.rds:RdsPlus",
    "s2l": "tamis.selectors.s2l:S2l",
    "saturated-coverage": "tamis.selectors.submodular:SaturatedCoverage",
    "selective-reflection": "tamis.selectors.selective_reflection:SelectiveReflection",
    "set-cover": "tamis.selectors.features:SetCover",
    "smart": "tamis.selectors.smart:Smart",
    "submodular-mixture": "tamis.selectors.mixture:SubmodularMixture",
    "superfiltering-d": "tamis.selectors.superfiltering:SuperfilteringD",
    "top": "tamis.selectors.ranking:Top",
    "tsds": "tamis.selectors.neighbours:Tsds",
    "uot": "tamis.selectors.transport:Uot",
}
MIXERS = {
    "equal": "tamis.selectors.mixing:Equal",
    "prompts-first": "tamis.selectors.mixing:PromptsFirst",
    "proportional": "tamis.selectors.mixing:Proportional",
    "smart": "tamis.selectors.mixing:Smart",
    "task-embeddings": "tamis.selectors.mixing:TaskEmbeddings",
    "temperature": "tamis.selectors.mixing:Temperature",
}
TRAINERS = {
    "command": "tamis.trainers.command:Command",
    "full": "tamis.trainers.full:Full",
    "lora": "tamis.trainers.lora:Lora",
    "trl-dpo": "tamis.trainers.dpo:TrlDpo",
    "trl-sft": "tamis.trainers.sft:TrlSft",
}
HOOKS = {
    "dft": "tamis.trainers.dft:Dft",
    "greats": "tamis.trainers.greats:Greats",
    "iw-sft": "tamis.trainers.iw_sft:IwSft",
    "q-tuning": "tamis.trainers.q_tuning:QTuning",
    "record-losses": "tamis.trainers.recording:RecordLosses",
}
EVALUATORS = {
    "exact-match": "tamis.evaluators.exact_match:ExactMatch",
    "held-out-loss": "tamis.evaluators.held_out:HeldOutLoss",
    "preference-margin": "tamis.evaluators.margin:PreferenceMargin",
}
CLEANERS = {  # both what drops rows and what changes them (transforms)
    "contamination": "tamis.cleaners.contamination:Contamination",
    "exact": "tamis.cleaners.exact:Exact",
    "licences": "tamis.cleaners.allowed:Licences",
    "mask-pii": "tamis.cleaners.personal:MaskPii",
    "mask-secrets": "tamis.cleaners.credentials:MaskSecrets",
    "near": "tamis.cleaners.near:Near",
    "pii": "tamis.cleaners.personal:Pii",
    "repair-text": "tamis.cleaners.repair:RepairText",
    "secrets": "tamis.cleaners.credentials:Secrets",
    "semantic": "tamis.cleaners.semantic:Semantic",
    "sources": "tamis.cleaners.allowed:Sources",
    "where": "tamis.cleaners.where:Where",
}
FEW = 12  # names that a message lists
CATALOGUE: dict[str, dict[str, str]] = {
    "cleaners": CLEANERS,
    "passes": PASSES,
    "scorers": SCORERS,
    "weighers": WEIGHERS,
    "selectors": SELECTORS,
    "mixers": MIXERS,
    "trainers": TRAINERS,
    "hooks": HOOKS,
    "evaluators": EVALUATORS,
}


def nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def hint(kind: str, name: str) -> str:
    """What to name instead: the closest name of a kind, and all of them where they are few."""
    table = CATALOGUE[kind]
    everything = (
        f"Known: {', '.join(sorted(table))}" if len(table) <= FEW else f"`tamis list {kind}` has all {len(table)}"
    )
    return f"{nearest(name, table) or ';'} {everything}"


def entry(kind: str, name: str) -> str:
    """`module:Class` of a component. A third party's component is named so itself, as `my_package.module:Class`."""
    table = CATALOGUE[kind]
    if name in table:
        return table[name]
    if ":" in name:
        return name
    raise RecipeError(f"there is no {kind[:-1]} named {name!r}{hint(kind, name)}")


def load(kind: str, name: str) -> type[Any]:
    """The class of a component, imported now."""
    module, _, attribute = entry(kind, name).partition(":")
    try:
        loaded = importlib.import_module(module)
        found: type[Any] = getattr(loaded, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(f"{kind[:-1]} {name!r} cannot be loaded from {module}:{attribute}: {error}") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise RecipeError(f"{kind[:-1]} {name!r}: {module}:{attribute} is no component (a dataclass)")
    return found


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with one setting."""

    setting: str
    text: str


def checked(cls: type[Any], name: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """Settings of a dataclass converted to the types of its fields, and every fault: unknown, missing, wrong type."""
    from typing import get_type_hints

    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    fields = {field.name: field for field in dataclasses.fields(cls)}
    known = ", ".join(fields) or "none"
    faults = [
        Fault(key, f"{name} has no setting {key!r}{nearest(key, list(fields))} Known: {known}")
        for key in settings
        if key not in fields
    ]
    faults += [
        Fault(key, f"{name} needs a setting {key!r}")
        for key, field in fields.items()
        if key not in settings and field.default is field.default_factory is dataclasses.MISSING
    ]
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key in (key for key in fields if key in settings):
        try:
            try:
                adapter = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
            except PydanticUserError:  # a type that carries its own configuration refuses a second one
                adapter = TypeAdapter(hints[key])
            values[key] = adapter.validate_python(settings[key])
        except ValidationError as error:
            faults += [Fault(key, f"{name}.{key}: {one['msg']}, got {one['input']!r}") for one in error.errors()]
    return values, faults


def build(kind: str, name: str, settings: Mapping[str, Any]) -> Any:
    """A component from its name and settings; every unknown setting and wrong type is reported at once."""
    cls = load(kind, name)
    values, faults = checked(cls, name, settings)
    if faults:
        raise RecipeError([fault.text for fault in faults])
    return cls(**values)


def help_line(kind: str, name: str) -> str:
    """First line of the class docstring, read from the source without importing it."""
    module, _, attribute = entry(kind, name).partition(":")
    parent = importlib.util.find_spec("tamis")
    if not module.startswith("tamis.") or parent is None or not parent.submodule_search_locations:
        return ""
    from pathlib import Path

    path = Path(parent.submodule_search_locations[0]).joinpath(*module.split(".")[1:]).with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""
