from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from ssltool.probing.datasets import LabeledImages
from ssltool.probing.overlap import near_duplicates


def test_changed_copies_are_near_duplicates_and_other_images_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(6):
                small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
                path = tmp_path / split / name / f"{i}.png"
                small.resize((96, 96), Image.Resampling.BICUBIC).save(path)
    train, test = tmp_path / "train" / "a", tmp_path / "test" / "b"
    with Image.open(train / "1.png") as image:
        image.resize((70, 70)).save(test / "resized.png")
    with Image.open(train / "2.png") as image:
        image.save(test / "compressed.jpg", quality=40)
    with Image.open(train / "3.png") as image:
        ImageEnhance.Brightness(image).enhance(0.8).save(test / "darker.png")
    for path in (train / "flat.png", test / "flat.png"):
        Image.new("RGB", (64, 64), (90, 90, 90)).save(path)
    data = LabeledImages((str(tmp_path / "train"),), (str(tmp_path / "test"),), workers=0)
    found = {Path(image).name: Path(other).name for image, other in near_duplicates(data)}
    expected = {"resized.png": "1.png", "compressed.jpg": "2.png", "darker.png": "3.png"}
    assert found == expected
