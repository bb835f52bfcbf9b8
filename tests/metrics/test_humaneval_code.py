"""Extraction of HumanEval programs from answers."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from evalkit.metrics import humaneval_code as code

PROMPT = (
    'from typing import List\n\ndef helper():\n    return 1\n\ndef f(x: List[int]) -> int:\n    """Doc."""\n'
)
PREAMBLE = "from typing import List\n\ndef helper():\n    return 1\n\n"
FUNCTION = "def f(x):\n    y = helper()\n    return y\n"


def test_program_is_the_official_one() -> None:
    assert code.program("P\n", "    C", "T", "f") == "P\n    C\nT\ncheck(f)"


@pytest.mark.parametrize(
    ("text", "prefix"),
    [("    return 1\n```\nThis", "    return 1\n"), ("    return 1", "    return 1"), ("```x", ""), ("", "")],
)
def test_fenced_prefix(text: str, prefix: str) -> None:
    assert code.fenced_prefix(text) == prefix


@pytest.mark.parametrize(
    ("text", "v1", "v2"),
    [
        ("", "    ", "    "),
        ("    return 1", "    return 1", "    return 1"),
        ("return 1", "    return 1", "    return 1"),
        (" return 1", "    return 1", "    return 1"),
        ("        return 1", "        return 1", "    return 1"),
        ("x = 1\nreturn x", "    x = 1\n    return x", "    x = 1\n    return x"),
        ("    x = 1\n\n    return x", "    x = 1", "    x = 1\n    return x"),
        ("\n    return 1", "    return 1", "    return 1"),
        ("\n\n    return 1", "    ", "    return 1"),
        ("    return 1\nprint(f())", "    return 1\nprint(f())", "    return 1"),
        (
            "    # a\n  # b\n    return 1\nx",
            "    # a\n  # b\n    return 1\nx",
            "    # a\n  # b\n    return 1",
        ),
        ("```python\n    return 1\n```", "    return 1\n", "    return 1"),
        ("```\n    return 1\n```", "    return 1\n", "    return 1"),
        ("```python\n    return 1", "    python\n        return 1", "    python\n        return 1"),
        ("a ```b``` c", "    b", "    b"),
        ("def f(x):\n    return 1", "    return 1", "    return 1"),
        ("import a\nfrom b import c\ndef f(x):\n    return 1", "    return 1", "    return 1"),
        ("import a", "    import a", "    import a"),
        (
            "from a import b\ndef f(x)",
            "    from a import b\n    def f(x)",
            "    from a import b\n    def f(x)",
        ),
        ("'    return 1\\n'", "    '    return 1\\n'", "    return 1"),
        ('"```python\\n    return 1\\n```"', "    python\\n    return 1\\n", "    return 1"),
    ],
)
def test_opencompass_rules(text: str, v1: str, v2: str) -> None:
    assert code.oc_v2(text) == v2
    assert code.oc_v1(text) == v1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'a'", "a"),
        (' "a\\n b"\n', "a\n b"),
        ("u'a' r'\\n'", "a\\n"),
        ("'''a\nb'''", "a\nb"),
        ("''", ""),
        ("'it\\'s'", "it's"),
        ("'\\d'", "\\d"),
        ("# c\n('a'\n'b') # d", "ab"),
        ("'a'\n'b'", None),
        ("b'a'", None),
        ("f'{1}'", None),
        ("['a']", None),
        ("'a' + 'b'", None),
        ("'a' * 10**9", None),
        ("'\\x'", None),
        ("'a", None),
        ("__import__('os').system('true')", None),
    ],
)
def test_string_literals_are_unpacked_and_nothing_is_run(text: str, value: str | None) -> None:
    assert code._unpacked(text) == (text if value is None else value)


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{FUNCTION}```",
        f"Sure:\n```\n{FUNCTION}```\nDone.",
        f"```py\nprint('first')\n```\n```python\n{FUNCTION}```\n```\nf([1])\n```",
        f"```python\ndef f(x): return (\n```\nBetter:\n```python\n{FUNCTION}```",
        f"```python\n{FUNCTION}```\nNot so:\n```python\ndef f(x): return (\n```",
        f"```python\n{FUNCTION}",
        f"1. Like this:\n\n   ```python\n   {FUNCTION.replace(chr(10), chr(10) + '   ').rstrip(' ')}   ```",
    ],
)
def test_a_block_with_the_function_is_the_program(text: str) -> None:
    assert code.code_block(text, PROMPT, "f").rstrip("\n ") == PREAMBLE + FUNCTION.rstrip("\n")


@pytest.mark.parametrize(
    "text", [FUNCTION, f"Here you are.\n{FUNCTION}\nThat was it, and it's fine.\n", f"{FUNCTION}```\nbye"]
)
def test_the_function_without_fences(text: str) -> None:
    assert code.code_block(text, PROMPT, "f").rstrip() == (PREAMBLE + FUNCTION).rstrip()


def test_future_imports_stay_first() -> None:
    text = f"```python\nfrom __future__ import annotations\n{FUNCTION}```"
    whole = code.code_block(text, PROMPT, "f")
    assert whole.startswith("from __future__ import annotations\nfrom typing import List\n")
    compile(whole, "<answer>", "exec")


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("    return 1\n", "    return 1\n"),
        ("   return 1\n", "    return 1\n"),
        ("return 1\n", "    return 1\n"),
        ("x = 1\n    return x\n", "    x = 1\n    return x\n"),
        ("x = 1\nreturn x", "    x = 1\n    return x"),
        ("for y in x:\n    y\nreturn 1", "    for y in x:\n        y\n    return 1"),
        ("\treturn 1", "\treturn 1"),
        ("\n\n    return 1\n", "    return 1\n"),
        ("    return 1\n```\nThis returns one.", "    return 1\n"),
        ("```python\n    return 1\n```", "    return 1"),
        ("Add this:\n```python\nreturn 1\n```\nand run:\n```\nf()\n```", "    return 1"),
        ("    return (", "    return ("),
        ("", "    "),
    ],
)
def test_anything_else_continues_the_prompt(text: str, body: str) -> None:
    assert code.code_block(text, PROMPT, "f") == PROMPT + body


@pytest.mark.parametrize(
    "unit",
    [
        "\n",
        " ",
        "```",
        "```\n",
        "'",
        "'a'",
        "\\",
        "(",
        "\t\n",
        "x\n\n",
        "\ud800",
        "1+",
        "```python\ndef f(x):\n",
    ],
)
@pytest.mark.parametrize("extract", ["oc_v1", "oc_v2", "code_block", "fenced_prefix"])
def test_ten_megabytes_do_not_hang(unit: str, extract: str) -> None:
    function: Callable[..., str] = getattr(code, extract)
    text = unit * (10_000_000 // len(unit))
    started = time.monotonic()
    result = function(text, PROMPT, "f") if extract == "code_block" else function(text)
    assert time.monotonic() - started < 10
    assert isinstance(result, str)
