"""Files are read without unpickling, running code, starting processes or opening connections.

Python reports such acts to audit hooks. A process of its own does everything once, so that all is
imported, arms a hook that ends it at the first such act, and does everything again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = r"""
import ast, inspect, io, os, pickle, shutil, sys, tarfile, traceback, typing, zipfile
from pathlib import Path
import numpy as np
from PIL import Image
import ssltool
from ssltool.cli import run
from ssltool.errors import SslToolError

class Bomb:
    def __reduce__(self):
        return os.system, ("echo unpickled > unpickled",)

bomb = pickle.dumps(Bomb())

def hostile(folder):
    "Files that run code in programs which trust them."
    (folder / "pickle.safetensors").write_bytes(bomb)
    with zipfile.ZipFile(folder / "torch.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", bomb)
    np.save(folder / "perm.npy", np.array([Bomb()], dtype=object))
    np.savez(folder / "classes.npz", classes=np.array([Bomb()], dtype=object))
    header = b"__import__('os').abort()".ljust(40)
    (folder / "header.npy").write_bytes(b"\x93NUMPY\x01\x00\x28\x00" + header)
    shards = folder / "shards"
    shards.mkdir()
    with tarfile.open(shards / "a.tar", "w") as tar:
        picture = io.BytesIO()
        Image.new("RGB", (16, 16)).save(picture, "PNG")
        members = {"a.png": picture.getvalue(), "a.pkl": bomb, "a.pyd": bomb, "a.cls": bomb}
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    images = folder / "odd"
    images.mkdir()
    (images / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n")
    (images / "b.jpg").write_bytes(bomb)
    Image.new("RGB", (16, 16)).save(images / "c.png")
    broken = folder / "broken"
    broken.mkdir()
    for name in ("run.json", "probe.json", "metrics.jsonl", "encoder.safetensors"):
        (broken / name).write_bytes(bomb)

def refused(action, *arguments, **options):
    try:
        action(*arguments, **options)
    except SslToolError:
        return
    raise AssertionError(f"{arguments} was not refused")

def everything(original, folder):
    folder.mkdir()
    hostile(folder)
    own = folder / "run"
    shutil.copytree(original, own)
    images, quiet = original.parent / "images", {"workers": 0, "device": "cpu"}
    options = ["--workers", "0", "--device", "cpu"]
    ssltool.load_encoder(own)
    ssltool.probe(own, images, kind="knn", cache=folder / "cache", **quiet)
    ssltool.embed(own, images, to=folder / "e.npz", **quiet)
    ssltool.embed(own, images, to=folder / "f.safetensors", classes_from=folder / "e.npz", **quiet)
    ssltool.export(own, folder / "x.safetensors")
    assert run(["report", str(own)]) == 0
    run(["report", str(folder / "broken")])
    assert run(["data", "check", str(images)]) == 0
    for data in ("shards", "odd"):
        run(["data", "check", str(folder / data)])
    for name in ("pickle.safetensors", "torch.safetensors", "broken"):
        refused(ssltool.load_encoder, folder / name)
        refused(ssltool.export, folder / name, folder / "y.safetensors")
        refused(ssltool.probe, folder / name, images, **quiet)
        refused(ssltool.embed, folder / name, images, **quiet)
    refused(ssltool.embed, own, images, classes_from=folder / "classes.npz", **quiet)
    from ssltool.methods.jigsaw.permutations import load
    for name in ("perm.npy", "header.npy"):
        refused(load, folder / name)

FORBIDDEN = (
    "compile", "exec", "pickle.find_class", "marshal.load", "marshal.loads", "code.__new__",
    "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "subprocess.Popen",
)

PACKAGE = str(Path(ssltool.__file__).parent) + os.sep

def hook(event, arguments):
    if event not in FORBIDDEN and not event.startswith("socket."):
        return
    caller = sys._getframe(1)
    place, outer = caller.f_code.co_filename, caller.f_back
    # Annotations of functions; the header of a .npy file, which is parsed and not run.
    if place in (typing.__file__, inspect.__file__):
        return
    origin = {"compile": lambda a: a[1], "exec": lambda a: getattr(a[0], "co_filename", "")}
    if event in origin and str(origin[event](arguments)).startswith(PACKAGE):
        return  # the template of the report
    if event == "subprocess.Popen" and str(arguments[1][2:3]).find(PACKAGE + "exporting") > 0:
        return  # an export is read by its target library, in a script of ours
    if place == ast.__file__ and outer is not None and outer.f_code.co_name == "literal_eval":
        return
    sys.stderr.write(f"AUDIT {event} {str(arguments)[:200]}\n")
    traceback.print_stack()
    sys.stderr.flush()
    os._exit(77)

root = Path(sys.argv[1])
os.chdir(root)
for label in "ab":
    for number in range(6):
        place = root / "images" / label / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(ord(label) * 10 + number).integers(0, 256, (24, 24, 3))
        Image.fromarray(values.astype(np.uint8)).save(place)
ssltool.pretrain("jigsaw", root / "images", out=root / "original", steps=1, batch_size=4,
                 image_size=32, workers=0, device="cpu", backbone="resnet10_w32")
everything(root / "original", root / "warm")
if len(sys.argv) > 2:
    sys.addaudithook(hook)
    eval(sys.argv[2])
sys.addaudithook(hook)
everything(root / "original", root / "armed")
assert not (root / "unpickled").exists()
print("quiet")
"""


@pytest.mark.slow
def test_reading_files_runs_nothing(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.endswith("quiet\n")


@pytest.mark.slow
@pytest.mark.parametrize("act", ["pickle.loads(bomb)", "os.system('true')", "exec('1')"])
def test_the_hook_notices(tmp_path: Path, act: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), act],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 77
    assert "AUDIT" in result.stderr
