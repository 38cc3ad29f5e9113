"""Which compressor the store uses: size and speed on the activations of a real network."""

import numpy as np
import pytest
import zarr
from measuring import MIB, report, seconds
from zarr.codecs import BloscCodec

import mlem_xr as mx
from mlem_xr.cli.demo import MODEL, demo_weights
from mlem_xr.store.grid import COMPRESSOR

CODECS = {
    "none": None,
    **{
        f"{name}-{level} {shuffle}": BloscCodec(cname=name, clevel=level, shuffle=shuffle)
        for name, levels in (("lz4", (1, 5)), ("zstd", (1, 3, 9)))
        for level in levels
        for shuffle in ("noshuffle", "shuffle", "bitshuffle")
    },
}


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """(layer, sentence, unit) of a real network, every pooling a layer."""
    path = tmp_path_factory.mktemp("compression") / "minilm.zarr"
    mx.record(
        mx.read_stimuli("short_sentence"), path, model=MODEL, source=demo_weights(), progress=False
    )
    values = mx.open_store(path)["activation"].values
    return values.reshape(-1, *values.shape[-2:])


@pytest.mark.benchmark
def test_compressors_on_real_activations(layers, tmp_path):
    assert COMPRESSOR in CODECS.values()
    for i, (name, codec) in enumerate(CODECS.items()):
        array = zarr.create_array(
            tmp_path / f"{i}.zarr",
            shape=layers.shape,
            chunks=(1, *layers.shape[1:]),
            dtype=np.float32,
            compressors=codec,
        )

        def write(array=array):
            array[:] = layers

        _, write_time = seconds(write, repeats=3)
        read, read_time = seconds(lambda array=array: array[:], repeats=3)
        np.testing.assert_array_equal(read, layers)
        size = array.nbytes_stored()
        report(
            f"{name:18} {size / layers.nbytes:6.1%} of {layers.nbytes / MIB:.0f} MiB; "
            f"write {layers.nbytes / MIB / write_time:5.0f} MiB/s, "
            f"read {layers.nbytes / MIB / read_time:5.0f} MiB/s"
            + (" <- the store's" if codec == COMPRESSOR else "")
        )
