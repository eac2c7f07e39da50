"""The order of the house: who may import whom, what is public is documented, nothing private leaks."""

import ast
import re
import tomllib
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

import npk

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "npk"

# A room imports only from strictly lower floors. Tens are the floors of the design; its private parts lie between.
FLOORS = {
    "_jaxpr": 0,
    "_convolutions": 2,
    "_duals": 0,
    "_terms": 0,
    "_term_sums": 2,
    "_affine": 2,
    "_run_folder": 1,
    "_pair_blocks": 0,
    "_neural_tangents": 4,
    "_neural_tangents_linearize": 2,
    "_terminal": 0,
    "networks": 0,
    "_dataset": 0,
    "_prepared": 2,
    "synthetic": 2,
    "_own_builders": 4,
    "datasets": 5,
    "preparing": 5,
    "_checks": 5,
    "_activations": 5,
    "_walk": 5,
    "_tangent_factors": 5,
    "_tangent_uses": 6,
    "_tangent_checks": 12,
    "gating": 10,
    "_tangent_derivatives": 12,
    "_coordinates": 10,
    "_moving_rules": 7,
    "_path_rules": 8,
    "_second_moment": 10,
    "_wide_limit": 10,
    "_wide_moments": 12,
    "_wide_pairs": 14,
    "_engines": 10,
    "_cholesky": 0,
    "_machine": 0,
    "_accumulate": 1,
    "_operator_checks": 0,
    "_block_cg": 0,
    "_preconditioner": 0,
    "_lanczos": 0,
    "_passes": 2,
    "_krylov": 4,
    "operators": 10,
    "_batch_blocks": 0,
    "_dense_solve": 12,
    "_solved": 13,
    "low_rank": 12,
    "spectra": 12,
    "solving": 15,
    "_path_network": 15,
    "measures": 10,
    "regression": 10,
    "gradient_flow": 10,
    "_tile_plan": 5,
    "_tile_progress": 0,
    "_tile_memory": 6,
    "_tile_store": 6,
    "_tile_devices": 6,
    "_stored_kernel": 8,
    "_tile_filling": 9,
    "tiles": 10,
    "_plot_style": 0,
    "plots": 10,
    "gated_networks": 20,
    "paths": 20,
    "path_kernel": 20,
    "tangent": 20,
    "_sign_draws": 12,
    "kernel_sketch": 10,
    "sketch": 20,
    "infinite": 20,
    "scaling": 25,
    "_seeds": 2,
    "_loops": 4,
    "initialisation": 0,
    "checkpoints": 0,
    "regimes": 25,
    "training": 30,
    "regime_training": 30,
    "_study_regimes": 35,
    "study": 40,
    "_published": 35,
    "reproduce": 40,
    "_comparison_widths": 35,
    "_comparison_regression": 35,
    "_comparison_flow": 37,
    "comparison": 40,
    "_comparison_plots": 42,
    "_page": 42,
    "report": 50,
    "comparison_report": 50,
    "cli_data": 55,
    "cli_compare": 55,
    "cli_reproduce": 55,
    "cli": 60,
    "__main__": 70,
}
# The proof that the core needs no hook in a model, and that numbers and figures know no kernel.
ALONE = ("networks", "_dataset", "measures", "gradient_flow", "_plot_style")
# Data know data, and nothing else.
DATA = ("_dataset", "_prepared", "synthetic", "_own_builders", "datasets", "preparing")
# Flags, whose documentation is their help.
UNDOCUMENTED = ("cli", "cli_compare", "cli_data", "cli_reproduce", "__main__")

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def room(module):
    """The room of a module: `npk._engines.packed` is in `_engines`; `npk` itself is the roof."""
    return module.split(".")[1] if "." in module else "__init__"


def imported(tree):
    """The modules that a tree imports, as far as they are modules of npk; else the names as written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in TREES or not (node.module or "").startswith("npk") else node.module


def own_imports(module):
    return sorted({name for name in imported(TREES[module]) if name.split(".")[0] == "npk"})


def exports():
    """Module → the names of it that `npk` re-exports: of such a module, nothing else is public."""
    found = {}
    for node in TREES["npk"].body:
        if isinstance(node, ast.ImportFrom):
            found.setdefault(node.module, set()).update(alias.name for alias in node.names)
    return found


def public_definitions():
    exported = exports()
    for module, tree in TREES.items():
        if any(part.startswith("_") for part in module.split(".")) or room(module) in UNDOCUMENTED:
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if node.name in exported.get(module, {node.name}):
                    yield pytest.param(node, id=f"{module}.{node.name}")


def test_every_room_has_a_floor():
    missing = {room(module) for module in TREES} - set(FLOORS) - {"__init__"}
    assert not missing, f"give {sorted(missing)} a floor"


@pytest.mark.parametrize("module", [m for m in TREES if m != "npk"])
def test_imports_go_down(module):
    for other in own_imports(module):
        if other == "npk":
            assert room(module) in ("cli", "__main__"), f"{module} imports the roof"
        elif room(other) != room(module):
            above = FLOORS[room(other)] >= FLOORS[room(module)]
            assert not above, f"{module} (floor {FLOORS[room(module)]}) imports {other} ({FLOORS[room(other)]})"


@pytest.mark.parametrize("name", ALONE)
def test_plain_rooms_import_no_other(name):
    assert own_imports(f"npk.{name}") == []


def test_regression_knows_linear_algebra_and_no_kernel():
    assert own_imports("npk.regression") == ["npk._cholesky"]


def test_plots_know_their_style_and_no_kernel():
    assert own_imports("npk.plots") == ["npk._plot_style"]


@pytest.mark.parametrize("name", DATA)
def test_data_rooms_import_only_data_rooms(name):
    assert {room(other) for other in own_imports(f"npk.{name}")} <= set(DATA)


def test_only_preparing_imports_tensorflow():
    users = {module for module, tree in TREES.items() if any(n.split(".")[0] == "tensorflow" for n in imported(tree))}
    assert users == {"npk.preparing"}


def test_no_import_cycles():
    graph = {module: [other for other in own_imports(module) if other != "npk"] for module in TREES}
    done, path = set(), []

    def visit(module):
        assert module not in path, f"import cycle: {' -> '.join([*path, module])}"
        if module not in done:
            path.append(module)
            for other in graph.get(module, ()):
                visit(other)
            done.add(path.pop())

    for module in graph:
        visit(module)


@pytest.mark.parametrize("module", TREES)
def test_only_public_jax_and_no_postponed_annotations(module):
    tree = TREES[module]
    names = [name for name in imported(tree)]
    assert not [name for name in names if name.startswith(("jax._", "jaxlib._", "flax._", "optax._"))]
    assert not [name for name in names if name.startswith("__future__")], "jaxtyping needs evaluated annotations"
    dotted = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert not [name for name in dotted if re.match(r"jax\._[a-z]", name) or "._src" in name]


def test_shapes_are_checked_at_every_call():
    """The hook of conftest.py, which nothing else would miss."""
    with pytest.raises(jaxtyping.TypeCheckError, match="gram"):
        npk.gram(np.zeros(()))


@pytest.mark.parametrize("module", TREES)
def test_own_modules_are_imported_at_the_top(module):
    tree = TREES[module]
    top = {node for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("npk"):
            assert node in top, f"line {node.lineno}: only optional dependencies are imported late"


def test_the_roof_only_re_exports():
    for node in TREES["npk"].body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname is not None, f"write `{alias.name} as {alias.name}`"
        else:
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef)


@pytest.mark.parametrize("module", TREES)
def test_every_module_says_what_it_is(module):
    assert ast.get_docstring(TREES[module])


@pytest.mark.parametrize("node", list(public_definitions()))
def test_every_public_name_is_documented_with_an_example(node):
    text = ast.get_docstring(node) or ""
    assert "Example:" in text and ">>> " in text
    if isinstance(node, ast.ClassDef):
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                assert ast.get_docstring(method), f"{node.name}.{method.name}"


@pytest.mark.parametrize("node", list(public_definitions()))
def test_every_public_function_names_its_arguments_and_its_result(node):
    for function in [node] if isinstance(node, ast.FunctionDef) else []:
        text = ast.get_docstring(function) or ""
        arguments = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
        missing = [name for name in arguments if not re.search(rf"^    {name}( \(.*\))?: ", text, re.MULTILINE)]
        assert not missing, f"Args lacks {missing}"
        assert not arguments or "Args:" in text
        assert "Returns:" in text or ast.unparse(function.returns or ast.Constant(None)) == "None"


def test_every_exported_name_is_documented():
    import npk

    for name in (alias.asname for n in TREES["npk"].body if isinstance(n, ast.ImportFrom) for alias in n.names):
        assert getattr(npk, name).__doc__, name


def requirement_name(text):
    return re.match(r"[A-Za-z0-9_.\-]+", text).group().lower().replace("_", "-")


def test_constraints_pin_every_dependency_and_name_no_host():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {requirement_name(line) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(text for extra in extras.values() for text in extra)]
    assert {requirement_name(text) for text in wanted} - {"npk"} <= pinned


def test_no_file_names_a_place_on_one_machine():
    suffixes = {".py", ".toml", ".md", ".txt", ".ipynb", ".json", ".html"}
    here = re.compile(r"(?<![\w.])/(?:root|tmp|work|home)/\w")
    for folder in ("npk", "tests", "benchmarks", "notebooks", "."):
        for path in (ROOT / folder).glob("*" if folder == "." else "**/*"):
            if path.suffix in suffixes and path.is_file():
                assert not here.search(path.read_text(encoding="utf-8")), path
