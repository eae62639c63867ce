"""Figures of rotation prediction."""

import torch

from ssltool.methods.base import Predictions
from ssltool.ops import patches
from ssltool.plotting.records import Matrix
from ssltool.plotting.sheet import Column, Mark, Sheet, right_wrong

RIGHT, WRONG = right_wrong("right angle", "wrong angle")


def draw_task(method, images, index, generator):
    """The image in all four rotations, in the order sampled for it."""
    view = method.view(images, index, generator)
    rotated = patches.assemble(view.images, columns=4, gap=2, fill=255)
    columns = {"image": Column(images), "rotated": Column(rotated)}
    return Sheet(columns, "Rotation: classify by which of four angles the image was turned")


@torch.no_grad()
def draw_predictions(method, images, index, generator):
    """One rotation of each image, and the prediction undone, framed by whether it is right."""
    view = method.view(images, index, generator)
    shown, target = view.images[:, 0], view.turns[:, 0]
    confidence, predicted = method.logits(shown).softmax(dim=1).max(dim=1)
    pairs = zip(shown, predicted.tolist(), strict=True)
    undone = [image.rot90(-turn, (-2, -1)) for image, turn in pairs]
    marks = [[Mark(RIGHT if is_right else WRONG)] for is_right in (predicted == target).tolist()]
    rows = zip(target.tolist(), predicted.tolist(), confidence.tolist(), strict=True)
    captions = [f"{90 * t}°, predicted {90 * p}°, confidence {c:.0%}" for t, p, c in rows]
    columns = {"rotated": Column(shown), "rotated back": Column(undone, marks)}
    note = f"{int((predicted == target).sum())} of {len(images)} shown are right."
    return Predictions(Sheet(columns, "Rotation: predicted angle, undone", captions, note))


def plots(method, images, index, generator):
    """Confusion matrix of the predictions."""
    if method.training:
        return {}
    view = method.view(images, index, generator)
    predicted = method.logits(view.images.flatten(0, 1)).argmax(dim=1)
    counts = torch.bincount(4 * view.turns.flatten() + predicted, minlength=16).view(4, 4).cpu()
    names = ["0°", "90°", "180°", "270°"]
    return {"confusion": Matrix(counts.float(), names, names, "true turn", "predicted turn")}
