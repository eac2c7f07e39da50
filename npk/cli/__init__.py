"""The command `npk`: flags of the studies, and nothing else.

`npk analyse`, `npk study`, `npk compare`, `npk reproduce`, `npk verify` and `npk data` run what `npk.studies` and
`npk.data` offer; `npk --help` lists them. Errors take one line; progress goes to the terminal, or a line a stage where
there is none.
"""

from npk.cli.commands import app as app

__all__ = [
    "app",
]
