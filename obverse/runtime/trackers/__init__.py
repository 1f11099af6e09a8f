"""Trackers: libraries that show the figures of a run beside those of other runs, chosen by --report_to.

A tracker receives copies. The run folder has every figure in its own files whether or not a tracker is used.
"""
