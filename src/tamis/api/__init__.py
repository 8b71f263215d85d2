"""The verbs of tamis for Python; each verb of the command line is a few lines over one of them.

All take `work` (a workspace, or its folder; default `TAMIS_WORKSPACE`, else `./.tamis`) and, where a model reads the
rows, `model` (a folder, a hub name, or a ModelRef with `max_tokens` and dtype). Settings of a component are keywords:
`select(pool, "top", 100, by="ifd")`; `settings` takes the same as a mapping. What was done before is found, not redone.
"""

from __future__ import annotations

from tamis.api.changing import diff as diff
from tamis.api.choosing import filter as filter  # noqa: A004 - the verb's name
from tamis.api.choosing import mix as mix
from tamis.api.choosing import open_subset as open_subset
from tamis.api.choosing import select as select
from tamis.api.cleaning import clean as clean
from tamis.api.decontaminating import decontaminate as decontaminate
from tamis.api.places import open_pool as open_pool
from tamis.api.places import workspace as workspace
from tamis.api.proving import compare as compare
from tamis.api.proving import evaluate as evaluate
from tamis.api.proving import export as export
from tamis.api.proving import load_checkpoints as load_checkpoints
from tamis.api.proving import run as run
from tamis.api.proving import train as train
from tamis.api.scoring import add_columns as add_columns
from tamis.api.scoring import calibrate as calibrate
from tamis.api.scoring import columns as columns
from tamis.api.scoring import plan as plan
from tamis.api.scoring import score as score
