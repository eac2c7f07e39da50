"""`npk verify`: what any folder is, of what, whether every byte is as it was written, and what can be given back."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from npk.cli import app
from npk.data import load
from npk.folders import read_json, write_json
from npk.studies import CompareConfig, Scale, StudyConfig, reproduce, run_comparison, run_study, verify
from npk.tiles import open_kernel, stored
from npk.training import Network, RegimeConfig, train_regime

pytestmark = pytest.mark.standard_dtypes

X = np.random.default_rng(0).integers(-3, 4, (7, 2)).astype(np.float32)
COMPARE = CompareConfig(
    depth=2, widths=(8, 16), seeds=2, inputs=6, samples=40, test_samples=20, gates_width=8, gates_seeds=1, epochs=2,
    flow_width=8, flow_samples=10, flow_steps=5,
)  # fmt: skip


def gram(a, b):
    return {"k": a @ b.T, "twice": 2 * (a @ b.T)}


def linear(p, x):
    return jnp.maximum(x.reshape(len(x), -1) @ p["w"], 0) @ p["v"]


def make_store(folder):
    stored(gram, folder, tile=3)(X)


def make_study(folder):
    run_study(StudyConfig(width=6, depth=2, epochs=1, samples=12, test_samples=12, stages=2, regimes=False), folder)


def make_comparison(folder):
    run_comparison(COMPARE, folder)


def make_checkpoints(folder):
    def init(key, x):
        return {"w": jnp.ones((64, 4)), "v": jnp.ones((4, 10))}

    config = RegimeConfig("ReLU", epochs=2, batch_size=500)
    train_regime(Network(linear, init), config, load("digits"), checkpoints=folder)


KINDS = {
    "a stored kernel": (make_store, "k/c.1.0"),
    "a study": (make_study, "kernels/stage-1.npz"),
    "a comparison": (make_comparison, "limits.npz"),
    "checkpoints of a training run": (make_checkpoints, "2/notes.json"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    for number, (make, _) in enumerate(KINDS.values()):
        make(folder / str(number))
    return {kind: folder / str(number) for number, kind in enumerate(KINDS)}


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_folder_is_told_and_one_flipped_bit_of_it(whole, tmp_path, kind):
    found = verify(whole[kind])
    assert found.kind == kind and found.whole and found.harms == () == found.mended
    assert any("jax" in name for name, _ in found.of), "versions are told"
    folder = shutil.copytree(whole[kind], tmp_path / "k")
    path = folder / KINDS[kind][1]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    before = files(folder)
    harmed = verify(folder)
    assert not harmed.whole and harmed.advice and harmed.kind == kind
    assert files(folder) == before, "looking changes nothing"
    path.unlink()
    assert not verify(folder).whole


@pytest.mark.parametrize("kind", ["a study", "a comparison"])
@pytest.mark.parametrize("harm", ["lost", "unfinished"])
def test_what_seed_and_configuration_determine_is_given_back(whole, tmp_path, kind, harm):
    folder = shutil.copytree(whole[kind], tmp_path / "k")
    before = files(folder)
    if harm == "lost":
        (folder / KINDS[kind][1]).unlink()
    else:
        (name,) = (p for p in folder.glob("*.json"))
        part = "flow" if kind == "a comparison" else "stages"
        write_json(name, {**(content := read_json(name)), part: content[part][:1], "finished": False})
    found = verify(folder, repair=True)
    assert found.whole and len(found.mended) == 1 and verify(folder).whole
    assert {k: v for k, v in files(folder).items() if k.endswith("npz")} == {
        k: v for k, v in before.items() if k.endswith("npz")
    }


def test_a_damaged_checkpoint_is_removed_where_one_before_it_is_whole(whole, tmp_path):
    folder = shutil.copytree(whole["checkpoints of a training run"], tmp_path / "k")
    (folder / "2" / "manifest.json").write_text("{}")
    (mended,) = verify(folder, repair=True).mended
    assert "step 2 is damaged: manifest.json" in mended and verify(folder).whole and not (folder / "2").exists()
    shutil.rmtree(folder / "1" / "state")
    found = verify(folder, repair=True)
    assert not found.whole and (folder / "1").exists(), "the last one is kept, whatever it is"


@pytest.mark.parametrize("lost", ["zarr.json", "k/zarr.json", "k/tiles.json", "twice/tiles.json"])
@pytest.mark.parametrize("how", ["lost", "cut"])
def test_descriptions_and_lists_of_a_store_are_made_again(whole, tmp_path, lost, how):
    folder = shutil.copytree(whole["a stored kernel"], tmp_path / "k")
    before = files(folder)
    (folder / lost).unlink() if how == "lost" else (folder / lost).write_bytes(before[lost][:100])
    harmed = verify(folder)
    assert not harmed.whole and any(lost in sentence for sentence in harmed.harms)
    found = verify(folder, repair=True)
    assert found.whole and found.mended and files(folder) == before


def test_a_store_of_the_format_before_is_taken_after_a_repair(whole, tmp_path):
    folder = shutil.copytree(whole["a stored kernel"], tmp_path / "k")
    for path in folder.rglob("*.json"):
        if path.name == "tiles.json":
            path.unlink()
            continue
        content = json.loads(path.read_text())
        content["attributes"]["npk"]["format"] = 1
        del content["attributes"]["npk"]["program"]
        path.write_text(json.dumps(content))
    numbers = open_kernel(folder)["twice"].read()
    assert verify(folder).whole, "every byte is as it was written"
    with pytest.raises(ValueError, match="npk verify --repair"):
        make_store(folder)
    assert verify(folder, repair=True).whole and verify(folder).whole
    assert np.array_equal(open_kernel(folder)["twice"].read(), numbers)
    make_store(folder)
    with pytest.raises(ValueError, match="holds other numbers than the kernel gives"):
        stored(lambda a, b: {"k": a @ b.T, "twice": 3 * (a @ b.T)}, folder, tile=3)(X)


def test_a_reproduction_is_finished_by_a_repair(tmp_path):
    reproduce("cob-odt", tmp_path, Scale(share=0.01, seeds=1, dataset="cob_odt_20"))
    assert verify(tmp_path).whole and verify(tmp_path).kind == "a reproduction of cob-odt"
    path = tmp_path / "cob-odt.json"
    content = read_json(path)
    write_json(path, {**content, "rows": content["rows"][:2], "finished": False})
    assert verify(tmp_path).harms == ("It is not finished: 2 rows are done.",)
    assert verify(tmp_path, repair=True).whole and read_json(path)["rows"] == content["rows"]
    path.write_bytes(path.read_bytes()[:50])
    assert not verify(tmp_path).whole


def test_what_is_none_of_ours_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        verify(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileNotFoundError, match="is none of npk's folders"):
        verify(tmp_path, repair=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "notes.txt"]


def test_the_exit_status_says_it(whole, tmp_path):
    folder = shutil.copytree(whole["a study"], tmp_path / "k")

    def run(*words):
        return CliRunner().invoke(app, ["verify", str(folder), *words])

    good = run()
    assert good.exit_code == 0 and "All is there, every byte as it was written." in good.output
    (folder / "parameters.npz").unlink()
    bad = run()
    assert bad.exit_code == 1 and "parameters.npz is missing" in " ".join(bad.output.split())
    assert "npk verify --repair" in bad.output
    mended = run("--repair")
    assert mended.exit_code == 0 and "Mended" in mended.output and run().exit_code == 0
    (folder / "study.json").write_text("[]")
    assert run("--repair").exit_code == 1


def rewritten(path, **parts):
    write_json(path, {**read_json(path), **parts})


STRANGE = {
    "no files": {"files": {}},
    "files that are none": {"files": []},
    "files elsewhere": {"files": {"../../evil.npz": "0" * 64}},
    "files without a checksum": {"files": {"samples.npz": None}},
    "configuration": {"config": []},
    "an unknown field": {"config": {"evil": 1}, "finished": False},
    "a wrong field": {"config": {"width": "wide"}, "finished": False},
    "identity": {"identity": 3},
    "versions": {"versions": "new"},
    "finished": {"finished": "yes"},
    "stages": {"stages": 7},
}


@pytest.mark.parametrize("parts", STRANGE.values(), ids=STRANGE.keys())
def test_what_no_run_says_of_itself_is_told(whole, tmp_path, parts):
    """With the right checksum: nobody's npk wrote it."""
    folder = shutil.copytree(whole["a study"], tmp_path / "k")
    rewritten(folder / "study.json", **parts)
    arrays = {k: v for k, v in files(folder).items() if k.endswith("npz")}
    for repair in (False, True):
        try:
            found = verify(folder, repair=repair)
            assert not found.whole or (repair and found.mended)  # it was computed anew
        except ValueError as error:
            assert str(folder) in str(error) or "must be" in str(error)
        assert {k: v for k, v in files(folder).items() if k.endswith("npz")} == arrays
        rewritten(folder / "study.json", **parts)


def test_links_are_not_written_through(whole, tmp_path):
    for kind, name in (("a study", "kernels"), ("a stored kernel", "twice")):
        folder = shutil.copytree(whole[kind], tmp_path / kind)
        elsewhere = shutil.copytree(folder / name, tmp_path / f"{name}-elsewhere")
        shutil.rmtree(folder / name)
        for file in elsewhere.iterdir():
            file.write_text("mine")
        (folder / name).symlink_to(elsewhere)
        try:
            assert not verify(folder, repair=True).whole
        except ValueError as error:
            assert "is a link" in str(error)
        assert all(file.read_text() == "mine" for file in elsewhere.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["data"].update(one="0" * 64),
        lambda record: record.update(shape=[4, 4]),
        lambda record: record.update(symmetric=False),
        lambda record: record.update(program="0" * 64),
    ],
    ids=["data", "shape", "symmetric", "program"],
)
def test_of_two_descriptions_that_of_the_chunks_counts(whole, tmp_path, change):
    """`zarr.json` has no checksum; the lists beside the chunks have one, and are of these chunks."""
    folder = shutil.copytree(whole["a stored kernel"], tmp_path / "k")
    before = files(folder)
    for path in folder.rglob("zarr.json"):
        content = json.loads(path.read_text())
        record = content["attributes"]["npk"]
        change(record)
        if content["node_type"] == "array":
            content["shape"] = record["shape"]
        path.write_text(json.dumps(content))
    for act in (lambda: open_kernel(folder), lambda: make_store(folder)):
        with pytest.raises(ValueError, match=r"it is noted as another store .*npk verify --repair"):
            act()
    assert not verify(folder).whole
    assert verify(folder, repair=True).whole and files(folder) == before


@pytest.mark.parametrize(
    "parts",
    [
        {"tile": [0, 0]}, {"tile": [2.0, 2.0]}, {"tile": [-1, 2]}, {"shape": ["6", 6]}, {"shape": [6]},
        {"shape": [0, 0]}, {"symmetric": "yes"}, {"shape": [10**6, 10**6], "tile": [1, 1]},
    ],
    ids=str,
)  # fmt: skip
def test_a_store_of_impossible_tiles_is_told(whole, tmp_path, parts):
    folder = shutil.copytree(whole["a stored kernel"], tmp_path / "k")
    content = json.loads((folder / "zarr.json").read_text())
    content["attributes"]["npk"].update(parts)
    (folder / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is none: shape"):
        open_kernel(folder)
    assert not verify(folder).whole and verify(folder, repair=True).whole


@pytest.mark.parametrize("name", ["007", "٧", "9"])
def test_only_steps_are_checkpoints(whole, tmp_path, name):
    folder = shutil.copytree(whole["checkpoints of a training run"], tmp_path / "k")
    (folder / name).mkdir() if name != "9" else (folder / name).write_text("mine")
    assert verify(folder, repair=True).whole and (folder / name).exists()
