"""The one training loop: device-resident batches, deferred logging, checkpoints, resume, budgets.

A loop is made of three parts. :class:`Batches` serves slices of data that lie on the device. An *update* (usually
:class:`helpers.train.updates.GradientUpdate`) turns a batch into a step of the optimiser and returns the loss terms. :func:`fit`
runs it and watches: it keeps the terms in a buffer on the device, so that nothing waits for the device inside a step, evaluates,
saves checkpoints, resumes from them to the same result, and stops where a loss is not finite.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from helpers import settings
from helpers.train.checkpoints import Checkpoint, CheckpointError
from helpers.train.updates import ExponentialAverage, GradientUpdate

__all__ = ["Batches", "ExponentialAverage", "GradientUpdate", "History", "NonFiniteLoss", "OutOfMemory", "fit"]

settings.keep_freed_memory()
torch.backends.cudnn.benchmark = True  # shapes stay the same from step to step: the quickest convolution is worth looking for

CHECK_EVERY = 500  # steps between two looks at the losses (each look waits for the device)


class NonFiniteLoss(RuntimeError):
    """A loss became infinite or not a number."""

    explained = True  # the message says what to mend: the command line shows it alone


class OutOfMemory(RuntimeError):
    """A step did not fit into the memory of the device."""

    explained = True  # the message says what to mend: the command line shows it alone


class Batches:
    """Shuffled minibatches of tensors that lie on the device: one permutation an epoch, then slices.

    Args:
        tensors: a tensor, or a tuple of tensors with equal first dimension N; uint8 images stay uint8.
        batch_size: examples a batch; the last batch of an epoch is shorter unless ``drop_last``.
        seed: root of the permutations; epoch e has the same order whenever it is asked for.
        stack: with a number S, each batch has a leading dimension S, and each of the S members its own order.
        device: where the data goes (default: where it is).

    ``batches.at(step)`` is the batch of any step: a resumed run needs no state of the loader.
    """

    def __init__(self, tensors: Tensor | tuple[Tensor, ...], batch_size: int, *, seed: int, stack: int | None = None,
                 drop_last: bool = False, device: torch.device | str | None = None) -> None:
        self.single = isinstance(tensors, Tensor)
        self.tensors = tuple(t if device is None else t.to(device) for t in ((tensors,) if self.single else tensors))
        lengths = {len(tensor) for tensor in self.tensors}
        if len(lengths) != 1:
            raise ValueError(f"the tensors of a batch differ in length: {sorted(lengths)}")
        self.length, self.batch_size, self.seed, self.stack = lengths.pop(), batch_size, seed, stack
        if not 1 <= batch_size <= self.length:
            raise ValueError(f"batch_size {batch_size} is not between 1 and the number of examples, {self.length}")
        self.per_epoch = self.length // batch_size if drop_last else -(-self.length // batch_size)
        self.epoch, self.shuffled = -1, ()

    def at(self, step: int) -> Tensor | tuple[Tensor, ...]:
        """The batch of a step: (B, ...) or, stacked, (S, B, ...)."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            order = self._permutation(epoch).to(self.tensors[0].device)
            self.shuffled, self.epoch = tuple(tensor[order] for tensor in self.tensors), epoch
        rows = slice(position * self.batch_size, (position + 1) * self.batch_size)
        batch = tuple(tensor[rows] if self.stack is None else tensor[:, rows] for tensor in self.shuffled)
        return batch[0] if self.single else batch

    def _permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        if self.stack is None:
            return torch.randperm(self.length, generator=generator)
        return torch.stack([torch.randperm(self.length, generator=generator) for _ in range(self.stack)])


@dataclass
class History:
    """What :func:`fit` saw.

    Attributes:
        terms: loss terms of every step done, (steps, T) or (steps, T, S).
        evaluations: one row an evaluation, (E, ...), the first before training.
        evaluation_steps: (E,) the steps after which they were made.
        done, planned: steps. They differ where the time budget ran out; an early stop counts as planned.
        seconds: time spent training and evaluating, over all resumptions.
        best: index of the evaluation whose state was kept, or None.
    """

    terms: np.ndarray
    evaluations: np.ndarray
    evaluation_steps: np.ndarray
    done: int
    planned: int
    seconds: float
    best: int | None = None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of PyTorch says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)


def fit(update, batches: Batches, *, steps: int, seed: int, checkpoint: Checkpoint | None = None, label: str = "training",
        evaluate: Callable[[], Sequence[float] | np.ndarray | Tensor] | None = None, evaluate_every: int | None = None,
        monitor: int | tuple[int, ...] | None = None, patience: int | None = None, checkpoint_seconds: float = 60.0,
        time_budget: float | None = None, stop_after: int | None = None) -> History:
    """Train, watch, and be ready to be killed at any moment.

    Args:
        update: called as ``update(batch, step, generator)``, returns the loss terms as a detached tensor on the device;
            has ``state_dict`` and ``load_state_dict``. Usually a :class:`GradientUpdate`.
        batches: where the batches come from.
        steps: updates to make.
        seed: of the noise (the data order has the seed of ``batches``).
        checkpoint: where the state is saved; a saved state there is resumed.
        evaluate: called before the first step, every ``evaluate_every`` steps (default: an epoch) and after the last;
            returns numbers of one shape, which become the rows of ``History.evaluations``.
        monitor: index of the evaluated number (lower is better; (row, column) where an evaluation has rows) whose best state is
            restored at the end: that of the averaged model where the update keeps one, for it is what is evaluated.
        patience: stop after so many evaluations without a new best.
        checkpoint_seconds: at most so much work is lost by a crash.
        time_budget: seconds after which training stops at a checkpoint, unfinished.
        stop_after: steps after which it does so, for runs that are compared at equal numbers of updates.

    Raises:
        NonFiniteLoss: names the step, and the last good checkpoint, which is kept.
        OutOfMemory: names the batch size to try, and the last checkpoint, which is kept.
        CheckpointError: the checkpoint is damaged, another configuration's, beyond ``steps``, or the last one cannot be written.
    """
    evaluate_every = evaluate_every or batches.per_epoch
    average = getattr(update, "average", None)
    shown = None if monitor is None else update.model if average is None else average.module
    noise = torch.Generator(batches.tensors[0].device).manual_seed(seed % 2**63)
    state = {"step": 0, "seconds": 0.0, "evaluations": [], "evaluation_steps": [], "best": None, "stopped": False}
    terms, best_state, started, checked = None, None, time.perf_counter(), 0
    saved = checkpoint.load(batches.tensors[0].device) if checkpoint else None
    last = steps if stop_after is None else min(steps, stop_after)
    if saved is not None:
        with checkpoint.restoring(saved, update):
            if saved["loop"]["step"] > steps:
                raise CheckpointError(f"{checkpoint.path} is at step {saved['loop']['step']:,}, beyond the {steps:,} steps "
                                      "asked for; nothing was loaded or overwritten: move it away to start anew")
            update.load_state_dict(saved["update"])
            if len(saved["noise"]) == len(noise.get_state()):
                noise.set_state(saved["noise"].cpu())
            else:  # saved on another kind of device, whose generator is another one: the noise starts a stream of its own
                noise.manual_seed((seed + saved["loop"]["step"]) % 2**63)
            state, best_state = saved["loop"], saved["best_state"]
            if saved["terms"] is not None:
                terms = torch.empty((steps, *saved["terms"].shape[1:]), device=saved["terms"].device)
                terms[: state["step"]] = saved["terms"]
            checked = state["step"]
        print(f"{label}: resumed at step {state['step']} of {steps}")
    earlier_seconds, last_saved = state["seconds"], time.perf_counter()

    def kept() -> str:
        saved = checkpoint is not None and checkpoint.path.exists()
        return f"the last good checkpoint is {checkpoint.path}" if saved else "no checkpoint was due yet"

    def look(step: int) -> None:
        nonlocal checked
        if terms is None or checked == step:
            return
        bad = ~torch.isfinite(terms[checked:step]).flatten(1).all(1)
        if bad.any():
            first = checked + int(bad.nonzero()[0])
            raise NonFiniteLoss(f"{label}: the loss is not finite at step {first}: {terms[first].tolist()}; {kept()}")
        checked = step

    def save(step: int, needed: bool) -> None:
        nonlocal last_saved
        state.update(step=step, seconds=earlier_seconds + time.perf_counter() - started)
        try:
            if checkpoint is not None:
                checkpoint.save({"update": update.state_dict(), "noise": noise.get_state(), "loop": state,
                                 "terms": None if terms is None else terms[:step].clone(), "best_state": best_state})
        except CheckpointError as error:
            if needed:
                raise
            print(f"{label}: {error}; training goes on, the next try is in {checkpoint_seconds:.0f} s")
        last_saved = time.perf_counter()

    def evaluate_now(step: int) -> None:
        nonlocal best_state
        look(step)
        if evaluate is None or step in state["evaluation_steps"]:
            return
        row = torch.as_tensor(evaluate()).detach().cpu().double()
        state["evaluations"].append(row)
        state["evaluation_steps"].append(step)
        if monitor is None:
            return
        if state["best"] is None or row[monitor] < state["evaluations"][state["best"]][monitor]:
            state["best"] = len(state["evaluations"]) - 1
            best_state = {name: value.clone() for name, value in shown.state_dict().items()}
        elif patience is not None and len(state["evaluations"]) - 1 - state["best"] >= patience:
            state["stopped"] = True

    step = state["step"]
    with tqdm(total=steps, initial=step, desc=label, file=sys.stdout, leave=False, mininterval=1.0, dynamic_ncols=True,
              disable=not settings.show_progress()) as bar:
        while step < last and not state["stopped"]:
            if step % evaluate_every == 0:
                evaluate_now(step)
                if state["stopped"]:
                    break
            try:
                row = update(batches.at(step), step, noise)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemory(f"{label}: step {step} does not fit into the memory of {noise.device} with batches of "
                                  f"{batches.batch_size}; try {max(1, batches.batch_size // 2)}; {kept()}") from error
            if terms is None:
                terms = torch.empty((steps, *row.shape), device=row.device)
            terms[step] = row
            step += 1
            bar.update()
            if step % CHECK_EVERY == 0:
                look(step)
            now = time.perf_counter()
            over = time_budget is not None and earlier_seconds + now - started > time_budget
            if over or now - last_saved > checkpoint_seconds:
                look(step)  # a state that is not finite is never saved
                save(step, needed=over)
            if over:
                break
        finished = step >= steps or state["stopped"]
        if finished or (step == last and step % evaluate_every == 0):
            evaluate_now(step)
        if finished or step == last:
            look(step)
            save(step, needed=True)
    if monitor is not None and best_state is not None and finished:
        shown.load_state_dict(best_state)
    seconds = earlier_seconds + time.perf_counter() - started
    print(f"{label}: {step} of {steps} steps{' (stopped early)' if state['stopped'] else ''}, {seconds:.1f} s")
    rows = [row.numpy() for row in map(torch.Tensor.cpu, state["evaluations"])]
    return History(terms=np.zeros((0, 1)) if terms is None else terms[:step].float().cpu().numpy(),
                   evaluations=np.array(rows), evaluation_steps=np.array(state["evaluation_steps"]), done=step,
                   planned=step if state["stopped"] else steps, seconds=seconds, best=state["best"])
