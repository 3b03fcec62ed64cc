# SPDX-License-Identifier: BSD-3-Clause
"""Reports are made from the JSON alone: the same file gives the same bytes, and what they show is what it holds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import made_up_runs
import numpy as np
import pytest

from benchmarks import results, views

ROOT = Path(__file__).parents[1]

# With jinja2 and matplotlib, which must be there where it is asked for.
needs_templates = pytest.mark.asked_for("FASTDROP_TEST_BENCHMARKS")


@pytest.fixture
def stored(tmp_path):
    """Two runs of a machine, and one of another, as they lie in benchmarks/results."""
    folder = tmp_path / "results"
    folder.mkdir()
    made_up_runs.store(folder / "a.json", made_up_runs.report_records(1), date="2026-01-01T00:00:00", commit="a" * 40)
    made_up_runs.store(folder / "c.json", made_up_runs.report_records(3), date="2026-01-03T00:00:00", cpu="Another CPU")
    return made_up_runs.store(folder / "b.json", made_up_runs.report_records(2), date="2026-01-02T00:00:00")


def command(stored, folder, seed="0"):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.report", stored, "--output", folder, "--no-readme"],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
    )


def make(stored, folder, seed="0"):
    """The report, by the command; what it wrote."""
    done = command(stored, folder, seed)
    assert (done.returncode, done.stderr) == (0, "")
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.*")}


@needs_templates
def test_the_same_file_gives_the_same_bytes(stored, tmp_path):
    first, second = (make(stored, tmp_path / seed, seed=seed) for seed in ("1", "2"))
    assert first == second
    assert set(first) >= {"REPORT.md", "index.html", "plots/throughput.svg", "plots/history.svg"}


@needs_templates
def test_the_report_shows_what_the_run_holds(stored, tmp_path):
    text = make(stored, tmp_path / "out")["REPORT.md"]
    run = results.read(stored)
    for row in views.bounds(run):
        assert f"**{views.ratio(row['ratio'])}** | {views.ratio(row['low'])} - {views.ratio(row['high'])}" in text
    assert len(re.findall(r"\*\*missed\*\*", text)) == sum(row["met"] is False for row in views.bounds(run)) == 1
    plots = re.findall(r"!\[[^]]+\]\((plots/[a-z-]+\.svg)\)", text)
    assert len(plots) == 6
    assert all((tmp_path / "out" / plot).is_file() for plot in plots)
    assert "[../results/b.json](../results/b.json)" in text


@needs_templates
def test_where_a_peer_wins_is_marked(stored, tmp_path):
    made = make(stored, tmp_path / "out")
    line = next(line for line in made["REPORT.md"].splitlines() if line.startswith("**Where another library is faster"))
    assert "Fast\\|peer" in line
    assert "Slow" not in line
    rows = {row["peer"]["text"]: row["flags"] for row in views.rows(results.read(stored))}
    assert rows["<b>Fast|peer</b>"] == ["peer wins"]
    assert rows["Slow peer"] == []
    assert "the peer wins" in made["plots/peers.svg"]
    assert made["index.html"].count(">peer wins<") == 1


@needs_templates
def test_tables_keep_their_columns_whatever_a_name_holds(stored, tmp_path):
    made = make(stored, tmp_path / "out")
    tables = re.findall(r"(?:^\|.*\n)+", made["REPORT.md"], re.MULTILINE)
    assert len(tables) >= 6
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    assert "<b>" not in made["REPORT.md"]
    assert "<b>Fast" not in made["index.html"]


@needs_templates
def test_names_are_no_markup_in_either(tmp_path):
    generator = np.random.default_rng(0)
    peer = {"references": ("np.copyto", "fastdrop"), "out": "fresh", "peer": "A $peer$ & co\n", "memory": None}
    records = [
        *made_up_runs.report_records(),
        made_up_runs.record("code", 2.0, generator, statement="y = `x` | <b>", **peer),
    ]
    folder = tmp_path / "re sults (1)"
    folder.mkdir()
    stored = made_up_runs.store(folder / "a#b_c.json", records, cpu="<i>CPU</i> | `2` \ud800\nlines")
    made = make(stored, tmp_path / "out")
    report, page = made["REPORT.md"], made["index.html"]
    assert r"\<i\>CPU\</i\> \| \`2\` \\ud800 lines" in report
    assert "<i>" not in report + page
    assert "- A $peer$ \\& co: ``y = `x` | <b>``" in report
    assert r"[../re sults (1)/a#b\_c.json](../re%20sults%20%281%29/a%23b_c.json)" in report
    assert 'href="../re%20sults%20%281%29/a%23b_c.json"' in page


@needs_templates
def test_what_failed_is_told_in_both(tmp_path):
    path = made_up_runs.store(tmp_path / "run.json", made_up_runs.report_records(), failed=["test_dropout.py::test_x"])
    made = make(path, tmp_path / "out")
    for name in ("REPORT.md", "index.html"):
        assert "These cases failed" in made[name]
        assert "test_x" in made[name].replace("\\_", "_")


@needs_templates
def test_history_is_of_the_same_machine_up_to_this_run(stored, tmp_path):
    table = make(stored, tmp_path / "out")["REPORT.md"].partition("## From run to run")[2].partition("## Method")[0]
    assert re.findall(r"^\| (2026-01-0\d)", table, re.MULTILINE) == ["2026-01-01", "2026-01-02"]


@needs_templates
def test_plots_take_the_colour_of_their_page_and_share_no_identifiers(stored, tmp_path):
    made = make(stored, tmp_path / "out")
    identifiers = re.findall(r'\bid="([^"]+)"', made["index.html"])
    assert len(identifiers) == len(set(identifiers))
    for name, svg in made.items():
        if name.endswith(".svg"):
            assert "currentColor" in svg
            assert "prefers-color-scheme:dark" in svg
            referred = set(re.findall(r'(?:url\(#|xlink:href="#)([^)"]+)', svg))
            assert referred <= set(re.findall(r'\bid="([^"]+)"', svg))


@needs_templates
def test_a_small_run_has_a_report_too(tmp_path):
    """A part of the suite: whatever it lacks is not shown, and nothing fails."""
    records = [made_up_runs.record("one", 1.5, np.random.default_rng(0))]
    made = make(made_up_runs.store(tmp_path / "run.json", records), tmp_path / "out")
    assert "## Everything" in made["REPORT.md"]
    assert "plots/growth.svg" not in made


@needs_templates
def test_a_file_that_cannot_be_read_ends_it_with_its_name(stored, tmp_path):
    stored.write_text('{"schema": 1}')
    done = command(stored, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith(f"python -m benchmarks.report: error: {stored}: not a file of pytest-benchmark's")
    assert not (tmp_path / "out").exists()


@needs_templates
def test_a_file_beside_it_that_is_no_run_is_left_out_of_the_history_and_named(stored, tmp_path):
    beside = stored.with_name("beside it.json")
    beside.write_text('{"schema": 1}')
    done = command(stored, tmp_path / "out")
    assert done.returncode == 0
    assert done.stderr.startswith(f"left out of the history: {beside}: not a file of pytest-benchmark's")


# PyTorch's tensors


@pytest.fixture
def with_pytorch(tmp_path):
    records = [*made_up_runs.report_records(), *made_up_runs.pytorch_records()]
    return made_up_runs.store(tmp_path / "run.json", records)


def test_the_share_of_dropout_is_what_a_step_without_it_does_not_take(with_pytorch):
    (step,) = views.pytorch(results.read(with_pytorch))["shares"]
    assert step["share_before"] == pytest.approx(0.5, abs=1e-9)  # twice the step without
    assert step["share_after"] == pytest.approx(0.2, abs=0.001)
    assert step["share_low"] <= step["share_after"] <= step["share_high"]
    assert step["times"] == pytest.approx(1.6, abs=0.01)
    assert (step["at_least"], step["met"]) == (1.25, True)


def test_speeds_are_ratios_the_other_way_round(with_pytorch):
    run = results.read(with_pytorch)
    alone, layout = views.pytorch(run)["speeds"]
    case = next(case for name, case in run.cases.items() if "alone" in name)
    assert alone["times"] == 1 / case.estimate.ratio
    assert alone["low"] <= alone["times"] <= alone["high"]
    assert (round(alone["at_least"]), alone["met"]) == (12, False)
    assert alone["case"] == "forward and backward, 256 Ki, F.dropout with enable(), p 0.1"
    assert layout["case"] == "forward, channels_last, F.dropout with enable(), p 0.1, float16, 2 threads"
    assert (layout["at_least"], layout["met"]) == (None, None)


def test_bounds_of_memory_are_kept_up_to_the_last_byte(tmp_path):
    for memory, met in ((0, True), (100, True), (101, False)):
        records = made_up_runs.pytorch_records()
        records[1]["extra_info"]["case"]["memory"] = memory
        run = results.read(made_up_runs.store(tmp_path / f"{memory}.json", records))
        (row,) = (row for row in views.bounds(run) if "100 bytes" in row["against"])
        assert (row["group"], row["met"], row["ratio"]) == ("PyTorch", met, memory / 100)


@needs_templates
def test_pytorch_has_a_section_where_it_was_measured_and_none_elsewhere(with_pytorch, stored, tmp_path):
    made, without = make(with_pytorch, tmp_path / "with"), make(stored, tmp_path / "without")
    section = made["REPORT.md"].partition("\n## PyTorch\n")[2].partition("\n## ")[0]
    assert "| A block, eager, p 0.1 | " in section
    assert "| 50% | **20%** | " in section
    assert "| 1 MiB | **72 B** | 460 B |" in section
    assert "### PyTorch" in made["REPORT.md"]  # its bounds
    assert 'id="pytorch-shares"' in made["index.html"]
    for text in without.values():
        assert "PyTorch" not in text
        assert "pytorch" not in text


@needs_templates
def test_pytorch_alone_has_a_report(tmp_path):
    path = made_up_runs.store(tmp_path / "run.json", made_up_runs.pytorch_records())
    assert "| A block, eager, p 0.1 | " in make(path, tmp_path / "out")["REPORT.md"]


@pytest.mark.parametrize(("part", "text"), [(0.354, "35%"), (0.0994, "9.9%"), (0.0996, "10%"), (-0.004, "-0.4%")])
def test_shares_are_short(part, text):
    assert views.percent(part) == text


def test_a_part_of_the_suite_has_no_figures_for_the_readme(tmp_path):
    records = [made_up_runs.record("one", 1.5, np.random.default_rng(0))]
    run = results.read(made_up_runs.store(tmp_path / "run.json", records))
    with pytest.raises(results.BadResult, match=r"run\.json: README's figures need the whole suite, .* 16 KiB at 0\.1"):
        views.readme_figures(run, "run.json")


@needs_templates
def test_a_readme_without_a_place_for_figures_is_refused():
    from benchmarks import report

    assert (
        report.with_figures(f"a\n{report.BEGIN}old\n{report.END}b\n", "new\n")
        == f"a\n{report.BEGIN}new\n{report.END}b\n"
    )
    with pytest.raises(results.BadResult, match="figures: begin"):
        report.with_figures("no place", "new\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9e-6, "900 ns"),
        (1e-6, "1 us"),
        (12.345e-6, "12.3 us"),
        (1234e-6, "1.23 ms"),
        (999.7e-6, "1 ms"),
        (2.5, "2.5 s"),
    ],
)
def test_durations_have_three_digits(seconds, text):
    assert views.duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.12345, "0.123"), (999.7, "1000"), (1234.5, "1230")])
def test_numbers_have_three_digits_and_no_exponent(value, text):
    assert views.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0613, "0.061"), (0.756, "0.76"), (1.8, "1.80"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1234")],
)
def test_ratios_are_short(value, text):
    assert views.ratio(value) == text


# What is in the repository


def test_the_stored_runs_can_be_read_and_are_whole():
    paths = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert paths
    for path in paths:
        run = results.read(path)
        assert run.environment["complete"]
        assert not run.environment["dirty"]


@needs_templates
def test_the_stored_report_is_what_its_run_gives():
    """REPORT.md to the byte. Plots depend on the release of Matplotlib, so of those it is shown that they are there."""
    from benchmarks import report

    stored = (ROOT / "benchmarks" / "REPORT.md").read_text(encoding="utf-8")
    source = re.search(r"\]\((results/[^)]+\.json)\)", stored)[1]
    run = results.read(ROOT / "benchmarks" / source)
    past = report.past_of(run)
    assert report.markdown(run, past, report.plots.make(run, past), source) == stored
    for plot in re.findall(r"\]\((plots/[^)]+)\)", stored):
        assert (ROOT / "benchmarks" / plot).is_file()
    page = (ROOT / "benchmarks" / "index.html").read_text(encoding="utf-8")
    assert f'href="{source}"' in page
    assert page.count("<tr") > len(run.cases)
