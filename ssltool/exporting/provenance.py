"""Where weights come from: the run they lie in, its images, and what a probe measured of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

from ssltool.encoders.encoder import Encoder
from ssltool.errors import SslToolError
from ssltool.probing.extraction import hash_of_encoder
from ssltool.runs.probe_record import PROBE_FILE, ProbeRecord
from ssltool.runs.records import RUN_FILE, RunRecord

_SPLITS = {"train", "val", "test"}


class Provenance(NamedTuple):
    """What the folder of a weights file says of it.

    Attributes:
        datasets: Names of the image sets, without the folders they lie in.
        probe: What ``ssltool probe`` measured of these very weights; None without.
    """

    datasets: tuple[str, ...] = ()
    probe: ProbeRecord | None = None

    @classmethod
    def of(cls, weights: Path, encoder: Encoder) -> Self:
        """Read the records beside a weights file; those that are missing or damaged say nothing.

        Args:
            weights: A file.
            encoder: What is in it.
        """
        return cls(_datasets(weights.parent, encoder), _probe(weights.parent, encoder))


def _datasets(folder: Path, encoder: Encoder) -> tuple[str, ...]:
    try:
        record = RunRecord.read(folder / RUN_FILE)
    except (SslToolError, OSError):
        return ()
    if not record.trained(encoder.metadata):
        return ()
    return tuple(_name(str(spec)) for spec in record.options.get("data", ()))


def _name(spec: str) -> str:
    """``letters/train`` of a folder of that name, ``user/name`` of ``hf:user/name``, anything
    without folders as it is; nothing that follows a question mark.
    """
    spec = spec.partition("?")[0]
    if spec.startswith("hf:"):
        return spec.removeprefix("hf:")
    path = Path(spec)
    return f"{path.parent.name}/{path.name}" if path.name in _SPLITS else path.name or spec


def _probe(folder: Path, encoder: Encoder) -> ProbeRecord | None:
    try:
        record = ProbeRecord.read(folder / PROBE_FILE)
    except (SslToolError, OSError):
        return None
    return record if record.protocol.encoder == hash_of_encoder(encoder, encoder.metadata) else None
