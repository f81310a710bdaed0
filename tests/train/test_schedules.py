"""Schedules and lengths of runs: values by hand, and lengths that a clock decides."""

import pytest

from positronic.errors import ConfigError
from positronic.train import RunLength, ScheduleConfig


def test_wsd_values_by_hand():
    schedule = ScheduleConfig(shape="wsd", warmup=4, decay_share=0.2)
    assert [schedule.scale(n, 20) for n in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [schedule.scale(n, 20) for n in (4, 10, 16)] == [1.0, 1.0, 1.0]
    assert [schedule.scale(n, 20) for n in (17, 18, 19)] == [0.75, 0.5, 0.25]


def test_cosine_values_by_hand():
    schedule = ScheduleConfig(shape="cosine", warmup=2, floor=0.1)
    assert [schedule.scale(n, 12) for n in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert schedule.scale(7, 12) == pytest.approx(0.55)
    assert schedule.scale(12, 12) == pytest.approx(0.1)


def test_warm_up_is_a_tenth_of_a_short_run_and_a_hundred_steps_of_a_long_one():
    schedule = ScheduleConfig()
    assert [schedule.scale(n, 40) for n in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule.scale(49, 100_000) == 0.5


@pytest.mark.parametrize("settings", [{"warmup": -1}, {"decay_share": 0.0}, {"floor": 2.0}])
def test_impossible_schedules_are_refused(settings):
    with pytest.raises(ConfigError, match="schedule"):
        ScheduleConfig(**settings)


@pytest.mark.parametrize("shape", ["wsd", "cosine"])
@pytest.mark.parametrize(("field", "value"), [("warmup", 7), ("decay_share", 0.5), ("floor", 0.3), ("shape", None)])
def test_every_field_of_a_schedule_changes_a_rate_or_is_refused(shape, field, value):
    plain = ScheduleConfig(shape=shape)
    if (shape, field) in (("wsd", "floor"), ("cosine", "decay_share")):
        with pytest.raises(ConfigError, match=rf"schedule\.{field} is {value}, which changes nothing.*--schedule"):
            plain.replace(**{field: value})
        return
    other = plain.replace(**{field: value or {"wsd": "cosine", "cosine": "wsd"}[shape]})
    assert [plain.scale(n, 40) for n in range(40)] != [other.scale(n, 40) for n in range(40)]


def rehearse(length, seconds_of_step, resume_at=()):
    """Steps of a timed run under a clock that we wind: their rates, the time taken, and why it ended."""
    step, elapsed, rates = 0, 0.0, []
    while not (end := length.ends(step, elapsed)):
        rates.append(length.scale(step))
        elapsed += seconds_of_step(step)
        step += 1
        length.observe(step, elapsed, lambda x: x)
        if step in resume_at:
            state = length.state()
            length = RunLength(length.schedule, steps=length.limit, minutes=length.minutes)
            length.restore(state)
    return rates, elapsed, end, length


SPEEDS = {
    "steady": lambda n: 0.5,
    "slow start": lambda n: 20.0 if n < 2 else 0.5,
    "slower later": lambda n: 0.5 if n < 40 else 0.8,
    "quicker later": lambda n: 0.5 if n < 40 else 0.3,
}


@pytest.mark.parametrize("resume_at", [(), (3, 30, 100)])
@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("shape", ["wsd", "cosine"])
def test_a_timed_run_ends_in_time_and_its_rates_are_those_of_a_run_of_that_length(shape, speed, resume_at):
    schedule = ScheduleConfig(shape=shape, warmup=12)
    rates, elapsed, end, length = rehearse(RunLength(schedule, steps=10**6, minutes=2), SPEEDS[speed], resume_at)
    assert rates == [schedule.scale(n, length.total) for n in range(len(rates))]
    assert elapsed <= 1.06 * 120
    if speed in ("steady", "slow start"):
        assert end == "finished"
        assert elapsed == pytest.approx(120, rel=0.03)
    if shape == "wsd":
        assert end == "finished"
        assert elapsed == pytest.approx(120, rel=0.06)


def test_a_run_too_short_for_its_warm_up_still_ends_in_time():
    _, elapsed, _, _ = rehearse(RunLength(ScheduleConfig(), steps=10**6, minutes=0.1), lambda n: 0.5)
    assert elapsed <= 1.06 * 6 + 0.5


@pytest.mark.parametrize("steps", [2, 50])
def test_steps_limit_a_timed_run(steps):
    rates, _, end, _ = rehearse(RunLength(ScheduleConfig(), steps=steps, minutes=10), lambda n: 0.5)
    assert (len(rates), end) == (steps, "finished")
