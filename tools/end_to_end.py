"""Train on 3,276,800 pairs from beginning to end with the smallest tower: what every stage takes, and how much memory.

python tools/end_to_end.py [PAIRS ...]       all stages, in processes of their own; write results/end_to_end.json (an hour)
python tools/end_to_end.py --small OUT.json  every stage in seconds, with few pairs; write OUT.json

Every number of pairs has a data folder of its own below build/end-to-end, so that nothing of an earlier run is found there; it
is removed at the end. The run is stopped in the middle by Ctrl-C's signal, and resumed. It needs Linux, which tells how much
memory a process held at most.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from lcl import storage
from lcl.config import Profile, get_profile
from lcl.data.scenes import open_scenes
from lcl.train.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent
FOUND = ROOT / "results" / "end_to_end.json"
SMALL = "--small" in sys.argv
PAIRS = (2048,) if SMALL else (327_680, 3_276_800)
SAMPLE, LOOKED_UP = (64, 4) if SMALL else (8192, 200)  # rows of the banks, steps of look-ups
WIDTH = 1280  # dimension of the image teacher's features
SETTINGS = {
    "--profile": "laptop", "--scenes-version": "2", "--epochs": "1", "--batch-size": "8192", "--tower": "vit",
    "--tower-width": "48", "--tower-depth": "1", "--tower-heads": "3", "--text-depth": "1",
}  # fmt: skip
SETTINGS |= {"--profile": "smoke", "--batch-size": "16"} if SMALL else {}


# --- what is no command of the library, each called in a process of its own


def plan(pairs: int) -> None:
    """Describe all scenes."""
    from lcl.train.loop import Training
    from lcl.train.plans import open_plan

    training = Training(profile(pairs), open_scenes(profile(pairs).scenes), device="cpu")
    rows, context = training.source.train(pairs), training.profile.model.language.context_length
    print(len(open_plan(rows, training.tokenizer, context)), "scenes")


def banks(pairs: int) -> None:
    """Both teachers' features of a sample: of all rows, this would take hours."""
    from lcl.teachers.banks import build_bank
    from lcl.teachers.encoders import ImageEncoder, TextEncoder

    rows = open_scenes(profile(pairs).scenes).train(SAMPLE)
    for encoder in (ImageEncoder(device="cpu"), TextEncoder(device="cpu")):
        print(len(build_bank(rows, encoder)), encoder.kind)


def look_up(pairs: int) -> None:
    """The neighbours of LOOKED_UP batches, in a bank of all rows; its file is sparse, so that no disk is waited for."""
    from lcl.teachers.banks import Bank

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features"
        with path.open("wb") as file:
            file.truncate(2 * pairs * WIDTH)
        features = torch.from_file(str(path), shared=False, size=pairs * WIDTH, dtype=torch.half).view(pairs, WIDTH)
        bank, order = Bank(Path(folder), {}, "", features.split(4096)), torch.Generator().manual_seed(0)
        for _ in range(LOOKED_UP):
            bank[torch.randint(pairs, (batch(),), generator=order)]


STAGES: dict[str, Callable[[int], None]] = {"plan": plan, "banks": banks, "look up": look_up}


def profile(pairs: int) -> Profile:
    """The profile that `lcl train` makes of SETTINGS, as far as a plan and the banks depend on it."""
    named = get_profile(SETTINGS["--profile"])
    training = dataclasses.replace(named.training, pairs=pairs, batch_size=batch(), epochs=1)
    return dataclasses.replace(named, training=training, scenes=dataclasses.replace(named.scenes, version=2))


def batch() -> int:
    """Pairs of a step."""
    return int(SETTINGS["--batch-size"])


# --- watching


def watch(command: list[str], environment: dict[str, str], stop: Callable[[], bool] = lambda: False) -> dict:
    """Run a command, and interrupt it as soon as `stop()` says so.

    Returns:
        seconds, and those of processors; returned: its exit status; main and helper, in MiB: the most that the process held, or
        that one of the processes held that it started; "own" leaves out files that are mapped into memory and shared memory,
        and is looked at five times a second.
    """
    began, used, most, interrupted = time.perf_counter(), processor_seconds(), {}, False
    running = subprocess.Popen(command, cwd=ROOT, env=environment)
    main = psutil.Process(running.pid)
    while running.poll() is None:
        for process in family(main):
            role = "main" if process == main else "helper"
            held = memory(process.pid)
            most |= {f"{role}{what}": max(value, most.get(f"{role}{what}", 0)) for what, value in held.items()}
        if not interrupted and stop():
            running.send_signal(signal.SIGINT)
            interrupted = True
        time.sleep(0.2)
    took = {"seconds": round(time.perf_counter() - began, 1), "core seconds": round(processor_seconds() - used, 1)}
    return {**took, "returned": running.returncode, **most}


def processor_seconds() -> float:
    """Those of all ended processes that this one started; other programs on the machine hardly change it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def family(main: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started; none if it has ended."""
    try:
        return [main, *main.children(recursive=True)]
    except psutil.Error:
        return []


def memory(process: int) -> dict[str, int]:
    """MiB that a process held at most, and that it holds of its own now; nothing if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    kib = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines) if name in ("VmHWM", "RssAnon")}
    return {"": int(kib.get("VmHWM", 0)) // 1024, ", own": int(kib.get("RssAnon", 0)) // 1024}


def run(pairs: int) -> list[dict]:
    """All stages with so many pairs."""
    folder = ROOT / "build" / "end-to-end" / f"{pairs}{'-small' * SMALL}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = os.environ | {"LCL_DATA": str(folder / "data"), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    steps, runs, lcl = pairs // batch(), folder / "runs", [sys.executable, "-m", "lcl"]
    told = [word for setting in SETTINGS.items() for word in setting]
    train = [*lcl, "train", *told, "--pairs", str(pairs), "--runs", str(runs), "--name", "run", "--device", "cpu"]
    found = []

    def stage(name: str, units: int, unit: str, command: list[str], stop: Callable[[], bool] = lambda: False, wanted: int = 0):
        seen = watch(command, environment, stop)
        found.append({"pairs": pairs, "stage": name, "units": units, "unit": unit, **seen})
        print(found[-1], flush=True)
        if seen["returned"] != wanted:
            sys.exit(f"{name} returned {seen['returned']}, not {wanted}")

    def reached() -> int:
        log = next(runs.rglob("log.jsonl"), None)
        return log.read_text(encoding="utf-8").count('"event": "Step"') if log else 0

    own = [sys.executable, str(Path(__file__).resolve()), *["--small"] * SMALL, "--stage"]
    stage("describe all scenes", pairs, "scenes", [*own, "plan", str(pairs)])
    stage("banks of a sample, both teachers", 2 * SAMPLE, "rows", [*own, "banks", str(pairs)])
    stage("look-ups in a bank of all pairs", LOOKED_UP * batch(), "rows", [*own, "look up", str(pairs)])
    stage("train, to the signal to stop", steps // 2, "steps", train, lambda: reached() >= steps // 2, wanted=130)
    first = reached()
    found[-1]["units"] = first
    stage("resume, train to the end, evaluate", steps - first, "steps", [*lcl, "train", "--resume", str(runs / "run")])
    stage("evaluate once more", 1, "run", [*lcl, "evaluate", str(runs / "run")])
    metrics = storage.read_json(runs / "run" / "metrics.json")
    names = ("image_to_text_recall@1", "text_to_image_recall@1", "image_to_text_recall@1_gallery")
    found.append({
        "pairs": pairs, "stage": "quality", "steps": metrics["steps"], "loss": [metrics["first_loss"], metrics["last_loss"]],
        "metrics": {name: metrics["metrics"]["new_scenes"][name] for name in names},
        "plan, bytes a scene": round(sum(file.stat().st_size for file in folder.rglob("plan-*.safetensors")) / pairs, 1),
    })  # fmt: skip
    print(found[-1], flush=True)
    shutil.rmtree(folder)
    return found


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--small"]
    if words[:1] == ["--stage"]:
        STAGES[words[1]](int(words[2]))
    else:
        if not Path(storage.__file__).is_relative_to(ROOT):
            sys.exit(f"this Python has lcl in {Path(storage.__file__).parent}; set PYTHONPATH to {ROOT}")
        if SMALL and not words:
            sys.exit("--small needs the name of the file to write: python tools/end_to_end.py --small OUT.json")
        path = Path(words.pop(0)) if SMALL else FOUND
        rows = [row for size in [int(word) for word in words] or PAIRS for row in run(size)]
        storage.write_json(path, {"settings": SETTINGS, "sample": SAMPLE, "rows": rows, "provenance": provenance()})
