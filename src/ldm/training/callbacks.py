"""What a run draws while it trains, and how it is stopped."""

import logging
import signal
import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from torch import Tensor

from ldm.training.peers import Peers
from ldm.training.tensorboard_log import TensorBoardLog
from ldm.utils.image_io import labelled_grid, make_grid, save_png

log = logging.getLogger(__name__)


def log_picture(trainer: pl.Trainer, name: str, picture: Image.Image, step: int) -> None:
    """Sends a picture to the loggers that show pictures: W&B and TensorBoard."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger | TensorBoardLog):
            logger.log_image(key=name, images=[picture], step=step)


class StepCallback(pl.Callback):
    """A callback that acts once per optimizer step, however many batches the step accumulates."""

    _step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes where the run starts or goes on."""
        self._step = trainer.global_step

    def stepped(self, trainer: pl.Trainer) -> bool:
        """Whether the batch that has just ended made an optimizer step; to be asked once a batch."""
        before, self._step = self._step, trainer.global_step
        return self._step != before


class SampleGrid(StepCallback):
    """Draws fixed prompts from fixed seeds with the EMA weights at intervals: samples/step_*.png.

    W&B and TensorBoard get the same images with the prompts below them.

    Args:
        captions: the prompts.
        every_n_steps: interval; the last step is drawn too.
        seed: of the noise.
        columns: of the grid.
    """

    def __init__(self, captions: list[str], every_n_steps: int, seed: int = 0, columns: int = 8) -> None:
        if every_n_steps < 1:
            raise ValueError(
                f"every_n_steps must be at least 1, got {every_n_steps} (callbacks.samples.every_n_steps)"
            )
        self.captions, self.every_n_steps = list(captions), every_n_steps
        self.seed, self.columns = seed, columns

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draws when it is time."""
        if not self.stepped(trainer) or not self.captions:
            return
        due = self._step % self.every_n_steps == 0 or self._step == trainer.max_steps
        if due and hasattr(pl_module, "sample_images"):
            images = pl_module.sample_images(self.captions, self.seed)  # all ranks draw
            if trainer.is_global_zero:
                self._draw(trainer, images)

    def _draw(self, trainer: pl.Trainer, images: Tensor) -> None:
        folder = Path(trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        about = {"step": str(self._step), "seed": str(self.seed), "prompts": "\n".join(self.captions)}
        save_png(make_grid(images, columns=self.columns), folder / f"step_{self._step:08d}.png", about)
        if any(isinstance(logger, WandbLogger | TensorBoardLog) for logger in trainer.loggers):
            picture = labelled_grid(images, self.captions, columns=self.columns)
            log_picture(trainer, "samples", picture, self._step)


class StopOnSignal(StepCallback):
    """Ctrl-C, SIGTERM or SIGUSR1 ends the training after the current step, with its checkpoint.

    The handler only notes the signal: ranks get it at different places, or not all of them. At the end of a
    step they agree. Ctrl-C twice ends at once.

    Attributes:
        stopped_by: number of the signal that ended the run, the same on all ranks; 0 for none.
    """

    def __init__(self) -> None:
        self.stopped_by = self._asked = 0
        self._before: dict[int, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves out Lightning's handlers, one of which waits for the other ranks where it interrupts."""
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals, which only a main thread can."""
        super().on_train_start(trainer, pl_module)
        self.stopped_by = self._asked = 0
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if number == self._asked == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = max(self._asked, int(number))
        log.info("%s: stopping after this step", signal.Signals(number).name)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the run if any rank was asked to."""
        if not self.stepped(trainer):
            return
        asked = torch.tensor(self._asked, device=trainer.strategy.root_device)
        self.stopped_by = int(trainer.strategy.reduce(asked, reduce_op="max"))
        trainer.should_stop = trainer.should_stop or self.stopped_by > 0

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back; only now, so that another one cannot fall into the saving."""
        self._give_back()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


class PeerWatch(pl.Callback):
    """A rank that dies ends the others in seconds, with its name, also where they wait for it (`Peers`).

    Args:
        silence: seconds without a word from a rank after which it is taken for dead.
    """

    def __init__(self, silence: float = 30.0) -> None:
        if silence <= 0:
            raise ValueError(f"silence must be above 0, got {silence} (callbacks.peers.silence)")
        self.silence = silence
        self._peers: Peers | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Connects the ranks."""
        if trainer.world_size > 1:
            strategy = trainer.strategy
            address = strategy.cluster_environment.main_address
            about = (trainer.global_rank, trainer.world_size, address, strategy.broadcast, self.silence)
            self._peers = Peers(*about)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Says good-bye."""
        if self._peers is not None:
            self._peers.leave()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Tells the other ranks, unless they are interrupted, too."""
        if self._peers is not None and not isinstance(exception, KeyboardInterrupt):
            self._peers.fail()
        self.teardown(trainer, pl_module, "fit")
