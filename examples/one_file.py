"""HPT in one file: a language model is trained by RL on problems that it solves and by SFT on those that it does not.

The file does not import obverse: it is the reference implementation. A test runs both on the same problems and compares
the curves. Read it from top to bottom: problems, sampling, reward, gate, coefficients, training loop.

    python examples/one_file.py --model obverse/assets/base --steps 50
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# ---- problems: a prompt, an answer that can be checked, and a demonstration --------------------------------------


def chain(rng: random.Random, num_operations: int) -> dict:
    """A chain of operations from left to right, every number between 0 and 99: Q:7+5*3 -> 7+5=12;12*3=36#36."""
    while True:
        value = rng.randint(1, 99)
        question, steps = str(value), []
        for _ in range(num_operations):
            sign, number = rng.choice("+-*"), rng.randint(1, 9)
            result = {"+": value + number, "-": value - number, "*": value * number}[sign]
            question += f"{sign}{number}"
            steps.append(f"{value}{sign}{number}={result}")
            value = result
            if not 0 <= value <= 99:
                break
        else:
            return {"prompt": f"Q:{question}\nA:", "answer": str(value), "demonstration": ";".join(steps) + f"#{value}"}


def seed_for(seed: int, *names: object) -> int:
    """The seed of a named stream of random numbers, independent of the order in which streams are used."""
    text = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def take(problems: list[dict], seed: int, cursor: int, num: int) -> list[dict]:
    """`num` problems from position `cursor` of an endless stream that is shuffled in every epoch."""
    batch = []
    for position in range(cursor, cursor + num):
        epoch, index = divmod(position, len(problems))
        order = list(range(len(problems)))
        random.Random(seed_for(seed, "epoch", epoch)).shuffle(order)
        batch.append(problems[order[index]])
    return batch


# ---- sampling: several rollouts for each problem -----------------------------------------------------------------


@torch.no_grad()
def sample(model, prompts: list[list[int]], seeds: list[int], stop: int, max_tokens: int):
    """One completion per prompt: its token ids with the stop token, and their log-probs under the sampling policy."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    uniforms = torch.stack(
        [torch.rand(max_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    )
    answers: list[list[int]] = [[] for _ in prompts]
    drawn: list[list[float]] = [[] for _ in prompts]
    cache, alive = None, [True] * len(prompts)
    for step in range(max_tokens):
        position = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = model(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True)
        cache, logp = out.past_key_values, out.logits[:, -1].log_softmax(-1)
        cumulative = logp.double().exp().cumsum(-1)  # inverse transform sampling with one uniform number per token
        token = torch.searchsorted(cumulative, uniforms[:, step : step + 1] * cumulative[:, -1:], right=True)
        for i in range(len(prompts)):
            if alive[i]:
                answers[i].append(int(token[i]))
                drawn[i].append(float(logp[i, token[i]]))
                alive[i] = answers[i][-1] != stop
        if not any(alive):
            break
        ids, mask = token, torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return answers, drawn


# ---- reward: 1 if the text after the last # is the answer --------------------------------------------------------


def reward(text: str, answer: str) -> float:
    _, mark, final = text.rpartition("#")
    return float(bool(mark) and final.strip() == answer)


# ---- the gate: the samples that a problem trains on --------------------------------------------------------------


def gate(problem: dict, tokenizer, answers, drawn, rewards: list[float], threshold: int = 0) -> list[dict]:
    """A problem solved more than `threshold` times trains on its rollouts (RL), else on its demonstration (SFT)."""
    prompt = tokenizer(problem["prompt"]).input_ids
    if sum(rewards) > threshold:
        mean = sum(rewards) / len(rewards)
        return [
            {"prompt": prompt, "ids": ids, "behavior": logps, "advantage": r - mean, "is_rollout": True}
            for ids, logps, r in zip(answers, drawn, rewards, strict=True)
        ]
    ids = [*tokenizer("".join(problem["demonstration"])).input_ids, tokenizer.eos_token_id]
    return [{"prompt": prompt, "ids": ids, "behavior": [0.0] * len(ids), "advantage": 1.0, "is_rollout": False}]


# ---- the loss: every method is one coefficient per token ---------------------------------------------------------


def log_probs(model, rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob and entropy of every trained token, flat, in the order of the rows."""
    sequences = [row["prompt"] + row["ids"] for row in rows]
    width = max(map(len, sequences))
    ids = torch.tensor(
        [tokens + [0] * (width - len(tokens)) for tokens in sequences]
    )  # causal attention ignores right padding
    logp = model(input_ids=ids).logits.log_softmax(-1)
    logps, entropy = [], []
    for i, row in enumerate(rows):
        first = len(row["prompt"]) - 1  # its logits predict the first token of the completion
        token_logps = logp[i, first : first + len(row["ids"])]
        logps.append(token_logps.gather(-1, torch.tensor(row["ids"])[:, None])[:, 0])
        entropy.append(-(token_logps.exp() * token_logps).sum(-1))
    return torch.cat(logps), torch.cat(entropy)


def coefficients(rows: list[dict], logp: torch.Tensor, max_tokens: int, rl_coef: float) -> torch.Tensor:
    """1/N for a demonstration's token, rl_coef x ratio x advantage / (L B) for a rollout's; N, B of the whole step."""
    num_rollouts = sum(row["is_rollout"] for row in rows)
    num_demonstration_tokens = sum(len(row["ids"]) for row in rows if not row["is_rollout"])
    is_rollout = torch.tensor([row["is_rollout"] for row in rows for _ in row["ids"]])
    behavior = torch.tensor([value for row in rows for value in row["behavior"]])
    advantage = torch.tensor([row["advantage"] for row in rows for _ in row["ids"]])
    ratio = torch.exp(logp.detach() - behavior)
    rl = rl_coef * ratio * advantage / (max_tokens * max(num_rollouts, 1))
    return torch.where(is_rollout, rl, 1.0 / max(num_demonstration_tokens, 1))


# ---- the loop ----------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> list[dict]:
    torch.set_num_threads(1)  # a second thread does not help with a tiny model
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    if args.problems:
        problems = [json.loads(line) for line in Path(args.problems).read_text().splitlines()]
    else:
        rng = random.Random(args.seed)
        problems = [chain(rng, 1 + i % 6) for i in range(1000)]
    curve, cursor = [], 0
    for step in range(args.steps):
        batch = take(problems, args.seed, cursor, args.prompts_per_step)
        pairs = [(index, i) for index in range(len(batch)) for i in range(args.num_generations)]
        prompts = [tokenizer(batch[index]["prompt"]).input_ids for index, _ in pairs]
        seeds = [seed_for(args.seed, "rollout", cursor + index, i) for index, i in pairs]
        answers, drawn = sample(model, prompts, seeds, tokenizer.eos_token_id, args.max_completion_length)
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
        rewards = [reward(text, batch[index]["answer"]) for text, (index, _) in zip(texts, pairs, strict=True)]

        rows, num_sft = [], 0
        for index, problem in enumerate(batch):
            span = slice(index * args.num_generations, (index + 1) * args.num_generations)
            samples = gate(problem, tokenizer, answers[span], drawn[span], rewards[span])
            num_sft += not samples[0]["is_rollout"]
            rows += samples

        logp, entropy = log_probs(model, rows)
        c = coefficients(rows, logp, args.max_completion_length, args.rl_coef)
        loss = -(c * logp).sum() - args.entropy_coef * entropy.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        cursor += len(batch)
        curve.append({"loss": loss.item(), "reward": sum(rewards) / len(rewards), "sft": num_sft / len(batch)})
        print(
            f"step {step + 1:3d}  reward {curve[-1]['reward']:.3f}  problems on SFT {curve[-1]['sft']:.0%}", flush=True
        )
    return curve


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a transformers causal LM without a chat template")
    parser.add_argument(
        "--problems", help="jsonl with prompt, answer, demonstration (text or steps); without it chains are generated"
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--prompts_per_step", type=int, default=32)
    parser.add_argument("--num_generations", type=int, default=8)
    parser.add_argument("--max_completion_length", type=int, default=96)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--rl_coef", type=float, default=20.0, help="weight of the RL loss relative to the SFT loss")
    parser.add_argument("--entropy_coef", type=float, default=0.001)
    parser.add_argument("--seed", type=int, default=42)
    return parser


if __name__ == "__main__":
    train(options().parse_args())
