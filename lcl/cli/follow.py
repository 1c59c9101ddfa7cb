"""A training run as the command line follows it: its folder, progress, log, checkpoints, and a stop that loses nothing."""

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lcl.cli.common import bar
from lcl.config import LclError

MINUTES = 5  # between checkpoints, unless they are asked for by steps

log = logging.getLogger("lcl")


@contextlib.contextmanager
def own_folder(folder: Path, resumed: bool) -> Iterator[None]:
    """Keep a run's folder to this process.

    Args:
        folder: of the run.
        resumed: it was begun earlier.

    Raises:
        LclError: if another process trains there, or has finished the run meanwhile, or the folder cannot be written.
    """
    import filelock

    from lcl.train.runs import PLAN, read_plan

    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise LclError(f"another process trains in {folder}; wait for it, or stop it first.") from None
    except OSError as error:
        raise LclError(f"cannot write in {folder}: {error.strerror}; choose another folder.") from None
    try:
        if resumed:
            read_plan(folder)
        yield
    finally:
        lock.release()
        if not (folder / PLAN).exists() or (folder / "metrics.json").exists():  # who locks it now, is refused by `read_plan`
            with contextlib.suppress(OSError):
                (folder / ".lock").unlink()


def follow(training, folder: Path, checkpoint_every: int = 0, keep: int = 2, tensorboard: bool = False) -> list:
    """Train to the end and show progress; returns all events, including those before a run was resumed.

    A signal to stop (SIGINT, SIGTERM) is heeded after the step, when a checkpoint has been written. A single process does not
    wait for its first step, because millions of scenes are described before it, which takes minutes.

    Args:
        training: the run; all ranks call this.
        folder: for checkpoints and logs.
        checkpoint_every: steps; 0: every MINUTES, and after the last step.
        keep: how many of the last checkpoints stay.
        tensorboard: also write a TensorBoard log.

    Raises:
        KeyboardInterrupt: after SIGINT.
        SystemExit: with code 143, after SIGTERM.
        LclError: as training does; for a step that does not fit into memory; if a checkpoint that was asked for by steps
            cannot be written.
    """
    from lcl.train.checkpoints import save_checkpoint
    from lcl.train.loop import Step
    from lcl.train.runs import EventLog

    config, ranks, score = training.profile.training, training.ranks, None
    events = EventLog(folder, training.step, tensorboard) if ranks.is_main else None
    curve = events.before if events else []
    saved, first = time.monotonic(), training.step
    with (
        noted_signals(ranks.world_size == 1, lambda: training.step > first) as signals,
        bar("training", "step", config.steps, initial=training.step, disable=not ranks.is_main) as progress,
    ):
        for event in training:
            curve.append(event)
            if events:
                events.write(event)
            if isinstance(event, Step):
                progress.update()
                progress.set_postfix_str(_progress_line(event), refresh=False)
            else:
                score = (event.image_to_text + event.text_to_image) / 2
                if ranks.is_main:
                    progress.write(
                        f"step {event.step:5d}: validation InfoNCE {event.loss:.3f}; validation recall@1 "
                        f"{event.image_to_text:.0%} image→text, {event.text_to_image:.0%} text→image"
                    )
            last = event.step == config.steps
            if isinstance(event, Step) and (last or event.step % config.evaluate_every == 0):
                continue  # a checkpoint comes after the validation step: a resumed training does not repeat it
            late = ranks.is_main and time.monotonic() - saved > 60 * MINUTES  # one clock decides for all ranks
            stop, late = _any(training, bool(signals), late)
            by_steps = checkpoint_every and event.step % checkpoint_every == 0
            if by_steps or stop or not checkpoint_every and (late or last):
                saved = time.monotonic()
                try:
                    save_checkpoint(folder / "checkpoints", training, score, keep)
                except LclError as error:
                    if by_steps:
                        raise
                    log.warning("the training goes on without this checkpoint: %s", error)
            if stop:
                raise SystemExit(143) if signal.SIGTERM in signals else KeyboardInterrupt
        progress.refresh()
    return curve


def _any(training, *flags: bool) -> list[bool]:
    """For each flag, whether it is set on any rank: all ranks do the same after the same step."""
    import torch

    if training.ranks.world_size == 1:
        return list(flags)
    return (training.ranks.add(torch.tensor(flags, dtype=torch.float32, device=training.device)) > 0).tolist()


@contextlib.contextmanager
def noted_signals(alone: bool, begun: Callable[[], bool]) -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in the list that this yields; they would leave a step half done.

    Args:
        alone: a second SIGINT raises KeyboardInterrupt at once. Not among several ranks: torchrun passes on the signal that the
            terminal has already sent to each of them.
        begun: whether a step was made. Before, any signal stops a process that is `alone` at once.
    """
    signals: list[int] = []

    def note(number: int, frame: object) -> None:
        if alone and not begun():
            raise SystemExit(143) if number == signal.SIGTERM else KeyboardInterrupt
        if alone and number == signal.SIGINT and number in signals:
            raise KeyboardInterrupt
        if alone and number == signal.SIGINT:
            print("\nstopping after this step; press Ctrl-C again to stop at once.", file=sys.stderr)
        signals.append(number)

    before = {}
    with contextlib.suppress(ValueError):  # in a thread of another program
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress_line(step) -> str:
    replaced = f", {step.replaced} rows replaced" if step.replaced else ""
    return (
        f"loss {step.loss:.3f}, {step.pairs_per_second:.0f} pairs/s, {step.memory:.1f} GiB, "
        f"{step.waited:.0%} waiting for data{replaced}"
    )
