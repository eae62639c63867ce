"""Fine-tune exported weights in plain torch: python finetune.py encoder.safetensors train/ [test/].

Nothing of ssltool is imported. The folders have a folder of images per class; without test/ a fifth
of train/ is held out. The weights are of a torchvision ResNet on RGB images, such as of
``ssltool pretrain jigsaw --backbone resnet18``, exported by ``ssltool export``; ``--scratch``
trains the same network from random init, to compare.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision import models, transforms
from torchvision.datasets import ImageFolder


def main() -> None:
    """Fine-tune on the training images and print the accuracy on the test images."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("weights", help="exported encoder, .safetensors")
    parser.add_argument("train", help="labeled images, a folder per class")
    parser.add_argument("test", nargs="?", help="labeled test images")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--scratch", action="store_true", help="begin with random weights")
    typed = parser.parse_args()

    torch.manual_seed(0)
    metadata = read_metadata(typed.weights)
    images = ImageFolder(typed.train, preprocessing(metadata))
    if typed.test:
        train: Dataset[Any] = images
        test: Dataset[Any] = ImageFolder(typed.test, images.transform)
    else:
        train, test = random_split(images, [0.8, 0.2])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(metadata, len(images.classes))
    if not typed.scratch:
        load(model, typed.weights)
    finetune(model.to(device), DataLoader(train, typed.batch_size, shuffle=True), typed.epochs)
    correct = accuracy(model, DataLoader(test, typed.batch_size))
    print(f"test accuracy {100 * correct:.1f} % of {len(test)} images")  # type: ignore[arg-type]


def read_metadata(path: str) -> dict[str, Any]:
    """What the weights file says of the network and of its input."""
    with safe_open(path, "pt") as file:
        metadata: dict[str, Any] = json.loads(file.metadata()["ssltool"])
    if metadata["color_space"] != "rgb" or metadata["norm"] != "batch":
        raise SystemExit(f"{path}: an encoder of RGB images with batch norm is expected")
    return metadata


def preprocessing(metadata: dict[str, Any]) -> transforms.Compose:
    """The input that the encoder was trained on: size, mean and deviation of its metadata."""
    side = metadata["image_size"]
    return transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            normalization(metadata),
        ]
    )


def normalization(metadata: dict[str, Any]) -> Any:
    """By the data's mean and deviation, or each image by its own."""
    if metadata["standardize"] == "data":
        return transforms.Normalize(metadata["mean"], metadata["std"])
    dim = (1, 2)

    def by_its_own(image: Tensor) -> Tensor:
        centered = image - image.mean(dim, keepdim=True)
        axes = dim if metadata["standardize"] == "channels" else (0, 1, 2)
        return centered / centered.square().mean(axes, keepdim=True).sqrt().clamp_min(1e-4)

    return by_its_own


def build(metadata: dict[str, Any], classes: int) -> nn.Module:
    """The torchvision ResNet of the weights, with a classifier for so many classes."""
    name = metadata["backbone"]
    if name not in models.list_models(models) or not name.startswith("resnet"):
        raise SystemExit(f"{name} is no ResNet of torchvision; ssltool.load_encoder builds it")
    model: nn.Module = models.get_model(name, num_classes=classes)
    if metadata["stem"] == "small":
        model.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


def load(model: nn.Module, path: str) -> None:
    """Load the encoder; the classifier alone keeps its random weights."""
    missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    print(f"loaded {path}: missing {missing}, unexpected {unexpected}")
    if set(missing) != {"fc.weight", "fc.bias"} or unexpected:
        raise SystemExit("only the classifier should be missing")


def finetune(model: nn.Module, batches: DataLoader[Any], epochs: int) -> None:
    """AdamW with a cosine schedule; the classifier learns ten times as fast as the encoder."""
    device = next(model.parameters()).device
    head = {id(p) for p in model.fc.parameters()}
    encoder = [p for p in model.parameters() if id(p) not in head]
    optimizer = torch.optim.AdamW(
        [{"params": encoder, "lr": 0.001}, {"params": model.fc.parameters(), "lr": 0.01}],
        weight_decay=0.05,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for images, labels in batches:
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}  loss {total / len(batches):.3f}")


@torch.no_grad()
def accuracy(model: nn.Module, batches: DataLoader[Any]) -> float:
    """Share of images whose class has the highest logit."""
    device = next(model.parameters()).device
    model.eval()
    correct = [model(images.to(device)).argmax(1).cpu() == labels for images, labels in batches]
    return float(torch.cat(correct).float().mean())


if __name__ == "__main__":
    main()
