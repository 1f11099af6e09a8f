"""Whose turn it is, how far a lane has come, and what waits."""

from __future__ import annotations

import pytest

from obverse import methods
from obverse.course import Clock, Course, InOrder, InTurns, Lane, Only, Turn, WhenWaiting, as_course, only
from obverse.errors import ConfigError
from obverse.methods.grpo import grpo
from obverse.methods.sft import sft
from obverse.records import Group, Problem, Sample, Source, Verdict


def built(name: str, **options: object) -> Course:
    made = methods.build(name, options)
    assert isinstance(made, Course)
    return made


@pytest.mark.parametrize(("progress", "lane"), [(0.0, 0), (0.29, 0), (0.3, 1), (0.31, 1), (1.0, 1)])
def test_the_second_stage_begins_at_its_boundary(progress: float, lane: int) -> None:
    assert InOrder(0.3).lane(Clock(progress=progress)) == lane


@pytest.mark.parametrize(
    ("lane", "progress", "expected"),
    [(0, 0.0, 0.0), (0, 0.15, 0.5), (0, 0.3, 1.0), (0, 0.9, 1.0), (1, 0.1, 0.0), (1, 0.65, 0.5), (1, 1.0, 1.0)],
)
def test_each_stage_counts_its_own_progress(lane: int, progress: float, expected: float) -> None:
    assert InOrder(0.3).progress(lane, progress) == pytest.approx(expected)


def test_turns_go_round() -> None:
    turn = InTurns(first=3, second=2)
    assert [turn.lane(Clock(step=step)) for step in range(11)] == [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0]
    assert [InTurns().lane(Clock(step=step)) for step in range(4)] == [0, 1, 0, 1]
    assert turn.progress(1, 0.4) == 0.4


@pytest.mark.parametrize(("waiting", "lane"), [(0, 0), (127, 0), (128, 1), (500, 1)])
def test_the_second_lane_acts_once_enough_problems_wait(waiting: int, lane: int) -> None:
    assert WhenWaiting(128).lane(Clock(num_waiting=waiting)) == lane


@pytest.mark.parametrize(
    ("turn", "spans"),
    [(Only(), [1.0]), (InOrder(0.3), [0.3, 0.7]), (InTurns(3, 2), [0.6, 0.4]), (WhenWaiting(), [1.0, 1.0])],
    ids=str,
)
def test_the_share_of_steps_that_a_schedule_counts_on(turn: Turn, spans: list[float]) -> None:
    assert [turn.span(lane) for lane in range(len(spans))] == pytest.approx(spans)


def test_only_stages_begin_with_a_new_initial_model() -> None:
    assert InOrder().fresh_anchor
    assert not any(turn.fresh_anchor for turn in (Only(), InTurns(), WhenWaiting()))


@pytest.mark.parametrize("first", [-0.1, 0.0, 1.0, 1.5, float("nan")])
def test_a_stage_needs_a_part_of_the_run(first: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        InOrder(first)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (-1, 2)])
def test_a_turn_has_a_step(first: int, second: int) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        InTurns(first, second)


@pytest.mark.parametrize("num", [0, -1])
def test_at_least_one_problem_has_to_wait(num: int) -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        WhenWaiting(num)


def test_a_course_has_as_many_lanes_as_take_turns() -> None:
    lane = Lane(sft())
    for turn in (InOrder(), InTurns(), WhenWaiting()):
        with pytest.raises(ValueError, match="2 lanes"):
            Course((lane,), turn)
    with pytest.raises(ValueError, match="1 lanes"):
        Course((lane, lane))
    with pytest.raises(ValueError, match="nobody to share"):
        Course((Lane(sft(), shares_optimizer=True), lane), InTurns())
    with pytest.raises(ValueError, match="no learning rate of its own"):
        Course((lane, Lane(sft(), 1e-5, shares_optimizer=True)), InTurns())


def test_one_method_is_a_course_of_one_lane() -> None:
    method = grpo()
    course = as_course(method)
    assert (course.methods, course.run, course.turn.lane(Clock(9, 0.9, 9))) == ((method,), method.run, 0)
    assert as_course(course) is course
    assert only(method) is method
    with pytest.raises(ConfigError, match="several methods"):
        only(course)


def failed(*right: bool, demonstration: tuple[str, ...] = ("so",)) -> Group:
    verdicts = [Verdict.right() if each else Verdict.wrong("no") for each in right]
    own = [Sample("rollout", [1], [2], [Source.ROLLOUT], [-0.1], "", verdict=verdict) for verdict in verdicts]
    return Group(Problem("p", "x", demonstration=demonstration), own)


def test_a_problem_waits_if_it_was_never_solved_and_somebody_did() -> None:
    course = built("relift")
    assert course.is_put_aside(failed(False, False))
    assert not course.is_put_aside(failed(False, True))
    assert not course.is_put_aside(failed(False, False, demonstration=()))
    assert not course.is_put_aside(failed())  # nobody could grade it
    assert not built("alternate").is_put_aside(failed(False, False))
    assert (course.num_taken, built("alternate").num_taken, built("relift", num_waiting=3).num_taken) == (128, None, 3)


def test_stages_have_their_own_rates_and_the_first_takes_its_share() -> None:
    course = built("sft_then_rl", sft_share=0.2, imitation_learning_rate=3e-5, num_generations=4)
    assert course.turn == InOrder(0.2)
    assert [lane.learning_rate for lane in course.lanes] == [3e-5, None]
    assert [method.ask(Problem("p", "x"), 0.0)[0].rollouts for method in course.methods] == [0, 4]
    assert not any(lane.shares_optimizer for lane in course.lanes)


def test_alternation_shares_moments_if_asked() -> None:
    apart, shared = (
        built("alternate", rl_steps=3, imitation_learning_rate=2e-5, moments=m) for m in ("separate", "shared")
    )
    assert apart.turn == shared.turn == InTurns(3, 1)
    assert [(lane.learning_rate, lane.shares_optimizer) for lane in apart.lanes] == [(None, False), (2e-5, False)]
    assert [(lane.learning_rate, lane.shares_optimizer) for lane in shared.lanes] == [(None, False), (None, True)]


def test_a_whole_group_leaves_the_imitating_lane_the_failed_problems_only() -> None:
    imitate = built("relift").methods[1]
    shown = Sample("demonstration", [1], [2], [Source.DEMONSTRATION], [0.0], "", verdict=Verdict.right())
    for right, kinds in (((False, False), ["demonstration"]), ((True, False), [])):
        group = failed(*right)
        group.samples.append(shown)
        assert [sample.kind for sample in imitate.select(group)] == kinds


@pytest.mark.parametrize("name", ["sft_then_rl", "relift", "reft"])
def test_a_lane_has_the_rate_that_a_run_begins_with(name: str) -> None:
    course = built(name)
    rates = {lane.learning_rate for lane in course.lanes} - {None}
    assert rates == {course.run["imitation_learning_rate"]}
    assert {lane.learning_rate for lane in built(name, imitation_learning_rate=None).lanes} == {None}


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
def test_courses_that_mean_nothing_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1|at least one|kl_coef"):
        methods.build(name, options)
