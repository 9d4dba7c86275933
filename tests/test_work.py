"""How far a job is, and how long it will take: told without jumps."""

import itertools

import pytest

from bert_extract.inputs.features import Features
from bert_extract.work import Forecast, Speed, Work
from support.parts import line_of


def lines_of(num_tokens: int, num_lines: int) -> list[Features]:
    return [line_of(num_tokens, index) for index in range(num_lines)]


def test_a_token_that_is_not_encoded_is_a_part_of_one() -> None:
    work = Work()
    work.computed(lines_of(10, 3), seconds=6.0)
    assert (work.num_lines, work.num_tokens) == (3, 30)
    assert work.num_done == pytest.approx(27)  # a tenth is what encoding takes
    work.encoded(lines_of(10, 1), seconds=0.5)
    # 0.2 seconds a token is computed, and 0.05 encoded.
    assert work.num_done == pytest.approx(0.8 * 30 + 0.2 * 10)
    work.encoded(lines_of(10, 2), seconds=1.0)
    assert work.num_done == pytest.approx(30)


def test_a_line_without_tokens_is_counted_when_it_is_encoded() -> None:
    work = Work()
    work.computed(lines_of(5, 1), 1.0)
    work.encoded([*lines_of(5, 1), *lines_of(0, 1)], 1.0)
    assert work.num_lines == 2


def test_a_speed_is_that_of_the_last_minute() -> None:
    speed = Speed(0.0)
    assert speed.per_second == 0.0
    for second in range(1, 301):
        speed.update(second, 100.0 * second)
    assert speed.per_second == pytest.approx(100.0)
    for second in range(301, 481):
        speed.update(second, 30_000 + 10.0 * (second - 300))
    assert 10.0 < speed.per_second < 20.0


def forecasts(seconds: int, warm_up: float) -> list[tuple[int, float | None]]:
    """What is told each second of a run of so many seconds, the first ones slower."""
    forecast = Forecast(0.0)
    told: list[tuple[int, float | None]] = []
    amounts = itertools.accumulate(
        0.3 if second < warm_up else 1.0 for second in range(seconds)
    )
    num_all = seconds - 0.7 * warm_up
    for second, num_done in enumerate(amounts, start=1):
        forecast.update(second, num_done, num_all)
        told.append((second, forecast.seconds_left(second)))
    return told


@pytest.mark.parametrize("seconds", [20, 82, 900, 36_000])
@pytest.mark.parametrize("warm_up", [0, 3])
def test_a_time_left_does_not_jump_and_is_true(seconds: int, warm_up: float) -> None:
    told = forecasts(seconds, warm_up)
    assert [left for second, left in told if second < 5] == [None] * 4
    known = [(second, left) for second, left in told if left is not None]
    assert known[0][0] <= 30  # it is told early in a run of ten hours, too
    for second, left in known:
        # What is slow at first may make it longer, in proportion, but never shorter.
        assert seconds - second - 1 <= left <= 1.4 * (seconds - second) + 2
        if second > seconds / 2:
            assert left == pytest.approx(seconds - second, rel=0.2, abs=2)
    for (_, before), (_, after) in itertools.pairwise(known):
        assert after <= before  # a clock that runs backwards is not believed


def test_nothing_is_said_of_a_job_of_which_nothing_is_done() -> None:
    forecast = Forecast(0.0)
    for second in range(1, 100):
        forecast.update(second, 0.0, 1000.0)
        assert forecast.seconds_left(second) is None
