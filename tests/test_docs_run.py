"""What the documentation shows runs: the commands of the user guide on tiny images, the examples
and the notebook; and the site builds without a warning.
"""

from __future__ import annotations

import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_pages import ROOT, blocks, shown_lines
from PIL import Image

from ssltool.cli import run

pytestmark = pytest.mark.slow

GUIDE = [
    ROOT / "README.md",
    ROOT / "docs" / "quickstart.md",
    *sorted((ROOT / "docs" / "guide").glob("*.md")),
]
# Their commands name files of many kinds: see tests/training/test_sources.py and tests/exporting.
GUIDE = [page for page in GUIDE if page.stem not in ("sources", "weights")]
IN_CI = ("README", "quickstart", "resume")
# What makes a command take seconds; a flag that the page types itself stays as typed.
TINY = {
    "pretrain": "--steps 3 --log-every 1 --batch-size 8 --image-size 32 "
    "--backbone resnet10_w32_s2 --workers 0 --device cpu",
    "probe": "--kind linear --grid-dim 0 --random-inits 1 --finetune-images 32 --workers 0 "
    "--device cpu",
    "compare": "--kind linear --grid-dim 0 --random-inits 1 --workers 0 --device cpu",
    "bench": "--image-size 32 --batch-size 8 --rounds 1 --round-steps 1 --device cpu",
    "python": "--epochs 1",
}
CLASSES = 4  # of the ten of the demo
LENGTHS = ("--budget", "--epochs", "--steps", "--sweep")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the images and the runs that the pages take for granted."""
    from ssltool.data.sources.demo import DemoSource

    home = tmp_path_factory.mktemp("home")
    for seed, (place, count) in enumerate(
        {"photos": 72, "other": 8, "scans": 24, "labeled/train": 60, "labeled/test": 30}.items()
    ):
        source = DemoSource(count, seed)
        for index in range(count):
            if "labeled" in place and source.label(index) >= CLASSES:
                continue
            label = source.classes[source.label(index)] if "labeled" in place else ""
            (home / place / label).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(source.read(index, 40))
            image = image.convert("L" if place == "scans" else "RGB")
            image.save(home / place / label / f"{index}.png")
    Image.fromarray(DemoSource(1, 5).read(0, 40)).save(home / "cat.jpg")
    (home / "examples").symlink_to(ROOT / "examples")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(home)
        for name in ("jigsaw-1", "jigsaw-2", "npid-1"):
            line = f"ssltool pretrain {name[:-2]} --data photos --out runs/{name}"
            assert run(tiny(line, home)) == 0, line
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for one page, as the working directory."""
    shutil.copytree(filled, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny(line: str, home: Path) -> list[str]:
    """The arguments of a shown command, made to take seconds."""
    words = shlex.split(line.replace("~/", f"{home}/"))
    words = [name for word in words for name in (expanded(word, home) if "*" in word else [word])]
    extra = TINY.get("python" if words[0] == "python" else words[1], "").split()
    if "--resume" in words:  # options are those of the run; a new length is a short one
        return ["5" if before == "--steps" else word for before, word in pairs(words)][1:]
    shown = [w for before, w in pairs(words) if not {before, w} & set(LENGTHS)]
    for flag, value in zip(extra[::2], extra[1::2], strict=True):
        shown += [flag, value] if flag not in shown else []
    return shown[1:]


def pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """Every word with the one before it."""
    return zip(["", *words], words, strict=False)


def expanded(pattern: str, home: Path) -> list[str]:
    """Paths of a pattern, as a shell would name them."""
    return sorted(str(path.relative_to(home)) for path in home.glob(pattern)) or [pattern]


def run_script(path: Path, *arguments: str) -> None:
    """Run a script in this process, which has imported torch already."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [str(path), *arguments])
        runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.ci] if page.stem in IN_CI else [], id=page.stem)
        for page in GUIDE
    ],
)
def test_the_commands_of_a_page_run(page: Path, home: Path) -> None:
    ran = 0
    for line in shown_lines(page):
        if line.startswith("python examples/"):
            script, *arguments = tiny(line, home)
            run_script(ROOT / script, *arguments)
        elif line.startswith("ssltool "):
            arguments = tiny(line, home)
            if "--out" in arguments and "--resume" not in arguments:
                shutil.rmtree(arguments[arguments.index("--out") + 1], ignore_errors=True)
            assert run(arguments) == 0, line
        else:
            continue
        ran += 1
    assert ran


@pytest.mark.ci
def test_the_python_of_the_guide_runs(home: Path) -> None:
    samples = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 4
    Path("raw/a").mkdir(parents=True)
    Image.fromarray(samples).save("raw/a/1.tif")
    for page in sorted((ROOT / "docs" / "guide").glob("*.md")):
        for block in blocks(page, "python"):
            exec(compile(block, page.name, "exec"), {})
    assert (np.asarray(Image.open("scans/a/1.png")) == samples >> 4).all()


@pytest.mark.parametrize(
    ("stem", "standardize"), [("imagenet", "data"), ("small", "channels"), ("small", "image")]
)
def test_finetune_learns_from_exported_weights(
    stem: str, standardize: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its input is that of the encoder; bright and dark halves of images are told apart."""
    import torch
    from torchvision.transforms.functional import to_pil_image

    from ssltool.encoders.registry import build_encoder
    from ssltool.encoders.transform import InputTransform
    from ssltool.encoders.weights import describe, save_encoder

    encoder = build_encoder("resnet18", stem=stem)
    metadata = describe(
        encoder,
        method="jigsaw",
        color_space="rgb",
        image_size=16,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
    ).model_copy(update={"standardize": standardize})
    weights = tmp_path / "encoder.safetensors"
    save_encoder(encoder, metadata, weights)
    torch.manual_seed(0)
    for number in range(40):
        image = torch.randint(0, 128, (3, 16, 16), dtype=torch.uint8)
        top = number % 2 == 0
        image[:, slice(0, 8) if top else slice(8, 16)] += 127
        folder = tmp_path / "images" / ("top" if top else "bottom")
        folder.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(folder / f"{number}.png")
    script = ROOT / "examples" / "finetune.py"
    functions = runpy.run_path(str(script))
    made = functions["preprocessing"](functions["read_metadata"](str(weights)))(to_pil_image(image))
    assert torch.allclose(made, InputTransform.of(metadata)(image[None])[0], atol=1e-5)

    run_script(script, str(weights), str(tmp_path / "images"), "--epochs", "4", "--batch-size", "8")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("missing ['fc.weight', 'fc.bias'], unexpected []")
    assert float(lines[-1].split()[2]) > 80  # percent; by chance 50


@pytest.mark.ci
def test_finetune_refuses_what_it_cannot_load(tmp_path: Path) -> None:
    from ssltool.encoders.registry import build_encoder
    from ssltool.encoders.weights import describe, save_encoder

    weights = tmp_path / "encoder.safetensors"
    encoder = build_encoder("resnet10_w32")
    norm = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    metadata = describe(encoder, method="jigsaw", color_space="rgb", image_size=32, **norm)
    save_encoder(encoder, metadata, weights)
    functions = runpy.run_path(str(ROOT / "examples" / "finetune.py"))
    with pytest.raises(SystemExit, match="resnet10_w32 is no ResNet of torchvision"):
        functions["build"](functions["read_metadata"](str(weights)), 2)


def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "strip its outputs"
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=600, resources=resources).execute()
    shown = [set(output.data) for cell in notebook.cells for output in cell.get("outputs", [])
             if output.output_type == "execute_result"]  # fmt: skip
    assert sum("image/png" in kinds for kinds in shown) == 3
    assert sum("text/html" in kinds for kinds in shown) == 3
    assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if "name" in o]


@pytest.mark.ci
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Strictly: also for a link to a page, a heading or a name that does not exist."""
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package, reason="needs ssltool[docs]")
    words = ["-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-d", tmp_path / "cache"]
    built = subprocess.run(
        [sys.executable, *words, ROOT / "docs", tmp_path / "site"], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    jigsaw = (tmp_path / "site" / "methods" / "jigsaw.html").read_text(encoding="utf-8")
    assert "--permutations-per-image" in jigsaw
    assert 'href="../source/ssltool/methods/jigsaw/task.py.html"' in jigsaw
    assert (tmp_path / "site" / "source" / "ssltool/methods/jigsaw/task.py.html").is_file()
    commands = (tmp_path / "site" / "commands.html").read_text(encoding="utf-8")
    assert "--label-fractions" in commands
