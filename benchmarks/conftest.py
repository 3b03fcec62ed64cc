# SPDX-License-Identifier: BSD-3-Clause
"""How cases are measured: in turn with their references, within the same rounds.

Machines are shared and their speed changes from one second to the next, so a time says little and a ratio to something
else that was measured a moment before or after says much. Each round times the case and each of its references, in an
order that is shuffled anew. pytest-benchmark keeps the times of the case (``data`` in its JSON), and ``extra_info`` the
times of the references, by name and round, and what the case is to be compared with.
"""

import random
import time
from collections.abc import Callable

import pytest

import fastdrop

ROUND = 200e-6  # seconds that each of them takes in a round, by repetition: the clock's steps do not show in it
ROUNDS = 201


@pytest.fixture(autouse=True)
def one_thread():
    with fastdrop.num_threads(1):
        yield


def repetitions(call: Callable[[], object]) -> int:
    """How often to call it in a round."""
    call()
    repeat, seconds = 1, 0.0
    while True:
        begin = time.perf_counter()
        for _ in range(repeat):
            call()
        seconds = time.perf_counter() - begin
        if seconds >= ROUND / 4:
            return max(round(repeat * ROUND / seconds), 1)
        repeat *= 2


@pytest.fixture
def in_turn(benchmark):
    """``in_turn(case, references, targets)`` measures a call, and the references by name.

    A target is a name, the references whose times make up what the case is compared with (a sum, each with its
    factor), and either ``at_most`` or ``at_least``: a bound on the time of the case as a multiple of that.
    """

    def measure(
        case: Callable[[], object], references: dict[str, Callable[[], object]], targets: tuple[dict, ...] = ()
    ) -> None:
        shuffle = random.Random(1)
        repeat = {name: repetitions(call) for name, call in references.items()}
        seconds: dict[str, list[float]] = {name: [] for name in references}
        waiting: list[str] = []

        def time_references(names: list[str]) -> None:
            for name in names:
                call = references[name]
                begin = time.perf_counter()
                for _ in range(repeat[name]):
                    call()
                seconds[name].append((time.perf_counter() - begin) / repeat[name])

        def begin_round() -> None:
            order = list(references)
            shuffle.shuffle(order)
            place = shuffle.randrange(len(order) + 1)
            waiting[:] = order[place:]
            time_references(order[:place])

        def end_round() -> None:
            time_references(waiting)
            begin_round()

        iterations = repetitions(case)
        begin_round()
        benchmark.pedantic(case, teardown=end_round, rounds=ROUNDS, iterations=iterations)
        benchmark.extra_info["references"] = {name: times[:ROUNDS] for name, times in seconds.items()}
        benchmark.extra_info["targets"] = list(targets)

    return measure
