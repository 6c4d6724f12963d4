"""The loop: stages, epochs, steps, validation, checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from core.training import metrics, seeds
from core.training.augment import Augmenter, normalise
from core.training.config import Configuration, Stage, TrainingError
from core.training.data import open_pictures
from core.training.export import Best, write_best
from core.training.grow import grow
from core.training.journal import JOURNAL, Journal
from core.training.normalisation import Normalisation, normalisation
from core.training.optimise import autocast, choose_precision, gradient_scaler, learning_rate, update_average
from core.training.progress import Display
from core.training.state import LAST, State, Totals
from core.training.store import Store, batches, served_crops, whole_pictures
from core.vision.checkpoint import load_checkpoint
from core.vision.manifest import InputFormat
from core.vision.resnet import ResNet

AfterStep = Callable[[State], bool]
"""Called between steps; True asks the run to write a checkpoint and leave."""


class Stopped(Exception):
    """The run was asked to leave, and has written where it stands."""


class Training:
    """One run. ``config.folder`` is held by the caller (:func:`core.training.state.sole_writer`)."""

    journal: Journal

    def __init__(self, config: Configuration, device: torch.device, display: Display) -> None:
        seeds.make_deterministic(device)
        self.config, self.device, self.display = config, device, display
        self.seed, self.cache = config.experiment.seed, config.data.cache
        self.pictures = open_pictures(config.data, self.seed, display.watch, display.line)
        self.labels = self.pictures.source.labels
        self.precision = choose_precision(config, device)
        if config.model.weights:
            network, manifest = load_checkpoint(config.model.weights)
            # Weights go on seeing colours as they have learnt to.
            self.normalisation = Normalisation(manifest.input.mean, manifest.input.std)
            network = self._adapted(network, manifest.labels)
        else:
            method = config.data.normalisation
            self.normalisation = normalisation(self.pictures, method, self.cache, display.watch)
            network = self._random_network()
        network = network.to(device).to(memory_format=torch.channels_last)
        self.state = State.around(network, config, gradient_scaler(self.precision, device))

    def _random_network(self) -> ResNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.derive(self.seed, "model"))
            return ResNet(
                self.config.stages[0].depths,
                len(self.labels),
                stride_on=self.config.model.stride_on,
                zero_init_residual=self.config.model.zero_init_residual,
            )

    def _adapted(self, network: ResNet, labels: tuple[str, ...]) -> ResNet:
        """Given weights and their classes, for these classes and the first stage's depths.

        The classifier is kept if it knows the same classes, and put into their order here.
        """
        if sorted(labels) == sorted(self.labels):
            order = [labels.index(label) for label in self.labels]
            kept = network.fc.state_dict()
            network.fc.load_state_dict({name: rows[order] for name, rows in kept.items()})
        else:
            network.fc, network.num_classes = self._random_network().fc, len(self.labels)
        try:
            first = self.config.stages[0].depths
            return grow(network.requires_grad_(True), first, seeds.derive(self.seed, "model"))
        except ValueError as error:
            raise TrainingError(f"The first stage is shallower than model.weights: {error}.") from error

    def run(self, after_step: AfterStep) -> None:
        """All stages that are left. Raises Stopped if ``after_step`` asked for it."""
        folder = self.config.folder
        if (folder / LAST).exists():
            self.state.load(folder, self.config, self.pictures.digest)
        (folder / "config.yaml").write_text(self.config.to_yaml())
        self._write_summary(folder / "data.json")
        with Journal.reopened(folder / JOURNAL, self.state.position.updates) as self.journal:
            for stage in self.config.stages[self.state.position.stage :]:
                self._stage(stage, after_step)

    def _stage(self, stage: Stage, after_step: AfterStep) -> None:
        if self.state.network.depths != stage.depths:
            self.state.deepen(stage.depths, self.config)
        watch = self.display.watch
        stored_size = round(stage.size * self.config.data.margin)
        train = whole_pictures(self.pictures, self.pictures.part("train"), stored_size, self.cache, watch)
        validation = served_crops(
            self.pictures, self.pictures.part("validation"), self._form(stage), self.cache, watch
        )
        if len(train) < stage.batch:
            raise TrainingError(f"A batch of {stage.batch} is more than the {len(train)} training pictures.")
        settings = stage.augmentation or self.config.augmentation
        augment = Augmenter(settings, self.normalisation, stage.size, len(self.labels))
        for epoch in range(self.state.position.epoch, stage.epochs):
            self._epoch(stage, train, augment, after_step)
            due = (epoch + 1) % stage.validate_every == 0 or epoch + 1 == stage.epochs
            self._end_epoch(stage, self._validate(stage, validation) if due else None)

    def _epoch(self, stage: Stage, train: Store, augment: Augmenter, after_step: AfterStep) -> None:
        """What is left of the epoch. The last pictures, fewer than a batch, wait for another epoch."""
        state, position, totals = self.state, self.state.position, self.state.totals
        steps = len(train) // stage.batch
        draw = seeds.generator(self.seed, "order", position.stage, position.epoch)
        order = torch.randperm(len(train), generator=draw).numpy()[: steps * stage.batch]
        rest = np.split(order, steps)[position.step :]
        name = f"stage {position.stage + 1}, {stage.size} px, epoch {position.epoch + 1} of {stage.epochs}"
        bar = self.display.begin(name, steps, position.step)
        losses: list[Tensor] = []
        note = ""
        began = time.perf_counter()
        for pixels, targets, aspects in batches(train, rest, pinned=self.device.type == "cuda"):
            read = time.perf_counter()
            done = position.epoch * steps + position.step
            rate = learning_rate(done, stage.epochs * steps, stage.rate, self.config.schedule)
            draw = seeds.generator(self.seed, "augment", position.stage, position.epoch, position.step)
            inputs, wanted = augment(pixels.to(self.device, non_blocking=True), targets, aspects, draw)
            augmented = time.perf_counter()
            losses.append(self._step(inputs, wanted, rate))
            update_average(state.average, state.network, done, self.config.optimiser.average)
            position.step += 1
            position.updates += 1
            logged = position.updates % self.config.experiment.log_steps == 0
            saved = position.updates % self.config.experiment.checkpoint_steps == 0
            if logged or saved or position.step == steps:
                loss = self._settle(losses, len(targets))
                note = f"loss {loss:.3f}"
            totals.add(len(targets), read - began, augmented - read, time.perf_counter() - augmented)
            self.display.advance(bar, f"{note}  {totals.speed:.0f} pictures/s")
            if logged:
                self.journal.write(position.updates, event="step", loss=loss, rate=rate)
            leave = after_step(state)
            if position.step < steps:  # an epoch's end writes its own checkpoint
                if leave and losses:
                    self._settle(losses, len(targets))
                if leave or saved:
                    self._save()
                if leave:
                    raise Stopped
            began = time.perf_counter()
        self.display.end(bar)

    def _settle(self, losses: list[Tensor], pictures: int) -> float:
        """Add up the losses since the last time, each a mean over so many pictures, and return the newest.

        Reading them waits for the device. After every step, that would leave a GPU without work while the
        next one is prepared. Raises TrainingError if one is not finite.
        """
        for loss in torch.stack(losses).tolist():
            if not math.isfinite(loss):
                raise TrainingError(
                    f"The loss is {loss} after {self.state.position.updates} steps or fewer. A lower "
                    "stages.N.rate or a longer schedule.warmup may help; the checkpoint before it is kept."
                )
            self.state.totals.loss += loss * pictures
        losses.clear()
        return float(loss)

    def _step(self, inputs: Tensor, wanted: Tensor, rate: float) -> Tensor:
        state, settings = self.state, self.config.optimiser
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        with autocast(self.precision, self.device):
            logits = state.network(inputs)
        loss = F.cross_entropy(logits.float(), wanted, label_smoothing=settings.label_smoothing)
        state.optimiser.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if settings.gradient_norm is not None:
            state.scaler.unscale_(state.optimiser)
            torch.nn.utils.clip_grad_norm_(state.network.parameters(), settings.gradient_norm)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        return loss.detach()

    @torch.no_grad()
    def _validate(self, stage: Stage, validation: Store) -> dict[str, float]:
        """Of the averaged weights, on what the service would see at this size."""
        order = np.array_split(np.arange(len(validation)), -(-len(validation) // (2 * stage.batch)))
        bar = self.display.begin("validation", len(order))
        logits = []
        for pixels, _, _ in batches(validation, order):
            inputs = normalise(pixels.to(self.device), self.normalisation)
            with autocast(self.precision, self.device):
                logits.append(self.state.average(inputs).float().cpu())
            self.display.advance(bar)
        self.display.end(bar)
        return metrics.brief(torch.cat(logits).numpy(), validation.targets.numpy())

    def _end_epoch(self, stage: Stage, found: dict[str, float] | None) -> None:
        """``found``: what validation has measured; None where it is not due. It comes with a checkpoint."""
        state, position, totals = self.state, self.state.position, self.state.totals
        epoch = {
            "stage": position.stage,
            "epoch": position.epoch,
            "depths": list(stage.depths),
            "size": stage.size,
            "train_loss": totals.loss / totals.pictures,
            **{f"validation_{name}": value for name, value in (found or {}).items()},
        }
        if found is not None:
            self._keep_if_best(stage, epoch, found)
        self.journal.write(
            position.updates, event="epoch", **epoch, pictures_per_second=totals.speed, **totals.seconds
        )
        self.display.line(
            f"stage {position.stage + 1}  {stage.size} px  epoch {position.epoch + 1}/{stage.epochs}  "
            f"loss {epoch['train_loss']:.4f}  {_in_words(found)}  {totals.speed:.1f} pictures/s"
        )
        position.epoch, position.step = position.epoch + 1, 0
        if position.epoch == stage.epochs:
            position.stage, position.epoch = position.stage + 1, 0
        state.totals = Totals()
        if found is not None or position.updates % self.config.experiment.checkpoint_steps == 0:
            self._save()

    def _keep_if_best(self, stage: Stage, epoch: dict[str, Any], found: dict[str, float]) -> None:
        state = self.state
        best = state.best if state.best and state.best["stage"] == epoch["stage"] else None
        if best is None or _rank(epoch) > _rank(best):
            state.best = epoch
            # If a kill follows before the checkpoint, the epoch is run again and writes the same.
            write_best(
                Best(self.config, self.labels, self._form(stage), found, self.pictures.summary, state.average)
            )

    def _form(self, stage: Stage) -> InputFormat:
        return InputFormat(size=stage.size, mean=self.normalisation.mean, std=self.normalisation.std)

    def _save(self) -> None:
        self.state.save(self.config.folder, self.config, self.pictures.digest)

    def _write_summary(self, path: Path) -> None:
        found = {
            "digest": self.pictures.digest,
            **self.pictures.summary,
            "normalisation": {"mean": self.normalisation.mean, "std": self.normalisation.std},
        }
        path.write_text(json.dumps(found, indent=2) + "\n")


def _rank(epoch: dict[str, Any]) -> tuple[float, float]:
    return epoch["validation_accuracy"], -epoch["validation_loss"]


def _in_words(found: dict[str, float] | None) -> str:
    if found is None:
        return "not validated"
    return (
        f"validation: loss {found['loss']:.4f}, accuracy {found['accuracy']:.4f}, "
        f"ROC-AUC {found['roc_auc']:.4f}"
    )
