"""`python -m evalkit` is the same as `evalkit`."""

from evalkit.cli import main

main()
