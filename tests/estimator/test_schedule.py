"""Training schedules: which stage comes next, how far it is, and which problems wait."""

from __future__ import annotations

import pytest

from obverse import methods
from obverse.errors import ConfigError
from obverse.estimator.schedule import (
    Clock,
    InOrder,
    InTurns,
    Only,
    Stage,
    StageSelector,
    TrainingSchedule,
    WhenWaiting,
    as_schedule,
    only,
)
from obverse.methods.grpo import grpo
from obverse.methods.sft import sft
from obverse.types import GradeResult, Group, ModelInput, Problem, Sample, Source


def built(name: str, **options: object) -> TrainingSchedule:
    made = methods.build(name, options)
    assert isinstance(made, TrainingSchedule)
    return made


@pytest.mark.parametrize(("progress", "stage"), [(0.0, 0), (0.29, 0), (0.3, 1), (0.31, 1), (1.0, 1)])
def test_the_second_stage_begins_at_its_boundary(progress: float, stage: int) -> None:
    assert InOrder(0.3).stage(Clock(progress=progress)) == stage


@pytest.mark.parametrize(
    ("stage", "progress", "expected"),
    [(0, 0.0, 0.0), (0, 0.15, 0.5), (0, 0.3, 1.0), (0, 0.9, 1.0), (1, 0.1, 0.0), (1, 0.65, 0.5), (1, 1.0, 1.0)],
)
def test_each_stage_counts_its_own_progress(stage: int, progress: float, expected: float) -> None:
    assert InOrder(0.3).progress(stage, progress) == pytest.approx(expected)


def test_turns_go_round() -> None:
    selector = InTurns(first=3, second=2)
    assert [selector.stage(Clock(step=step)) for step in range(11)] == [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0]
    assert [InTurns().stage(Clock(step=step)) for step in range(4)] == [0, 1, 0, 1]
    assert selector.progress(1, 0.4) == 0.4


@pytest.mark.parametrize(("waiting", "stage"), [(0, 0), (127, 0), (128, 1), (500, 1)])
def test_the_second_stage_acts_once_enough_problems_wait(waiting: int, stage: int) -> None:
    assert WhenWaiting(128).stage(Clock(num_waiting=waiting)) == stage


@pytest.mark.parametrize(
    ("selector", "spans"),
    [(Only(), [1.0]), (InOrder(0.3), [0.3, 0.7]), (InTurns(3, 2), [0.6, 0.4]), (WhenWaiting(), [1.0, 1.0])],
    ids=str,
)
def test_the_share_of_steps_that_a_schedule_counts_on(selector: StageSelector, spans: list[float]) -> None:
    assert [selector.span(stage) for stage in range(len(spans))] == pytest.approx(spans)


def test_only_stages_begin_with_a_new_initial_model() -> None:
    assert InOrder().fresh_anchor
    assert not any(selector.fresh_anchor for selector in (Only(), InTurns(), WhenWaiting()))


@pytest.mark.parametrize("first", [-0.1, 0.0, 1.0, 1.5, float("nan")])
def test_a_stage_needs_a_part_of_the_run(first: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        InOrder(first)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (-1, 2)])
def test_a_stage_has_at_least_one_step(first: int, second: int) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        InTurns(first, second)


@pytest.mark.parametrize("num", [0, -1])
def test_at_least_one_problem_has_to_wait(num: int) -> None:
    with pytest.raises(ValueError, match="at least one waiting problem"):
        WhenWaiting(num)


def test_a_schedule_has_as_many_stages_as_its_selector() -> None:
    stage = Stage(sft())
    for selector in (InOrder(), InTurns(), WhenWaiting()):
        with pytest.raises(ValueError, match="2 stages"):
            TrainingSchedule((stage,), selector)
    with pytest.raises(ValueError, match="1 stages"):
        TrainingSchedule((stage, stage))
    with pytest.raises(ValueError, match="cannot share"):
        TrainingSchedule((Stage(sft(), shares_optimizer=True), stage), InTurns())
    with pytest.raises(ValueError, match="no learning rate of its own"):
        TrainingSchedule((stage, Stage(sft(), 1e-5, shares_optimizer=True)), InTurns())


def test_one_method_is_a_schedule_of_one_stage() -> None:
    method = grpo()
    schedule = as_schedule(method)
    assert (schedule.methods, schedule.run, schedule.selector.stage(Clock(9, 0.9, 9))) == ((method,), method.run, 0)
    assert as_schedule(schedule) is schedule
    assert only(method) is method
    with pytest.raises(ConfigError, match="several methods"):
        only(schedule)


def failed(*right: bool, demonstration: tuple[str, ...] = ("so",)) -> Group:
    grades = [GradeResult.passed() if each else GradeResult.failed("no") for each in right]
    own = [Sample("rollout", ModelInput((1,)), [2], [Source.ROLLOUT], [-0.1], "", grade=grade) for grade in grades]
    return Group(Problem("p", "x", demonstration=demonstration), own)


def test_a_problem_waits_if_no_rollout_is_correct_and_it_has_a_demonstration() -> None:
    schedule = built("relift")
    assert schedule.is_waiting(failed(False, False))
    assert not schedule.is_waiting(failed(False, True))
    assert not schedule.is_waiting(failed(False, False, demonstration=()))
    assert not schedule.is_waiting(failed())  # not graded
    assert not built("alternate").is_waiting(failed(False, False))
    schedules = (schedule, built("alternate"), built("relift", num_waiting=3))
    assert [schedule.num_waiting_per_step for schedule in schedules] == [128, None, 3]


def test_stages_have_their_own_rates_and_the_first_takes_its_share() -> None:
    schedule = built("sft_then_rl", sft_share=0.2, imitation_learning_rate=3e-5, num_generations=4)
    assert schedule.selector == InOrder(0.2)
    assert [stage.learning_rate for stage in schedule.stages] == [3e-5, None]
    assert [method.ask(Problem("p", "x"), 0.0)[0].rollouts for method in schedule.methods] == [0, 4]
    assert not any(stage.shares_optimizer for stage in schedule.stages)


def test_alternation_shares_moments_if_asked() -> None:
    apart, shared = (
        built("alternate", rl_steps=3, imitation_learning_rate=2e-5, moments=m) for m in ("separate", "shared")
    )
    assert apart.selector == shared.selector == InTurns(3, 1)
    assert [(stage.learning_rate, stage.shares_optimizer) for stage in apart.stages] == [(None, False), (2e-5, False)]
    assert [(stage.learning_rate, stage.shares_optimizer) for stage in shared.stages] == [(None, False), (None, True)]


def test_the_imitating_stage_gets_the_failed_problems_only() -> None:
    imitate = built("relift").methods[1]
    shown = Sample(
        "demonstration", ModelInput((1,)), [2], [Source.DEMONSTRATION], [0.0], "", grade=GradeResult.passed()
    )
    for right, kinds in (((False, False), ["demonstration"]), ((True, False), [])):
        group = failed(*right)
        group.samples.append(shown)
        assert [sample.kind for sample in imitate.select(group)] == kinds


@pytest.mark.parametrize("name", ["sft_then_rl", "relift", "reft"])
def test_a_stage_has_the_rate_that_a_run_begins_with(name: str) -> None:
    schedule = built(name)
    rates = {stage.learning_rate for stage in schedule.stages} - {None}
    assert rates == {schedule.run["imitation_learning_rate"]}
    assert {stage.learning_rate for stage in built(name, imitation_learning_rate=None).stages} == {None}


def test_a_partial_reward_belongs_to_the_run() -> None:
    assert methods.build("uft").run["format_reward"] == built("reft").run["format_reward"] == 0.1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sft_then_rl", {"sft_share": 0.0}),
        ("sft_then_rl", {"rl": "dr_grpo", "beta": 0.1}),
        ("alternate", {"rl_steps": 0}),
        ("alternate", {"rl": "dr_grpo", "beta": 0.1}),
        ("relift", {"num_waiting": 0}),
        ("reft", {"sft_share": 1.0}),
    ],
)
def test_meaningless_schedules_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1|at least one|kl_coef"):
        methods.build(name, options)
