"""The package installs anywhere: what is in the wheel, what the core does alone, and what a missing extra says.

Fresh virtual environments, outside the checkout and without a network: they hold the wheel and links to the packages of this
environment that the wheel's own metadata asks for, and nothing else.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

import lcl
from lcl.config import LclError, need

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = tuple(PROJECT["optional-dependencies"])
README = (ROOT / "README.md").read_text(encoding="utf-8")
CORE = [
    "lcl", "lcl.models.clip", "lcl.losses.contrastive", "lcl.losses.matching", "lcl.losses.masked_lm", "lcl.losses.neighbours",
    *(f"lcl.data.{path.stem}" for path in sorted((ROOT / "lcl" / "data").glob("[a-z]*.py"))),
    "lcl.teachers.teacher", "lcl.eval.metrics", "lcl.train.loop", "lcl.train.runs", "lcl.deploy.gallery",
    "lcl.deploy.load", "lcl.deploy.onnx", "lcl.cli.main",
]  # fmt: skip


# --- the interface


def test_the_version_is_said_once_and_the_same():
    assert lcl.__version__ == PROJECT["version"]


def test_importing_the_package_is_quick_and_loads_no_torch():
    code = (
        "import sys, time; started = time.perf_counter(); import lcl; took = time.perf_counter() - started; "
        "assert 'torch' not in sys.modules and lcl.__version__ and {'load', 'Training'} <= set(dir(lcl)); print(took)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.3


@pytest.mark.parametrize("name", lcl.__all__)
def test_a_public_name_leads_somewhere(name):
    assert getattr(lcl, name) is not None and name in dir(lcl)


def test_another_name_is_no_attribute():
    assert not hasattr(lcl, "nothing")


# --- what is missing


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(LclError) as refused:
        need("no_such_package.inside", "course")
    assert str(refused.value) == (
        "no_such_package is not installed; it belongs to the extra 'course': pip install \"lcl[course]\""
    )


def test_a_package_that_is_there_is_returned():
    assert need("json.decoder", "course").JSONDecoder


def test_a_missing_package_of_a_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "lcl_test_outer.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LclError, match="^no_such_package is not installed"):
        need("lcl_test_outer", "course")


# --- the wheel, installed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the checkout by this environment's setuptools."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools, which builds the wheel offline, is not installed")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("lcl", "benchmarks", "tests", "tools"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip(sys.executable, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", out, source)
    (built,) = out.glob("*.whl")
    return built


def pip(python: Path | str, *arguments) -> None:
    """Run this environment's pip for some Python; what it says is told if it fails."""
    command = [sys.executable, "-m", "pip", "--python", str(python), *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def dependencies(wheel: Path, extras: tuple[str, ...]) -> set[str]:
    """The distributions that the wheel asks for with these extras, and all that these ask for; those of this environment."""
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        asked = re.findall(r"^Requires-Dist: (.+)$", file.read(metadata).decode(), flags=re.M)
    found: set[str] = set()
    ahead = [(Requirement(line), extras) for line in asked]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while ahead:
        requirement, wanted = ahead.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
            continue
        key = requirement.name, tuple(sorted(requirement.extras))
        if key not in seen:
            seen.add(key)
            found.add(requirement.name)
            required = importlib.metadata.distribution(requirement.name).requires or []
            ahead += [(Requirement(line), key[1]) for line in required]
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Callable[..., Path]:
    """Makes an environment with the wheel and some extras; returns its Python."""

    def make(*extras: str) -> Path:
        folder = tmp_path_factory.mktemp("-".join(extras) or "core")
        venv.EnvBuilder(symlinks=os.name != "nt").create(folder)
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        (site,) = [folder / "Lib/site-packages"] if os.name == "nt" else folder.glob("lib/python*/site-packages")
        pip(python, "install", "--no-deps", "--no-index", wheel)
        for name in dependencies(wheel, extras):
            files = importlib.metadata.distribution(name).files or []
            home = Path(importlib.metadata.distribution(name).locate_file(""))
            for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    try:
                        (site / top).symlink_to(home / top)
                    except OSError as error:
                        pytest.skip(f"this system makes no links to installed packages: {error}")
        return python

    return make


@pytest.fixture(scope="module")
def core(installed) -> Path:
    """The Python of an environment with the core only."""
    return installed()


@pytest.fixture(scope="module")
def with_scenes(installed) -> Path:
    """The Python of an environment with the core and the extra `scenes`."""
    return installed("scenes")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The data folder of these tests' processes."""
    return tmp_path_factory.mktemp("data")


def run(python: Path, data: Path, cwd: Path, *arguments) -> subprocess.CompletedProcess:
    """Run a Python in a folder, with nothing of this checkout in its environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LCL_"))}
    environment |= {"LCL_DATA": str(data), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [python, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8"
    )


TRAIN = ("-m", "lcl", "train", "--profile", "smoke", "--pairs", "128", "--epochs", "1", "--name", "first")


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert {name.split("/")[0] for name in names} == {"lcl", f"lcl-{lcl.__version__}.dist-info"}
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lcl").rglob("*") if path.is_file()}
    source = {name for name in source if "__pycache__" not in name}
    assert {name for name in names if name.startswith("lcl/")} == source
    assert {Path(name).suffix for name in source} >= {".py", ".js", ".css", ".json"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_names_every_extra(wheel):
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = (file.read(name).decode() for name in file.namelist() if name.endswith("METADATA"))
    assert re.findall(r"^Provides-Extra: (.+)$", metadata, flags=re.M) == list(EXTRAS)


@pytest.mark.slow
def test_the_core_alone_imports_what_it_should(core, data, tmp_path):
    """In a fresh process each would be slow; in one, the order is that of the rooms, lowest first."""
    code = f"""
import importlib, importlib.util, sys
for module in {CORE}:
    importlib.import_module(module)
import lcl
assert lcl.__file__.startswith(sys.prefix), lcl.__file__  # the wheel's, not the checkout's
for module in ("matplotlib", "timm", "transformers", "sklearn", "emoji", "psutil", "webdataset", "onnxruntime", "pytest"):
    assert importlib.util.find_spec(module) is None, module
"""
    done = run(core, data, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr


MISSING = [  # extra, code that needs it, the first package that it misses
    ("scenes", "lcl.data.drawn.captions.plural('wug')", "inflect"),
    ("scenes", "lcl.eval.probes.linear_probe(None, None, 'train', 1)", "sklearn"),
    ("teachers", "lcl.models.vision.TimmTower('resnet18', 64)", "timm"),
    ("teachers", "lcl.models.language.HubTower('bert', lcl.config.LanguageConfig())", "transformers"),
    ("teachers", "lcl.teachers.encoders.TextEncoder()", "sentence_transformers"),
    ("teachers", "lcl.teachers.approximate.approximate_neighbours(None)", "faiss"),
    ("shards", "lcl.data.writing.write_shards('shards', [], {})", "webdataset"),
    ("onnx", "lcl.deploy.load.open_sessions('.')", "onnxruntime"),
    ("onnx", "lcl.deploy.onnx._export(None, None, (), {})", "onnxscript"),
    ("onnx", "lcl.deploy.onnx.to_int8('.', '.', None)", "onnxruntime"),
    ("course", "import lcl.course.plots", "matplotlib"),
    ("course", "import lcl.course.report", "matplotlib"),
    ("course", "import lcl.course.widgets", "matplotlib"),  # through `plots`
    ("course", "lcl.train.runs.EventLog('.', tensorboard=True)", "tensorboard"),
]


@pytest.mark.slow
def test_the_core_alone_names_a_missing_extra(core, data, tmp_path):
    modules = {match[1] for _, use, _ in MISSING if (match := re.match(r"(lcl\.\w+\.\w+)", use))}
    code = f"import lcl.config, {', '.join(sorted(modules))}\n"
    for _, use, _ in MISSING:
        code += f"try: {use}\nexcept lcl.config.LclError as error: print(error)\n"
    done = run(core, data, tmp_path, "-c", code)
    assert done.stdout.splitlines() == [
        f"{package} is not installed; it belongs to the extra '{extra}': pip install \"lcl[{extra}]\""
        for extra, _, package in MISSING
    ], done.stderr


@pytest.mark.slow
def test_the_core_alone_says_in_one_sentence_that_scenes_are_missing(core, data, tmp_path):
    done = run(core, data, tmp_path, *TRAIN)
    assert done.returncode == 2 and 'pip install "lcl[scenes]"' in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.slow
def test_scenes_are_enough_to_train_evaluate_and_save(with_scenes, data, tmp_path):
    """Only the report is left out, with a sentence."""
    done = run(with_scenes, data, tmp_path, *TRAIN)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "first"
    assert (folder / "metrics.json").exists() and not (folder / "report.html").exists()
    sentence = done.stderr.splitlines()[-1]
    assert "its report could not be written (matplotlib is not installed" in sentence and '"lcl[course]"' in sentence
    again = run(with_scenes, data, tmp_path, "-m", "lcl", "evaluate", "runs/first")
    assert again.returncode == 0 and "equal to metrics.json" in again.stdout


@pytest.mark.slow
def test_an_option_whose_package_is_missing_is_refused_before_training(with_scenes, data, tmp_path):
    done = run(with_scenes, data, tmp_path, *TRAIN, "--tensorboard")
    assert done.returncode == 2 and "tensorboard is not installed" in done.stderr.splitlines()[-1]
    assert list(tmp_path.rglob("*.*")) == []


@pytest.fixture(scope="module")
def everything(installed) -> Path:
    """The Python of an environment with every extra."""
    return installed(*EXTRAS)


@pytest.mark.slow
def test_what_only_a_clone_has_is_said(everything, data, tmp_path):
    """The results of the study and the saved checkpoints are in the repository, not in the wheel."""
    code = "import lcl.course.study as it; it.read_study()"
    assert "use a clone of the course's repository." in run(everything, data, tmp_path, "-c", code).stderr.splitlines()[-1]
    code = "import lcl.course.saved as it; it.load_saved('clip-laptop', None)"
    assert "or use a clone of the course" in run(everything, data, tmp_path, "-c", code).stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_wheel_with_every_extra_trains_and_reports_and_the_readme_reuses_it(everything, data, tmp_path):
    done = run(everything, data, tmp_path, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "first" / "report.html").exists()
    (tmp_path / "runs" / "first").rename(tmp_path / "runs" / "mine")
    (tmp_path / "holiday").mkdir()
    for name in ("cat.jpg", "boat.png", "holiday/sea.jpg", "holiday/hill.png"):
        Image.effect_noise((120, 90), 80).convert("RGB").save(tmp_path / name)
    examples = [block for block in re.findall(r"^```python\n(.*?)^```", README, flags=re.S | re.M) if "lcl" in block]
    assert len(examples) == 2
    for example in examples:
        done = run(everything, data, tmp_path, "-c", example)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr
