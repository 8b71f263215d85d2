"""From files of any usual shape to a Pool: every record read becomes a row, or is quarantined with a reason.

Rooms: `sources` (names to local files), `configs` (data lists of trainers), `mappings` (what the user says of fields),
`readers` (raw records with their places), `turns`, `preferences` and `formats` (a record to a row), `assembly` (keys,
shards, rejects), `previews`, `untouched` (the records that rows were).
"""

from tamis.ingest.assembly import ingest
from tamis.ingest.judging import Sample
from tamis.ingest.previews import Preview, preview, previews
from tamis.ingest.untouched import originals, rendered

__all__ = ["Preview", "Sample", "ingest", "originals", "preview", "previews", "rendered"]
