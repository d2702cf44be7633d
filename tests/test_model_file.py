"""A model file is hostile input: with the right digest, it is still one line of error or a usable model."""

from __future__ import annotations

import json
import pickle
import resource
import string
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_save

import toydiffusion as td
from toydiffusion.distributions import ConcentricSquares
from toydiffusion.files import Archive
from toydiffusion.files import archive as archive_module

CONFIG = td.TrainConfig(steps=3, width=8, hidden_layers=1, edges=4, waves=2, held_out=0.1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the archives of a model with labels and of one without, and a folder."""
    folder = tmp_path_factory.mktemp("models")
    x, y = ConcentricSquares(3).sample(60, seed=0)
    archives = []
    for labels in (None, np.array(["a", "b", "c"])[y]):
        path = folder / "m.safetensors"
        td.Diffusion(CONFIG).fit(x, labels, seed=0).save(path)
        archives.append(Archive.read(path, "model"))
    return archives, folder / "fuzzed.safetensors"


def load(path, tensors, metadata) -> td.Diffusion:
    """Write these contents with a digest that fits, and read them back."""
    Archive(tensors, metadata).write(path, "model")
    return td.load(path)


def usable(model: td.Diffusion) -> None:
    """Ask the model everything that a reader of its file would."""
    assert model.card()
    assert repr(model)
    x = model.sample(3, steps=2, sampling=td.SampleConfig())
    assert np.isfinite(x).all()
    assert np.isfinite(model.log_prob(x, max_evaluations=100).value).all()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(string.printable + "\x1b\x00é", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=2),
    max_leaves=6,
)


def places(tree, at=()):
    """Return the position of every value in nested JSON."""
    found = [at] if at else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += places(value, (*at, key))
    return found


def altered_metadata(data, metadata):
    tree = json.loads(json.dumps(metadata))
    *way, last = data.draw(st.sampled_from(places(tree)))
    parent = tree
    for key in way:
        parent = parent[key]
    match data.draw(st.sampled_from(["replace", "remove", "add", "nudge"])):
        case "remove":
            del parent[last]
        case "add" if isinstance(parent, dict):
            parent[data.draw(st.text(string.ascii_letters + "\x1b\n", max_size=6))] = data.draw(JSON)
        case "nudge" if isinstance(parent[last], int | float):
            parent[last] = data.draw(st.sampled_from([0, -1, 10**9, 10**30, 1e308, 1e-320, 2.5, True, 2, 3]))
        case _:
            parent[last] = data.draw(JSON)
    return tree


def altered_tensors(data, tensors):
    found = {name: tensor.clone() for name, tensor in tensors.items()}
    name = data.draw(st.sampled_from(sorted(found)))
    tensor = found[name]
    match data.draw(st.sampled_from(["value", "shape", "type", "remove", "rename", "scale"])):
        case "value" if tensor.numel():
            value = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e300, 1e30, 1e-300]))
            most = torch.finfo(tensor.dtype).max
            place = data.draw(st.integers(0, tensor.numel() - 1))
            tensor.view(-1)[place] = value if not np.isfinite(value) else min(value, most)
        case "shape":
            found[name] = torch.zeros(data.draw(st.lists(st.integers(0, 4), max_size=3)), dtype=tensor.dtype)
        case "type":
            kinds = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]
            found[name] = tensor.to(data.draw(st.sampled_from(kinds)))
        case "rename":
            found[data.draw(st.text(string.ascii_letters + "\x1b", max_size=6))] = found.pop(name)
        case "scale":
            found[name] = tensor * data.draw(st.sampled_from([0.0, -1.0, 1e20, 1e-20]))
        case _:
            del found[name]
    return found


def try_one(data, saved) -> None:
    archives, path = saved
    archive = data.draw(st.sampled_from(archives))
    metadata, tensors = dict(archive.metadata), dict(archive.tensors)
    if data.draw(st.booleans()):
        metadata = altered_metadata(data, metadata)
    else:
        tensors = altered_tensors(data, tensors)
    try:
        model = load(path, tensors, metadata)
    except td.InputError as error:
        text = str(error)
        assert "fuzzed.safetensors" in text
        assert "\n" not in text
        assert text.isprintable()
        return
    try:
        usable(model)
    except td.InputError as problem:  # a point so far away, say, that it cannot be computed with
        text = str(problem)
        assert "\n" not in text


def fuzz(cases: int):
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]

    @settings(max_examples=cases, deadline=None, suppress_health_check=quiet, derandomize=True, database=None)
    @given(data=st.data())
    def run(saved, data) -> None:
        try_one(data, saved)

    return run


@pytest.mark.filterwarnings("ignore::toydiffusion.ToleranceWarning")
def test_fifty_hostile_files(saved) -> None:
    fuzz(50)(saved)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::toydiffusion.ToleranceWarning")
def test_a_thousand_hostile_files(saved) -> None:
    fuzz(1000)(saved)


# Single cases, each with the words -------------------------------------------------------------------------


def test_a_file_of_an_earlier_version_has_sharp_edges_and_the_solver_of_today(saved, tmp_path) -> None:
    (_, archive), _ = saved
    tensors = {k: v for k, v in archive.tensors.items() if k != "network.edge_softness"}
    sampling = {**archive.metadata["sampling"], "solver": "adams-bashforth"}
    model = load(tmp_path / "m.safetensors", tensors, {**archive.metadata, "sampling": sampling})
    assert model.denoiser.edge_softness.tolist() == [0.0] * CONFIG.edges
    assert model.sampling.solver == "adams"
    usable(model)


def changed(metadata, **fields):
    return {**metadata, "config": {**metadata["config"], **fields}}


CASES = {
    "width of a billion": (lambda m, t: (changed(m, width=10**9), t), "width must be a whole number"),
    "more weights than memory": (
        lambda m, t: (changed(m, width=100_000, hidden_layers=100), t),
        "more than 100,000,000 weights",
    ),
    "another width": (lambda m, t: (changed(m, width=9), t), r"must have shape \(9,"),
    "a NaN weight": (
        lambda m, t: (m, {**t, "network.edge_offset": t["network.edge_offset"] * np.nan}),
        "'network.edge_offset' has numbers that are not finite",
    ),
    "huge weights": (
        lambda m, t: (m, {**t, "network.weights.1": t["network.weights.1"] + 1e30}),
        "its network does not denoise",
    ),
    "a missing tensor": (
        lambda m, t: (m, {k: v for k, v in t.items() if k != "moments.means"}),
        "lack 'moments.means'",
    ),
    "an unknown setting": (lambda m, t: (changed(m, depth=2), t), "unknown 'depth'"),
    "classes out of order": (lambda m, t: ({**m, "classes": ["b", "a", "c"]}, t), "ascending order"),
    "a covariance that is none": (
        lambda m, t: (m, {**t, "moments.covariances": -t["moments.covariances"]}),
        "covariance",
    ),
    "escape codes in a name": (
        lambda m, t: ({**m, "columns": ["\x1b[2J", "\x1b[2J"]}, t),
        "two columns have the same name",
    ),
    "no object": (lambda m, t: ({**m, "sampling": [1]}, t), "SampleConfig is not an object"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_bad_file_is_told(saved, name) -> None:
    archives, path = saved
    alter, words = CASES[name]
    metadata, tensors = alter(dict(archives[1].metadata), dict(archives[1].tensors))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(td.InputError, match=words) as found:
        load(path, tensors, metadata)
    assert str(found.value).isprintable()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


class Payload:
    """An object whose pickle creates a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_is_refused_and_not_run(tmp_path, write) -> None:
    path = tmp_path / "m.safetensors"
    write(Payload(tmp_path / "ran"), path)
    with pytest.raises(td.InputError, match="is not a model file"):
        td.load(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # so it would have run


def test_names_with_escape_codes_are_shown_escaped(saved, capsys) -> None:
    from toydiffusion.cli import main

    archives, path = saved
    metadata = {**archives[0].metadata, "columns": ["\x1b[2J\n", "ok"]}
    Archive(archives[0].tensors, metadata).write(path, "model")
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"\x1b[2J\n, ok" in shown


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 5000 + "1" + "}" * 5000,
        '{"a":' * 9 + "1" + "}" * 9,
        "NaN",
        '{"config": Infinity}',
        "7",
        "",
    ],
    ids=["deep list", "deep object", "nine objects", "NaN", "Infinity", "number", "nothing"],
)
def test_metadata_that_is_no_object(saved, text) -> None:
    archives, path = saved
    tensors = dict(archives[0].tensors)
    digest = archive_module._digest("model", archive_module.FORMAT, text, tensors)
    stamp = {"kind": "model", "format": archive_module.FORMAT, "digest": digest, "metadata": text}
    for entry in (json.dumps(stamp), text):
        path.write_bytes(safetensors_save(tensors, metadata={"toydiffusion": entry}))
        with pytest.raises(td.InputError, match="was altered after it was saved") as found:
            td.load(path)
        assert "\n" not in str(found.value)


def test_kind_and_format_are_part_of_the_digest(saved) -> None:
    archives, path = saved
    Archive(archives[0].tensors, archives[0].metadata).write(path, "checkpoint")
    content = path.read_bytes()
    assert b'\\"kind\\": \\"checkpoint\\"' in content
    header = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + header].replace(b'\\"kind\\": \\"checkpoint\\"', b'\\"kind\\": \\"model\\"')
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + header :])
    with pytest.raises(td.InputError, match="do not match its digest"):
        td.load(path)
