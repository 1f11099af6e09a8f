"""The papers' literal objectives, one file per method, written naively: loops over samples, autograd does the rest.

Each file has `CASES`, a list of (options, literal). `literal(data)` returns the scalar that the paper minimizes, from
`data.logp` and `data.entropy` (leaves), without looking at obverse's parts. The exam finds the files by listing the
methods' folder: a method without one fails.
"""
