"""`obverse report`: a run, or every run of a comparison, as one self-contained page that explains its figures."""

from obverse.report.write import report, report_after_run

__all__ = ["report", "report_after_run"]
