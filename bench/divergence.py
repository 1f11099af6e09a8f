"""Memory and time of the fused head with a divergence: `python -m bench.divergence`, a table of forms.

Each form runs in a separate process with an allocator that returns freed memory at once. Inputs are states of random
numbers and two heads, the policy's and the target's; the figures are the peak of resident memory beyond them, which
includes the gradient of the policy's head, and the processor's seconds of one forward and backward pass on one thread.
`plain` is the head without a divergence, `autograd` the divergence from whole logits. Needs Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from bench.machine import describe
from bench.memory import GIVES_BACK
from obverse.estimator.divergence import Divergence
from obverse.memory_plan.machine import resident
from obverse.models.fused_divergence import Comparison, Target
from obverse.models.fused_logprobs import Scores, chunk_size

NUM_TOKENS, WIDTH, VOCABULARY = 256, 896, 151_936  # the head of Qwen2.5 0.5B
FORMS = {
    "plain": None,
    "forward KL": Divergence(beta=0.0),
    "reverse KL": Divergence(beta=1.0),
    "Jensen-Shannon": Divergence(beta=0.5),
    "top 100, tail": Divergence(beta=0.5, top_k=100),
    "top 100, renormalised": Divergence(beta=1.0, top_k=100, tail=False),
    "tilted": Divergence(beta=0.0, tilt=20.0),
    "autograd": Divergence(beta=0.0),
}
RESULTS = Path("bench/results/divergence.json")


def measured(name: str, is_known: bool, num_tokens: int) -> dict[str, float]:
    """Peak bytes beyond the inputs, and processor seconds, of a forward and backward pass; the second of two passes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    states, target_states = (torch.randn(num_tokens, WIDTH) for _ in range(2))
    states.requires_grad_()
    head, target_head = (torch.nn.Parameter(torch.randn(VOCABULARY, WIDTH) * 0.02) for _ in range(2))
    observed = torch.randint(0, VOCABULARY, (num_tokens,))
    run_pass(name, states[:8], head, target_states[:8], target_head.detach(), observed[:8], is_known)
    states.grad, head.grad = None, None
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    run_pass(name, states, head, target_states, target_head.detach(), observed, is_known)
    seconds = time.process_time() - start
    status = Path("/proc/self/status").read_text()
    return {"bytes": int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before, "seconds": seconds}


def run_pass(
    name: str, states: Tensor, head: Tensor, target_states: Tensor, target_head: Tensor, observed: Tensor, known: bool
) -> None:
    """One forward and backward pass over log-probs and, except for `plain`, divergences."""
    weight, ones, form = torch.full((len(states),), 0.1), torch.ones(len(states)), FORMS[name]
    if name == "autograd":
        log_p = (states @ head.T).log_softmax(-1)
        log_q = (target_states @ target_head.T).log_softmax(-1)
        distance = (log_q.exp() * (log_q - log_p)).sum(-1)
        ((log_p.gather(-1, observed[:, None])[:, 0] + distance) * weight).sum().backward()
        return
    size = chunk_size(VOCABULARY, states.device)
    if form is None:
        logp, _ = Scores.apply(states, head, observed, ones, weight if known else None, size)  # type: ignore[no-untyped-call]
        (logp * weight).sum().backward()
        return
    comparison = Comparison(form, Target(target_states, lambda part: part @ target_head.T, target_head), observed, ones)
    gradient, size = weight if known else None, size // comparison.num_buffers(states.device)
    scores = Scores.apply(states, head, observed, ones, gradient, size, comparison, gradient)  # type: ignore[no-untyped-call]
    ((scores[0] + scores[2]) * weight).sum().backward()


def main() -> None:
    """Print and store the figures of all forms, with the gradient known in advance and not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("forms", nargs="*", metavar="FORM", help=f"among {', '.join(FORMS)}")
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS, help="number of tokens")
    parser.add_argument("--alone", choices=("known", "unknown"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measured(arguments.forms[0], arguments.alone == "known", arguments.tokens)))
        return
    rows: dict[str, dict[str, dict[str, float]]] = {}
    print("| form | MB, gradient known | seconds | MB, not known | seconds |\n|---|--:|--:|--:|--:|")
    for name in arguments.forms or FORMS:
        rows[name] = {way: in_process(name, way, arguments.tokens) for way in ("known", "unknown")}
        cells = (f"{row['bytes'] / 1e6:,.0f} | {row['seconds']:.1f}" for row in rows[name].values())
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    sizes = {"tokens": arguments.tokens, "width": WIDTH, "vocabulary": VOCABULARY, "dtype": "float32", "threads": 1}
    RESULTS.write_text(json.dumps({"machine": describe("cpu"), "sizes": sizes, "forms": rows}, indent=1) + "\n")


def in_process(name: str, way: str, num_tokens: int) -> dict[str, float]:
    """The figures of one form, measured in a separate process."""
    words = [sys.executable, "-m", "bench.divergence", name, "--alone", way, "--tokens", str(num_tokens)]
    completed = subprocess.run(words, capture_output=True, text=True, env=os.environ | GIVES_BACK, check=True)
    figures: dict[str, float] = json.loads(completed.stdout)
    return figures


if __name__ == "__main__":
    main()
