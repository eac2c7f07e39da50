"""What each primitive is to a path: gate | weights | bias | fixed factor | sum | positionwise.

Most are a line: they act on the normal form of `terms`. A new operation is one function, in the file of its kind,
and one entry in `table`.
"""

from npk.paths.rules.table import POSITIONWISE as POSITIONWISE
from npk.paths.rules.table import RULES as RULES
from npk.paths.rules.table import begun as begun
from npk.paths.rules.table import output_terms as output_terms

__all__ = ["POSITIONWISE", "RULES", "begun", "output_terms"]
