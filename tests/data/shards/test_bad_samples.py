"""Bad samples are counted by cause and written down once; too many of them end the run."""

import json

import pytest

from ldm.data.shards.bad_samples import SEEN_BEFORE_JUDGING, BadSamples


def found(path=None, seen=10, max_bad_fraction=0.05):
    samples = BadSamples(path, max_bad_fraction)
    samples.seen = seen
    return samples


def test_every_visit_counts_and_each_sample_is_written_once(tmp_path):
    samples = found(tmp_path / "new" / "bad.jsonl")
    for cause, key in (("no caption", 1), ("damaged image", 2), ("no caption", 1)):
        samples.note(cause, "a.tar", key)
    assert samples.bad == {"no caption": 2, "damaged image": 1}
    assert samples.by_cause() == {"no caption": 1, "damaged image": 1}
    lines = (tmp_path / "new" / "bad.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"cause": "no caption", "shard": "a.tar", "key": 1}


def test_a_resumed_run_adds_only_new_samples_even_behind_a_line_cut_by_a_kill(tmp_path):
    path = tmp_path / "bad.jsonl"
    found(path).note("no caption", "a.tar", 1)
    with path.open("a") as file:
        file.write('{"cause": "no cap\n')
    again = found(path)
    again.note("no caption", "a.tar", 1)
    again.note("no caption", "a.tar", 2)
    assert again.by_cause() == {"no caption": 2}
    assert len(path.read_text().splitlines()) == 3


def test_too_many_are_an_error_once_enough_samples_were_seen():
    found(seen=SEEN_BEFORE_JUDGING - 1, max_bad_fraction=0.0).note("no caption", "a.tar", 1)
    found(seen=SEEN_BEFORE_JUDGING, max_bad_fraction=1 / SEEN_BEFORE_JUDGING).note("no caption", "a.tar", 1)
    with pytest.raises(
        ValueError, match=r"^0\.5% of 200 samples cannot be used, .* 0\.001: {'no caption': 1}"
    ):
        found(seen=200, max_bad_fraction=0.001).note("no caption", "a.tar", 1)


def test_without_a_file_nothing_is_written_and_only_the_first_is_a_warning(caplog):
    samples = found()
    samples.note("no caption", "a.tar", 1)
    samples.note("no caption", "b.tar", 2)
    assert samples.by_cause() == {}
    assert [record.getMessage() for record in caplog.records] == [
        "a sample cannot be used: no caption (a.tar)"
    ]
