# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark suite measures what it says: rounds, proofs, passes, the record of a run, counts of instructions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import helpers
import made_up_runs
import numpy as np
import pytest

import fastdrop
from benchmarks import instructions, measuring, results

ROOT = Path(__file__).parents[1]

needs_core = pytest.mark.skipif(
    helpers.compiled() is None or os.environ.get("FASTDROP_NO_EXTENSION") == "1",
    reason="the benchmark suite: it measures the compiled core",
)


class Log:
    """Calls with names, in the order in which they were made."""

    def __init__(self):
        self.names = []

    def call(self, name):
        return lambda: self.names.append(name)

    def turn(self, *references, buffers=""):
        calls = {name: self.call(f"{name}{buffers}") for name in references}
        return measuring.Turn(self.call(f"case{buffers}"), calls, lambda: None)


EFFORT = measuring.Effort(turn=0.0, rounds=40, fewest=5, budget=1.0, patience=2.0)


def drive(rounds, until):
    """Rounds as pytest-benchmark makes them; how many there were."""
    for number in range(1, until + 1):
        rounds.begin()
        rounds.case()
        try:
            rounds.end()
        except measuring.Enough:
            return number
    return None


@pytest.fixture
def no_warming(monkeypatch):
    """Each contender is called once a round, and not more often to bring its buffers back into the caches."""
    monkeypatch.setattr(measuring.Rounds, "_warm", lambda self, call, is_slow: None)
    monkeypatch.setattr(measuring, "repetitions", lambda call, turn: 1)


@pytest.mark.usefixtures("no_warming")
def test_every_round_has_the_case_and_each_reference_once_in_a_shuffled_order():
    log = Log()
    rounds = measuring.Rounds([log.turn("copy", "add", "sort")], EFFORT, clock=lambda: 0.0)
    log.names.clear()
    assert drive(rounds, until=1000) == EFFORT.rounds
    orders = [tuple(log.names[first : first + 4]) for first in range(0, len(log.names), 4)]
    assert all(set(order) == {"case", "copy", "add", "sort"} for order in orders)
    assert len(set(orders)) > 12  # of 24, in 40 rounds
    assert {order.index("case") for order in orders} == {0, 1, 2, 3}
    assert all(len(seconds) == EFFORT.rounds for seconds in rounds.seconds.values())


@pytest.mark.usefixtures("no_warming")
def test_the_buffers_change_and_each_set_stays_for_some_rounds():
    log = Log()
    turns = [log.turn("copy", buffers=letter) for letter in "ab"]
    rounds = measuring.Rounds(turns, EFFORT, clock=lambda: 0.0)
    seen = []
    for _ in range(4 * measuring.STAY):
        rounds.begin()
        log.names.clear()
        rounds.case()
        seen += log.names
        rounds._time(rounds._waiting)
        rounds._number += 1
    assert "".join(name[-1] for name in seen) == ("a" * measuring.STAY + "b" * measuring.STAY) * 2


@pytest.mark.usefixtures("no_warming")
def test_settings_of_the_process_are_made_before_each_is_called():
    log = Log()
    turns = [
        log.turn("copy", "add", buffers=letter)._replace(before=lambda name: log.names.append(f"for {name or 'case'}"))
        for letter in "ab"
    ]
    rounds = measuring.Rounds(turns, EFFORT, clock=lambda: 0.0)
    assert drive(rounds, until=1000) == EFFORT.rounds
    calls = [(log.names[place - 1], name) for place, name in enumerate(log.names) if not name.startswith("for ")]
    assert len(calls) > 3 * EFFORT.rounds
    assert {name for _, name in calls} == {"casea", "copya", "adda", "caseb", "copyb", "addb"}
    for place, (before, name) in enumerate(calls):
        # The case is called twice to see how slow it is.
        assert before == f"for {name[:-1]}" or (name, calls[place - 1][1]) == ("casea", "casea")


@pytest.mark.usefixtures("no_warming")
def test_rounds_end_with_the_budget_but_not_before_the_fewest():
    seconds = iter(range(1000))
    rounds = measuring.Rounds([Log().turn("copy")], EFFORT, clock=lambda: float(next(seconds)))
    assert drive(rounds, until=1000) == EFFORT.fewest


@pytest.mark.usefixtures("no_warming")
def test_rounds_go_on_while_few_are_good_but_not_for_ever():
    rounds = measuring.Rounds([Log().turn("copy")], EFFORT, (("copy",),), clock=lambda: 0.0)
    rounds._time = lambda names: [rounds.seconds[name].append(2.0 ** -len(rounds.seconds[name])) for name in names]
    assert drive(rounds, until=1000) == EFFORT.most
    assert rounds.good() == 1


def test_passes_share_the_effort():
    effort = measuring.Effort()
    shared = effort.share(4)
    assert 4 * shared.rounds >= effort.rounds
    assert 4 * shared.budget == pytest.approx(effort.budget)
    assert shared.fewest >= measuring.FEWEST
    assert measuring.QUICK.share(4).fewest == measuring.QUICK.fewest


class Benchmark:
    """In place of pytest-benchmark's fixture."""

    disabled = False

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, *args, **options):
        raise AssertionError("it was measured")


@needs_core
def test_a_case_with_a_wrong_result_is_not_measured():
    x = np.ones(4, np.float32)

    def proof():
        measuring.same_bits(x, x + 1, "this")

    turn = measuring.Turn(lambda: None, {"copy": lambda: None}, proof)
    what = measuring.about("forward", "dropout", 16, 0.5)
    with pytest.raises(measuring.WrongResult, match=r"this: 4 elements are wrong, the first of them at \(0,\)"):
        measuring.measure(Benchmark(), lambda: turn, what, effort=EFFORT)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ([0.0, 1.0], [-0.0, 1.0]),
        ([np.nan, 1.0], [-np.nan, 1.0]),
        ([1.0, 1.0], [1.0, np.nextafter(np.float32(1), np.float32(2))]),
        ([1.0], [1.0, 1.0]),
    ],
    ids=["the sign of zero", "the sign of NaN", "the last bit", "the shape"],
)
def test_a_proof_sees_every_bit(got, expected):
    with pytest.raises(measuring.WrongResult):
        measuring.same_bits(np.array(got, np.float32), np.array(expected, np.float32), "this")


@needs_core
@pytest.mark.parametrize("elements", [100, measuring.WHOLE + 1], ids=["as a whole", "in parts"])
def test_a_proof_runs_what_is_measured_beside_other_kernels(elements):
    running = helpers.running().name
    x = np.ones(elements, np.float32)
    mask = fastdrop.DropoutMask(x.shape, 0.5, key=1)
    used = []

    def lies_on_the_last_element(out):
        used.append(helpers.running().name)
        y = mask.apply(x, out=out)
        if helpers.running().name == running:
            y[-1] += 1
        return y

    def part(at):
        used.append(helpers.running().name)
        return mask[at].apply(x[at])

    measuring.proven(lambda out: mask.apply(x, out=out), None, part)
    used.clear()
    with pytest.raises(measuring.WrongResult, match="1 elements are wrong"):
        measuring.proven(lies_on_the_last_element, None, part)
    assert used[0] == running
    assert len(set(used)) > 1


@pytest.mark.parametrize(
    ("rate", "planes"),
    [(0.5, 1), (0.25, 2), (0.125, 3), (0.75, 2), (2**-8, 8), (0.1, 8), (1e-6, 8), (0.0, 0), (1.0, 0)],
)
def test_planes_are_those_that_a_rate_needs(rate, planes):
    assert measuring.planes(rate) == planes


def test_what_is_kept_for_the_backward_pass_is_counted():
    assert measuring.kept(np.zeros(100), None) == 800
    mask = fastdrop.DropoutMask((1 << 20,), 0.5, key=1)
    assert measuring.kept(mask) == measuring.kept(fastdrop.DropoutMask((4,), 0.5, key=1)) < 1000


def pytest_process(*arguments, **variables):
    """pytest, as a user runs it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FASTDROP", "PYTEST"))}
    path = os.pathsep.join(filter(None, [variables.pop("PYTHONPATH", ""), environment.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env=environment | variables | ({"PYTHONPATH": path} if path else {}),
        capture_output=True,
        text=True,
    )


def suite(tmp_path, *arguments, **variables):
    """A part of the suite, run as a user runs it. Gives the JSON and what was printed."""
    path = tmp_path / "run.json"
    return path, pytest_process("--quick", f"--benchmark-json={path}", *arguments, **variables)


@needs_core
def test_a_run_holds_all_passes_and_says_what_it_is(tmp_path):
    path, done = suite(tmp_path, "benchmarks/test_recurrent.py", "--passes=3")
    assert done.returncode == 0, done.stdout + done.stderr
    run = results.read(path)
    assert len(run.cases) == 6
    for case in run.cases.values():
        assert len(case.passes) == 3
        assert min(case.passes) >= measuring.QUICK.fewest
    for record in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]:
        case = run.cases[results.short_name(record["fullname"])]
        assert len(record["extra_info"]["off"]) == case.estimate.rounds - case.estimate.good
    known = run.environment
    assert (known["set"], known["complete"], known["failed"]) == ("quick", True, [])
    assert known["isa"] == helpers.names()[-1]
    assert known["cpu"]
    assert known["load"]["mean"] <= known["load"]["largest"]
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < 200 * len(run.cases)  # lists of numbers are lines
    assert json.loads(text)["machine_info"].get("node") is None


@needs_core
@pytest.mark.parametrize("save", ["--benchmark-save=kept", "--benchmark-autosave"])
def test_a_saved_run_has_every_round_of_every_pass(tmp_path, save):
    place = tmp_path / "storage"
    _, done = suite(tmp_path, "benchmarks/test_recurrent.py", "--passes=2", save, f"--benchmark-storage={place}")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = place.rglob("*.json")
    assert all(len(case.passes) == 2 for case in results.read(path).cases.values())
    _, done = suite(tmp_path, "benchmarks/test_recurrent.py", "--benchmark-compare", f"--benchmark-storage={place}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(NOW)" in done.stdout


@needs_core
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--benchmark-json=/no/such/folder/run.json"], "--benchmark-json: '/no/such/folder/run.json' cannot be"),
        (["--benchmark-json=/dev/full"], "No space left on device"),
        (["--benchmark-save=x", "--benchmark-storage=/proc/none"], "--benchmark-storage: '/proc/none/"),
        (["--benchmark-compare", "--benchmark-storage={}"], "--benchmark-compare: there is no such run in {}"),
        (["--benchmark-compare-fail=min:5%"], "--benchmark-compare-fail needs --benchmark-compare"),
        (["-p", "no:benchmark"], "the suite needs pytest-benchmark"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_can_not_be_written_is_found_before_anything_is_measured(tmp_path, arguments, said):
    if arguments[-1] == "no:benchmark":
        done = pytest_process("benchmarks/test_recurrent.py", *arguments)
    else:
        _, done = suite(tmp_path, "benchmarks/test_recurrent.py", *(one.format(tmp_path) for one in arguments))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert said.format(tmp_path) in done.stderr + done.stdout
    assert "passed" not in done.stdout


@needs_core
def test_several_processes_at_a_time_prove_and_do_not_measure(tmp_path):
    pytest.importorskip("xdist")
    path, done = suite(tmp_path, "benchmarks/test_recurrent.py", "-n", "2")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "leave -n out" in done.stderr
    path, done = suite(tmp_path, "benchmarks/test_recurrent.py", "-n", "2", "--benchmark-disable")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was measured, so no run is written" in done.stdout
    assert not path.exists()


@needs_core
@pytest.mark.parametrize(
    ("arguments", "is_whole"),
    [
        (["benchmarks"], True),
        (["benchmarks", "--full"], True),
        (["benchmarks", "--ignore=benchmarks/test_peers.py"], False),
        (["benchmarks", "--ignore-glob=*peers*"], False),
        (["benchmarks", "-o", "python_files=test_recurrent.py"], False),
        (["benchmarks", "-o", "python_functions=test_d*"], False),
        (["benchmarks", "--deselect=benchmarks/test_recurrent.py::test_draw[0.1-shared]"], False),
        (["benchmarks", "-k", "not per-gate"], False),
        (["benchmarks", "--setup-plan"], False),
        (["benchmarks", "--setup-only"], False),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_a_part_is_no_whole(tmp_path, arguments, is_whole):
    (tmp_path / "tells_whether_it_is_whole.py").write_text(
        "import pytest\n"
        "@pytest.hookimpl(trylast=True)\n"
        "def pytest_collection_finish(session):\n"
        "    print('WHOLE:', session.config.option.is_whole, session.config.option.passes)\n"
        "    session.items.clear()\n"
    )
    before = set((ROOT / "benchmarks" / "results").iterdir())
    done = pytest_process(*arguments, "-p", "tells_whether_it_is_whole", PYTHONPATH=str(tmp_path))
    assert f"WHOLE: {is_whole} {4 if is_whole else 1}" in done.stdout, done.stdout + done.stderr
    assert set((ROOT / "benchmarks" / "results").iterdir()) == before


@needs_core
def test_what_is_not_installed_is_skipped_with_what_installs_it(tmp_path):
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'thinc' else found(name, *more)\n"
    )
    cases = "thinc or Generator and one"
    path, done = suite(tmp_path, "benchmarks/test_peers.py", "-k", cases, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "thinc get_dropout_mask: thinc is not installed, which pip install -e '.[bench-thinc]' does" in done.stdout
    (left_out,) = results.read(path).environment["skipped"]
    assert left_out["why"].startswith("thinc get_dropout_mask: thinc is not installed")
    assert "thinc" in left_out["case"]


@needs_core
def test_without_pytorch_its_cases_are_skipped_and_the_others_measured(tmp_path):
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'torch' else found(name, *more)\n"
    )
    files = "benchmarks/test_torch.py", "benchmarks/test_recurrent.py"
    path, done = suite(tmp_path, *files, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fastdrop.torch: torch is not installed, which pip install -e '.[bench-torch]' does" in done.stdout
    run = results.read(path)
    assert len(run.cases) == 6
    (left_out,) = run.environment["skipped"]
    assert "test_torch.py" in left_out["case"]


# Instructions


COUNTS = {"sse2": {"draw 0.1": 10.0, "apply": 2.0}, "avx2": {"draw 0.1": 5.0}}


def test_counts_within_two_per_cent_are_the_same():
    assert instructions.changes(COUNTS, {"sse2": {"draw 0.1": 10.19, "apply": 1.961}, "avx2": {"draw 0.1": 5.0}}) == []


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"sse2": {"draw 0.1": 10.3, "apply": 2.0}}, ["draw 0.1", "+3.0%"]),
        ({"sse2": {"draw 0.1": 9.7, "apply": 2.0}}, ["draw 0.1", "-3.0%"]),
        ({"sse2": {"draw 0.1": 10.0}}, ["apply", "gone"]),
        ({"sse2": COUNTS["sse2"] | {"draw 0.5": 1.0}}, ["draw 0.5", "new"]),
    ],
    ids=["more", "fewer", "gone", "new"],
)
def test_other_counts_are_told(now, said):
    (line,) = instructions.changes(COUNTS, now)
    assert all(word in line for word in ("sse2", *said))


def test_the_stored_counts_are_of_this_core():
    baseline = instructions.read(instructions.BASELINE)
    assert baseline["flags"] == instructions.build_flags()
    assert set(baseline["counts"]) == set(instructions.ISAS)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is not a baseline"), ("{}", "is not a baseline"), ('{"fastdrop_format": 99}', "its format is 99")],
)
def test_a_file_that_is_no_baseline_is_named(tmp_path, text, message):
    path = tmp_path / "counts.json"
    path.write_text(text)
    with pytest.raises(instructions.Failed, match=message) as caught:
        instructions.read(path)
    assert str(path) in str(caught.value)


def test_a_cache_that_the_system_does_not_describe_is_left_out(tmp_path, monkeypatch):
    described = [
        {"level": "1", "type": "Data"},
        {"level": "1", "type": "Instruction", "size": "32K"},
        {"level": "2", "type": "Unified", "size": "1M"},
        {"level": "3", "type": "Unified", "size": ""},
        {"level": "4", "type": "Unified", "size": "0K"},
        {"level": "?", "type": "Unified", "size": "1M"},
        {},
    ]
    for number, files in enumerate(described):
        (tmp_path / f"index{number}").mkdir()
        for name, text in files.items():
            (tmp_path / f"index{number}" / name).write_text(f"{text}\n")
    helpers.pretend_caches(monkeypatch, tmp_path)
    assert measuring.caches() == {"L1i": 32 << 10, "L2": 1 << 20}
    assert fastdrop.show_config("dicts")["last-level cache"] == 1 << 20


def test_made_up_runs_look_like_those_of_the_suite():
    """So that what is tested with them holds for the suite's."""
    assert set(made_up_runs.about()) >= {*results.ABOUT, "planes", "memory", "axis"}
    assert set(made_up_runs.ENVIRONMENT) >= {*measuring.environment()}
