"""Running programs nobody trusts: one fresh process each, shut in by bubblewrap.

What is believed: a program passed if and only if a random number came back that its process was
given and that nothing the program can name leads to (`inside.py`). What is not claimed: a program
that attacks the interpreter itself, with hand-made bytecode, owns its own process and can forge its
own pass; it still cannot leave the sandbox. Whatever belongs to the official definition of passing is
kept, such as answers that claim to equal everything.
"""

from evalkit.sandbox.canary import CanaryFailed, require
from evalkit.sandbox.pool import run_programs
from evalkit.sandbox.program import Limits, Program, SandboxUnavailable, Verdict

__all__ = ["CanaryFailed", "Limits", "Program", "SandboxUnavailable", "Verdict", "require", "run_programs"]
