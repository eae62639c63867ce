"""Pretrain on a torch Dataset, probe and export, as in a notebook: python from_a_dataset.py."""

from torchvision.datasets import FakeData

import ssltool

images = FakeData(64, image_size=(3, 40, 40), num_classes=4)  # any map-style Dataset
run = ssltool.pretrain("jigsaw", data=images, image_size=32, steps=10, batch_size=16)
result = ssltool.probe(run, data=images, kind=("linear", "knn"))
encoder = ssltool.load_encoder(run)
exported = ssltool.export(run, to="encoder.safetensors")
print(run.folder, {row.source.label(): row.accuracy for row in result.rows})
print(encoder.metadata.backbone, exported.path)
