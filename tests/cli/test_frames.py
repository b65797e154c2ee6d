"""Few functions of ldm stand between a command and the work: a person can follow them."""

import sys
from pathlib import Path

import ldm
from ldm.cli import sample, train

ROOT = str(Path(ldm.__file__).parent)


def own_frames() -> list[str]:
    """Functions of ldm on the stack, outermost first, without the one that is patched and this one."""
    frame, found = sys._getframe(2), []
    while frame is not None:
        if frame.f_code.co_filename.startswith(ROOT):
            found.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return found[::-1]


COMMAND = ["app.entry.<locals>.decorate.<locals>.main", "app._job.<locals>.job"]


def test_five_frames_lead_from_a_command_to_the_sample(tmp_path, monkeypatch):
    from ldm.generation import sampler

    seen = []

    def sampled(denoise, schedule, scheduler, x, *rest):
        seen.append(own_frames())
        return x

    monkeypatch.setattr(sampler, "sample", sampled)
    assert sample.main(["prompt=pizza", f"output={tmp_path / 'a.png'}", "num_inference_steps=1"]) == 0
    call = ["text2img.Text2ImagePipeline.__call__", "sampler.Sampler.latents"]
    assert seen == [[*COMMAND, "sample.main", *call]]


def test_six_frames_lead_from_a_command_to_the_step_that_computes_its_loss(tmp_path, monkeypatch):
    from ldm.diffusion.process import Diffusion

    seen, loss = [], Diffusion.loss

    def counted(self, *args):
        seen.append(own_frames())
        return loss(self, *args)

    monkeypatch.setattr(Diffusion, "loss", counted)
    short = ["experiment=tiny", "threads=1", "trainer.max_steps=1", "first_stage.max_steps=1"]
    without = ["~callbacks.validation", "evaluation.retrieval=null", "sampling.num_inference_steps=1"]
    assert train.main([*short, *without, f"hydra.run.dir={tmp_path}"]) == 0
    run = ["train.main", "run.run", "fit.fit", "latent_diffusion.LatentDiffusion.training_step"]
    assert seen == [[*COMMAND, *run]]
