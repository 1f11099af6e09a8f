"""A teacher behind a server (--teacher_url): its options, and the connection that scores in place of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from obverse.data.renderer import Renderer
from obverse.inference.http import Client
from obverse.inference.scoring import TokenScorer
from obverse.inference.teacher_server import ROLE, ROLE_BESIDE_SAMPLER, TeacherRequirements, TeacherServer
from obverse.inference.tokenizer_probe import TokenizerProbe
from obverse.training.run import RunSetup
from obverse.training.teacher_checks import lengths
from obverse.training.teacher_options import server_of, teachers
from obverse.types import Problem

NUM_COMPARED = 10_000  # problems whose characters the tokenizers are compared on


def with_served_teacher(setup: RunSetup, renderer: Renderer) -> RunSetup:
    """The setup with a connection to --teacher_url, if there is one, and prompts cut to the server's context length.

    Raises ConfigError for a server that cannot be the teacher of this run, EngineError if none answers.
    """
    config, prompts, process_group = setup.config, setup.teacher_prompts, setup.process_group
    if config.teacher_url is None or prompts is None:
        return setup
    role = ROLE_BESIDE_SAMPLER if config.sampler == "vllm" else ROLE
    probe = TokenizerProbe(renderer.tokenizer, characters_of(setup.problems[:NUM_COMPARED]))
    declared = teachers(setup.schedule)
    longest = max((n for problem in setup.problems for n in lengths(problem, declared, prompts)), default=0)
    server = TeacherServer(
        Client(server_of(config.teacher_url), config.vllm_timeout, role),
        TeacherRequirements(probe, longest + config.max_completion_length, renderer.stop_ids),
        config.teacher_name or "",
        note=setup.watcher.note,
        check=setup.watcher.check if process_group.is_alone else lambda: None,
    )
    server.connect()
    if server.max_length is not None:
        room = server.max_length - server.form.num_generated - config.max_completion_length
        prompts = replace(prompts, max_tokens=min(room, prompts.max_tokens or room))
    return replace(setup, scorers={"": server}, teacher_prompts=prompts)


def characters_of(problems: Sequence[Problem]) -> list[str]:
    """The different characters of the problems' texts, in the order of their code points."""
    characters: set[str] = set()
    for problem in problems:
        for text in texts_of(problem):
            characters.update(text)
    return sorted(characters)


def texts_of(problem: Problem) -> Iterable[str]:
    """The texts of a problem that models read or imitate."""
    messages = [problem.prompt] if isinstance(problem.prompt, str) else [m["content"] for m in problem.prompt]
    return [*map(str, messages), *problem.demonstration, problem.chosen or "", problem.rejected or ""]


def teacher_versions(scorers: Mapping[str, TokenScorer]) -> Mapping[str, str]:
    """The name of the served teacher, for environment.json; empty without one."""
    names = [scorer.model for scorer in scorers.values() if isinstance(scorer, TeacherServer)]
    return {"teacher": names[0]} if names else {}


def of_served_teacher(scorers: Mapping[str, TokenScorer]) -> dict[str, str]:
    """The name of the served teacher in place of a fingerprint of its weights; {} without one."""
    return {f"{kind}_name": name for kind, name in teacher_versions(scorers).items()}
