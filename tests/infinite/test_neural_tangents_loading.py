"""neural-tangents on current JAX is loaded with `jax` left as it is, and says what it lacks."""

import doctest
import importlib.metadata
import importlib.util
import subprocess
import sys
import types

import jax
import jax.core
import pytest
from jax.extend import core as jex_core

import npk
import npk.infinite
from npk.infinite.loader import loading

installed = importlib.util.find_spec("neural_tangents") is not None
needs_it = pytest.mark.skipif(not installed, reason="neural-tangents is not installed (pip install --no-deps)")
# Its own remarks: on layers it cannot check, and of a primitive without a rule of its own (which it then derives).
pytestmark = pytest.mark.filterwarnings("ignore:.*FanIn. layers assume", "ignore:No Jacobian rule found")

LOADING = """
import sys, threading, types
import jax, jax.core, jax.extend.core, jax.interpreters.ad, jax.numpy
import jax.example_libraries.stax, jax.experimental.ode, jax.scipy.special
import npk.infinite

names = ("", ".core", ".extend", ".extend.core", ".interpreters", ".interpreters.ad", ".lax", ".numpy", ".tree_util")
modules = [sys.modules["jax" + name] for name in names]
state = lambda: [{name: id(value) for name, value in vars(module).items()} for module in modules]
sys.modules["neural_tangents._src"] = types.ModuleType("neural_tangents._src")  # left by an import that failed
before, finders, importer = state(), list(sys.meta_path), __import__

found = []
threads = [threading.Thread(target=lambda: found.append(npk.infinite.neural_tangents())) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
import neural_tangents
import neural_tangents.stax as stax
assert len(found) == 4 and all(module is neural_tangents for module in found)

assert state() == before, "jax has changed"
assert sys.meta_path == finders and __import__ is importer
assert not {"tensorflow", "tf2jax"} & set(sys.modules)
_, _, kernel = stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1))
x = jax.numpy.eye(4)
assert jax.device_count() == 2
gap = abs(neural_tangents.batch(kernel, 1)(x, None, "ntk") - kernel(x, None, "ntk")).max()
assert gap < 1e-6, gap
"""


def python(script):
    """A Python of its own, in which nothing has been imported yet, with two devices."""
    environment = {
        "PYTHONPATH": ":".join(filter(None, sys.path)),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    environment |= {"JAX_PLATFORMS": "cpu", "PATH": ""}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@needs_it
def test_loading_changes_nothing_for_others():
    python(LOADING)


def test_it_stands_in_for_modules_name_by_name():
    stand_ins = loading._stand_ins()
    assert stand_ins["jax"].scipy is jax.scipy
    assert stand_ins["jax.core"].Tracer is jax.core.Tracer
    assert stand_ins["jax.core"].Jaxpr is jex_core.Jaxpr
    with pytest.raises(AttributeError):
        stand_ins["jax"].no_such_name  # noqa: B018


@needs_it
@pytest.mark.parametrize(
    "use",
    [
        "npk.infinite.neural_tangents().experimental.empirical_ntk_fn_tf",
        "from neural_tangents.experimental import empirical_ntk_fn_tf",
        "import neural_tangents.experimental.empirical_tf",
    ],
)
def test_the_tensorflow_part_says_what_it_lacks(use):
    npk.infinite.neural_tangents()
    with pytest.raises(ImportError, match="needs TensorFlow and tf2jax, which npk never imports"):
        exec(use, {"npk": npk})


def test_what_python_asks_of_modules_the_tensorflow_part_answers():
    module = loading._WithoutTensorFlow("neural_tangents.experimental")
    assert not hasattr(module, "__wrapped__")


@pytest.fixture
def unloaded(monkeypatch):
    """As before the first call."""
    monkeypatch.setattr(loading, "_loaded", [])
    for name in [name for name in sys.modules if name.split(".")[0] == "neural_tangents"]:
        monkeypatch.delitem(sys.modules, name)
    return monkeypatch


def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    "place, found, message",
    [
        (
            "importlib.metadata.version",
            missing,
            r"pip install 'npk\[infinite\]'.*pip install --no-deps neural-tangents",
        ),
        ("importlib.metadata.version", lambda name: "0.7.0", "npk knows neural-tangents 0.6.5 alone, found 0.7.0"),
    ],
    ids=["absent", "another release"],
)
def test_what_is_not_installed_is_explained(unloaded, place, found, message):
    unloaded.setattr(place, found)
    with pytest.raises(ImportError, match=message):
        npk.infinite.neural_tangents()
    assert "neural_tangents" not in sys.modules


def test_a_missing_requirement_is_explained(unloaded):
    unloaded.setattr("importlib.metadata.version", lambda name: "0.6.5")
    unloaded.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs frozendict, which is not installed: pip install"):
        npk.infinite.neural_tangents()


def test_an_import_by_other_means_is_left_alone_and_explained(unloaded):
    other = types.ModuleType("neural_tangents")
    unloaded.setitem(sys.modules, "neural_tangents", other)
    with pytest.raises(ImportError, match="imported by other means.*npk.infinite.neural_tangents"):
        npk.infinite.neural_tangents()
    assert sys.modules["neural_tangents"] is other


@needs_it
def test_a_jax_that_lacks_more_is_named(unloaded):
    stand_ins = loading._stand_ins() | {"jax.core": types.ModuleType("jax.core")}
    unloaded.setattr(loading, "_stand_ins", lambda: stand_ins)
    finders = list(sys.meta_path)
    with pytest.raises(ImportError, match=f"does not load on jax {jax.__version__}: cannot import name"):
        npk.infinite.neural_tangents()
    assert sys.meta_path == finders
    assert not [name for name in sys.modules if name.split(".")[0] == "neural_tangents"]


@needs_it
def test_the_documented_example_runs():
    text = npk.infinite.neural_tangents.__doc__.replace("# doctest: +SKIP", "")
    example = doctest.DocTestParser().get_doctest(text, {}, "neural_tangents", None, None)
    assert len(example.examples) == 4
    with jax.numpy_rank_promotion("allow"):
        assert doctest.DocTestRunner().run(example).failed == 0
