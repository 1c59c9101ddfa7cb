"""What a run on 3.3 million pairs costs, stage by stage: results/scale.json, and docs/scale.md, which is made from it.

python tools/scale.py measure     measure the rates on this machine, and write results/scale.json (minutes)
python tools/scale.py             write docs/scale.md, also from results/end_to_end.json, which tools/end_to_end.py writes
"""

from __future__ import annotations

import dataclasses
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.history import COMMIT
from benchmarks.run import load_bench
from lcl import storage
from lcl.config import get_profile
from lcl.train.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent
RATES, WHOLE, PAGE = ROOT / "results" / "scale.json", ROOT / "results" / "end_to_end.json", ROOT / "docs" / "scale.md"
BENCH = ROOT / "results" / "bench.json"
PEAK, SHARE = 989e12, 0.3  # operations a second of an H100 in half precision, as its maker says, and our guess of the share
MANY = 100_000_000  # pairs of a larger run
PROBES, ROUNDS, SAMPLE = 16, 10, 64  # of `approximate_neighbours`: lists searched, FAISS's rounds of k-means, its rows a list
WIDTHS = {"images": 1280, "captions": 384}
COLUMNS = """| stage | grows as | amount | a core does, a second | rate is | core hours | GPU minutes |
|---|---|---:|---:|---|---:|---:|
"""
HEAD = """# What 3.3 million pairs cost

<!-- made by tools/scale.py from results/scale.json, end_to_end.json and bench.json -->

This page estimates a run of the profile `gpu`: {pairs} pairs, {epochs} epochs, batches of {batch}, and a recipe that has
everything, such as `lightclip-ping`. No such run was made. [Chapter 11](../notebooks/11_to_cc3m_scale.ipynb) shows how to
start one.

Every figure has one of three sources:

- **measured**: a rate of one core ({processor}, torch {torch}). It is the CPU time of one thread, because other programs
  ran on the machine. Neighbours were searched among 6,144 random directions. Scenes and steps of these
  rates are of version 1 of the scenes; the run from beginning to end, the recalls, and steps of `make bench` are of
  version 2, and its races with older code of version 1.
- **simulated**: the same on made-up data. Look-ups read a sparse file of the full size. It lies in memory, so they wait for no
  disk.
  Pictures to decode are scenes of 128 pixels, enlarged to 256.
- **estimated**: arithmetic. All amounts and all hours are estimates. Core hours are the amount, divided by the rate. GPU
  minutes are the amount times the operations of a unit, divided by {share:.0%} of {peak:.0f} · 10^12 operations a second,
  which is what the maker of an H100 states for half precision. The share is a guess, because we had no GPU. Small
  networks, such as our towers and the teachers, may reach less.

The download, the disk and the last evaluation are left out.

{whole}
## Pairs from shards

{read}
Drawn scenes need two other stages in place of reading:

{drawn}
`make bench` raced some of these stages with this project's code at commit {older}, in turns, {repeats} repeats, on {threads}
threads of an {bench_processor}: the median, and the smallest and the largest in brackets. **Measured:**

{raced}
This processor has AMX, so the search computes first in bfloat16. We wanted to be twice as fast there, and missed it. The ratio of
the look-ups says little: in an earlier bench it was 1.26 (0.82 to 1.66). They also time how the system fills each page of memory
for the first time, which may be the reason. Other rows of this run: one step
of `clip-ping` takes {ping} times as long as one of `clip`, and one of `lightclip-ping` {both} times as long.

A unit of the GPU's stages takes so many operations, counted by torch: {step} for a pair in a step, forward and backward;
a third of that in validation, which is forward only; {image} for a picture and {caption} for a caption of a bank; and 2 ·
d for a similarity of features of d dimensions.

What the table shows:

- **Without a GPU, the towers take most of the time. With one, the cores limit the speed.** {cores} cores must read, match
  and look up to keep one such GPU busy. A bank that fits in half of the GPU's free memory is copied there, and its
  look-ups then need no core. On a GPU a kernel solves the matching. It was compiled and
  interpreted here, but never run on a GPU, so we do not know how fast it is.
- **Banks and neighbours are computed once**, and read by every later run on the same pairs. The banks take {image_bank}
  and {caption_bank} of disk, the neighbours {kept} each.
- **On cores, exact neighbours take longer than the banks; on a GPU they take minutes.** A CPU computes only half of the
  symmetric matrix. A GPU computes all of it, in tiles of at most 8,192 × 65,536.
- **A search that stops goes on.** It writes its state, {state}, every five minutes.

## What a step asks of a GPU

**Counted** on a pretended GPU, with the depths of the profile `gpu` and batches of 16. A launch is an operator that the host
starts on the GPU. The matching kernel counts as one. At a wait the host stands still until the GPU is done, and the GPU has
nothing to do until the host has caught up. How much time this saves was not measured: no GPU was at hand.

| recipe | launches, float32 | launches, bfloat16 | waits | launches before | waits before |
|---|---:|---:|---:|---:|---:|
| `clip` | 488 | 758 | 1 | 535 | 20 |
| `lightclip` | 1,109 | 1,560 | 3 | 1,260, and matching on the host | 64 |
| `clip-ping` | 674 | 944 | 1 | 713 | 24 |
| `lightclip-ping` | 1,295 | 1,746 | 3 | 1,438, and matching on the host | 68 |

"Before" is commit 6e845f5, in float32. We wanted half of those launches, and missed it: products of matrices alone are 153 of
the 488. In bfloat16, the default of the profile `gpu`, every conversion of a tensor is one more launch. `--compile` joins
operators: forward and backward, the image tower has 249 launches in float32, 532 in bfloat16, and 198 in bfloat16 when compiled,
**counted** in what the compiler writes for a CPU.

## Eight GPUs

`torchrun --nproc-per-node=8` shares every batch among eight processes. So stages that grow as N take an eighth of the
time, if {cores_8} cores can feed them: the same work must be done in an eighth of the time. Banks and neighbours are not
shared today. The first process computes them, while the others wait.

## A hundred million pairs

{large}
These are the minutes of each of eight GPUs, if all stages were shared. Stages that grow as N take {factor} times as long
as for {pairs} pairs. Exact neighbours grow as N², so they take {square} times as long. The banks would take
{image_bank_large} and {caption_bank_large}. One GPU cannot hold them, and our search uses only one.

Inverted lists replace the exact search there (`lcl neighbours --approximate`). The rows are sorted into 4 · √N lists, and
every row is compared only with the rows of the {probes} lists that are nearest to it. That grows as N · √N:

{lists}
What they miss must be measured. `recall_of_neighbours` compares 1,000 rows with their exact neighbours, which costs
little at any size. **Measured** among image features of scenes, 8 neighbours of each row:

{recalls}
Two sizes do not show how recall goes on to {many} rows. The number of lists grows, and {probes} of them are a smaller
share of all. So measure the recall of your own bank, and raise `probes` if it is too low.
"""

WHOLE_TEXT = """## A run from beginning to end

`tools/end_to_end.py` made a real run on {cores} cores ({processor}): {large} distinct scenes, {steps} steps of {batch} pairs, and
a very small tower (a ViT of width {width} with one layer). It was stopped in the middle and resumed. A second run on a tenth of
the pairs shows what grows with their number. All figures are **measured**, stage by stage, each in a process of its own. Other
programs ran beside the smaller run, so its seconds say little:

{table}
The {large} pairs took {minutes} minutes in all. What the table shows:

- **Memory hardly grows with the pairs.** With ten times as many, a process held at most {grown} MiB more
  of its own. The plan has {bytes} bytes a scene. Processes map it into their memory, from where the system can drop it again. A
  process that describes scenes held {helper} MiB of its own at most.
- **The banks are of a sample**: {sample} pairs. The look-ups are those of {looked_up} batches, in a bank that is as large as all
  pairs.
- **The model learned.** The loss fell from {first} to {last}. It finds {recall} of the captions among {candidates}, where chance
  finds {chance}. The tower is too small for this to say more.

"""


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
        name: as the table has it.
        rate: the key of its rate in results/scale.json.
        order: how its cost grows with the number of pairs.
        amount: how many units a run needs.
        operations: of a unit on a GPU, multiplications and additions; 0 for a stage that stays on the CPU.
    """

    name: str
    rate: str
    order: str
    amount: float
    operations: float = 0.0


def stages(pairs: int, counted: dict[str, float], drawn: bool = False) -> list[Stage]:
    """The stages of a run of the profile `gpu` with a recipe that has everything.

    Args:
        pairs: of the run; each is seen in every epoch of the profile.
        counted: operations of a pair, by name, as results/scale.json has them.
        drawn: whether pairs are drawn scenes, or read from shards.
    """
    training = get_profile("gpu").training
    seen, batch = pairs * training.epochs, training.batch_size
    pictures = [Stage("plan scenes", "plan", "N", seen), Stage("draw scenes", "draw", "N", seen)]
    found = [
        Stage(f"neighbours among {kind}", f"neighbours of {kind}", "N²", float(pairs) ** 2, 2 * width)
        for kind, width in WIDTHS.items()
    ]
    return [
        *(pictures if drawn else [Stage("read and decode pictures", "read", "N", seen)]),
        Stage("tokenise captions", "tokenise", "N", seen),
        Stage("bank of images", "bank of images", "N", pairs, counted["bank of images"]),
        Stage("bank of captions", "bank of captions", "N", pairs, counted["bank of captions"]),
        *found,
        Stage("look up neighbours, 4 rows a pair", "look-up", "N", 4 * seen),
        Stage("steps of the towers", "step", "N", seen, counted["step"]),
        Stage("matching, 9 problems a pair", "matching", "N", 9 * seen),
        Stage("validation", "forward", "N", seen // batch // training.evaluate_every * batch, counted["step"] / 3),
    ]


def by_lists(rows: int) -> float:
    """How many similarities inverted lists compute: to find their centres, to sort the rows into lists, and to search."""
    lists = round(4 * rows**0.5)
    return ROUNDS * SAMPLE * lists * lists + rows * lists + rows * (lists + PROBES * rows / lists)


def core_hours(stage: Stage, rates: dict[str, dict]) -> float:
    """Hours of one core."""
    return stage.amount / rates[stage.rate]["rate"] / 3600


def gpu_minutes(stage: Stage, gpus: int = 1) -> float:
    """Minutes of each of some GPUs that share the work evenly, as estimated; 0 for a stage of the CPU."""
    return stage.amount * stage.operations / (PEAK * SHARE) / gpus / 60


def number(value: float) -> str:
    """Three digits; from a thousand million on with a power of ten."""
    if value >= 1e9:
        digits, power = f"{value:.2e}".split("e")
        return f"{digits} · 10^{int(power)}"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: list[Stage], rates: dict[str, dict], gpus: int = 1) -> str:
    """The stages in Markdown; the last row has the sums."""
    text = COLUMNS
    for stage in rows:
        rate = rates[stage.rate]
        cells = (
            stage.name, stage.order, f"{number(stage.amount)} {rate['unit']}", number(rate["rate"]), f"**{rate['basis']}**",
            number(core_hours(stage, rates)), number(gpu_minutes(stage, gpus)) if stage.operations else "",
        )  # fmt: skip
        text += f"| {' | '.join(cells)} |\n"
    cores, cards = sum(core_hours(stage, rates) for stage in rows), sum(gpu_minutes(stage, gpus) for stage in rows)
    return text + f"| all | | | | | {number(cores)} | {number(cards)} |\n"


def cores_for(rows: list[Stage], rates: dict[str, dict], gpus: int = 1) -> float:
    """Cores that prepare all batches in the time that the GPUs need for the steps and for validation."""
    here = sum(core_hours(stage, rates) for stage in rows if not stage.operations)
    return here * 60 / sum(gpu_minutes(stage, gpus) for stage in rows if stage.rate in ("step", "forward"))


def in_bytes(value: float) -> str:
    """Bytes as MB, or as GB from a thousand MB on."""
    return f"{number(value / 1e9)} GB" if value >= 1e9 else f"{number(value / 1e6)} MB"


def from_end_to_end(found: dict) -> str:
    """The section on a run that was made, in Markdown. found: what is in WHOLE."""
    small, large = ({row["stage"]: row for row in found["rows"] if row["pairs"] == size} for size in sizes_of(found))
    quality, machine, batch = large["quality"], found["provenance"]["machine"], int(found["settings"]["--batch-size"])
    heads = [f"{what}, {size:,}" for what in ("core seconds", "own MiB") for size in sizes_of(found)]
    text = f"| stage | {' | '.join(heads)} | MiB of mapped files, {sizes_of(found)[1]:,} |\n|---|{'---:|' * 5}\n"
    for name in (name for name in large if name != "quality"):
        pair = small[name], large[name]
        cells = [row[what] for what in ("core seconds", "main, own") for row in pair]
        cells.append(large[name]["main"] - large[name]["main, own"])
        text += f"| {name} | {' | '.join(f'{max(value, 0):,.0f}' for value in cells)} |\n"
    recall = quality["metrics"]["image_to_text_recall@1_gallery"]
    return WHOLE_TEXT.format(
        table=text, small=f"{sizes_of(found)[0]:,}", large=f"{sizes_of(found)[1]:,}", steps=quality["steps"],
        batch=f"{batch:,}", width=found["settings"]["--tower-width"], sample=f"{found['sample']:,}",
        looked_up=f"{large['look-ups in a bank of all pairs']['units'] // batch:,}",
        bytes=f"{quality['plan, bytes a scene']:.0f}",
        helper=f"{max(row.get('helper, own', 0) for row in large.values()):,}", recall=f"{recall['value']:.1%}",
        chance=f"{recall['chance']:.2%}", candidates=f"{recall['candidates']:,}", cores=machine["cores"],
        processor=machine["processor"], first=f"{quality['loss'][0]:.2f}", last=f"{quality['loss'][1]:.2f}",
        minutes=f"{sum(row.get('seconds', 0) for row in large.values()) / 60:.0f}",
        grown=f"{max(large[name]['main, own'] - small[name]['main, own'] for name in large if name != 'quality'):,.0f}",
    )  # fmt: skip


def from_bench() -> dict[str, object]:
    """What the page tells of BENCH, by the names in HEAD."""
    bench = load_bench(BENCH)
    text = "| stage | times as fast | now, a second | before |\n|---|---:|---:|---:|\n"
    for name, race in bench.races.items():
        if name.startswith("history-"):
            now, before = (number(race.amount / statistics.median(laps)) for laps in (race.ours, race.peer))
            text += f"| {race.what} | {race.faster} | {now} {race.unit.removesuffix('/s')} | {before} |\n"
    machine = bench.provenance["machine"]
    return {
        "raced": text, "older": COMMIT, "repeats": bench.repeats, "threads": machine["threads"],
        "bench_processor": machine["processor"], "ping": bench.races["recipe-clip-ping"].longer,
        "both": bench.races["recipe-lightclip-ping"].longer,
    }  # fmt: skip


def sizes_of(found: dict) -> list[int]:
    """The two numbers of pairs of a run from beginning to end, the smaller first."""
    return sorted({row["pairs"] for row in found["rows"]})


def page(found: dict, whole: dict) -> str:
    """The page of what was measured, in Markdown. found, whole: what is in RATES and in WHOLE."""
    rates, counted, made, training = found["rates"], found["operations"], found["provenance"], get_profile("gpu").training
    pairs, one = training.pairs, stages(training.pairs, counted)
    lists = "| rows | similarities, exact | similarities, inverted lists | exact, times as many |\n|---:|---:|---:|---:|\n"
    for rows in (pairs, 10_000_000, MANY):
        exact, fewer = float(rows) ** 2, by_lists(rows)
        lists += f"| {rows:,} | {number(exact)} | {number(fewer)} | {number(exact / fewer)} |\n"
    recalls = "| rows | lists | lists searched | recall |\n|---:|---:|---:|---:|\n"
    for each in found["recalls"]:
        recalls += f"| {each['rows']:,} | {each['lists']} | {each['probes']} | {each['recall']:.1%} |\n"
    sizes = {
        f"{kind}_bank{which}": in_bytes(2 * rows * WIDTHS[f"{kind}s"])
        for kind in ("image", "caption") for which, rows in (("", pairs), ("_large", MANY))
    }  # fmt: skip
    return HEAD.format(
        pairs=f"{pairs:,}", epochs=training.epochs, batch=f"{training.batch_size:,}", share=SHARE, peak=PEAK / 1e12,
        probes=PROBES, processor=made["machine"]["processor"], torch=made["packages"]["torch"], many=f"{MANY:,}",
        lists=lists, recalls=recalls, read=table(one, rates), drawn=table(stages(pairs, counted, drawn=True)[:2], rates),
        step=number(counted["step"]), image=number(counted["bank of images"]), caption=number(counted["bank of captions"]),
        kept=in_bytes(pairs * 8 * (4 + 2)), state=in_bytes(pairs * 8 * (4 + 8)), cores=number(cores_for(one, rates)),
        cores_8=number(cores_for(one, rates, 8)), large=table(stages(MANY, counted), rates, 8), factor=number(MANY / pairs),
        square=number((MANY / pairs) ** 2), whole=from_end_to_end(whole), **from_bench(), **sizes,
    )  # fmt: skip


# --- measuring


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """CPU time of one `work()`, the median of several after one: other programs on the machine hardly change it."""
    laps = []
    for _ in range(times + 1):
        started = time.process_time()
        work()
        laps.append(time.process_time() - started)
    return statistics.median(laps[1:])


def measured(folder: Path) -> Iterator[tuple[str, str, str, float, Callable[[], object]]]:
    """Every work: name, unit, basis, how many units it has, and itself; on one core. folder: for what is written."""
    from lcl.data.photos import decode_image
    from lcl.data.scenes import open_scenes
    from lcl.losses.contrastive import info_nce
    from lcl.losses.matching import exact
    from lcl.models.clip import Clip
    from lcl.models.tokenizer import Tokenizer
    from lcl.teachers.banks import Bank
    from lcl.teachers.encoders import ImageEncoder, TextEncoder
    from lcl.teachers.search import nearest_neighbours

    profile, draws = get_profile("gpu"), torch.Generator().manual_seed(0)
    world = open_scenes(profile.scenes)
    scenes = [world.scene("train", index) for index in range(512)]
    images, captions = world.render(scenes[:256]), [scene.caption for scene in scenes]
    yield "plan", "scenes", "measured", 512, lambda: [world.scene("train", index) for index in range(512)]
    yield "draw", "scenes", "measured", 512, lambda: [world.render(scenes[:256]), world.render(scenes[256:])]
    files = []
    for image in images[:128]:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize((256, 256), Image.BICUBIC).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    yield "read", "pictures", "simulated", 128, lambda: [decode_image(file, 128) for file in files]
    tokenizer = Tokenizer.train(captions, profile.model.language.vocab_size, "")
    tokens = tokenizer.encode(captions[:32], profile.model.language.context_length)
    yield "tokenise", "captions", "measured", 512, lambda: tokenizer.encode(captions, profile.model.language.context_length)
    model = Clip(profile.model)

    def forward() -> torch.Tensor:
        seen = model(images[:32], tokens)
        return info_nce(seen.v, seen.t, seen.logit_scale)["info_nce"]

    yield "step", "pairs", "measured", 32, lambda: forward().backward()
    yield "forward", "pairs", "measured", 32, torch.no_grad()(forward)
    words, patches = (F.normalize(torch.randn(2304, size, 16, generator=draws), dim=-1) for size in (12, 64))
    cost, real = 1 - words @ patches.mT, torch.ones(2304, 12, dtype=torch.bool)
    yield "matching", "problems", "measured", 2304, lambda: exact(cost, real, 1.0)
    encoder, texts = ImageEncoder(), TextEncoder()
    yield "bank of images", "pictures", "measured", 64, lambda: encoder(images[:64])
    yield "bank of captions", "captions", "measured", 128, lambda: texts(captions[:128])
    for kind, width in WIDTHS.items():
        rows = F.normalize(torch.randn(6144, width, generator=draws), dim=1)
        yield f"neighbours of {kind}", "similarities", "measured", 6144**2, lambda rows=rows: nearest_neighbours(rows, 8)
    large, width = 3_276_800, WIDTHS["images"]
    with (folder / "features").open("wb") as file:
        file.truncate(2 * large * width)  # sparse: no disk is read
    features = torch.from_file(str(folder / "features"), shared=False, size=large * width, dtype=torch.half).view(large, width)
    bank = Bank(folder, {}, "", features.split(4096))
    features[:, 0].float().sum()  # now every page is in memory: to fill it with zeros takes longer than a look-up
    yield "look-up", "rows", "simulated", 1024, lambda: bank[torch.randint(large, (1024,), generator=draws)]


def operations() -> dict[str, float]:
    """Operations of a pair, counted: of a step of the profile `gpu` forward and backward, and of the teachers."""
    from benchmarks.timing import operations_of
    from lcl.losses.contrastive import info_nce
    from lcl.models.clip import Clip
    from lcl.models.tokenizer import Tokens
    from lcl.teachers.encoders import ImageEncoder, TextEncoder

    profile, size, length = get_profile("gpu"), 8, 24
    ids, every = torch.randint(4, 1000, (size, length)), torch.ones(size, length, dtype=torch.bool)
    tokens = Tokens(ids, every, torch.zeros(size, length, dtype=torch.int64), ((),) * size)
    images = torch.randint(256, (size, 3, 128, 128), dtype=torch.uint8)

    def step() -> None:
        seen = Clip(profile.model)(images, tokens)
        info_nce(seen.v, seen.t, seen.logit_scale)["info_nce"].backward()

    found, captions = {}, ["a red boat beside two dogs on a striped background"] * size
    for name, work in (
        ("step", step), ("bank of images", lambda: ImageEncoder()(images)), ("bank of captions", lambda: TextEncoder()(captions)),
    ):  # fmt: skip
        found[name] = operations_of(work) / size
    return found


def recalls() -> list[dict]:
    """What inverted lists find among the features of the laptop profile's pictures, in a quarter of them and in all."""
    from lcl.data.scenes import open_scenes
    from lcl.teachers.approximate import approximate_neighbours, recall_of_neighbours
    from lcl.teachers.banks import build_bank
    from lcl.teachers.encoders import ImageEncoder

    profile, found = get_profile("laptop"), []
    scenes = dataclasses.replace(profile.scenes, version=2)
    bank = build_bank(open_scenes(scenes).train(profile.training.pairs), ImageEncoder())[:]
    for rows in (len(bank) // 4, len(bank)):
        for probes in (1, 4, PROBES):
            lists = round(4 * rows**0.5)
            near = approximate_neighbours(bank[:rows], 8, lists, probes)
            recall = recall_of_neighbours(bank[:rows], near)
            found.append({"rows": rows, "lists": lists, "probes": probes, "recall": round(recall, 4)})
    return found


def measure() -> None:
    """Measure everything, and write results/scale.json."""
    torch.set_num_threads(1)
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, unit, basis, amount, work in measured(Path(folder)):
            rates[name] = {"rate": float(f"{amount / seconds(work):.3g}"), "unit": unit, "basis": basis}
            print(name, rates[name], flush=True)
    found = {"rates": rates, "operations": operations(), "recalls": recalls(), "provenance": provenance()}
    storage.write_json(RATES, found)


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        measure()
    else:
        storage.write_bytes(PAGE, page(storage.read_json(RATES), storage.read_json(WHOLE)).encode())
