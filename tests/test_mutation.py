# SPDX-License-Identifier: BSD-3-Clause
"""Mutants are made where code is, and only there; a command tries the same ones again; no survivor goes unexplained."""

import ast
import json

import mutants
import mutation
import pytest

MODULE = b'''
"""Not 1 < 2."""
from typing import overload

if TYPE_CHECKING:
    size = 3

@overload
def f(x: int = 4) -> int: ...
def f(x: "Literal[5]" = 6, *, up: bool = True) -> int | None:
    """Not 7 either."""
    total: Annotated[int, 8] = 0
    if not x and (x is not None) or x <= 9:
        raise ValueError(f"{x + 10} < 11", 12)
    warn("not " + "this")
    g(x, first=1, second=x << 2)
    while x < 3:
        total += x * 4
    return -total if up else None
'''
C = b"""
#define WIDE \\
    (1 < 2)
/* not 3 < 4 */
static int f(const uint8_t *p) // nor 5
{
    uint8_t bits[8 + 8], more[9] = {0};
    p->x <<= 0x0Fu;
    if (!p && "6 < 7") {
        g(p, 1);
    }
    return *p - '8' >> 2;
}
"""


def changes(found):
    return [mutant.change for mutant in found]


def test_python_mutants_are_made_of_code_alone():
    found = changes(mutants.python_mutants("m.py", MODULE))
    for change in [
        "6 -> 7", "6 -> 5", "True -> False", "0 -> (-1)", "not -> nothing", "and -> or", "or -> and",
        "is not -> is", "<= -> <", "<= -> >", "9 -> 10", "9 -> 8", "first=1, -> nothing", "second=x << 2 -> nothing",
        "<< -> >>", "x < 3 -> False", "+ -> -", "* -> /", "- -> nothing", "up -> True", "up -> False",
        'raise ValueError(f"{x + 10} < 11", 12) -> pass', 'warn("not " + "this") -> pass',
        "return -total if up else None -> return None",
    ]:  # fmt: skip
        assert found.count(change) == 1, change
    hidden = ("2 ->", "5 ->", "7 ->", "8 ->", "10 ->", "11 ->", "12 ->", "| ->")
    assert [change for change in found if change.startswith(hidden)] == ["2 -> 3", "2 -> 1"]  # of the shift


def test_python_mutants_are_python_and_differ():
    for mutant in mutants.python_mutants("m.py", MODULE):
        changed = ast.parse(mutant.applied(MODULE))
        assert ast.dump(changed) != ast.dump(ast.parse(MODULE)), mutant
        assert MODULE.splitlines()[mutant.line - 1].decode().strip() == mutant.code
        assert mutant.line in mutant.statement


def test_c_mutants_are_made_of_code_alone():
    found = changes(mutants.c_mutants("c.c", C))
    assert sorted(found) == sorted([
        "<<= -> >>=", "0x0F -> 0x10", "0x0F -> 0xe", "! -> nothing", "&& -> ||", "g(p, 1); -> ;", "1 -> 2", "1 -> 0",
        "- -> +", ">> -> <<", "2 -> 3", "2 -> 1", "0 -> 1",
    ])  # fmt: skip


@pytest.mark.parametrize("make", [mutants.python_mutants, mutants.c_mutants])
def test_names_of_mutants_are_their_own(make):
    found = make("m", MODULE if make is mutants.python_mutants else C)
    assert len({mutant.id for mutant in found}) == len(found)


def test_a_sample_is_the_same_for_the_same_seed_and_takes_of_each_file():
    found = {"a": mutants.python_mutants("a", MODULE), "b": mutants.c_mutants("b", C)}
    plan = mutants.sampled(found, 20, seed=1)
    assert plan == mutants.sampled(found, 20, seed=1) != mutants.sampled(found, 20, seed=2)
    assert {name: size for name, (size, _) in plan.items()} == {"a": 15, "b": 5}
    assert mutants.sampled(found, 1, seed=1)["b"][0] == mutants.FEWEST


def test_an_explanation_stays_with_its_line_and_a_survivor_without_one_fails():
    found = mutants.c_mutants("b", C)
    outcomes = {"b": [("killed", mutant) for mutant in found * 3] + [("same", found[0]), ("survived", found[1])]}
    before = mutation.results(outcomes, {})
    assert mutation.summary(before)[1] == 1
    before["b"]["survivors"][0]["explanation"] = "The same."
    moved = mutants.c_mutants("b", b"\n\n" + C)
    outcomes["b"][-1] = ("survived", moved[1])
    after = mutation.results(outcomes, {"files": before})
    assert after["b"]["survivors"][0]["line"] == before["b"]["survivors"][0]["line"] + 2
    assert mutation.summary(after)[1] == 0
    outcomes["b"] += [("survived", moved[1])] * 3
    assert mutation.summary(mutation.results(outcomes, {"files": after}))[1] == 1, "too few are killed"


def test_the_last_run_killed_enough_and_explains_what_survived():
    if not mutation.RESULTS.exists():
        pytest.skip("no mutation run has been recorded")
    lines, status = mutation.summary(json.loads(mutation.RESULTS.read_text())["files"])
    assert status == 0, "\n".join(lines)
