"""The stages of a training run: what `ldm-train` does once its config is checked."""

import json
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ldm.checkpoints.assemble import LoadedModel
from ldm.checkpoints.loader import load_model
from ldm.checkpoints.lora import FILE, save_lora
from ldm.checkpoints.native import save_model
from ldm.checkpoints.readable import check_readable
from ldm.checkpoints.store import CheckpointStore, is_sharded, resumable, state_of
from ldm.checkpoints.training import trained_tensors, training_metadata
from ldm.cli.config import build
from ldm.cli.config import plain as resolved
from ldm.cli.initial import load_initial, reference
from ldm.data.shards.datamodule import ShardData
from ldm.diffusion.timesteps import times_of
from ldm.training.autoencoder import AutoencoderTraining
from ldm.training.callbacks.checkpoints import Checkpoints
from ldm.training.distributed.environment import environment
from ldm.training.distributed.slurm import Stopped
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.utils.device import has_bf16, set_threads
from ldm.utils.distributed import initialised, is_main
from ldm.utils.errors import UserError
from ldm.utils.files import write_text
from ldm.utils.machine import machine, revision

log = logging.getLogger(__name__)


def plain(node: DictConfig) -> dict[str, Any]:
    """A config node as a plain, resolved dict without `_partial_`: what a checkpoint's metadata holds."""
    return {str(k): v for k, v in resolved(node).items() if k != "_partial_"}


def quieten_lightning() -> None:
    """Leaves out what Lightning says of things that are so by design."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # the EMA twin is always in eval mode; batches of tensors in memory need no worker processes
    for message in (r"Found \d+ module\(s\) in eval mode", r"The '\w+' does not have many workers"):
        warnings.filterwarnings("ignore", message=message)
    # a machine of a cluster on which a run is not a job
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    # our loaders start at the step's batch
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.pytorch")


class Run:
    """One run: its config, its directory and what is to be said about it.

    Args:
        cfg: the composed and checked config of `ldm-train`.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.dir = Path(cfg.paths.run)
        self.adapters: DictConfig | None = OmegaConf.select(cfg, "adapters")
        self.summary: dict[str, Any] = {"name": cfg.name, "machine": machine(), **revision(), "timings": {}}

    def execute(self) -> None:
        """Trains the stages that the config asks for, scores the result and writes the report."""
        set_threads(self.cfg.threads)
        quieten_lightning()
        OmegaConf.save(self.cfg, self.dir / "config.yaml", resolve=True)
        self._recall_summary()
        self.autoencoder_node = plain(self.cfg.autoencoder)
        self.initial = load_initial(self.cfg)
        data = None if self.cfg.task is None else self._checked_data()
        autoencoder = self._first_stage(data)
        if data is not None:
            self._diffusion(autoencoder, data)
        if is_main():
            from ldm.evaluation.report import write_report

            self._save_summary()
            log.info("report: %s", write_report(self.dir))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds spent inside to the summary's timings."""
        start = time.perf_counter()
        yield
        timings = self.summary["timings"]
        timings[name] = round(timings.get(name, 0.0) + time.perf_counter() - start, 1)
        self._save_summary()

    def fit(
        self, module: AutoencoderTraining | LatentDiffusion, data: Any, folder: Path, changes: dict[str, Any]
    ) -> None:
        """Fits a module, from its last checkpoint if the run directory has one.

        Args:
            module: what is trained.
            data: its data module.
            folder: where checkpoints and metrics go.
            changes: to the trainer's config.
        """
        cfg = OmegaConf.merge(self.cfg, {"paths": {"run": str(folder)}, "trainer": changes})
        path, step = self._checkpoint(folder)
        callbacks = [build(node) for node in (cfg.callbacks or {}).values() if node is not None]
        callbacks.sort(key=lambda callback: isinstance(callback, Checkpoints))  # it saves what the others did
        logger = [build(node) for node in (cfg.logger or {}).values() if node is not None]
        launcher = environment(cfg.trainer.devices, cfg.trainer.num_nodes)
        plugins = [] if launcher is None else [launcher]
        trainer = build(
            cfg.trainer, callbacks=callbacks, logger=logger, plugins=plugins, precision=self._precision()
        )
        if path is not None:
            log.info("%s: going on at step %d of %s", module.stage, step, path)
            if step >= trainer.max_steps:
                module.configure_model()
                module.load_state_dict(trained_tensors(path, module.state_dict()))
                return
            if is_sharded(path) and not self._shards(cfg):
                raise UserError(f"resume: {path} is sharded: go on with trainer=fsdp")
            data.resume(step)
        for each in logger:
            each.log_hyperparams({**plain(self.cfg), **revision()})
        with self.timed(module.stage):
            trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
            if stopped := max((getattr(callback, "stopped_by", 0) for callback in callbacks), default=0):
                raise Stopped(stopped)
            if trainer.global_step < trainer.max_steps:
                raise KeyboardInterrupt
        module.to(trainer.strategy.root_device)  # Lightning has put it on the CPU, but there is more to draw
        for each in trainer.loggers:  # W&B would log the next stage into the same run
            if isinstance(each, WandbLogger):
                each.experiment.finish()

    def _checkpoint(self, folder: Path) -> tuple[Path | None, int]:
        """What training goes on from, None for nothing, and its step."""
        store = CheckpointStore(folder / "checkpoints")
        run = self._resumed_run()
        if run is not None and (run.name == "autoencoder") == (folder.name == "autoencoder"):
            path, step = resumable(Path(self.cfg.resume))
            if (later := max(store.steps(), default=-1)) > step:
                raise UserError(
                    f"resume: {folder} goes on to step {later}: choose another hydra.run.dir to branch off "
                    f"at step {step}, or remove its later checkpoints"
                )
            return path, step
        if store.steps() and self.cfg.resume == "never":
            raise UserError(
                f"resume: {folder} has checkpoints and resume=never; choose another hydra.run.dir"
            )
        newest = store.newest()
        return (None, 0) if newest is None else (state_of(store.path(newest)), newest)

    def _resumed_run(self) -> Path | None:
        """Directory of the run, or of its first stage, that has the checkpoint named by `resume`."""
        if self.cfg.resume in ("auto", "never"):
            return None
        path, _ = resumable(Path(self.cfg.resume))
        return (path if path.is_dir() else path.parent).resolve().parents[1]

    def _precision(self) -> str:
        """The precision asked for; float32 in place of a bfloat16 that would only be emulated."""
        wanted: str = self.cfg.trainer.precision
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        kinds = {"gpu": "cuda", "auto": auto}
        kind = kinds.get(self.cfg.trainer.accelerator, self.cfg.trainer.accelerator)
        if wanted != "bf16-mixed" or kind not in ("cpu", "cuda") or has_bf16(torch.device(kind)):
            return wanted
        log.info("this %s has no bfloat16: training in float32 (trainer.precision)", kind)
        return "32-true"

    def _first_stage(self, trained_on: Any) -> nn.Module:
        """The frozen autoencoder: read from a file, trained in this run, or built as it is.

        Args:
            trained_on: data of the diffusion model, which may be latents of an autoencoder.
        """
        stage = self.cfg.first_stage
        folder = self.dir / "autoencoder"
        saved = self.dir / "autoencoder.safetensors"
        run = self._resumed_run()  # one that branches off takes the first stage with it
        there = [path for path in (saved, run and run / saved.name) if path is not None and path.is_file()]
        if stage.checkpoint is not None or there:
            return self._kept(load_model(Path(stage.checkpoint or there[0])), saved, trained_on)
        initial = None if self.cfg.task is None else self.initial
        if initial is not None and "autoencoder" in initial.components:
            return self._kept(initial, saved, trained_on)
        if stage.task is None:
            net = build(self.cfg.autoencoder)()
            if any(True for _ in net.parameters()):
                raise UserError(
                    "first_stage.checkpoint: this autoencoder has weights: give a file or train it"
                )
            return net
        module: AutoencoderTraining = build(stage.task)
        if self.initial is not None and self.cfg.task is None:
            module.start_from(self.initial.components["autoencoder"])
        data = build(stage.data)
        # the module clips and steps by itself, and is small enough for a copy on each rank
        changes = {"max_steps": stage.max_steps, "gradient_clip_val": None, "accumulate_grad_batches": 1}
        if isinstance(self.cfg.trainer.strategy, DictConfig):  # of two nets one is trained at a time
            in_turn = stage.task.get("discriminator") is not None
            changes["strategy"] = {"shard": False, "copies": None, "find_unused": in_turn}
        self.fit(module, data, folder, changes)
        self._finish_first_stage(module, data, saved)
        return module.ema

    def _kept(self, loaded: LoadedModel, path: Path, trained_on: Any) -> nn.Module:
        """The autoencoder of a checkpoint, written into the run, which then holds all of its model.

        Adapters refer to their base instead: nothing of it is stored.
        """
        self.autoencoder_node = loaded.config["autoencoder"]
        net = loaded.components["autoencoder"]
        if hasattr(trained_on, "verify"):
            trained_on.verify(net)
        if not path.is_file() and self.adapters is None and is_main():
            save_model(path, {"autoencoder": net}, {"autoencoder": self.autoencoder_node})
        return net

    def _finish_first_stage(self, module: AutoencoderTraining, data: Any, path: Path) -> None:
        """Measures the latents and the reconstruction, writes the autoencoder and a picture."""
        from ldm.evaluation.metrics.reconstruction import Reconstruction
        from ldm.evaluation.score import write_scores

        statistics = module.latent_statistics(data.training_images(), self.cfg.first_stage.whitening)
        module.ema.set_latent_statistics(statistics["scaling_factor"], statistics["shift_factor"])
        self.autoencoder_node |= statistics
        if not is_main():
            return
        score = Reconstruction()(module, data, self.dir)
        write_scores(self.dir, {"autoencoder": score})
        self.summary["autoencoder"] = {
            **score.values,
            "parameters": sum(p.numel() for p in module.net.parameters()),
        }
        log.info(
            "autoencoder: %.2f dB PSNR on %d unseen images", score.values["psnr"], score.values["images"]
        )
        save_model(path, {"autoencoder": module.ema}, {"autoencoder": self.autoencoder_node})
        self._save_summary()

    def _checked_data(self) -> Any:
        """The data of the diffusion model.

        It is made sure, before a first stage is trained, that the text encoder has room for its words, that
        there is a grid to sample on and that the task can be built.
        """
        check_readable(self.model_config())
        build(self.cfg.task, autoencoder=nn.Identity())  # its nets are made when training starts
        sampling, diffusion, data = build(self.cfg.sampling), build(self.cfg.diffusion), build(self.cfg.data)
        times_of(sampling["timesteps"], diffusion.schedule, sampling["num_inference_steps"])
        with torch.device("meta"):
            text_encoder = build(self.cfg.text_encoder)()
        if self.initial is None:
            text_encoder.learn_vocabulary(data.captions)
        return data

    def _diffusion(self, autoencoder: nn.Module, data: Any) -> None:
        """Trains the diffusion model, writes it, samples and scores it."""
        from ldm.evaluation.evaluate import evaluate, summary_of

        text = OmegaConf.to_yaml(self.cfg, resolve=True)
        if self.initial is not None and "pretrained" in self.cfg.text_encoder:
            self.cfg.text_encoder.pretrained = None  # the weights are those of the checkpoint
        module: LatentDiffusion = build(self.cfg.task, autoencoder=autoencoder)
        if self.initial is not None:
            module.start_from(self.initial.components)
        self.initial = None
        has_weights = self.adapters is None and any(True for _ in autoencoder.parameters())
        first_stage = "autoencoder.safetensors" if has_weights else None
        module.metadata = training_metadata(self.model_config(), first_stage, text, reference(self.cfg))
        if self.cfg.weak_checkpoint is not None:
            weak = load_model(self.cfg.weak_checkpoint).components
            module.weak = (weak["text_encoder"].eval(), weak["backbone"].eval())
        metrics = {name: node and build(node) for name, node in (self.cfg.evaluation or {}).items()}
        self.fit(module, data, self.dir, {})
        if not initialised() and not is_main():
            return  # a finished run: the first rank does alone what is left
        if isinstance(data, ShardData):
            self.summary["bad_samples"] = data.bad_samples.by_cause()
        command = self._save(module)
        self.summary["latent_diffusion"] = {
            "parameters": sum(p.numel() for p in module.nets.parameters()),
            "steps": int(self.cfg.trainer.max_steps),
        }
        prompts = self.cfg.prompts
        what = (
            f'prompt="" num_images_per_prompt={prompts}'
            if isinstance(prompts, int)
            else f'prompt="{prompts[0]}"'
        )
        self.summary["sample_command"] = f"ldm-sample {command} {what}"
        with self.timed("samples and scores"), tempfile.TemporaryDirectory() as elsewhere:
            folder = self.dir if is_main() else Path(elsewhere)  # all draw, one writes
            self.summary |= summary_of(evaluate(module.sampler, data, metrics, folder))

    def _save(self, module: LatentDiffusion) -> str:
        """Writes what was trained, model or adapters; returns the arguments by which ldm-sample takes it."""
        if self.adapters is None:
            path, components = self.dir / "model.safetensors", module.components()
            if is_main():
                save_model(path, components, self.model_config(), dtype=torch.float16)
            return f"checkpoint={path}"
        path = self.dir / FILE
        if is_main():
            save_lora(path, module.ema["backbone"].updates(), plain(self.cfg.backbone))
        return f"checkpoint={self.cfg.init_checkpoint} lora={path}"

    def model_config(self) -> dict[str, Any]:
        """The metadata of the finished model: everything that is needed to sample from it."""
        cfg = self.cfg
        return {
            "autoencoder": self.autoencoder_node,
            "text_encoder": plain(cfg.text_encoder),
            "backbone": plain(cfg.backbone),
            "diffusion": plain(cfg.diffusion),
            "sampling": plain(cfg.sampling),
            "image_size": cfg.data.image_size,
            "caption_dropout": cfg.task.caption_dropout,
            "training": {"name": cfg.name, "seed": cfg.seed, "steps": cfg.trainer.max_steps},
        } | ({} if self.adapters is None else {"adapters": plain(self.adapters)})

    def _shards(self, cfg: DictConfig) -> bool:
        """Whether the trainer shards the model (trainer=fsdp)."""
        return bool(OmegaConf.select(cfg, "trainer.strategy.shard"))

    def _recall_summary(self) -> None:
        """Takes over what a run that is continued has said before."""
        path = self.dir / "summary.json"
        if path.is_file():
            self.summary |= json.loads(path.read_text())

    def _save_summary(self) -> None:
        if is_main():
            write_text(self.dir / "summary.json", json.dumps(self.summary, indent=1))
