"""From a model's answer to the HumanEval program that is run: extraction decides the score.

`oc_v1` and `oc_v2` are OpenCompass at commit 4c87e77, errors included: on the 164 canonical solutions
v1 reaches no more than 127 (44 if the whole function is given in a fenced block), v2 153 (158).
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator

_FENCE = "```"
_INDENT = "    "
_MAX_PARSED = 1 << 18
"""Longer texts are not parsed in this process: they could take all of its memory."""
_MAX_CANDIDATES = 16

_FUTURE = re.compile(r"^from __future__ .*\n", re.MULTILINE)
_BLANK_LINES = re.compile(r"\A(?:[ \t]*+\n)++")

_STRING = r"""(?:[uU]|[rR])?(?:
    '''(?:[^'\\]|\\.|'(?!''))*+''' | \"""(?:[^"\\]|\\.|"(?!""))*+\"""
    | '(?!'')(?:[^'\\\n]|\\.)*+' | "(?!"")(?:[^"\\\n]|\\.)*+"
)"""
_BETWEEN = r"(?:[\s()]|\#[^\r\n]*+|\\\n)*+"
_STRING_LITERAL = re.compile(rf"{_BETWEEN}(?:{_STRING}{_BETWEEN})++", re.VERBOSE | re.DOTALL)


def program(prompt: str, completion: str, test: str, entry_point: str) -> str:
    """The program of the official harness: it passes if it runs to its end."""
    return f"{prompt}{completion}\n{test}\ncheck({entry_point})"


def fenced_prefix(text: str) -> str:
    """What lm-eval's `humaneval_instruct` keeps: all before the first fence."""
    return text.split(_FENCE, 1)[0]


def oc_v1(text: str) -> str:
    """Body of the function by OpenCompass' first rule (`humaneval_gen_a82cae`): ends at a blank line."""
    text = _after_imports(_first_block(text))
    text = _without_signature(text.split("\n\n", 1)[0])
    if text.startswith(_INDENT):
        return text
    return _INDENT + text.lstrip() if text.startswith(" ") else _indented(text)


def oc_v2(text: str) -> str:
    """Body of the function by OpenCompass' second rule (`humaneval_gen_8e312c`): ends where it dedents.

    Answers that are a Python string literal are unpacked first. OpenCompass evaluates the answer, and
    so runs any expression in it; here nothing is ever run, and other expressions stay as they are.
    """
    text = _after_imports(_first_block(_unpacked(text).lstrip("\n")))
    text = _without_signature("\n".join(line for line in text.split("\n") if line != ""))
    return _until_dedent(_INDENT + text.lstrip() if text.startswith(" ") else _indented(text))


def code_block(text: str, prompt: str, entry_point: str) -> str:
    """The whole program before its tests, from an answer in any usual form.

    The last fenced block that defines the function is taken as it is, after the prompt's imports and
    helper functions; without a fence the same goes for the answer from its first line of code on.
    Anything else continues the prompt.
    """
    definition = re.compile(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", re.MULTILINE)
    blocks = list(_blocks(text))
    whole = [b for b in blocks if definition.search(b)][-_MAX_CANDIDATES:]
    whole = [textwrap.dedent(b) if b.startswith((" ", "\t")) else b for b in whole]
    if not blocks and definition.search(fenced_prefix(text)):
        whole = [_code_of(fenced_prefix(text))]
    if whole:
        code = next((b for b in reversed(whole) if _parses(b)), whole[-1])
        signatures = list(definition.finditer(prompt))
        return _joined(prompt[: signatures[-1].start()] if signatures else prompt, code)
    body = next((b for b in blocks if b.strip()), "") if blocks else fenced_prefix(text)
    return prompt + _fitted(prompt, body)


# -- OpenCompass ----------------------------------------------------------------------------------


def _unpacked(text: str) -> str:
    if not _STRING_LITERAL.fullmatch(text):
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: object = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, str) else text


def _first_block(text: str) -> str:
    """The first fenced block without the rest of its opening line; unclosed, all up to a second fence."""
    parts = text.split(_FENCE, 2)
    if len(parts) < 2:
        return text
    block = parts[1]
    if len(parts) == 3 and not block.startswith("\n"):
        block = block[block.find("\n") + 1 :]
    return block


def _after_imports(text: str) -> str:
    if text.strip().startswith(("from", "import")) and (at := text.find("def")) != -1:
        return text[text.find("\n", at) + 1 :]
    return text


def _without_signature(text: str) -> str:
    text = text.lstrip("\n")
    if text.strip().startswith("def"):
        return text.partition("\n")[2]
    return text


def _indented(text: str) -> str:
    return "\n".join(_INDENT + line for line in text.split("\n"))


def _until_dedent(text: str) -> str:
    lines = text.split("\n")
    least: int | None = None
    for i, line in enumerate(lines):
        bare = line.strip()
        if not bare or bare[0] in "'\"#":
            continue
        indent = len(line.rstrip()) - len(bare)
        if least is None:
            least = indent
        elif indent < least:
            return "\n".join(lines[:i])
    return text


# -- robust ---------------------------------------------------------------------------------------


def _blocks(text: str) -> Iterator[str]:
    """Contents of all fenced blocks; a last one may be cut short. A lone closing fence opens none."""
    lines = text.split("\n")
    fences = [i for i, line in enumerate(lines) if line.lstrip(" \t>").startswith(_FENCE)]
    if not fences or (
        len(fences) == 1 and _is_bare(lines[fences[0]]) and any(map(str.strip, lines[: fences[0]]))
    ):
        return
    opened: int | None = None
    for i in fences:
        if opened is None:
            opened = i
        elif _is_bare(lines[i]):
            yield "\n".join(lines[opened + 1 : i])
            opened = None
        # A tagged fence within a block: the block before it was never closed.
        else:
            yield "\n".join(lines[opened + 1 : i])
            opened = i
    if opened is not None:
        yield "\n".join(lines[opened + 1 :])


def _is_bare(fence: str) -> bool:
    return not fence.strip().strip("`")


def _code_of(text: str) -> str:
    """An answer without fences from its first line of code to the last that still parses."""
    lines = text.split("\n")
    begins = ("import ", "from ", "def ", "async def ", "class ", "@")
    first = next((i for i, line in enumerate(lines) if line.startswith(begins)), 0)
    rest = lines = lines[first:]
    for _ in range(20):
        error = _error_line("\n".join(rest))
        if error is None:
            return "\n".join(rest)
        rest = rest[: error - 1]
        if not error or not rest:
            break
    return "\n".join(lines)


def _joined(preamble: str, code: str) -> str:
    """Both, with imports from the future where they must be: at the top."""
    future = _FUTURE.findall(code)
    return "".join(future) + preamble + (_FUTURE.sub("", code) if future else code)


def _fitted(prompt: str, body: str) -> str:
    """The body at the indentation that continues the prompt; its first line's may have been lost."""
    body = _BLANK_LINES.sub("", body, count=1)
    padded = _INDENT + body.lstrip(" ")
    candidates = (body, padded) if body.startswith((" ", "\t")) else (padded, _indented(body))
    return next((c for c in candidates if _parses(prompt + c)), candidates[0])


def _parses(code: str) -> bool:
    return _error_line(code) is None


def _error_line(code: str) -> int | None:
    """Line of the first syntax error, also of the late kind (`return` outside functions); None if none.

    0 stands for an error that has no line.
    """
    if len(code) > _MAX_PARSED:
        return 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<answer>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return error.lineno or 0
    except (ValueError, MemoryError, RecursionError):
        return 0
    return None
