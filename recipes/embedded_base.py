"""Train the embedded base model: a small language model that solves easy problems and almost no hard ones.

    python recipes/embedded_base.py --output_dir obverse/assets/base    train, save, measure: about 15 minutes
    python recipes/embedded_base.py --measure obverse/assets/base       measure only

The base is trained on texts of the train split only, with at most three steps in a row: arithmetic of 1 to 3
operations, countdown of 2 and 3 numbers, knights of 2 people, and pieces of longer chains. So it can do every single
step, but it answers a long problem as if it were short, and sampling almost never finds a correct answer. With one
thread and one seed, the same machine produces the same weights.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)
from transformers.utils.logging import disable_progress_bar

from obverse.data.synthetic import arithmetic, countdown, knights
from obverse.rewards import get_verifier
from obverse.seeds import seed_for
from obverse.types import Problem

SEED = 20250904
NUM_STEPS = 1_000
TEXTS_PER_STEP = 128
MICRO_BATCH_TOKENS = 1_200  # the texts of a step, sorted by length, in batches of at most this many tokens
MUON_LEARNING_RATE = 0.015  # matrices; AdamW alone needs more than twice the steps
ADAMW_LEARNING_RATE = 2e-3  # embedding, biases, norms
WARMUP_STEPS = 20
MAX_STEPS = 3  # the longest run of steps in any text

GENERATE = {"arithmetic": arithmetic.generate, "countdown": countdown.generate, "knights": knights.generate}


@dataclass(frozen=True)
class TextSource:
    """The texts of one difficulty: their share of all texts, and the number of problems and of seeds.

    Small difficulties are generated under several seeds, which gives other names, permutations and orders of the same
    problems, all of the train split.
    """

    task: str
    difficulty: int
    share: float
    num_problems: int
    num_seeds: int = 1
    form: Literal["whole", "cut", "excerpt"] = "whole"


# Long chains are used in pieces. `cut`: the question, three steps, and their result as the answer, so that the base
# learns to stop too early. `excerpt`: three steps from the middle, in a different form, so that the base learns to
# continue after any operation, and only the habit of stopping prevents it from solving long chains.
SOURCES = (
    TextSource("arithmetic", 1, 0.07, 1_250),
    TextSource("arithmetic", 2, 0.09, 20_000),
    TextSource("arithmetic", 3, 0.16, 40_000),
    *(TextSource("arithmetic", num_operations, 0.04, 10_000, form="cut") for num_operations in (4, 5, 6)),
    *(TextSource("arithmetic", num_operations, 0.05, 10_000, form="excerpt") for num_operations in (4, 5, 6)),
    TextSource("countdown", 2, 0.07, 750, num_seeds=8),
    TextSource("countdown", 3, 0.26, 22_000, num_seeds=2),
    TextSource("knights", 2, 0.08, 500, num_seeds=16),
)

# A base trained on correct solutions only would solve all easy problems, and RL would have no differences in reward.
# So a few texts answer without steps, and a few contain a mistake, rare enough that every single step is still learned.
DIRECT = 0.10
WRONG = 0.12


def text(problem: Problem, source: TextSource, rng: Random) -> tuple[str, str]:
    """The text of a problem: a beginning that is given, and the continuation that is learned."""
    if source.form == "excerpt":
        return excerpt(problem, rng)
    if source.form == "cut":
        return str(problem.prompt), "".join(cut(problem))
    return str(problem.prompt), "".join(solution(problem, rng))


def solution(problem: Problem, rng: Random) -> tuple[str, ...]:
    """The demonstration or, at times, a bare answer or a wrong solution."""
    draw = rng.random()
    if draw < DIRECT:
        return problem.demonstration[-1:]
    if draw < DIRECT + WRONG:
        wrong = {"arithmetic": wrong_chain, "countdown": wrong_target, "knights": wrong_world}[problem.meta["task"]]
        return wrong(problem, rng)
    return problem.demonstration


def cut(problem: Problem) -> tuple[str, ...]:
    """The first steps, the last of which gives the answer: `7+5=12;12*3=36;36-4=32#32` of a longer chain."""
    *steps, last = problem.demonstration[:MAX_STEPS]
    last = last.removesuffix(";")
    return (*steps, last, f"#{last.split('=')[1]}")


def excerpt(problem: Problem, rng: Random) -> tuple[str, str]:
    """Steps that begin later than the chain does: `..12*3` and then `=36;36-4=32;32+8=40;..`, or to the answer."""
    *steps, answer = problem.demonstration
    first = rng.randrange(1, len(steps))
    part = steps[first : first + MAX_STEPS]
    given, learned = "".join(part).split("=", 1)
    ending = answer if first + MAX_STEPS >= len(steps) else ".."
    return f"{str(problem.prompt).removesuffix('A:')}..{given}", f"={learned}{ending}"


def wrong_chain(problem: Problem, rng: Random) -> tuple[str, ...]:
    """One result is wrong by up to nine, and the chain continues from it (unchanged if it would leave 0..99)."""
    steps = problem.demonstration
    slip = rng.randrange(len(steps) - 1)
    operands, result = steps[slip].rstrip(";").split("=")
    value = int(result) + rng.choice([-1, 1]) * rng.randint(1, 9)
    later = [step.split("=")[0].lstrip("0123456789") for step in steps[slip + 1 : -1]]
    numbers = [value]
    for operation in later:
        numbers.append(arithmetic.apply(numbers[-1], operation[0], int(operation[1:])))
    if not all(0 <= number <= arithmetic.LIMIT for number in numbers):
        return steps
    if not later:
        return (*steps[:slip], f"{operands}={value}", f"#{value}")
    return (*steps[:slip], f"{operands}={value};", *arithmetic.solve(f"{value}{''.join(later)}"))


def wrong_target(problem: Problem, rng: Random) -> tuple[str, ...]:
    """The numbers combined at random: every step is correct, the target is usually missed."""
    steps = countdown.combine_at_random(rng, problem.answer["numbers"])
    return countdown.demonstration(steps) if steps else problem.demonstration


def wrong_world(problem: Problem, rng: Random) -> tuple[str, ...]:
    """A random guess as the answer."""
    people = [(name, rng.random() < 0.5) for name in problem.answer["names"]]
    signs = "".join(f"{name}{'+' if knight else '-'}" for name, knight in people)
    answer = ",".join(f"{name} is a {'knight' if knight else 'knave'}" for name, knight in people)
    return (f"{signs}:ok", f"#{answer}")


def build_tokenizer() -> Qwen2Tokenizer:
    """Return a byte-level tokenizer without merges: one token per byte, so that any text can be encoded.

    It is a Qwen2Tokenizer because that is what AutoTokenizer makes of any tokenizer in a Qwen2 folder; the class brings
    Unicode's normal form C with it.
    """
    alphabet = sorted(ByteLevel.alphabet())
    return Qwen2Tokenizer(
        vocab={char: i for i, char in enumerate(alphabet)},
        merges=[],
        unk_token=None,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def build_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """The model, about 1.04 million parameters, initialized from SEED."""
    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=480,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        initializer_range=0.06,  # 0.02 is for wide models; here it costs the first hundred steps
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def read(rng_seed: int) -> Iterator[list[tuple[str, str]]]:
    """Yield the texts of one step after the other, without end: pairs of given and learned text."""
    pools = []
    for source in SOURCES:
        level = (source.difficulty, source.difficulty)
        seeds = [seed_for(rng_seed, "pool", i) for i in range(source.num_seeds)]
        pools.append([p for s in seeds for p in GENERATE[source.task]("train", source.num_problems, s, level)])
    rng = Random(seed_for(rng_seed, "texts"))
    shares = [source.share for source in SOURCES]
    while True:
        chosen = rng.choices(range(len(SOURCES)), shares, k=TEXTS_PER_STEP)
        yield [text(rng.choice(pools[i]), SOURCES[i], rng) for i in chosen]


def micro_batches(
    texts: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield token ids and labels, each [rows, longest]; -100 for given text and padding."""
    rows = []
    for given, learned in texts:
        head, tail = tokenizer.encode(given), [*tokenizer.encode(learned), tokenizer.eos_token_id]
        rows.append((head + tail, [-100] * len(head) + tail))
    rows.sort(key=lambda row: len(row[0]))
    while rows:
        size = next(n for n in range(len(rows), 0, -1) if n == 1 or n * len(rows[n - 1][0]) <= MICRO_BATCH_TOKENS)
        part, rows = rows[:size], rows[size:]
        longest = len(part[-1][0])
        ids = [row + [tokenizer.pad_token_id] * (longest - len(row)) for row, _ in part]
        labels = [row + [-100] * (longest - len(row)) for _, row in part]
        yield torch.tensor(ids), torch.tensor(labels)


def optimizers(model: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers and AdamW for all other parameters, with their peak learning rates."""
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others_than_matrices = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others_than_matrices, lr=ADAMW_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, num_steps: int) -> float:
    """The learning rate relative to its peak: a short warmup, then a cosine to zero."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def train(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, num_steps: int) -> None:
    """Train in float32 on one thread; the loss is the mean over the response tokens of a step."""
    optimizer_list = optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, partial(rate, num_steps=num_steps)) for o in optimizer_list]
    begin, texts = time.monotonic(), read(SEED)  # process_time counts only this process
    model.train()
    for step in range(num_steps):
        batches = list(micro_batches(next(texts), tokenizer))
        num_tokens = sum(int((labels[:, 1:] != -100).sum()) for _, labels in batches)
        total = 0.0
        for ids, labels in batches:  # padding is on the right, so causal attention needs no mask
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
            (loss / num_tokens).backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizer_list, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % 50 == 0 or step == num_steps - 1:
            wall, cpu = time.monotonic() - begin, time.process_time()
            print(f"step {step:4d}  loss {total / num_tokens:.4f}  {wall:4.0f} s  ({cpu:.0f} s of CPU)", flush=True)


def save(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Write a transformers folder in bfloat16, readable for all users."""
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


@torch.no_grad()
def sample(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_tokens: int
) -> list[str]:
    """One response to each prompt, sampled at temperature 1 without truncation, of at most `max_tokens` tokens."""
    tokenizer.padding_side = "left"
    params = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": max_tokens}
    texts = []
    for start in range(0, len(prompts), 256):  # limits the size of the key-value cache
        inputs = tokenizer(list(prompts[start : start + 256]), return_tensors="pt", padding=True)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        out = model.generate(input_ids=ids, attention_mask=mask, **params)
        texts += tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return texts


def measure(folder: Path, num_problems: int = 128, num_samples: int = 8) -> None:
    """Print pass@1 and pass@8 (unbiased: of exactly 8 samples) of held-out and harder problems, by task and difficulty.

    `answered` is the share of samples in which the verifier found a final answer.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(SEED)
    print(f"| task | split | difficulty | problems | pass@1 | pass@{num_samples} | answered |")
    print("|---|---|---|---|---|---|---|")
    for module in (arithmetic, countdown, knights):
        for split in ("heldout", "ood"):
            low, high = module.ALLOWED[split]
            for level in range(low, high + 1):
                problems = module.generate(split, num_problems, SEED + 1, (level, level))
                room = max(len(problem.demonstration_text) for problem in problems) + 16
                texts = sample(model, tokenizer, [str(p.prompt) for p in problems for _ in range(num_samples)], room)
                judge = get_verifier(str(problems[0].verifier))
                grades = [judge(problems[i // num_samples], text) for i, text in enumerate(texts)]
                right = torch.tensor([bool(grade.correct) for grade in grades]).view(-1, num_samples).float()
                once, ever = right.mean().item(), right.amax(1).mean().item()
                answered = sum(grade.formatted for grade in grades) / len(grades)
                task = problems[0].meta["task"]
                print(
                    f"| {task} | {split} | {level} | {len(problems)} | {once:.1%} | {ever:.1%} | {answered:.1%} |",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output_dir", type=Path, help="train, save here and measure")
    what.add_argument("--measure", type=Path, metavar="DIR", help="measure this model only")
    parser.add_argument("--num_steps", type=int, default=NUM_STEPS, help="fewer, for a trial")
    options = parser.parse_args()
    disable_progress_bar()
    torch.set_num_threads(1)  # what makes the weights repeatable, and fastest for so small a model
    if options.output_dir:
        tokenizer = build_tokenizer()
        model = build_model(tokenizer)
        train(model, tokenizer, options.num_steps)
        save(model, tokenizer, options.output_dir)
    measure(options.measure or options.output_dir)


if __name__ == "__main__":
    main()
