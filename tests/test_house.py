"""The order of the house: rooms import downward and through faces; what a face shows is documented."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

import npk

ROOT = Path(__file__).parent.parent

# From the ground up: a room imports only from rooms before it.
ORDER = (
    "programs",
    "folders",
    "data",
    "loading",
    "gating",
    "solving",
    "tiles",
    "tangent_kernels",
    "paths",
    "path_kernels",
    "readings",
    "regions",
    "sketches",
    "infinite",
    "networks",
    "training",
    "plots",
    "tracking",
    "studies",
    "cli",
    "__main__",
)


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(p): p for folder in ("npk", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}
MODULES = [module for module in TREES if module.startswith("npk.")]
FACES = [module for module in MODULES if FILES[module].name == "__init__.py"]


def room(module):
    return module.split(".")[1]


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


def test_the_order_names_every_room():
    assert {room(module) for module in MODULES} == set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_rooms_import_downward(module):
    for other in own_imports(module):
        if other == "npk":
            assert room(module) == "cli", f"{module} imports the roof"
        else:
            assert ORDER.index(room(other)) <= ORDER.index(room(module)), f"{module} imports {other}"


def test_no_import_cycles():
    graph = {module: [other for other in own_imports(module) if other != "npk"] for module in MODULES}
    done, path = set(), []

    def visit(module):
        assert module not in path, f"import cycle: {' -> '.join([*path, module])}"
        if module not in done:
            path.append(module)
            for other in graph[module]:
                visit(other)
            done.add(path.pop())

    for module in graph:
        visit(module)


@pytest.mark.parametrize("module", [module for module in TREES if module != "npk"])
def test_nothing_is_imported_past_a_face(module):
    """But the faces of the engines, of which each says what it covers, may be asked for by name."""
    for other in own_imports(module):
        if other.startswith("npk.path_kernels.engines"):
            own = module == "npk.path_kernels.engines" or other.split(".")[:4] == module.split(".")[:4]
            assert own or other in FACES, f"{module} imports {other}"
        elif not (module.startswith("npk.") and other != "npk" and room(other) == room(module)):
            assert len(other.split(".")) <= 2, f"{module} imports {other}, past the face of its room"


@pytest.mark.parametrize("face", FACES)
def test_a_face_only_shows_and_says_how_to_begin(face):
    """Its `__all__` is for users, each name documented; further names are for the rooms above."""
    body = TREES[face].body[1:]
    shown = {alias.asname: alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert all(name == source for name, source in shown.items()), "write `name as name`"
    assert all(isinstance(node, ast.ImportFrom) or ast.unparse(node).startswith("__all__") for node in body)
    assert len((ast.get_docstring(TREES[face]) or "").splitlines()) >= (5 if face.count(".") == 1 else 1)
    __import__(face)
    listed = getattr(sys.modules[face], "__all__", [])
    assert listed == sorted(listed) and set(listed) <= set(shown)
    inside = {m.removeprefix(f"{face}.") for m in MODULES}
    functions = {name for name in shown if inspect.isroutine(getattr(sys.modules[face], name))}
    assert not inside & functions and room(face) not in functions, "a module and a function of one name"


@pytest.mark.parametrize("module", MODULES)
def test_only_public_jax_and_no_postponed_annotations(module):
    tree = TREES[module]
    assert ast.get_docstring(tree)
    names = [name for name in imported(tree)]
    assert not [name for name in names if name.startswith(("jax._", "jaxlib._", "flax._", "optax._"))]
    assert not [name for name in names if name.startswith("__future__")], "jaxtyping needs evaluated annotations"
    dotted = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert not [name for name in dotted if re.match(r"jax\._[a-z]", name) or "._src" in name]


@pytest.mark.parametrize("module", MODULES)
def test_own_modules_are_imported_at_the_top(module):
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("npk"):
            assert node in TREES[module].body, f"line {node.lineno}: only optional dependencies are imported late"


def test_only_preparing_imports_tensorflow():
    users = {module for module, tree in TREES.items() if any(n.split(".")[0] == "tensorflow" for n in imported(tree))}
    assert users == {"npk.data.preparing"}


def public():
    """Every public name once, by where users write it first."""
    places = [("npk", npk), *((f"npk.{name}", getattr(npk, name)) for name in sorted(npk._ROOMS))]
    found = {}
    for place, module in places:
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(id(value), pytest.param(value, id=f"{place}.{name}"))
    return list(found.values())


@pytest.mark.parametrize("value", public())
def test_every_public_name_is_documented(value):
    """With an example, its arguments and its result."""
    text = inspect.getdoc(value) or ""
    assert ("Example:" in text and ">>> " in text) or issubclass(value, Exception)
    if inspect.isclass(value):
        for name, method in vars(value).items():
            assert name.startswith("_") or not inspect.isfunction(method) or method.__doc__, name
        return
    signature = inspect.signature(value)
    missing = [name for name in signature.parameters if not re.search(rf"^ +{name}( \(.*\))?: ", text, re.MULTILINE)]
    assert not missing, f"Args lacks {missing}"
    assert "Returns:" in text or signature.return_annotation is None


def test_the_roof_shows_what_there_is_and_loads_a_room_when_it_is_asked_for():
    assert dir(npk) == sorted({*npk.__all__, *npk._ROOMS, "__version__"})
    assert {room(m) for m in MODULES} - set(npk._ROOMS) == {"programs", "folders", "cli", "__main__"}
    program = """
import sys, npk
late = ["npk.plots", "npk.studies", "npk.training", "npk.infinite", "npk.data", "npk.networks"]
late += ["matplotlib", "orbax", "sklearn", "numba", "scipy.stats", "optax", "flax"]
loaded = [name for name in (*late, "jax", "numpy") if name in sys.modules]
assert not loaded, loaded
npk.gates
loaded = [name for name in late if name in sys.modules]
assert not loaded, loaded
assert npk.plots.curves and npk.infinite.nngp
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    typed = {alias.asname: node.module for node in ast.walk(TREES["npk"]) if isinstance(node, ast.ImportFrom)
             for alias in node.names if alias.asname}  # fmt: skip
    assert sorted(typed) == npk.__all__, "what a type checker sees"
    assert all(getattr(npk, name) is getattr(sys.modules[module], name) for name, module in typed.items())
    with pytest.raises(AttributeError, match="no attribute 'kernel'"):
        getattr(npk, "kernel")  # noqa: B009


def test_shapes_are_checked_at_every_call():
    """The hook of conftest.py, which nothing else would miss."""
    with pytest.raises(jaxtyping.TypeCheckError, match="gram"):
        npk.gram(np.zeros(()))


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
