"""Several processes, one index: one of them makes it."""

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from ldm.data.shards.index import ShardIndex
from ldm.data.shards.index_lock import changed_since, shared_index
from ldm.data.shards.writer import Sample, write_shards
from ldm.utils.lock import Lock

RANK = """
import logging, sys, time
from pathlib import Path
from ldm.data.shards import index_lock as module

build = module.build_index
def slow(paths, after_shard=None):
    with open(sys.argv[2], "a") as file:
        file.write("built\\n")
    time.sleep(1.0)
    return build(paths, after_shard)

module.build_index = slow
logging.basicConfig(level=logging.INFO)
found = module.shared_index(sys.argv[3:], Path(sys.argv[1]))
print(len(found.samples))
"""


@pytest.fixture
def shards(tmp_path):
    write_shards(iter([Sample(b"x", "png", "a", {})] * 7), tmp_path / "shards", per_shard=3)
    return [str(p) for p in sorted((tmp_path / "shards").glob("*.tar"))]


@pytest.mark.dist
def test_of_three_processes_one_makes_the_index(shards, warm_python, tmp_path):
    folder, count = tmp_path / "index", tmp_path / "count"
    command = [warm_python, "-c", RANK, str(folder), str(count), *shards]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen(command, **pipes) for _ in range(3)]
    said = [rank.communicate(timeout=60) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0], said
    assert [out.strip() for out, _ in said] == ["7"] * 3
    assert count.read_text() == "built\n"
    assert sum("indexing 3 shards" in err for _, err in said) == 1
    assert all(("waiting" in err) != ("indexing" in err) or "waiting" not in err for _, err in said)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["count", "index", "shards"]


def lock_of(path, **changes):
    who = {"host": socket.gethostname(), "pid": os.getpid(), "time": 0.0}
    path.write_text(json.dumps(who | changes))


def dead_pid():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_the_lock_of_a_dead_process_is_taken_over(shards, tmp_path, caplog):
    lock_of(tmp_path / "index.lock", pid=dead_pid())
    assert len(shared_index(shards, tmp_path / "index").samples) == 7
    assert "is taken over" in caplog.text
    assert not (tmp_path / "index.lock").exists()


def test_a_silent_lock_of_another_host_is_taken_over(shards, tmp_path):
    lock_of(tmp_path / "index.lock", host="elsewhere")
    assert len(shared_index(shards, tmp_path / "index", patience=0.5).samples) == 7


def test_who_waits_gets_what_the_other_makes(shards, tmp_path):
    folder = tmp_path / "index"
    lock_of(tmp_path / "index.lock")  # of this process, which lives
    made = shared_index(shards, None)

    def finish():
        time.sleep(0.5)
        made.save(folder)

    thread = threading.Thread(target=finish)
    thread.start()
    found = shared_index(shards, folder)
    thread.join()
    assert found.samples.tobytes() == made.samples.tobytes()
    assert (tmp_path / "index.lock").exists()  # it is the other's


def test_an_index_that_fails_leaves_no_lock(shards, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tar shard at"):
        shared_index([*shards, str(tmp_path / "none.tar")], tmp_path / "index")
    assert [p.name for p in tmp_path.iterdir()] == ["shards"]


def test_a_folder_that_cannot_be_written_is_said_and_no_hindrance(shards, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert len(shared_index(shards, tmp_path / "file" / "index").samples) == 7
    assert "the index is not kept" in caplog.text


def test_the_stored_size_is_that_of_the_file(tmp_path):
    from PIL import Image

    from ldm.data.shards.writer import encoded

    said = {"width": 999, "height": 1}
    samples = [encoded(Image.new("RGB", (20, 30)), "a")._replace(said=said), Sample(b"x", "png", "b", said)]
    write_shards(iter(samples), tmp_path / "s")
    table = shared_index([str(tmp_path / "s" / "00000.tar")], tmp_path / "index").samples
    assert table["stored_height"].tolist() == [30, 0]
    assert table["stored_width"].tolist() == [20, 0]
    assert table["width"].tolist() == [999.0, 999.0]
    assert len(ShardIndex.load(tmp_path / "index").samples) == 2


def tar(path, texts, times=0):
    with tarfile.open(path, "w") as file:
        for i, text in enumerate(texts):
            for extension, data in (("jpg", b"image"), ("txt", text.encode())):
                info = tarfile.TarInfo(f"{i}.{extension}")
                info.size, info.mtime = len(data), times
                file.addfile(info, io.BytesIO(data))
    return str(path)


def caption(index, row, path):
    sample = index.samples[row]
    return Path(path).read_bytes()[sample["text_offset"] :][: sample["text_size"]].decode()


def test_a_shard_of_the_same_size_with_other_captions_is_indexed_again(tmp_path, caplog):
    paths = [tar(tmp_path / name, ["cat", "dog"]) for name in ("0.tar", "1.tar")]
    size = Path(paths[1]).stat().st_size
    shared_index(paths, tmp_path / "index")
    tar(paths[1], ["a fluffy cat", "dog", "bird"])
    assert Path(paths[1]).stat().st_size == size
    found = shared_index(paths, tmp_path / "index")
    assert [shard.samples for shard in found.shards] == [2, 3]
    assert caption(found, 2, paths[1]) == "a fluffy cat"
    assert "1 shards have changed, such as" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.tar", "1.tar", "index"]
    caplog.clear()
    assert shared_index(paths, tmp_path / "index").samples.tobytes() == found.samples.tobytes()
    assert not caplog.text


def test_a_copy_with_another_time_is_the_same_shard(tmp_path):
    path = tar(tmp_path / "0.tar", ["cat"])
    shard = shared_index([path], tmp_path / "index").shards[0]
    os.utime(path, ns=(1, 1))
    assert not changed_since(shard, "headers")
    tar(path, ["cow"])
    assert not changed_since(shard, "headers")  # nothing that the index holds has changed
    assert changed_since(shard, "content")
    found = shared_index([path], tmp_path / "index", digest="content")
    assert found.shards[0].sha256 != shard.sha256
    tar(path, ["cow"], times=5)
    os.utime(path, ns=(int(found.shards[0].modified),) * 2)
    assert not changed_since(found.shards[0], "headers")  # the header is looked at when a part is read
    Path(path).unlink()
    with pytest.raises(FileNotFoundError, match="no tar shard at"):
        shared_index([path], tmp_path / "index")


def test_an_index_of_an_earlier_version_is_made_again(shards, tmp_path):
    shared_index(shards, tmp_path / "index")
    about = tmp_path / "index" / "index.json"
    about.write_text(json.dumps({"version": 2, "shards": []}))
    assert len(shared_index(shards, tmp_path / "index").samples) == 7
    assert json.loads(about.read_text())["version"] == 3


def test_a_changed_shard_beside_an_index_that_cannot_be_written_is_read_anyhow(tmp_path, monkeypatch, caplog):
    path = tar(tmp_path / "0.tar", ["cat"])
    shared_index([path], tmp_path / "index")
    tar(path, ["cat", "dog"], times=9)
    os.utime(path, ns=(1, 1))

    def refuse(self):
        raise PermissionError("read-only")

    monkeypatch.setattr(Lock, "taken", refuse)
    assert len(shared_index([path], tmp_path / "index").samples) == 2
    assert "the index is not kept: read-only" in caplog.text
