"""The Python API: every command as a function that returns an object and prints nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ssltool.auditing.options import AuditOptions
from ssltool.console import stderr_console
from ssltool.data.sources.base import Source
from ssltool.data.sources.registry import DataSpec, open_source
from ssltool.data.specs import OBJECT
from ssltool.device import choose_device
from ssltool.distributed.collectives import is_main, launched
from ssltool.errors import UnknownNameError, UsageError
from ssltool.probing.datasets import LabeledImages
from ssltool.probing.embedding_files import Embedding
from ssltool.probing.options import EmbedOptions, ProbeOptions
from ssltool.runs.audit_record import AuditRecord
from ssltool.runs.config import RunConfig
from ssltool.runs.folder import Run
from ssltool.runs.probe_record import ProbeRecord

if TYPE_CHECKING:
    from ssltool.encoders.encoder import Encoder
    from ssltool.exporting.export import ExportResult
    from ssltool.exporting.options import Format, InputForm
    from ssltool.predicting.predict import PredictResult
    from ssltool.visualizing.results import FigureResult

# Paths and names as typed after --data, map-style torch datasets, or sources.
Data = DataSpec | Sequence[DataSpec]
Weights = Run | str | os.PathLike[str]


def pretrain(
    method: str,
    data: Data | None = None,
    *,
    preset: str | None = None,
    config: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> Run:
    """Pretrain an encoder on unlabeled images.

    Args:
        method: Name of a method, such as ``"jigsaw"``.
        data: Anything that ``--data`` names, such as a folder of images or ``"list.csv"``, a
            map-style torch ``Dataset`` of images or (image, label), a ``datasets.Dataset``, or
            several of them; ``"demo"`` for synthetic images. Required unless ``resume``.
        preset: One of the method's presets.
        config: TOML or JSON file of options, or a ``run.json`` to repeat.
        resume: Continue the run in ``out``, or the newest of the method.
        overwrite: Replace the run in ``out``.
        progress: Whether to print progress to stderr.
        **options: Options of ``ssltool pretrain METHOD``, with underscores: ``steps=1000``.

    Returns:
        The finished run.

    Raises:
        UsageError: An option or the data cannot be used.
        Interrupted: Ctrl-C came; a checkpoint was saved.
        SslToolError: Anything else the user can mend.
    """
    from ssltool.training import launch
    from ssltool.training.pretrain import pretrain as run_pretraining

    names, source = _named(data)
    given = {**options, **({"data": names} if names else {})}
    asked = RunConfig.merged(method, given, preset, Path(config) if config else None)
    if not resume:
        asked.require_data()
    console = _console(progress)
    devices = 1 if launched() else launch.processes(asked, resume=resume)
    if devices == 1:
        summary = run_pretraining(
            asked, source=source, resume=resume, overwrite=overwrite, console=console
        )
        return Run.open(summary.run)
    if source is not None:
        raise UsageError(
            "a dataset object cannot be sent to other processes; give paths, or start the script "
            "with torchrun"
        )
    words = () if progress else ("--quiet",)
    folder = launch.launch(
        asked, devices, words, resume=resume, overwrite=overwrite, console=console
    )
    return Run.open(folder)


def probe(
    weights: Weights,
    data: Data,
    *,
    test_data: Data | None = None,
    progress: bool = False,
    **options: Any,
) -> ProbeRecord:
    """Measure what an encoder learned, beside random init and raw pixels.

    Args:
        weights: A run, a run folder or a weights file.
        data: Labeled images: a folder per class, or a torch ``Dataset`` of (image, label).
        test_data: Labeled test images; a fifth of ``data`` is held out without it.
        progress: Whether to print progress to stderr.
        **options: Options of ``ssltool probe``, with underscores: ``kind=("linear", "knn")``.

    Returns:
        What was measured. Of several processes the first one measures, and all get the record.

    Raises:
        UsageError: An option or the data cannot be used.
        SslToolError: The weights or the images are invalid.
    """
    from ssltool.probing.probe import probe as run_probe

    names, source = _named(data)
    test_names, test_source = _named(test_data)
    asked = ProbeOptions.checked(
        **options, weights=_path(weights), data=names, test_data=test_names
    )
    images = None
    if source is not None or test_source is not None:
        images = LabeledImages(
            source or names,
            test_source or test_names,
            label_file=asked.label_file,
            seed=asked.seed,
            batch_size=asked.batch_size,
            workers=asked.workers,
            device=choose_device(asked.device),
        )
    return run_probe(asked, _console(progress), data=images)


def audit(
    weights: Weights, data: Data | None = None, *, progress: bool = False, **options: Any
) -> AuditRecord:
    """Measure how much of a run's pretext answer is a shortcut.

    Args:
        weights: A run, a run folder or the weights file in one.
        data: Images, as for `pretrain`; the run's own if not given.
        progress: Whether to print progress to stderr.
        **options: Options of ``ssltool audit``, with underscores: ``images=1000``.

    Raises:
        UsageError: An option or the data cannot be used, or the method has no audit.
        CheckpointError: The run has no checkpoint yet, or it is damaged.
    """
    from ssltool.auditing.audit import audit as run_audit

    names, source = _named(data)
    asked = AuditOptions.checked(**options, weights=_path(weights), data=names)
    return run_audit(asked, _console(progress), source)


def embed(
    weights: Weights,
    data: Data,
    *,
    to: Path | str | None = None,
    progress: bool = False,
    **options: Any,
) -> Embedding:
    """Compute the features of images.

    Args:
        weights: A run, a run folder or a weights file.
        data: Images, as for `pretrain`.
        to: Also write them to this .safetensors, .npz, .parquet or .csv file.
        progress: Whether to print progress to stderr.
        **options: Options of ``ssltool embed``, with underscores: ``stage="layer3"``.

    Returns:
        ``features`` float32 ``[N, D]``, or ``[N, h, w, D]`` with ``patches=True``, mapped from a
        temporary file; ``names``, ``labels`` int64 ``[N]`` and ``classes``. Of several processes
        the first one gets all images, each other one those that it computed.
    """
    from ssltool.distributed.parts import divided_work
    from ssltool.probing.embed import compute
    from ssltool.probing.embedding_files import write

    names, source = _named(data)
    target = Path(to) if to else Path("embedding.safetensors")
    asked = EmbedOptions.checked(**options, weights=_path(weights), data=names, to=target)
    with divided_work(_console(progress)) as console:
        rows, _ = compute(asked, console, source, target.parent if to else None)
        if to is not None and is_main():
            write(rows, target)
    return rows.embedding()


def export(
    weights: Weights,
    to: Path | str,
    *,
    formats: Sequence[Format] = ("safetensors",),
    form: InputForm | None = None,
    fixed_norm: bool = False,
    uint8: bool = False,
    with_projection: bool = False,
    with_head: bool = False,
    license: str = "unknown",
    data: Data = (),
) -> ExportResult:
    """Write an encoder for other libraries, with a model card; they open it and are compared.

    Args:
        weights: A run, a run folder or a weights file.
        to: A folder to make, or one .safetensors file, with torchvision's key names.
        formats: Of the folder: ``safetensors``, ``timm`` (which transformers opens too), ``onnx``,
            ``torch``.
        form: Input form of an encoder trained on lightness.
        fixed_norm: Normalize by the data's mean and deviation in place of each image's own, an
            approximation.
        uint8: Whether ``onnx`` and ``torch`` take uint8 RGB images.
        with_projection: Also write the projection of ``npid``, beside the encoder.
        with_head: Also write the whole model of ``colorization`` or ``context-encoder``, for
            `predict`.
        license: Of the weights, for the model card.
        data: Images on which features are compared; those of the run by default.
    """
    from ssltool.exporting.export import export as run_export

    return run_export(
        _path(weights),
        Path(to),
        formats=formats,
        form=form,
        fixed_norm=fixed_norm,
        uint8=uint8,
        with_projection=with_projection,
        with_head=with_head,
        license=license,
        data=data,
    )


def predict(
    what: str,
    weights: Weights,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    to: Path | str,
    *,
    progress: bool = False,
    **options: Any,
) -> PredictResult:
    """Make images of images, as PNG files: what the task of a run predicts.

    Args:
        what: ``"colorize"`` or ``"inpaint"``.
        weights: A run of ``colorization`` or ``context-encoder``, its folder, or what `export`
            wrote with ``with_head``.
        images: One image file or several.
        to: Folder to write to.
        progress: Whether to print progress and skipped files to stderr.
        **options: Options of ``ssltool predict WHAT``, with underscores: ``box=(40, 20, 64, 64)``;
            ``mask_file`` for ``--mask``.

    Raises:
        UsageError: An option cannot be used, or a file would be overwritten.
        SslToolError: The weights are damaged.
    """
    from ssltool.predicting.options import COMMANDS
    from ssltool.predicting.predict import predict as run_predict

    if what not in COMMANDS:
        raise UnknownNameError("prediction", what, COMMANDS)
    given = dict(options)
    device = given.pop("device", "auto")
    files = (images,) if isinstance(images, str | os.PathLike) else tuple(images)
    asked = COMMANDS[what].options.checked(**given, files=files, weights=_path(weights), to=to)
    return run_predict(asked, device, _console(progress))


def load_encoder(weights: Weights) -> Encoder:
    """Load an encoder in evaluation mode, with ``.metadata`` and ``.transform``.

    ``encoder(encoder.transform(images))`` maps uint8 images ``[B, 3, S, S]`` to ``[B, D]``.

    Raises:
        WeightsError: The file is not what it should be; the message says in what.
    """
    from ssltool.encoders.weights import load_encoder as load

    return load(_path(weights))


def visualize(what: str, weights: Weights | None = None, **options: Any) -> FigureResult:
    """Draw a figure.

    Args:
        what: ``predictions``, ``neighbors``, ``features``, ``attribution``, ``filters``,
            ``permutations`` or ``curves``.
        weights: A run, a run folder or a weights file; for ``curves`` a run. Not needed for
            ``permutations``.
        **options: Options of ``ssltool visualize WHAT``, with underscores: ``to="out.png"``.

    Returns:
        The path of the figure, which notebooks display, and what was measured.
    """
    from ssltool.plotting.channels import showing
    from ssltool.visualizing.commands import draw
    from ssltool.visualizing.options import FIGURES, ShownOption

    if what not in FIGURES:
        raise UnknownNameError("figure", what, FIGURES)
    model = FIGURES[what].options
    given = dict(options)
    if weights is not None:
        path = _path(weights)
        given |= {"runs": (path,)} if "runs" in model.model_fields else {"weights": path}
    device = given.pop("device", "auto")
    shown = ShownOption.checked(show_channels=given.pop("show_channels", ()))
    with showing(shown.show_channels):
        return draw(what, model.checked(**given), device)


def _named(data: Data | None) -> tuple[tuple[str, ...], Source | None]:
    """Names to record, and the source if any of the data is an object and not a name."""
    if data is None:
        return (), None
    parts = list(data) if isinstance(data, list | tuple) else [data]
    paths = [os.fspath(part) for part in parts if isinstance(part, str | os.PathLike)]
    if len(paths) == len(parts):
        return tuple(paths), None
    source = open_source(data)
    return (f"{OBJECT} {source.description}",), source


def _path(weights: Weights) -> Path:
    return weights.folder if isinstance(weights, Run) else Path(weights)


def _console(progress: bool) -> Console:
    return stderr_console(quiet=not progress)
