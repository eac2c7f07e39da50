"""The table of what every function says of every architecture is what it says now. No cell is a crash or a guess."""

import jax
import pytest
from breadth.models import MODELS
from breadth.outcomes import COLUMNS, EXACT, OFFERED, row
from breadth.table import COMMAND, NAMES, PAGE, as_users_write, page, recorded

CHEAP = ("gates", "gated", "npf", "path_kernel", "split_ntk")  # and what is refused; a few seconds of everything else
FEW = {  # of which everything is computed
    ("layers", "SIREN (sines)"),  # an expansion that does not converge, which no shape tells
    ("layers", "MLP"),
    ("attention", "causal mask by -inf"),
    ("norms", "layer norm, Linen"),
    ("products", "SwiGLU"),
}


@pytest.fixture(scope="module")
def table():
    return recorded()


@pytest.fixture
def quick():
    """Little optimised: a program runs once."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.standard_dtypes
@pytest.mark.parametrize(("group", "name"), NAMES, ids=[f"{group}: {name}" for group, name in NAMES])
def test_every_cell_is_exact_or_refused_as_the_table_says(group, name, table, quick, monkeypatch):
    known, whole = table[group][name], (group, name) in FEW
    assert list(known) == list(COLUMNS)
    columns = [c for c in COLUMNS if whole or c in CHEAP or known[c] not in (EXACT, OFFERED)]
    with as_users_write(monkeypatch):
        found = row(MODELS[group][name](), whole, columns)
    for column, outcome in found.items():
        same = outcome == known[column] or {outcome, known[column]} == {EXACT, OFFERED}
        assert same, f"{column}: {outcome}\nin the table: {known[column]}\nRun `{COMMAND} '{group}: {name}'`."


def test_the_table_has_the_models_there_are(table):
    assert [(group, name) for group, models in table.items() for name in models] == NAMES


def test_the_page_is_that_of_the_table(table):
    assert PAGE.read_text(encoding="utf-8") == page(table), f"run `{COMMAND}`"
