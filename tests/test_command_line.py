# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fastdrop``: what it prints, what it refuses, and its exit status. No test asks how fast anything is."""

import json
import os
import statistics
import subprocess
import sys

import helpers
import numpy as np
import pytest
from helpers import Operation

import fastdrop
from fastdrop.__main__ import main
from fastdrop._tools import arrays, bench, bounds, cases, known_answers, timing, units, verify
from fastdrop._tools.progress import Progress

BENCH = ["bench", "--seconds", "0.5", "--sizes", "4", "1K"]


class Flipping(helpers.Altered):
    """Kernels whose plain dropout flips the sign of the last element."""

    def after(self, out, stop, op, other):
        if op == Operation.DROPOUT:
            out.flat[stop - 1] = -out.flat[stop - 1]


@pytest.fixture
def broken(monkeypatch):
    """The name of an implementation that is made wrong for the test."""
    name = helpers.names()[-1]
    helpers.alter(monkeypatch, name, Flipping)
    return name


def refused(argv, capsys):
    """The one line on stderr with which arguments are refused."""
    with pytest.raises(SystemExit) as exit_status:
        main(argv)
    captured = capsys.readouterr()
    assert exit_status.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def run(*arguments, stdout=subprocess.PIPE, **variables):
    return subprocess.run(
        [sys.executable, "-m", "fastdrop", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env=os.environ | variables,
    )


def test_no_command_prints_help(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("info", "verify", "bench"))


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_status:
        main(["--version"])
    assert exit_status.value.code == 0
    assert capsys.readouterr().out == f"fastdrop {fastdrop.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["verify", "--cases", "0"], "--cases"),
        (["verify", "--seconds", "nan"], "--seconds"),
        (["verify", "--seconds", "1", "--cases", "1"], "--cases"),
        (["verify", "--seed", "-1"], "--seed"),
        (["bench", "--isa", "mmx"], "--isa"),
        (["bench", "--threads", "none"], "--threads"),
        (["bench", "--rates", "1.0"], "--rates"),
        (["bench", "--rates", "nan"], "--rates"),
        (["bench", "--sizes", "1X"], "--sizes"),
        (["bench", "--sizes", "0"], "--sizes"),
        (["bench", "--sizes", "6"], "--sizes"),
        (["bench", "--sizes", "999G"], "--sizes"),
        (["bench", "--sizes", "9" * 5000], "--sizes"),
        (["bench", "--sizes", "9" * 25], "--sizes"),
        (["bench", "--seconds", "1e400"], "--seconds"),
        (["bench", "--threads", "9" * 5000], "--threads"),
        (["verify", "--seed", "9" * 5000], "--seed"),
        (["bench", "--json", "/dev/full"], "--json"),
        (["bench", "--json", "/proc/times.json"], "--json"),
        (["bench", "--json", "."], "--json"),
        (["bench", "--array", "."], "--array"),
        (["bench", "--bo\ngus"], r"--bo\ngus"),
        (["bench", "--dtype", "int8"], "--dtype"),
        (["bench", "--quick", "--seconds", "5"], "--quick"),
        (["bench", "--json", "/no/such/folder/times.json"], "--json"),
        (["bench", "--array", "x.npy", "--sizes", "4"], "--sizes"),
        (["bench", "--bogus"], "--bogus"),
        (["bogus"], "bogus"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(argv, name, capsys):
    assert name in refused(argv, capsys)


def test_an_import_of_the_package_leaves_the_tools_out():
    code = "import sys, fastdrop; print([name for name in sys.modules if 'fastdrop._tools' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [["info"], ["info", "--json"], ["verify", "--cases", "2"], ["--help"], ["bench", "--help"], ["--version"]],
)
def test_a_stdout_that_takes_nothing_is_one_line(arguments, unbuffered):
    with open("/dev/full", "w") as full:
        done = run(*arguments, stdout=full, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert done.stderr.startswith("python -m fastdrop")
    assert done.stderr.endswith("stdout: No space left on device\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["info"], ["verify", "--cases", "2"], ["bench", "--help"]])
def test_a_reader_that_has_enough_changes_no_verdict(arguments):
    read, write = os.pipe()
    os.close(read)
    done = run(*arguments, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_that_nobody_thought_of_is_no_verdict(monkeypatch, capsys):
    def fails(**_):
        raise ZeroDivisionError("of all\nthings")

    monkeypatch.setattr(verify, "run", fails)
    assert main(["verify"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m fastdrop verify: error: ZeroDivisionError: of all\\nthings")
    assert error.count("\n") == 1


# info


def test_info_is_what_show_config_says(capsys):
    fastdrop.show_config()
    expected = capsys.readouterr().out
    assert main(["info"]) == 0
    assert capsys.readouterr().out == expected
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == fastdrop.show_config("dicts")


def test_info_in_a_process_of_its_own():
    done = run("info")
    assert done.returncode == 0
    assert fastdrop.__version__ in done.stdout
    assert done.stderr == ""


# verify


def test_verify_finds_every_implementation_right(capsys):
    assert main(["verify", "--cases", "40", "--seed", "3"]) == 0
    captured = capsys.readouterr()
    for name in helpers.names():
        line = next(line for line in captured.out.splitlines() if line.startswith(name + " "))
        assert "11 known answers" in line
        assert " 40 comparisons" in line
        assert line.endswith("ok")
    assert captured.err == ""  # no progress bar where there is no terminal


def test_verify_in_a_process_of_its_own():
    done = run("verify", "--cases", "5")
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""


def test_verify_finds_one_wrong_element(broken, capsys):
    assert main(["verify", "--cases", "40"]) == 1
    out = capsys.readouterr().out
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(broken + " "))
    assert lines[at].endswith("DIFFERS")
    message = "\n".join(lines[at : at + 6])
    assert all(word in message for word in ("rate=", "key=", "call=", "x: ", "strides", "out: ", "bits ", "must be"))
    assert f"{broken}: wrong on this machine" in lines[-1]
    others = [line for line in lines if line.endswith("ok")]
    assert len(others) == len(helpers.names()) - 1


def test_verify_says_how_to_repeat_a_difference(broken, capsys):
    assert main(["verify", "--cases", "40", "--seed", "11"]) == 1
    first = capsys.readouterr().out
    command = next(line for line in first.splitlines() if "to repeat it" in line).partition("-m fastdrop ")[2]
    assert main(command.split()) == 1
    again = capsys.readouterr().out
    assert [line for line in first.splitlines() if "element" in line] == [
        line for line in again.splitlines() if "element" in line
    ]


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("raises", "known answers: raised RuntimeError: no such instruction"),
        ("raises in a case", "raised RuntimeError: no such instruction"),
        ("writes outside of out", "bytes outside of out were written"),
        ("writes other", "other was written"),
    ],
)
def test_verify_finds_other_faults(fault, found, monkeypatch):
    class Faulty(helpers.Altered):
        def before(self, is_drawn, is_plain):
            if fault == "raises" or (fault == "raises in a case" and is_plain):
                raise RuntimeError("no such instruction")

        def after(self, out, stop, op, other):
            if fault == "writes other" and other is not None and other is not out and other.size > 0:
                other.flat[0] = 7
            if fault == "writes outside of out" and out.base is not None and isinstance(out.base, np.ndarray):
                out.base[-1] = 0

    helpers.alter(monkeypatch, "reference", Faulty)
    result = verify.verify(cases=40)[0]
    assert found in result.difference


@pytest.mark.parametrize("table", ["PHILOX", "STREAM", "NORMALS"])
def test_verify_finds_a_wrong_known_answer(table, monkeypatch, capsys):
    *others, last = getattr(known_answers, table)
    answer = last[-1]
    monkeypatch.setattr(known_answers, table, (*others, (*last[:-1], ("0" if answer[0] != "0" else "1") + answer[1:])))
    assert main(["verify", "--cases", "5"]) == 1
    out = capsys.readouterr().out
    assert out.count("DIFFERS") == len(helpers.names())
    assert "known answer" in out


def test_instruction_sets_that_cannot_run_are_listed(monkeypatch, capsys):
    if helpers.compiled() is None:
        pytest.skip("this build has no compiled core")
    helpers.pretend_names(monkeypatch, ("reference",))
    assert main(["verify", "--cases", "3"]) == 0
    out = capsys.readouterr().out
    for name in helpers.compiled().built():
        assert f"{name:<12}NOT VERIFIED" in out


def test_missing_bfloat16_is_said(monkeypatch, capsys):
    monkeypatch.setattr(verify, "bfloat16_dtype", lambda: None)
    assert main(["verify", "--cases", "3"]) == 0
    assert "bfloat16    NOT VERIFIED" in capsys.readouterr().out


def test_cases_reach_everything_that_they_are_for():
    made = [cases.make_case(np.random.default_rng([0, number])) for number in range(1000)]
    assert {case.what for case in made} == {"function", "mask.apply", "parts", "keep", "packbits"}
    for what in ("function", "parts"):
        assert {case.op for case in made if case.what == what} == set(Operation)
    assert {case.op for case in made if case.what == "mask.apply"} == set(cases.MASKS)
    assert {case.x.dtype.newbyteorder("=") for case in made} == set(arrays.dtypes())
    assert {len(case.x.shape) for case in made} == {0, 1, 2, 3, 4}
    assert any(0 in case.x.shape for case in made)
    assert any(not case.x.dtype.isnative for case in made)
    assert any(stride < 0 for case in made for stride in case.x.strides)
    assert any(case.x.offset % case.x.dtype.itemsize for case in made)
    assert any(case.noise_shape is not None for case in made)
    assert any(case.index > 1 << 40 for case in made)
    assert any(np.prod(case.x.shape) > 1 << 18 and case.threads > 1 for case in made)
    assert {"None", "x itself", "other itself", "x's memory, one element further"} <= {
        case.out for case in made if isinstance(case.out, str)
    }


# bench


def test_bench_writes_every_round(tmp_path, capsys):
    file = tmp_path / "times.json"
    assert main([*BENCH, "--rates", "0.1", "0.5", "0.3", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert report["schema"] == bench.SCHEMA
    assert report["environment"]["fastdrop"] == fastdrop.__version__
    assert [group["bytes"] for group in report["groups"]] == [4, 1024]
    assert report["bounds"] == []
    for group in report["groups"]:
        row = " ".join(line for line in out.splitlines() if line.strip().startswith(f"{group['name']} "))
        assert group["rounds"] >= timing.MIN_ROUNDS
        times = {contender["name"]: contender["seconds"] for contender in group["contenders"]}
        kinds = ("dropout", "recipe")
        assert set(times) == {"copy"} | {f"{kind} {rate}" for kind in kinds for rate in (0.1, 0.5, 0.3)}
        for contender in group["contenders"]:
            seconds = contender["seconds"]
            assert len(seconds) == group["rounds"]
            measured = [taken for taken in seconds if taken is not None]
            assert len(measured) >= 3
            assert min(measured) > 0.0
            assert contender["median"] == statistics.median(measured)
            pairs = zip(seconds, times["copy"], strict=True)
            assert contender["median ratio to baseline"] == statistics.median(a / b for a, b in pairs if a is not None)
            if not contender["name"].startswith("recipe"):
                assert units.format_time(contender["median"]) in row
        best = min(times["copy"])
        noisy = [i for i, taken in enumerate(times["copy"]) if taken > timing.NOISY * best]
        assert group["noisy rounds"] == noisy
    assert max(len(line) for line in out.splitlines()) <= 80


def test_bench_quick_with_bounds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SIZES", (None, 4096))
    for module in (bench, bounds):
        monkeypatch.setattr(module, "random_array", lambda n, dtype: arrays.random_array(n and min(n, 1 << 16), dtype))
    monkeypatch.setattr(timing, "MAX_ROUNDS", 9)
    file = tmp_path / "bounds.json"
    assert main(["bench", "--quick", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    judged = json.loads(file.read_text())["bounds"]
    assert f"of {sum(bound['value'] is not None for bound in judged)} bounds met" in out
    for bound in judged:
        line = next(line for line in out.splitlines() if line.startswith(bound["case"] + " "))
        assert bound["bound"] in line
        assert (f" {bound['value']:.2f} " if bound["value"] is not None else "not measured: ") in line
        assert bound["met"] is None or line.endswith(" met") == bound["met"]
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize(("columns", "beside"), [("80", 1), ("100", 2), ("136", 3)])
def test_a_wider_terminal_shows_more_rates_beside_each_other(columns, beside, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert main([*BENCH, "--rates", "0.1", "0.2", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(line.count(" rate ") for line in lines) == beside
    assert max(map(len, lines)) <= int(columns)


def test_an_instruction_set_and_a_dtype_have_no_case(capsys):
    assert main([*BENCH[:3], "--sizes", "8", "--isa", helpers.names()[-1].upper(), "--dtype", "Float64"]) == 0
    assert f"of float64, {helpers.names()[-1]}, 1 thread\n" in capsys.readouterr().out


def test_names_that_a_terminal_can_not_show_are_escaped(tmp_path):
    array = tmp_path / "\u00fc\n.npy"
    np.save(array, np.ones(3))
    file = tmp_path / "times.json"
    done = run("bench", "--seconds", "0.3", "--array", str(array), "--json", str(file), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\xfc\n.npy of float64" in done.stdout
    assert json.loads(file.read_text())["settings"]["array"] == str(array)


def test_a_json_file_keeps_what_it_holds_until_there_is_something_better(broken, tmp_path, capsys):
    file = tmp_path / "times.json"
    file.write_text("precious")
    assert main([*BENCH, "--json", str(file)]) == 1
    assert file.read_text() == "precious"


def test_the_array_is_not_overwritten(tmp_path, capsys):
    file = tmp_path / "x.npy"
    np.save(file, np.ones(3))
    assert "--json" in refused(["bench", "--array", str(file), "--json", str(file)], capsys)


def interrupt_after(rounds, monkeypatch):
    """Have the user lose patience when the second contender has been timed so often."""
    measure = timing.Contender.measure
    count = 0

    def counted(self):
        nonlocal count
        count += self.name != "copy"
        if count > rounds:
            raise KeyboardInterrupt
        return measure(self)

    monkeypatch.setattr(timing.Contender, "measure", counted)


def test_an_interrupt_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "MAX_ROUNDS", 5)
    interrupt_after(30, monkeypatch)
    file = tmp_path / "times.json"
    assert main([*BENCH, "64K", "--json", str(file)]) == 130
    captured = capsys.readouterr()
    report = json.loads(file.read_text())
    assert report["complete"] is False
    assert 1 <= len(report["groups"]) <= 3
    for group in report["groups"]:
        assert {len(contender["seconds"]) for contender in group["contenders"]} == {group["rounds"]}
        assert f" {group['name']} " in captured.out
    assert captured.err == (
        f"python -m fastdrop bench: interrupted: {len(report['groups'])} of 3 groups were measured, "
        f"and written to {file}\n"
    )


def test_an_interrupt_before_the_first_round_leaves_no_file(tmp_path, monkeypatch, capsys):
    interrupt_after(0, monkeypatch)
    file = tmp_path / "times.json"
    assert main([*BENCH, "--json", str(file)]) == 130
    assert capsys.readouterr() == ("", "python -m fastdrop bench: interrupted\n")
    assert not file.exists()


def test_bench_gives_no_number_to_wrong_results(broken, tmp_path, capsys):
    file = tmp_path / "times.json"
    assert main([*BENCH, "--json", str(file)]) == 1
    out = capsys.readouterr().out
    assert f"{broken}: wrong on this machine, so nothing was timed" in out
    assert "GB/s" not in out
    assert not file.exists()


@pytest.mark.parametrize("name", helpers.names())
def test_bench_of_one_instruction_set(name, capsys):
    assert main([*BENCH, "--isa", name]) == 0
    assert f", {name}, 1 thread\n" in capsys.readouterr().out


def test_an_implementation_that_was_chosen_for_a_while_is_not_left_behind(capsys):
    before = helpers.running(), fastdrop.get_num_threads()
    assert main([*BENCH, "--isa", "reference", "--threads", "3"]) == 0
    assert (helpers.running(), fastdrop.get_num_threads()) == before
    assert ", reference, 3 threads" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "float64"])
def test_bench_of_an_array_from_a_file(dtype, tmp_path, capsys):
    file = tmp_path / "x.npy"
    np.save(file, np.asfortranarray(np.ones((20, 30), dtype)))
    assert main(["bench", "--seconds", "0.5", "--array", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"{file} of {np.dtype(dtype).name}" in out
    assert "bounds met" not in out


def test_bench_of_a_bfloat16_array_from_a_file(tmp_path, capsys):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    file = tmp_path / "x.npy"
    np.save(file, np.ones(100, ml_dtypes.bfloat16))
    assert "--dtype bfloat16" in refused(["bench", "--array", str(file)], capsys)
    assert main(["bench", "--seconds", "0.5", "--array", str(file), "--dtype", "bfloat16"]) == 0
    assert "of bfloat16" in capsys.readouterr().out


def test_arrays_that_cannot_be_timed(tmp_path, capsys):
    missing = str(tmp_path / "missing.npy")
    assert "No such file" in refused(["bench", "--array", missing], capsys)
    text = tmp_path / "text.npy"
    text.write_text("not an array")
    empty = tmp_path / "empty.npy"
    empty.write_bytes(b"")
    for path in (text, empty):
        assert "is not a .npy file" in refused(["bench", "--array", str(path)], capsys)
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refused(["bench", "--array", str(tmp_path / "pipe")], capsys)
    whole = tmp_path / "whole.npy"
    np.save(whole, np.ones(100))
    truncated = tmp_path / "truncated.npy"
    for length in (3, 9, 50, 128, 900):
        truncated.write_bytes(whole.read_bytes()[:length])
        assert "truncated" in refused(["bench", "--array", str(truncated)], capsys)
    several = tmp_path / "several.npz"
    np.savez(several, a=np.ones(3), b=np.ones(3))
    assert "holds several arrays" in refused(["bench", "--array", str(several)], capsys)
    for array, reason in ((np.arange(3), "int64"), (np.ones(0), "no elements"), (np.ones(3, object), "numbers")):
        path = tmp_path / "array.npy"
        np.save(path, array)
        message = refused(["bench", "--array", str(path)], capsys)
        assert reason in message
        assert "--array" in message
    np.save(path, np.ones(3))
    assert "--dtype" in refused(["bench", "--array", str(path), "--dtype", "float32"], capsys)


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    def interrupt(**_):
        raise KeyboardInterrupt

    for module in (verify, bench):
        monkeypatch.setattr(module, "verify", interrupt)
    for command in ("verify", "bench"):
        assert main([command]) == 130
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == f"python -m fastdrop {command}: interrupted\n"


def test_the_progress_bar_is_for_terminals_and_goes_away(monkeypatch):
    class Terminal:
        text = ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    terminal = Terminal()
    progress = Progress(terminal)
    progress.update(0.5, "half")
    assert "50%" in terminal.text
    assert "half" in terminal.text
    progress.clear()
    assert terminal.text.endswith("\r\x1b[K")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (6.2e-7, "0.62 us"),
        (2.014e-5, "20.1 us"),
        (9.996e-6, "10.0 us"),
        (9.997e-4, "1.00 ms"),
        (0.25, "250 ms"),
        (2, "2.00 s"),
    ],
)
def test_times_have_three_digits_and_a_unit(seconds, text):
    assert units.format_time(seconds) == text
