"""The 164 official problems: their solutions pass, one wrong mutant of each fails, extraction's ceilings."""

from __future__ import annotations

import ast
import gzip
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from evalkit.metrics import humaneval_code as code
from evalkit.sandbox import Program, Verdict, run_programs

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("bwrap")]

Problem = dict[str, str]

_KNOWN: dict[str, Verdict] = {}

WRONG = """
def _wrong(x):
    if isinstance(x, bool): return not x
    if isinstance(x, (int, float)): return x + 1
    if isinstance(x, str): return x + "x"
    if isinstance(x, list): return x + [0]
    if isinstance(x, tuple): return x + (0,)
    return 0 if x is None else None
"""


@pytest.fixture(scope="module")
def problems(official_data: Path) -> list[Problem]:
    with gzip.open(official_data / "HumanEval/data/HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def judged(problems: Sequence[Problem], completion: Callable[[Problem], str]) -> list[Verdict]:
    """Verdicts over the problems with these continuations of the prompt; each program runs once."""
    sources = [code.program(p["prompt"], completion(p), p["test"], p["entry_point"]) for p in problems]
    new = [source for source in sources if source not in _KNOWN]
    _KNOWN.update(zip(new, run_programs([Program(source) for source in new]), strict=True))
    return [_KNOWN[source] for source in sources]


def n_passed(verdicts: Sequence[Verdict]) -> int:
    return sum(v.status == "passed" for v in verdicts)


def body(problem: Problem) -> str:
    return problem["canonical_solution"]


def fenced(problem: Problem) -> str:
    return f"```python\n{problem['prompt']}{problem['canonical_solution']}```"


def test_canonical_solutions_pass_in_time(problems: list[Problem]) -> None:
    started = time.monotonic()
    verdicts = judged(problems, body)
    assert n_passed(verdicts) == len(problems) == 164
    assert sum(v.retried for v in verdicts) == 0
    assert time.monotonic() - started < 60


def test_one_wrong_mutant_per_problem_fails(problems: list[Problem]) -> None:
    programs = []
    for p in problems:
        original = p["prompt"] + p["canonical_solution"]
        mutant = WRONG + mutated(original, p["entry_point"])
        assert ast.dump(ast.parse(mutant)) != ast.dump(ast.parse(original))
        programs.append(Program(code.program(mutant + "\n", "", p["test"], p["entry_point"])))
    verdicts = run_programs(programs)
    assert [p["task_id"] for p, v in zip(problems, verdicts, strict=True) if v.status != "failed"] == []
    assert all("SyntaxError" not in v.detail and "NameError" not in v.detail for v in verdicts)


def mutated(source: str, entry_point: str) -> str:
    """The source with every value that the function returns replaced by a wrong one of its type."""
    tree = ast.parse(source)
    (function,) = (f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == entry_point)
    Wrong().visit_body(function)
    return ast.unparse(ast.fix_missing_locations(tree))


class Wrong(ast.NodeTransformer):
    def visit_body(self, function: ast.FunctionDef) -> None:
        function.body = [self.visit(statement) for statement in function.body]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return node

    def visit_Return(self, node: ast.Return) -> ast.Return:
        value = node.value or ast.Constant(None)
        return ast.Return(ast.Call(ast.Name("_wrong", ast.Load()), [value], []))


@pytest.mark.parametrize(
    ("extract", "answer", "ceiling"),
    [
        (code.oc_v1, body, 127),
        (code.oc_v1, fenced, 44),
        (code.oc_v2, body, 153),
        (code.oc_v2, fenced, 158),
    ],
)
def test_ceilings_of_opencompass(
    problems: list[Problem], extract: Callable[[str], str], answer: Callable[[Problem], str], ceiling: int
) -> None:
    assert n_passed(judged(problems, lambda p: extract(answer(p)))) == ceiling


def function_only(problem: Problem) -> str:
    """Without the imports and helper functions of the prompt, amid talk."""
    start = problem["prompt"].rindex(f"def {problem['entry_point']}")
    solution = problem["prompt"][start:] + problem["canonical_solution"]
    return f"Sure, here it is:\n\n```python\n{solution}```\n\nUse it like this:\n```\nprint(1)\n```\n"


def test_code_block_has_no_ceiling(problems: list[Problem]) -> None:
    styles = (function_only, lambda p: p["canonical_solution"].strip())
    for part, style in ((problems[:82], styles[0]), (problems[82:], styles[1])):
        programs = []
        for p in part:
            whole = code.code_block(style(p), p["prompt"], p["entry_point"])
            programs.append(Program(code.program(whole, "", p["test"], p["entry_point"])))
        assert n_passed(run_programs(programs)) == len(part)


def test_every_way_of_answering_gives_a_program_that_compiles(problems: list[Problem]) -> None:
    for p in problems:
        for style in (body, fenced, function_only):
            whole = code.code_block(style(p), p["prompt"], p["entry_point"])
            tree = compile(whole, "<answer>", "exec", ast.PyCF_ONLY_AST)
            names = [f.name for f in tree.body if isinstance(f, ast.FunctionDef)]
            assert names[-1] == p["entry_point"]
            assert (p["task_id"] in HELPED) == (len(names) > 1)


HELPED = {"HumanEval/10", "HumanEval/32", "HumanEval/38", "HumanEval/50"}
