"""What each primitive is to a path: gate | weights | bias | fixed factor | sum | positionwise.

Most are a line: they act on the normal form of `terms`. A new operation is one function, in the file of its kind,
and one entry in `table`.
"""

from npk.paths.rules.table import RULES as RULES
from npk.paths.rules.table import output_terms as output_terms
from npk.paths.rules.table import roles_of as roles_of

__all__ = ["RULES", "output_terms", "roles_of"]
