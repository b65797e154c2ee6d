from omegaconf import OmegaConf

from ldm.cli.notes import EarlierNotes, restore_notes


def config(folder, subdir=".hydra"):
    return OmegaConf.create({"hydra": {"run": {"dir": str(folder)}, "output_subdir": subdir}})


def test_notes_are_written_back_as_they_were(tmp_path):
    notes = tmp_path / ".hydra"
    notes.mkdir()
    (notes / "overrides.yaml").write_text("- seed=1\n")
    before = (notes / "overrides.yaml").stat().st_mtime_ns
    EarlierNotes().on_run_start(config(tmp_path))
    (notes / "overrides.yaml").write_text("- seed=2\n")
    assert restore_notes()
    assert (notes / "overrides.yaml").read_text() == "- seed=1\n"
    assert (notes / "overrides.yaml").stat().st_mtime_ns == before


def test_a_new_directory_has_none(tmp_path):
    for subdir in (".hydra", None):
        EarlierNotes().on_run_start(config(tmp_path / "new", subdir))
        assert not restore_notes()


def test_a_directory_that_cannot_be_resolved_is_left_to_hydra():
    EarlierNotes().on_run_start(config("${nope}"))
    assert not restore_notes()
