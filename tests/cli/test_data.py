import numpy as np
from PIL import Image

from ldm.cli.data import main


def test_a_data_set_is_counted_and_drawn(tmp_path, capsys):
    output = tmp_path / "folder" / "grid.png"
    assert main(["data=synthetic", "samples=12", f"output={output}"]) == 0
    text = capsys.readouterr().out
    assert "12 images, 1 steps an epoch of 12" in text
    image = Image.open(output)
    assert len(image.text["captions"].splitlines()) == 12
    assert np.asarray(image).std() > 0


def test_files_are_not_overwritten_unasked(tmp_path, capsys):
    output = tmp_path / "grid.png"
    output.write_bytes(b"precious")
    assert main(["data=synthetic", f"output={output}"]) == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert output.read_bytes() == b"precious"
    assert main(["data=synthetic", f"output={output}", "overwrite=true"]) == 0


def test_a_missing_folder_is_one_line_and_status_2(tmp_path, capsys):
    assert main(["data=imagefolder", f"data.root={tmp_path}/none", f"output={tmp_path}/a.png"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "no folder at" in error[0]
    assert not (tmp_path / "a.png").exists()
