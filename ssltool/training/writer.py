"""Writing a run: metrics, checkpoints, weights and figures, as they fall due."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from ssltool import atomic
from ssltool.atomic import atomic_file
from ssltool.data.channels import Channels
from ssltool.data.sample import sample
from ssltool.distributed.collectives import any_of, from_all, is_main, world_size
from ssltool.encoders.projection import save_projection
from ssltool.encoders.weights import save_encoder
from ssltool.errors import (
    CheckpointError,
    DataError,
    DiskFullError,
    NonFiniteLossError,
    SslToolError,
    WeightsError,
)
from ssltool.probing.online import CollapseMonitor, OnlineKNN
from ssltool.runs import checkpoint, metrics
from ssltool.runs.folder import (
    FIGURES,
    SKIPPED,
    WEIGHTS,
    BestWeights,
    clear,
    resume_command,
)
from ssltool.runs.records import RUN_FILE, MetricRecord
from ssltool.training.best import BestEncoder
from ssltool.training.disk import check_disk
from ssltool.training.loop import StepReport
from ssltool.training.metrics import Meter
from ssltool.training.tracking.trackers import Trackers
from ssltool.training.trainer import Trainer
from ssltool.visualizing.snapshots import draw_snapshot, draw_start

_PLATEAU = 500  # steps after which a loss still at the chance level is worth a remark
_MONITORED = 64  # images whose features are monitored for a collapse


class Due(NamedTuple):
    """What is written after a step.

    Attributes:
        log: A line of metrics.
        checkpoint: The training state, the encoder and figures.
        probe: Online kNN accuracy.
    """

    log: bool
    checkpoint: bool
    probe: bool


class RunWriter:
    """Writes a run folder. All processes hold one and call it alike; the first of them writes.

    Args:
        trainer: What is trained.
        folder: The run folder; made here, or trimmed to the step that is resumed from.
        overwrite: Whether a run in it is replaced.
        console: Where remarks go.

    Attributes:
        metrics: The metrics of the run, in the first process.
    """

    def __init__(
        self, trainer: Trainer, folder: Path, console: Console, *, overwrite: bool = False
    ) -> None:
        self._trainer, self._folder, self._console = trainer, folder, console
        self._meter = Meter()
        self._skipped: dict[str, str] = {}
        self._knn: OnlineKNN | None = None
        self._best: BestEncoder | None = None
        self._online: dict[str, float] = {}
        self._collapse: CollapseMonitor | None = None
        self._trackers: Trackers | None = None
        self._past_plateau = trainer.first_step >= _PLATEAU
        self.metrics: tuple[MetricRecord, ...] = ()
        if is_main():
            self._begin(overwrite)

    @property
    def best(self) -> BestWeights | None:
        """The encoder with the best online kNN accuracy, in the first process."""
        return self._best.best if self._best else None

    @property
    def skipped(self) -> int:
        """Images that could not be read by any process, as of the last checkpoint."""
        return len(self._skipped)

    def due(self, step: int, *, last: bool, stopping: bool) -> Due:
        """What is to be written after a step."""
        options = self._trainer.config.run
        save = last or stopping or step % options.checkpoint_every == 0
        probe = not stopping and self._is_probed(step, last=last)
        return Due(save or probe or step % options.log_every == 0, save, probe)

    def _is_probed(self, step: int, *, last: bool) -> bool:
        options = self._trainer.config.run
        every = options.probe_every or options.checkpoint_every
        return bool(options.probe_data) and (last or step % every == 0)

    def log(self, step: int, due: Due) -> dict[str, float]:
        """Average the steps since the last line into one, extend it by what is due, and write it.

        Raises:
            NonFiniteLossError: The loss, the weights or the features became NaN or infinite.
            DiskFullError: No space left; what was saved before is intact.
            CheckpointError: The run folder cannot be written to any more.
        """
        line = self._average(step, due)
        if due.probe and self._knn is not None:
            line |= self._probe(self._knn, step)
        if is_main():
            if due.checkpoint and self._collapse is not None:
                line |= self._monitor(step)
            with self._naming_what_is_kept(step):
                metrics.append(self._folder, line)
            if self._trackers is not None:
                self._trackers.line(line)
        if step >= _PLATEAU and not self._past_plateau:
            self._past_plateau = True
            self._mention_plateau(line)
        return {**line, **self._online}

    def add(self, report: StepReport) -> None:
        """Take note of a step."""
        self._meter.add(report)

    def save(self, step: int, *, draw: bool = True) -> None:
        """Save a checkpoint, the encoder, the list of skipped images and figures.

        All processes call it, for what each of them holds.

        Args:
            step: Steps taken.
            draw: Whether figures are drawn.

        Raises:
            DiskFullError: No space left; what was saved before is intact.
            CheckpointError: The run folder cannot be written to any more.
        """
        trainer, keep = self._trainer, self._trainer.config.run.keep
        average = None if trainer.average is None else trainer.average.state
        state = trainer.method, trainer.optimizer
        extra = {
            "scaler": trainer.scaler.state_dict(),
            "skipped_steps": trainer.skipped_steps,
            "probe_images": trainer.probe_images,
        }
        for skipped in from_all(trainer.batches.skipped):
            self._skipped |= skipped
        if not is_main():
            checkpoint.save(self._folder, step, *state, extra, keep, average)
            return
        with self._naming_what_is_kept(step):
            # The checkpoint comes last: a run killed before it takes the steps again and rewrites
            # the rest, while one resumed from its last checkpoint has no step left that would.
            metadata = trainer.metadata(step)
            weights, projection = self._folder / WEIGHTS, trainer.projection
            save_encoder(trainer.encoder, metadata, weights)
            if projection is not None:
                save_projection(projection, metadata, weights)
            self._write_skipped()
            if draw:
                self._draw(step)
            best = self._best.files if self._best else ()
            checkpoint.save(self._folder, step, *state, extra, keep, average, best)

    def resume_command(self) -> str:
        """What to type to continue the run."""
        return resume_command(self._trainer.config.method, self._folder)

    def close(self, *, finished: bool) -> None:
        """Let trackers write what they have not written yet."""
        if self._trackers is not None:
            self._trackers.close(finished=finished)

    @contextmanager
    def _naming_what_is_kept(self, step: int) -> Iterator[None]:
        """Extend an error of writing by what is intact and how to continue."""
        try:
            yield
        except CheckpointError as error:
            full = isinstance(error, DiskFullError)
            found = f"no space left on the disk for step {step}" if full else str(error)
            kept = checkpoint.newest(self._folder)
            state = f"{kept} is intact" if kept else "no checkpoint was saved before"
            mend = "free some" if full else "make it writable"
            raise type(error)(
                f"{found}; {state}; {mend} and type {self.resume_command()}"
            ) from error

    def _begin(self, overwrite: bool) -> None:
        """Make the run folder, or trim what was written after the checkpoint resumed from."""
        trainer, options = self._trainer, self._trainer.config.run
        online: tuple[MetricRecord, ...] = ()
        if options.probe_data:
            self._knn = OnlineKNN(
                options.probe_data,
                options.batch_size,
                options.seed,
                trainer.device,
                Channels.of(trainer.config.data),
            )
            online = (MetricRecord(name="knn", unit="fraction", chance=self._knn.chance),)
        images, _ = sample(trainer.source, options.image_size, _MONITORED)
        self._collapse = CollapseMonitor(images.to(trainer.device))
        # Nothing is written or replaced before everything is known to be usable.
        check_disk(trainer, self._folder)
        if overwrite:
            clear(self._folder)
        atomic.remove_leftovers(self._folder)
        checkpoint.prune(self._folder, options.keep)
        record = trainer.record(online)
        record.write(self._folder / RUN_FILE)
        self.metrics = record.metrics
        metrics.trim(self._folder, trainer.first_step)
        probed = self._begin_best()
        self._trackers = Trackers(
            options.track,
            self._folder,
            record.options,
            record.chance,
            trainer.first_step,
            self._warn,
        )
        self._announce()
        if trainer.first_step:
            self._console.print(f"resumed after step {trainer.first_step}")
            self._probe_interrupted(probed)
        else:
            self._draw(0)

    def _begin_best(self) -> bool:
        """Take up the best encoder as of the checkpoint; whether the accuracies before it were
        measured on the same images.
        """
        trainer = self._trainer
        resumed = checkpoint.newest(self._folder) if trainer.first_step else None
        images = self._knn.images if self._knn else trainer.probe_images
        same = images == trainer.probe_images
        self._best = BestEncoder(self._folder, resumed, same_images=same)
        if not same and self._best.best:
            self._console.print(
                "note: the best encoder so far was chosen by other images; the next is the first "
                "of a new search"
            )
        trainer.probe_images = images
        return same

    def _probe_interrupted(self, probed: bool) -> None:
        """An interrupted run saves its last step without the accuracy that was due."""
        step, lines = self._trainer.first_step, metrics.read(self._folder)
        is_last = step == self._trainer.schedule.steps
        if self._knn is None or not probed or not self._is_probed(step, last=is_last):
            return
        if lines and lines[-1]["step"] == step and "knn" not in lines[-1]:
            metrics.extend(self._folder, {"step": step, **self._probe(self._knn, step)})

    def _announce(self) -> None:
        """Print what was decided."""
        trainer, options = self._trainer, self._trainer.config.run
        schedule, precision = trainer.schedule, trainer.schedule.precision
        epochs = schedule.steps * schedule.accumulate / trainer.batches.steps_per_epoch
        processes = f" x {options.devices} processes" if world_size() > 1 else ""
        task = trainer.config.task.model_dump(mode="json").items()
        for line in (
            f"{trainer.config.method} on {trainer.source.description}, {options.image_size} px "
            f"-> {self._folder}",
            f"{options.backbone} ({options.stem} stem, {options.channels} input channels), "
            f"batch {options.batch_size}{processes}, "
            f"{options.optimizer} lr {options.lr:.4g}, {schedule.steps} steps "
            f"({epochs:.1f} epochs)",
            "task: " + ", ".join(f"{name} {value}" for name, value in task if value is not None),
            f"{trainer.device.type}, {precision.name} ({precision.reason}), channels-last",
            *(f"note: {note}" for note in trainer.source.notes),
        ):
            self._console.print(line)

    def _average(self, step: int, due: Due) -> dict[str, float]:
        """The line of metrics; of diverged weights nothing is measured or saved."""
        try:
            line = self._meter.line()
        except NonFiniteLossError as error:
            raise self._diverged(str(error)) from error
        if due.checkpoint or due.probe:
            state = chain(self._trainer.method.parameters(), self._trainer.method.buffers())
            if any_of(not all(bool(tensor.isfinite().all()) for tensor in state)):
                raise self._diverged(f"the weights became NaN or infinite by step {step}")
        return line

    def _diverged(self, found: str) -> NonFiniteLossError:
        newest = checkpoint.newest(self._folder)
        kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint yet"
        lr = self._trainer.config.run.lr
        return NonFiniteLossError(
            f"{found}; {kept}; try --lr {lr / 10:.2g}, --clip 1, or --precision fp32"
        )

    @contextmanager
    def _as_divergence(self, step: int) -> Iterator[None]:
        """Features can overflow before the weights do."""
        try:
            yield
        except WeightsError as error:
            raise self._diverged(f"the features became NaN or infinite by step {step}") from error

    def _probe(self, knn: OnlineKNN, step: int) -> dict[str, float]:
        """Online kNN accuracy; none, with a warning, if its images cannot be read any more."""
        trainer = self._trainer
        try:
            with self._as_divergence(step):
                accuracy = knn.accuracy(trainer.encoder, trainer.metadata(step))
        except (DataError, OSError) as error:
            self._warn(f"no kNN accuracy after step {step}", error)
            return {}
        if self._best is not None:
            with self._naming_what_is_kept(step):
                self._best.offer(
                    accuracy, trainer.encoder, trainer.projection, trainer.metadata(step)
                )
        self._online = {"knn": accuracy}
        return self._online

    def _monitor(self, step: int) -> dict[str, float]:
        """Spread of the features; a collapse is reported once."""
        assert self._collapse is not None
        trainer = self._trainer
        with self._as_divergence(step):
            spread, warning = self._collapse.measure(trainer.encoder, trainer.metadata(step))
        if warning:
            self._console.print(f"after {step} steps {warning}", style="bold red")
        return spread

    def _mention_plateau(self, line: dict[str, float]) -> None:
        """Tasks often start with a plateau at the chance level."""
        chance = self._trainer.method.chance.get("loss")
        if chance is not None and line["loss"] > 0.98 * chance:
            self._console.print(
                f"after {int(line['step'])} steps the loss, {line['loss']:.3f}, is still at the "
                f"chance level, {chance:.3f}; if that lasts, try another --lr than "
                f"{self._trainer.config.run.lr:.2g} or an easier task"
            )

    def _write_skipped(self) -> None:
        if self._skipped:
            lines = [f"{name}: {reason}\n" for name, reason in sorted(self._skipped.items())]
            with atomic_file(self._folder / SKIPPED) as temporary:
                temporary.write_text("".join(lines), encoding="utf-8")

    def _draw(self, step: int) -> None:
        """Draw the data and the task (at the start) or predictions (later).

        A figure that cannot be drawn is reported and ends no run, except on a full disk.
        """
        trainer, options = self._trainer, self._trainer.config.run
        folder, size, seed = self._folder / FIGURES, options.image_size, options.seed
        method, source = trainer.method, trainer.source
        try:
            if step:
                figures = draw_snapshot(method, source, size, folder, step=step, seed=seed)
            else:
                figures = draw_start(method, source, options.load_size or size, folder, seed=seed)
            for name, path in figures.items():
                if self._trackers is not None:
                    self._trackers.figure(name, path, step)
        except DiskFullError:
            raise
        except Exception as error:
            self._warn(f"no figures after step {step}", error)

    def _warn(self, what: str, error: Exception) -> None:
        """Print what is missing and why, on one line."""
        reason = " ".join(str(error).split())
        if not isinstance(error, SslToolError):
            reason = f"{type(error).__name__}: {reason}"
        self._console.print(f"warning: {what}: {reason}")
