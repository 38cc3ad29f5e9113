"""Devices of a network: one, or several for its parts."""

import json

import numpy as np
import pytest
import torch
import transformers

import mlem_xr as mx
import networks
from helpers import refuse
from mlem_xr.networks import recording
from mlem_xr.schema import InputError

torch.set_num_threads(1)

HALF_ON_DISK = {
    "embeddings": "cpu",
    "encoder.layer.0": "disk",
    "encoder.layer.1": "cpu",
    "pooler": "disk",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return networks.save_bert(tmp_path_factory.mktemp("networks") / "net")


@pytest.fixture
def record(tmp_path):
    def quietly(folder, *, store=tmp_path / "store.zarr", **options):
        stimuli = networks.stimuli()
        mx.record(stimuli, store, model="net", source=folder, progress=False, **options)
        return mx.open_store(store).squeeze(["model", "seed", "step"])

    return quietly


@pytest.mark.parametrize(
    ("device_map", "named"),
    [(HALF_ON_DISK, HALF_ON_DISK), ({"": "cpu"}, {"": "cpu"}), ("auto", {"": "cpu"})],
)
def test_a_network_in_parts_gives_what_it_gives_as_a_whole(
    folder, record, tmp_path, device_map, named
):
    expected = record(folder, store=tmp_path / "whole.zarr")
    found = record(folder, device_map=device_map)
    assert found["fingerprint"] == expected["fingerprint"]
    assert json.loads(found["provenance"].item())["device"] == named
    assert json.loads(expected["provenance"].item())["device"] == "cpu"
    # What lay on the disk is gone.
    assert sorted(path.suffix for path in tmp_path.iterdir() if "lock" not in path.name) == [
        ".zarr",
        ".zarr",
    ]


def test_outputs_of_modules_on_the_disk_are_recorded(folder, record, tmp_path):
    module = "encoder.layer.{layer}.attention.output.dense"
    expected = record(folder, module=module, store=tmp_path / "whole.zarr")
    found = record(folder, module=module, device_map=HALF_ON_DISK)
    np.testing.assert_array_equal(found["activation"], expected["activation"])


def test_weights_that_are_not_needed_may_lack_on_the_disk_too(record, tmp_path):
    """A BERT of masked words has no pooler."""
    config = transformers.BertConfig.from_pretrained(networks.save_bert(tmp_path / "net"))
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "net")
    expected = record(tmp_path / "net", store=tmp_path / "whole.zarr")
    assert (
        record(tmp_path / "net", device_map=HALF_ON_DISK)["fingerprint"] == expected["fingerprint"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "cpu"}, "device_map: found 'cpu'; expected 'auto' or a mapping"),
        ({"device_map": {}}, "device_map: found {}; expected 'auto' or a mapping"),
        ({"device_map": {"encoder": None}}, "device_map: found {'encoder': None}; expected"),
        ({"device_map": {"": "disk"}}, "device_map: found 'disk' alone; expected a device"),
        ({"device_map": {0: "cpu"}}, "device_map: found {0: 'cpu'}; expected"),
        ({"device_map": "auto", "device": "cpu"}, "device_map: found it beside device='cpu'"),
    ],
)
def test_what_is_no_map_is_refused_at_once(folder, record, monkeypatch, options, message):
    monkeypatch.setattr(recording, "_record_one", refuse)
    with pytest.raises(InputError, match=f"^{message}"):
        record(folder, **options)


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        (
            {"embeddings": "cpu", "encoder": "cpu", "polar": "cpu"},
            "no part 'polar' in BertModel; expected a device for each of 'embeddings', 'encoder', "
            "'pooler', or for the parts of these",
        ),
        (
            {"embeddings": "cpu", "encoder.layer.1": "cpu", "pooler": "cpu"},
            r"no device for 'encoder\.layer\.0\.[a-zA-Z.]*' in BertModel",
        ),
        ({"embeddings": "abacus", "encoder": "cpu"}, "'abacus' cannot be used"),
        ({"embeddings": 7, "encoder": "cpu"}, "7 cannot be used"),
    ],
)
def test_a_map_that_does_not_fit_is_refused_and_nothing_is_written(
    folder, record, tmp_path, device_map, message
):
    with pytest.raises(InputError, match=f"^device_map: {message}"):
        record(folder, device_map=device_map)
    assert not (tmp_path / "store.zarr").exists()
