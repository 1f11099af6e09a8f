"""`obverse weigh`: the coefficient of every token of the update in a step file."""

from __future__ import annotations

import json

from obverse.analysis.step_file import read_step
from obverse.cli.command import method_words, show_method_help
from obverse.cli.commands import Words, load


def run(words: Words) -> int:
    method, options, (path,) = method_words(words, "weigh", 2)
    step = read_step(path)
    weighed = load("obverse.analysis.step_coefficients:weigh")(method, step, options)
    samples = ",\n  ".join(json.dumps(sample, ensure_ascii=False) for sample in weighed["samples"])
    header = json.dumps({"method": weighed["method"], "options": weighed["options"]}, default=str)
    print(f'{header[:-1]}, "samples": [\n  {samples}\n]}}')
    return 0


def show_help(words: Words) -> None:
    show_method_help(words, "weigh")
