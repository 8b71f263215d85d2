"""Writing `report.html`: the run folder's files, the charts and the template, in one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from tamis.errors import TamisError
from tamis.report import charts, distributions, points, summary, wording
from tamis.report.folder import RunFolder, read_run_folder
from tamis.report.inert import clean, embedded_json
from tamis.store import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
MAX_EXAMPLE = 2500  # characters of a prompt or an answer in an example


def write_report(run: Path) -> Path:
    """Write `run/report.html` from the files of the run folder `run` and return its path.

    No model and no store is needed, and whatever the folder lacks is left out with a sentence. The page runs only the
    two scripts whose digests its policy names, so no text of a dataset can run or load anything. Raises DataError
    where `run` is no folder.
    """
    page = render(read_run_folder(Path(run)))
    target = Path(run) / REPORT
    write_text(target, page)
    return target


def render(run: RunFolder) -> str:
    """Whole page as text."""
    from plotly.offline import get_plotlyjs

    library, script = _script(get_plotlyjs()), _script((TEMPLATES / "report.js").read_text(encoding="utf-8"))
    figures = _figures(run)
    drawn = [chart for group in figures.values() for chart in group]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            manifest=run.manifest,
            comparison=run.comparison,
            examples=run.examples,
            charts=figures,
            verdict=summary.verdict(run),
            facts=summary.key_numbers(run),
            losses=summary.losses(run),
            cleaning=summary.cleaning(run),
            quarantine=summary.quarantined(run),
            differences=summary.differences(run),
            provenance=summary.provenance(run),
            library=library,
            script=script,
            policy=_policy(library, script),
            data=embedded_json(
                [{"name": one.name, "data": one.data, "layout": one.layout, "groups": one.groups} for one in drawn]
            ),
            style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        )
    )


def _figures(run: RunFolder) -> dict[str, list[charts.Chart]]:
    comparison = run.comparison or {}
    single = {
        "funnel": charts.funnel_chart(run.manifest.get("funnel") or ()),
        "arms": charts.arms_chart(comparison),
        "differences": charts.differences_chart(comparison),
        "map": points.map_chart(run),
        "stages": charts.stages_chart(run.manifest.get("stages") or ()),
    }
    figures = {name: [chart] for name, chart in single.items() if chart is not None}
    figures["scores"] = distributions.score_charts(run)
    figures["composition"] = distributions.composition_charts(run)
    return figures


def _environment() -> Environment:
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=ChainableUndefined,
    )
    written = (wording.count, wording.decimal, wording.signed, wording.share, wording.seconds, wording.scientific)
    environment.filters |= {function.__name__: function for function in written}
    environment.filters["text"] = lambda value: clean(value, MAX_EXAMPLE)
    return environment


def _script(text: str) -> str:
    """Script as the HTML parser will see it: with plain newlines, so that its digest is the browser's."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    if "</script" in plain.lower() or "<!--" in plain:
        raise TamisError("a script of the report would end its own element: this version of Plotly cannot be inlined")
    return plain


def _policy(*scripts: str) -> str:
    """Content security policy: nothing is loaded, and only these scripts run.

    Plotly sets inline styles, and its button that saves a chart draws it through a `blob:` or `data:` image.
    """
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "font-src data:; base-uri 'none'; form-action 'none'"
    )
