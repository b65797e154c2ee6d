"""W&B offline: what its files hold after SIGKILL and resume is the whole curve, each step once."""

import json
import struct

import pytest
import wandb

from ldm.cli.compose import compose
from ldm.training.loggers.csv import read_rows
from ldm.training.loggers.wandb import WandbLog
from ldm.utils.errors import UserError

SAID_BY_WANDB = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def records(path):
    """Records of an offline file: a header of 7 bytes, then the log format of LevelDB."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        if kind == 0:
            return
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def history(folder):
    """(step, row) of the offline run of a folder that is to be synced."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            yield row["trainer/global_step"], row


@SAID_BY_WANDB
def test_a_killed_and_resumed_run_has_every_step_once(kills, tmp_path):
    runner, run = kills.Runner(tmp_path), tmp_path / "run"
    argv = [*kills.TINY, "logger=wandb", "first_stage.max_steps=2", f"hydra.run.dir={run}"]
    for number in (12, 10):
        assert runner.finish(argv, kills.Blow(where="batch", amount=number))
    assert not runner.finish(argv)
    sent, logged = dict(history(run)), read_rows(run / "metrics.csv")
    assert [step for step, _ in history(run)] == sorted(sent)
    assert sent.keys() == logged.keys()
    for step, row in logged.items():
        assert {name: sent[step][name] for name in row} == pytest.approx(row)
    assert [step for step, row in sent.items() if "samples/format" in row] == [8, 16, 24]
    assert len(list(run.glob("wandb/superseded-run-*"))) == 2


class Online:
    """W&B's answer that it has all steps before `starting_step`."""

    def __init__(self, starting_step, folder="."):
        self.starting_step, self.rows, self.dir = starting_step, [], str(folder)

    def log(self, row, step):
        self.rows.append((step, row))


@SAID_BY_WANDB
def test_what_the_server_has_is_not_sent_and_what_it_lacks_is(tmp_path, monkeypatch):
    (tmp_path / "metrics.csv").write_text("step,a\n1,10\n2,20\n3,30\n4,40\n9,90\n")
    for start, expected in ((3, [3, 4, 5, 6]), (0, [1, 2, 3, 4, 5, 6]), (6, [6])):
        online = Online(start)
        monkeypatch.setattr(WandbLog, "experiment", online)
        logger = WandbLog(save_dir=str(tmp_path), project="p", name="n", offline=False)
        for step in (5, 6):
            logger.log_metrics({"a": 10.0 * step}, step)
        assert [(step, row["a"]) for step, row in online.rows] == [(s, 10.0 * s) for s in expected]


def logger_of(folder, offline=False):
    return WandbLog(save_dir=str(folder), project="p", name="n", offline=offline)


@SAID_BY_WANDB
@pytest.mark.parametrize(
    "error", [wandb.errors.CommError("no route\nto host"), wandb.errors.AuthenticationError("key refused")]
)
def test_a_run_that_w_and_b_refuses_goes_on_offline(error, tmp_path, monkeypatch, caplog):
    calls, init = [], wandb.init

    def refuse_once(**given):
        calls.append(given)
        if len(calls) == 1:
            raise error
        return init(**given)

    monkeypatch.setattr(wandb, "init", refuse_once)
    logger = logger_of(tmp_path)
    logger.log_metrics({"a": 1.0}, 3)
    wandb.finish()
    assert [step for step, _ in history(tmp_path)] == [3]
    (record,) = (r for r in caplog.records if r.name.startswith("ldm"))
    assert record.getMessage().startswith(f"W&B: {str(error).splitlines()[0]}; the run goes on offline")


@SAID_BY_WANDB
def test_a_run_that_loses_w_and_b_goes_on_without(tmp_path, monkeypatch, caplog):
    class Lost(Online):
        def log(self, row, step):
            raise BrokenPipeError("broken pipe")

    monkeypatch.setattr(WandbLog, "experiment", Lost(0))
    logger = logger_of(tmp_path)
    for step in (1, 2):
        logger.log_metrics({"a": 1.0}, step)
        logger.log_image("samples", [])
    assert caplog.text.count("W&B is lost: broken pipe") == 1


@SAID_BY_WANDB
def test_nothing_is_written_where_w_and_b_is_disabled(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = compose("train", ["experiment=tiny", "logger=wandb", f"paths.run={tmp_path}"])
    assert config["logger"]["wandb"]["offline"] is False
    logger = logger_of(tmp_path)
    logger.log_metrics({"a": 1.0}, 1)
    wandb.finish()
    assert not list(tmp_path.iterdir())


def test_a_key_that_is_none_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    with pytest.raises(UserError, match="WANDB_API_KEY must have at least 40 characters, got 3"):
        logger_of(tmp_path)
    logger_of(tmp_path, offline=True)


@SAID_BY_WANDB
def test_the_id_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(WandbLog, "experiment", Online(0, tmp_path))
    names = []
    for _ in range(2):
        logger = WandbLog(save_dir=str(tmp_path), project="p", name="n", offline=True)
        logger.log_metrics({"a": 1.0}, 1)
        names.append(logger.run_id)
    assert names[0] == names[1]
