"""The real engine: a stock vLLM server on this machine's CPU, which `make test-vllm` installs and this file starts.

Not part of `make test`: the server has an environment of its own (its packages contradict ours), and takes a minute to
start. Figures are printed: `make test-vllm` shows them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from house.source import ROOT

import runs
from obverse.data.renderer import Renderer
from obverse.distributed.process_group import SINGLE_PROCESS
from obverse.inference import Completion, SamplingParams, SamplingRequest
from obverse.inference.build import NUM_REFERENCE_TOKENS, PolicyWeights
from obverse.inference.distribution import sampling_log_probs
from obverse.inference.hf import HFSampler
from obverse.inference.http import Client
from obverse.inference.policy_scorer import PolicyScorer
from obverse.inference.prompt_scores import Echo, PromptLogProbs, ScoreForm
from obverse.inference.scoring import ScoringRequest
from obverse.inference.teacher_server import ROLE, TeacherRequirements, TeacherServer
from obverse.inference.tokenizer_probe import TEXT, TokenizerProbe
from obverse.inference.vllm import ServerRequirements, VLLMSampler
from obverse.inference.weight_sync import WeightSync
from obverse.models.load import load
from obverse.models.policy import Policy
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train
from obverse.training.train_inference_kl import kl_per_token
from obverse.types import ModelInput, Source

PROGRAM = ROOT / ".venv-vllm" / "bin" / "vllm"
START_SECONDS = 600
# One float32 model in two programs: the largest difference of a token's log-prob, in nats.
TOLERANCE = 1e-3
PROMPTS = [f"Q:{a}+{b}-{c}\nA:" for a in (7, 23, 58, 91) for b in (4, 36) for c in (1, 19)]


class Server:
    """The server's process, which can be killed and started again at the same address."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with socket.create_server(("127.0.0.1", 0)) as place:
            self.port = place.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-m", "obverse", "serve-vllm", "embedded", "--program", str(PROGRAM)]
        words += ["--port", str(self.port), "--dtype", "float32", "--max_model_len", "256"]
        threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [*words, "--vllm_args=--enforce-eager"],
            env={**os.environ, **threads, "PYTHONPATH": str(ROOT)},
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=self.log.parent,
        )

    def ready(self) -> None:
        client, begun = Client(self.url, START_SECONDS), time.monotonic()

        def alive() -> None:
            assert self.process.poll() is None, self.log.read_text()[-3000:]

        client.with_retries(lambda: client.request("/health", seconds=10), alive)
        print(f"\nserver ready after {time.monotonic() - begun:.0f} s")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    assert PROGRAM.exists(), "make test-vllm installs the server"
    made = Server(tmp_path_factory.mktemp("server") / "log")
    try:
        made.ready()
        yield made
    finally:
        made.kill()


class Bench:
    """A policy here, the same one there, and both samplers."""

    def __init__(self, server: Server, folder: Path) -> None:
        policy, tokenizer = load("embedded", dtype="float32", device="cpu")
        self.policy: Policy = policy
        self.renderer = Renderer(tokenizer, eos_ids=policy.model.generation_config.eos_token_id)
        self.prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
        client = Client(server.url, 60.0)
        self.weights = WeightSync(
            client,
            PolicyWeights(policy, SINGLE_PROCESS),
            folder,
            "bench",
            self.prompts[0][:NUM_REFERENCE_TOKENS],
            SINGLE_PROCESS,
        )
        needs = ServerRequirements(258, TEXT, tokenizer(TEXT, add_special_tokens=False)["input_ids"], 100)
        self.sampler = VLLMSampler(client, self.weights, needs, self.renderer.decode)
        self.sampler.connect()

    def requests(self, num: int, seed: int = 0) -> list[SamplingRequest]:
        return [
            SamplingRequest(ModelInput(tuple(ids)), range(seed + 100 * n, seed + 100 * n + num))
            for n, ids in enumerate(self.prompts)
        ]

    @torch.no_grad()
    def scores(self, prompt: list[int], found: Completion, params: SamplingParams) -> torch.Tensor:
        """Our log-probs of the law for a completion's tokens."""
        logits = self.policy.model(input_ids=torch.tensor([prompt + found.ids])).logits[0, len(prompt) - 1 : -1]
        return sampling_log_probs(logits, params).gather(-1, torch.tensor(found.ids)[:, None])[:, 0]

    def gaps(self, params: SamplingParams, num: int = 4) -> torch.Tensor:
        """Our log-probs minus the server's, of every token that it drew."""
        requests = self.requests(num)
        found = self.sampler.sample(requests, params)
        return torch.cat(
            [
                self.scores(list(request.prompt.token_ids), each, params) - torch.tensor(each.behavior)
                for request, group in zip(requests, found, strict=True)
                for each in group
            ]
        )

    def params(self, **more: Any) -> SamplingParams:
        return SamplingParams(self.renderer.stop_ids, 48, **more)


@pytest.fixture(scope="module")
def bench(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(server, tmp_path_factory.mktemp("weights"))
    begun = time.monotonic()
    made.sampler.sync_weights(0)
    print(f"first push {time.monotonic() - begun:.2f} s, vLLM {made.sampler.version}")
    return made


LAWS = [{}, {"temperature": 0.6}, {"temperature": 1.3, "top_k": 5}, {"top_p": 0.9}, {"min_p": 0.05}]


@pytest.mark.parametrize("cut", LAWS, ids=str)
def test_the_servers_log_probs_are_ours(cut: dict[str, float], bench: Bench) -> None:
    gaps = bench.gaps(bench.params(**cut))
    allowed = gaps.isfinite()  # a token on the border of a cut may be inside there and outside here
    kl = float(kl_per_token(gaps[allowed], torch.zeros(int(allowed.sum()))).mean())
    print(
        f"law {cut or 'whole'}: {len(gaps)} tokens, {int((~allowed).sum())} outside, largest gap "
        f"{float(gaps[allowed].abs().max()):.1e}, mean {float(gaps[allowed].abs().mean()):.1e}, KL {kl:.1e}"
    )
    assert float(gaps[allowed].abs().max()) < TOLERANCE and int((~allowed).sum()) <= len(gaps) / 500


def test_a_seed_names_a_completion_and_groups_differ(bench: Bench) -> None:
    first, again = (bench.sampler.sample(bench.requests(4), bench.params()) for _ in range(2))
    assert first == again
    other = bench.sampler.sample(bench.requests(4, seed=50), bench.params())
    assert other != first and len({tuple(each.ids) for group in first for each in group}) > len(PROMPTS)


def test_completions_end_as_ours_do(bench: Bench) -> None:
    params = bench.params()
    for found in (each for group in bench.sampler.sample(bench.requests(4), params) for each in group):
        assert (found.finish == "stop") == (found.ids[-1] in params.stop_ids)
        assert not set(found.ids[:-1]) & set(params.stop_ids)
    free = bench.sampler.sample(bench.requests(4), params)
    cut = bench.sampler.sample(bench.requests(4), SamplingParams(params.stop_ids, 48, stop_strings=("=",)))
    for before, after in zip(chain(*free), chain(*cut), strict=True):
        text = bench.renderer.decode(before.ids)
        assert bench.renderer.decode(after.ids) == (text[: text.index("=") + 1] if "=" in text else text)
    short = bench.sampler.sample(bench.requests(1), SamplingParams((), 5))
    assert all(len(each.ids) == 5 and each.finish == "length" for group in short for each in group)


def test_greedy_is_ours(bench: Bench) -> None:
    params = bench.params(temperature=0.0)
    requests = bench.requests(1)
    ours = HFSampler(bench.policy.model, decode=bench.renderer.decode).sample(requests, params)
    assert [group[0].ids for group in bench.sampler.sample(requests, params)] == [group[0].ids for group in ours]


def test_weights_are_really_updated(bench: Bench) -> None:
    """Every tensor moves, the head that is the embedding among them; then all is put back."""
    before = {name: value.clone() for name, value in bench.policy.model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    try:
        for step, part in enumerate(("mlp", "norm", "self_attn", "embed", ""), start=1):
            with torch.no_grad():
                for name, value in bench.policy.model.named_parameters():
                    if part in name:
                        value.add_(0.02 * torch.randn(value.shape, generator=generator))
            begun = time.monotonic()
            bench.sampler.sync_weights(step)
            seconds = time.monotonic() - begun
            gaps = bench.gaps(bench.params(), num=2)
            print(f"push {step} ({part or 'all'} moved): {seconds:.2f} s, largest gap {float(gaps.abs().max()):.1e}")
            assert float(gaps.abs().max()) < TOLERANCE
    finally:
        bench.policy.model.load_state_dict(before)
        bench.sampler.sync_weights(99)


FORMS = (PromptLogProbs(), Echo(0), Echo(1))


def teacher_of(server: Server, bench: Bench) -> TeacherServer:
    probe = TokenizerProbe(bench.renderer.tokenizer, "\u4eac\u00e9")
    return TeacherServer(Client(server.url, 120.0, ROLE), TeacherRequirements(probe, 100, bench.renderer.stop_ids))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{type(form).__name__}-{form.num_generated}")
def test_a_teachers_log_probs_are_those_of_the_same_model_here(form: ScoreForm, server: Server, bench: Bench) -> None:
    scorer = teacher_of(server, bench)
    scorer.connect()
    assert isinstance(scorer.form, PromptLogProbs) and scorer.max_length == 256
    scorer.form = form
    asked = bench.requests(4, seed=11)
    completions = bench.sampler.sample(asked, bench.params())
    requests = [
        ScoringRequest(request.prompt, completion.ids, [Source.ROLLOUT] * len(completion.ids))
        for request, group in zip(asked, completions, strict=True)
        for completion in group
    ]
    begun = time.monotonic()
    scores = torch.tensor(list(chain(*scorer.score(requests))))
    seconds = time.monotonic() - begun
    local = torch.tensor(list(chain(*PolicyScorer(bench.policy, 1.0, 4096).score(requests))))
    gap = float((scores - local).abs().max())
    print(f"{len(requests)} responses, {len(scores)} tokens in {seconds:.2f} s, largest gap {gap:.1e}")
    assert gap < TOLERANCE
    scorer._is_tokenizer_verified = lambda texts: False  # type: ignore[method-assign]  # as if it had no /tokenize
    scorer._check_server()


def test_a_run_with_a_teacher_behind_the_server(server: Server, tmp_path: Path) -> None:
    """The policy begins with noise on the weights that the server has, and loses it."""
    policy, tokenizer = load("embedded", dtype="float32", device="cpu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in policy.model.parameters():
            value.add_(0.03 * torch.randn(value.shape, generator=generator))
    policy.model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    given = {"teacher_url": server.url, "teacher_model": None, "report": False, "max_completion_length": 48}
    config = runs.config(
        "opd", tmp_path / "run", tmp_path / "policy", "arithmetic:1-6",
        num_problems=8, prompts_per_step=8, num_generations=4, max_steps=12, learning_rate=3e-4, **given,
    )  # fmt: skip
    train(config)
    rows = RunFolder(tmp_path / "run").metrics()
    kls = [row["teacher/kl"] for row in rows]
    seconds = fmean(row["time/teacher"] for row in rows)
    print(f"KL to the teacher by step: {', '.join(f'{kl:.3f}' for kl in kls)}; {seconds:.2f} s a step to score")
    assert kls[0] > 0.2 and fmean(kls[-4:]) < 0.3 * kls[0]


def test_speed(bench: Bench) -> None:
    """Printed, not judged: other work on the machine moves it."""
    requests, params = bench.requests(8, seed=7), bench.params()
    for name, sampler in (("vllm", bench.sampler), ("own", HFSampler(bench.policy.model))):
        begun = time.monotonic()
        found = sampler.sample(requests, params)
        seconds = time.monotonic() - begun
        num = sum(len(each.ids) for group in found for each in group)
        print(f"{name}: {num} tokens in {seconds:.2f} s, {num / seconds:,.0f} tokens/s")


def options(server: Server, **more: Any) -> dict[str, Any]:
    given = {"sampler": "vllm", "vllm_url": server.url, "vllm_timeout": START_SECONDS, "report": False}
    return {**given, "max_completion_length": 48, "prompts_per_step": 8, "num_generations": 4, **more}


def told(folder: Path) -> list[dict[str, float]]:
    rows = RunFolder(folder).metrics()
    for row in rows:
        names = ("sampler_gap", "mismatch_kl", "staleness", "reward", "time/sample", "time/train")
        print(f"step {row['step']}: " + ", ".join(f"{name} {row[name]:.3g}" for name in names if name in row))
    return rows


@pytest.mark.parametrize("method", ["grpo", "hpt"])
def test_a_run(method: str, server: Server, tmp_path: Path) -> None:
    config = runs.config(method, tmp_path, "embedded", "arithmetic:1-6", max_steps=6, **options(server))
    assert config.method_options["importance_sampling"] == "token_truncate"
    train(config)
    rows = told(tmp_path)
    assert len(rows) == 6 and all(row["mismatch_kl"] < 1e-6 for row in rows if "mismatch_kl" in row)
    assert any("mismatch_kl" in row for row in rows)
    for step in range(1, 7):
        lines = (tmp_path / "samples" / f"step-{step:06d}.jsonl").read_text().splitlines()
        drawn = [row for row in map(json.loads, lines) if row["kind"] == "rollout"]
        assert {row["weights"] for row in drawn} == {step - 1}


def test_a_run_ahead(server: Server, tmp_path: Path) -> None:
    given = options(server, async_sampling=True)
    train(runs.config("grpo", tmp_path, "embedded", "arithmetic:1-6", max_steps=5, **given))
    assert [row["staleness"] for row in told(tmp_path)] == [0, 1, 1, 1, 1]


def test_a_server_that_is_killed_in_mid_run_and_started_again(server: Server, tmp_path: Path) -> None:
    class Watch(Silent):
        killed = 0.0

        def phase(self, phase: Any, done: int, total: int) -> None:
            if phase == "sample" and not self.killed and done >= 40:  # the second step's completions come in
                self.killed = time.monotonic()
                server.kill()
                server.start()

        def step(self, step: int, total_steps: int, metrics: Any) -> None:
            if self.killed:
                print(f"step {step} done {time.monotonic() - self.killed:.0f} s after the kill")

        def note(self, text: str) -> None:
            print(text)

    watch = Watch()
    given = options(server, prompts_per_step=16)
    train(runs.config("grpo", tmp_path, "embedded", "arithmetic:1-6", max_steps=3, **given), watch)
    rows = told(tmp_path)
    assert watch.killed and len(rows) == 3
    assert all(row["mismatch_kl"] < 1e-6 for row in rows if "mismatch_kl" in row)
