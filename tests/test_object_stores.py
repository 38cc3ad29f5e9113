"""A store in an object store is recorded, resumed, analyzed and read as one in a folder."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import boto3
import numpy as np
import obstore
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

import mlem_xr as mx
import networks
from helpers import forty_sentences, layers, save, until, write
from mlem_xr.cli import app
from mlem_xr.schema import InputError
from mlem_xr.store import leases, objects
from mlem_xr.store.activations import is_recorded
from mlem_xr.store.address import store_path
from mlem_xr.store.locks import locked

SERVER = """
from moto.server import create_backend_app
from werkzeug.serving import make_server

# One request after another: moto looks at a condition first and writes then.
server = make_server("127.0.0.1", 0, create_backend_app("s3"))
print(server.port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module", autouse=True)
def server():
    """Run a server that speaks as Amazon S3 does, and name it in the environment."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{process.stdout.readline().strip()}")
        patch.setenv("AWS_ACCESS_KEY_ID", "anybody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield os.environ["AWS_ENDPOINT_URL"]
    process.kill()
    process.wait()
    process.stdout.close()


def small(seed=0):
    """Return activations of two layers, each of which is one chunk and takes some requests."""
    return layers(seed, n_layers=2, pooling=["mean"])


@pytest.fixture
def store(request):
    """Make an empty store."""
    name = f"s3://bucket/{request.node.name}/toy.zarr"
    return mx.create_store(forty_sentences(), name, pooling=["mean"])


def client(store):
    return store_path(store).client


def keys(store, part=""):
    return [str(one) for one in (store_path(store) / part).files()]


def plain(data):
    """Read everything, without what says where or when it was."""
    data = data.load().assign_attrs(store="")
    data.attrs.pop("saved", None)
    return data


@pytest.fixture(scope="module")
def pair(server, tmp_path_factory):
    """Write the same into a folder and into an object store."""
    folder = tmp_path_factory.mktemp("folder") / "toy.zarr"
    stores = [str(folder), "s3://bucket/some folder/toy.zarr"]
    for each in stores:
        mx.create_store(forty_sentences(), each, pooling=["mean"])
        write(each, small(0))
        write(each, small(1)[:, :1, :, :4], model="narrow", seed=1, overwrite=True)
    return stores


def test_all_is_as_in_a_folder(pair, capfd):
    opened = [mx.open_store(store) for store in pair]
    assert [data.attrs["store"] for data in opened] == pair
    xr.testing.assert_identical(*map(plain, opened))
    results = [mx.mds(data, init="classical") for data in opened]
    saved = [mx.save_results(result, progress=False) for result in results]
    found = [mx.open_results(store, "mds", init="classical") for store in pair]
    for both in (saved, found):
        xr.testing.assert_identical(*map(plain, both))
    again = save(results[1])
    assert again == {"skipped": 3, "not recorded": 4}
    lists = [mx.list_results(store).drop(columns="saved") for store in pair]
    assert lists[1].equals(lists[0])
    # Groups too that are made for others to stand in.
    found = {key.partition("toy.zarr/")[2] for key in keys(pair[1]) if key.endswith("zarr.json")}
    files = store_path(pair[0]).rglob("zarr.json")
    assert found == {str(file.relative_to(pair[0])) for file in files}
    assert len(mx.verify_store(pair[1])) == 0
    assert "everything is as it was written" in capfd.readouterr().err
    said = [CliRunner().invoke(app(), ["info", store]).output for store in pair]
    assert said[0].splitlines()[:-1] == said[1].splitlines()[:-1]


def test_it_is_plain_zarr(pair):
    data = zarr.open_group(
        zarr.storage.ObjectStore(client(pair[1])), path="some folder/toy.zarr", mode="r"
    )
    np.testing.assert_array_equal(data["activation"][0, 0, 0], small(0))
    # Nothing is written outside of it but its lock.
    names = {one["path"] for one in client(pair[1]).list_with_delimiter("some folder")["objects"]}
    assert names == {"some folder/toy.zarr.lock"}


def test_workers_open_it_by_its_address(store):
    write(store, small(0))
    activations = mx.open_store(store)
    expected = mx.mds(activations).compute()
    with mx.local_client(1):
        found = mx.save_results(mx.mds(activations), progress=False).compute()
    np.testing.assert_allclose(found["position"], expected["position"])


def test_two_processes_record_one_is_killed_and_the_same_call_goes_on(tmp_path):
    template, store = tmp_path / "run-{seed}", "s3://bucket/networks/toy.zarr"
    for seed in range(3):
        networks.save_bert(tmp_path / f"run-{seed}", seed=seed)
    options = {"model": "runs", "source": template, "seed": range(3), "batch_size": 1}
    dies_at = len(networks.SENTENCES) + 4
    killed = networks.start_recording(template, store, 0, 1, dies_at=dies_at)
    mx.record(networks.stimuli(), store, progress=False, **options | {"seed": 2})
    killed.join(600)
    assert killed.exitcode == -signal.SIGKILL
    data = mx.open_store(store)
    assert data["seed"].values[data["recorded"].values.squeeze()].tolist() == [0, 2]
    continued = mx.record(networks.stimuli(), store, progress=False, **options)
    assert continued.status.tolist() == ["skipped", "recorded", "skipped"]
    mx.record(networks.stimuli(), tmp_path / "toy.zarr", progress=False, **options)
    found, expected = mx.open_store(store), mx.open_store(tmp_path / "toy.zarr")
    assert found["recorded"].all()
    # Another process may add single-precision numbers in another order.
    np.testing.assert_allclose(found["activation"], expected["activation"], atol=1e-5)


def test_writers_grow_one_store_in_turn(store):
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda seed: write(store, small(seed), seed=seed), range(3)))
    found = mx.open_store(store)["activation"]
    assert found["seed"].values.tolist() == list(range(3))
    expected = [small(seed)[0] for seed in range(3)]
    np.testing.assert_array_equal(found.squeeze(), expected)


def test_a_lock_that_nobody_renews_is_taken_over(store, monkeypatch, caplog):
    monkeypatch.setattr(leases, "DEAD", 0.3)
    held = json.dumps({"holder": "process 1 on a machine that is off", "id": "x"}).encode()
    obstore.put(client(store), store_path(store).key + ".lock", held)
    write(store, small(0))
    assert is_recorded(store, model="toy", seed=0, step=-1)
    assert f"took over {store}.lock, which process 1 on a machine that is off" in caplog.text


def test_a_lock_that_is_renewed_is_waited_for(store, monkeypatch, caplog):
    for name, seconds in {"RENEWED": 0.05, "DEAD": 1.0}.items():
        monkeypatch.setattr(leases, name, seconds)
    monkeypatch.setattr("mlem_xr.store.locks._PATIENCE", 0.1)
    with ThreadPoolExecutor(1) as thread:
        with locked(store_path(store)):
            writing = thread.submit(write, store, small(0))
            holder = f"process {os.getpid()} on {socket.gethostname()}"
            until(lambda: f"waiting for {holder}, which holds {store}.lock" in caplog.text)
            renewed = []
            until(lambda: renewed.append(lock_of(store)["renewed"]) or renewed[-1] > 30)
            assert not writing.done()
        writing.result()
    assert is_recorded(store, model="toy", seed=0, step=-1)
    assert "took over" not in caplog.text


def lock_of(store):
    return json.loads(bytes(obstore.get(client(store), store_path(store).key + ".lock").bytes()))


def test_who_stood_still_with_a_lock_changes_nothing_more(store, monkeypatch):
    """Another process may hold it by now."""
    monkeypatch.setattr(leases, "VALID", -1.0)
    before = keys(store)
    message = "this process stood still, so that another one may have taken over .*toy.zarr.lock"
    with pytest.raises(InputError, match=message):
        write(store, small(0))
    assert keys(store) == before


@pytest.mark.parametrize("first", [False, True])
def test_a_lock_that_was_taken_over_is_an_error_and_left_to_the_other(store, first, monkeypatch):
    """Also if it is the first one in a bucket, with which its server is tried."""
    lock = store_path(store).key + ".lock"
    if first:
        monkeypatch.setattr(leases, "_checked", set())
        obstore.delete(client(store), lock)
    with pytest.raises(InputError, match="stood still"), locked(store_path(store)):
        obstore.put(client(store), lock, b'{"holder": "another"}')
    assert lock_of(store) == {"holder": "another"}


def test_an_answer_that_got_lost_loses_no_lock(store, monkeypatch):
    """What was put is there, but whoever put it does not hear of that."""
    put = obstore.put
    answers = iter([False, True, False, False])

    def put_and_lose_the_answer(client, key, text, mode=None):
        found = put(client, key, text, mode=mode)
        if key.endswith(".lock") and not next(answers, True):
            raise obstore.exceptions.AlreadyExistsError("asked again")
        return found

    monkeypatch.setattr(obstore, "put", put_and_lose_the_answer)
    with locked(store_path(store)):
        assert lock_of(store)["holder"]
    assert lock_of(store)["holder"] == ""
    write(store, small(0))
    assert is_recorded(store, model="toy", seed=0, step=-1)


def test_a_server_that_ignores_conditions_is_refused(store, monkeypatch):
    put = obstore.put
    monkeypatch.setattr(leases, "_checked", set())
    monkeypatch.setattr(obstore, "put", lambda client, key, text, mode=None: put(client, key, text))
    obstore.delete(client(store), store_path(store).key + ".lock")
    with pytest.raises(InputError, match="s3://bucket ignores conditions"):
        write(store, small(0))
    with pytest.raises(InputError, match="nothing is recorded"):
        mx.open_store(store)


def test_a_store_that_was_made_in_part_is_not_there_and_is_made_again(monkeypatch):
    put = obstore.put

    def fail(client, key, data, **options):
        if key.endswith("text/zarr.json"):
            raise obstore.exceptions.GenericError("the line is cut")
        return put(client, key, data, **options)

    store = "s3://bucket/in part/toy.zarr"
    with monkeypatch.context() as patch, pytest.raises(OSError, match="the line is cut"):
        patch.setattr(obstore, "put", fail)
        mx.create_store(forty_sentences(), store, pooling=["mean"])
    assert len(keys(store)) > 10
    with pytest.raises(InputError, match="there is no store at s3://bucket"):
        mx.open_store(store)
    assert mx.create_store(forty_sentences(), store, pooling=["mean"]) == store
    assert len(mx.verify_store(store, progress=False)) == 0


def test_other_objects_are_not_touched():
    here = store_path("s3://bucket/thesis")
    obstore.put(here.client, "thesis/thesis.tex", b"text")
    with pytest.raises(InputError, match="s3://bucket/thesis exists and is not a store"):
        mx.create_store(forty_sentences(), "s3://bucket/thesis")
    assert keys("s3://bucket/thesis") == ["s3://bucket/thesis/thesis.tex"]


def test_a_store_of_other_sentences_is_refused(store):
    with pytest.raises(InputError, match="holds other stimuli"):
        mx.create_store(forty_sentences().isel(sentence=slice(20)), store)


def test_a_lost_chunk_is_named_and_recording_mends_it(store):
    for seed in (0, 1):
        write(store, small(seed), seed=seed)
    data = mx.open_store(store)
    lost = "activation/c/0/1/0/0/1/0/0"
    obstore.delete(client(store), f"{store_path(store).key}/{lost}")
    with pytest.raises(InputError, match=f"{lost} is missing.*seed=1.*layer=2"):
        data["activation"].compute()
    assert mx.verify_store(store, progress=False)["file"].tolist() == [lost]
    assert mx.missing_checkpoints(store, model=["toy"], seed=[0, 1], step=[-1]) == [("toy", 1, -1)]
    said = CliRunner().invoke(app(), ["info", store]).stderr
    assert "chunks of model=toy, seed=1, step=-1 are missing" in said
    done = mx.repair_store(store, progress=False)
    assert done["done"].tolist() == ["marked as not recorded"]
    assert mx.open_store(store)["recorded"].values.tolist() == [[[True], [False]]]
    write(store, small(1), seed=1)
    np.testing.assert_array_equal(data["activation"].sel(seed=1).squeeze(), small(1)[0])


def test_a_lost_chunk_of_a_result_is_made_again(store):
    write(store, small(0))
    result = mx.mds(mx.open_store(store), init="classical")
    expected = mx.save_results(result, progress=False).compute()
    [lost] = [key for key in keys(store, "results") if key.endswith("/position/c/0/0/0/0/0/0/0")]
    obstore.delete(client(store), lost.removeprefix("s3://bucket/"))
    with pytest.raises(InputError, match="/position/c/0/0/0/0/0/0/0 is missing"):
        mx.open_results(store, "mds", init="classical").compute()
    with pytest.warns(UserWarning, match="damaged chunks in s3://bucket/.* were removed"):
        mx.save_results(result, refresh=["mds"], progress=False)
    xr.testing.assert_identical(mx.open_results(store, "mds", init="classical").compute(), expected)


@pytest.fixture
def asked_again():
    """Forget which buckets answered, before and after."""
    objects.client_of.cache_clear()
    yield
    objects.client_of.cache_clear()


@pytest.mark.parametrize(
    ("address", "endpoint", "message"),
    [
        ("s3://nobody/x.zarr", None, "The specified bucket does not exist"),
        ("s3://bucket/x.zarr", "http://127.0.0.1:9", "error sending request"),
        ("s3://bucket/x.zarr", "http://nowhere.invalid", "error sending request"),
        ("s3://bucket/x.zarr", "nonsense", "is 'nonsense', which is no URL"),
        ("az://bucket/x.zarr", None, "Account must be specified"),
    ],
)
def test_what_cannot_be_reached_is_one_error(
    tmp_path, monkeypatch, asked_again, address, endpoint, message
):
    monkeypatch.chdir(tmp_path)
    if endpoint is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for call in (
        lambda: mx.open_store(address),
        lambda: mx.create_store(forty_sentences(), address),
        lambda: mx.record(networks.stimuli(), address, model="bert"),
    ):
        with pytest.raises(InputError) as error:
            call()
        said = str(error.value)
        assert said.startswith(f"store: {address} cannot be reached (")
        assert message in said
        assert "\n" not in said
        assert len(said) < 500
    assert list(tmp_path.iterdir()) == []


class Refusing(BaseHTTPRequestHandler):
    def do_GET(self):
        text = b"<Error><Message>The key you provided does not exist.</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def test_wrong_credentials_are_one_error(monkeypatch, asked_again):
    with HTTPServer(("127.0.0.1", 0), Refusing) as refusing, ThreadPoolExecutor(1) as thread:
        thread.submit(refusing.serve_forever, 0.02)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{refusing.server_port}")
        with pytest.raises(InputError, match="cannot be reached .The key you provided does not"):
            mx.open_store("s3://bucket/x.zarr")
        refusing.shutdown()


def test_a_server_that_never_answers_is_one_error(monkeypatch, asked_again):
    limits = {"client_options": {"timeout": "500ms"}, "retry_config": {"max_retries": 0}}
    monkeypatch.setattr(objects, "_FIRST", limits)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(InputError, match="s3://bucket/x.zarr cannot be reached"):
            mx.open_store("s3://bucket/x.zarr")


def test_credentials_and_server_come_from_the_files_of_amazons_tools(
    store, server, tmp_path, monkeypatch, asked_again
):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = us-east-1\nendpoint_url = {server}\n"
    )
    (tmp_path / "credentials").write_text(
        "[lab]\naws_access_key_id = anybody\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    write(store, small(0))
    assert mx.open_store(store)["recorded"].all()
    objects.client_of.cache_clear()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InputError, match="cannot be reached .*profile .*nobody.* could not be"):
        mx.open_store(store)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://bucket/x.zarr", "begins with s3://, gs://, az://, memory://"),
        ("s3://", "such as s3://bucket/folder/name.zarr"),
        ("s3://bucket", "such as s3://bucket/folder/name.zarr"),
        ("s3://bucket/", "such as s3://bucket/folder/name.zarr"),
        ("s3:///x.zarr", "such as s3://bucket/folder/name.zarr"),
        ("s3://bucket//x.zarr", "such as s3://bucket/folder/name.zarr"),
        ("s3://bucket/a/../x.zarr", "such as s3://bucket/folder/name.zarr"),
        ("s3://bucket/x\0.zarr", "such as s3://bucket/folder/name.zarr"),
        ("s3://user:secret@bucket/x.zarr", "such as s3://bucket/folder/name.zarr"),
        ("memory://", "such as memory://name.zarr"),
        ("s3:/bucket/x.zarr", "an address as a text, such as 's3://bucket/name.zarr'"),
    ],
)
def test_what_is_no_address_is_refused_and_makes_no_folder(tmp_path, monkeypatch, address, message):
    monkeypatch.chdir(tmp_path)
    for call in (mx.open_store, lambda store: mx.create_store(forty_sentences(), store)):
        with pytest.raises(InputError, match=message):
            call(address)
    assert list(tmp_path.iterdir()) == []


def test_the_memory_of_this_process_alone_holds_a_store(monkeypatch):
    store = mx.create_store(forty_sentences(), "memory://toy.zarr", pooling=["mean"])
    write(store, small(0))
    data = mx.open_store(store)
    np.testing.assert_array_equal(data["activation"].squeeze(), small(0)[0])
    saved = mx.save_results(mx.mds(data, init="classical"), progress=False)
    assert saved["position"].notnull().all()
    sent = pickle.dumps(data)
    np.testing.assert_array_equal(pickle.loads(sent)["activation"], data["activation"])
    here = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: here + 1)
    with pytest.raises(InputError, match=f"memory://toy.zarr is in the memory of process {here}"):
        pickle.loads(sent)


def test_a_forked_process_is_told_instead_of_waiting_for_ever(store):
    process = os.fork()
    if not process:
        signal.alarm(60)
        try:
            mx.open_store(store)
        except InputError as error:
            os._exit(0 if "a process that was forked cannot go on" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
