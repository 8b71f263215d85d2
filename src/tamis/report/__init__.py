"""The HTML report of a run: one self-contained file, made from the run folder's files alone."""

from tamis.report.writer import write_report

__all__ = ["write_report"]
