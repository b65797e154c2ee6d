"""Few functions of ldm stand between a command and the work: a person can follow them."""

import sys
from pathlib import Path

import ldm
from ldm.cli import sample

ROOT = str(Path(ldm.__file__).parent)


def own_frames() -> list[str]:
    """Functions of ldm on the stack, outermost first, without the one that is patched and this one."""
    frame, found = sys._getframe(2), []
    while frame is not None:
        if frame.f_code.co_filename.startswith(ROOT):
            found.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return found[::-1]


def test_a_sample_is_three_frames_from_the_entry_of_a_command(tmp_path, monkeypatch):
    from ldm.generation import sampler

    seen = []

    def sampled(denoise, schedule, scheduler, x, *rest):
        seen.append(own_frames())
        return x

    monkeypatch.setattr(sampler, "sample", sampled)
    assert sample.main(["prompt=pizza", f"output={tmp_path / 'a.png'}", "num_inference_steps=1"]) == 0
    command = [name for name in seen[0] if name.startswith("app.")]
    assert seen[0][len(command) :] == [
        "sample.main",
        "text2img.Text2ImagePipeline.__call__",
        "sampler.Sampler.latents",
    ]
