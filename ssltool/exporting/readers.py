"""Programs that open an export as its users do, without ssltool, and compute features.

Run as a script in a process of its own, see `ssltool.exporting.comparison`. It imports only what a
reader needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

Job = dict[str, Any]
Outputs = dict[str, Tensor]


def ssltool(job: Job, images: Tensor, inputs: Tensor) -> Outputs:
    """``ssltool.load_encoder`` and its own transform."""
    import ssltool

    encoder = ssltool.load_encoder(job["path"])
    return {"pooled": encoder(encoder.transform(images))}


def torchvision(job: Job, images: Tensor, inputs: Tensor) -> Outputs:
    """A model of torchvision without its classifier."""
    from torchvision.models import get_model

    model = get_model(job["backbone"], weights=None, **job["arguments"])
    missing, unexpected = model.load_state_dict(load_file(job["path"]), strict=False)
    strangers = [key for key in missing if not key.startswith(job["classifier"] + ".")]
    if strangers or unexpected:
        raise ValueError(f"keys differ: {(strangers + unexpected)[:3]}")
    model.set_submodule(job["classifier"], torch.nn.Identity())
    return {"pooled": model.eval()(inputs)}


def timm(job: Job, images: Tensor, inputs: Tensor) -> Outputs:
    """A model of timm and its own transform, from Pillow images."""
    import timm
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    model = timm.create_model(f"local-dir:{job['path']}", pretrained=True, num_classes=0).eval()
    if job["channels"]:  # Pillow has no such images
        own = resolve_data_config({}, model=model)
        mean, std = (torch.tensor(own[name])[:, None, None] for name in ("mean", "std"))
        return {"pooled": model((images / 255 - mean) / std)}
    transform = create_transform(**resolve_data_config({}, model=model))
    batch = [transform(Image.fromarray(array)) for array in _arrays(images)]
    return {"pooled": model(torch.stack(batch))}


def transformers(job: Job, images: Tensor, inputs: Tensor) -> Outputs:
    """A model of transformers and its own processor."""
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel

    model = AutoModel.from_pretrained(job["path"]).eval()
    if job["channels"]:
        return {"pooled": model(pixel_values=inputs).pooler_output.flatten(1)}
    processor = AutoImageProcessor.from_pretrained(job["path"])
    batch = processor([Image.fromarray(array) for array in _arrays(images)], return_tensors="pt")
    return {"pooled": model(**batch).pooler_output.flatten(1)}


def onnxruntime(job: Job, images: Tensor, inputs: Tensor) -> Outputs:
    """Runs an ONNX file on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(job["path"], providers=["CPUExecutionProvider"])
    x = images if job["uint8"] else inputs
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {"images": x.contiguous().numpy()})
    return {name: torch.from_numpy(each) for name, each in zip(names, found, strict=True)}


def torch_export(job: Job, images: Tensor, inputs: Tensor) -> Outputs:
    """``torch.export.load``."""
    program = torch.export.load(job["path"]).module()
    found = program((images if job["uint8"] else inputs).contiguous())
    return dict(zip(job["outputs"], found, strict=True))


READERS: dict[str, Callable[[Job, Tensor, Tensor], Outputs]] = {
    "ssltool": ssltool,
    "torchvision": torchvision,
    "timm": timm,
    "transformers": transformers,
    "onnxruntime": onnxruntime,
    "torch.export": torch_export,
}


def _arrays(images: Tensor) -> list[NDArray[np.uint8]]:
    return [np.ascontiguousarray(image) for image in images.permute(0, 2, 3, 1).numpy()]


def main(jobs: str, images: str, to: str) -> None:
    """Run jobs, a JSON list, on the tensors of a file, and write what they computed to another."""
    given = load_file(images)
    results: Outputs = {}
    for number, job in enumerate(json.loads(jobs)):
        read = READERS[job["reader"]]
        try:
            with torch.inference_mode():
                found = read(job, given[f"{number}/images"], given[f"{number}/inputs"])
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise SystemExit(f"{job['reader']} cannot open it ({reason[:300]})") from error
        results |= {f"{number}/{name}": each.contiguous() for name, each in found.items()}
    save_file(results, to)


if __name__ == "__main__":
    main(*sys.argv[1:])
