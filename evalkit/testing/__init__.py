"""Conformance suites: what every backend and every task must do, ours or a plug-in's.

Call them in a test of your own:

    def test_my_backend() -> None:
        check_backend(MyBackend())

Each raises AssertionError naming the rule that was broken.
"""

from evalkit.testing.backends import check_backend
from evalkit.testing.tasks import check_task

__all__ = ["check_backend", "check_task"]
