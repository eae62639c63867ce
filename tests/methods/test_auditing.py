"""Plans of every method: what they score is what `forward` reports, and nothing leaves a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ssltool.methods import auditing
from ssltool.methods.auditing import BASE, CHANCE, PATCH_CHANGES, replaced
from ssltool.methods.colorization import audit as colorization_audit
from ssltool.methods.cpc import audit as cpc_audit
from ssltool.methods.cpc import infonce
from ssltool.methods.jigsaw.audit import _condition, _neighbors
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import available, find_method

SIDE, COUNT = 32, 20


def images() -> Tensor:
    coarse = torch.rand(COUNT, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")
    return (wide.clamp(0, 1) * 255).to(torch.uint8)


def build(name: str, **options: Any) -> Any:
    info = DataInfo(COUNT, SIDE, batch_size=COUNT)
    cls = find_method(name)
    torch.manual_seed(0)
    chosen = cls.Options(**options).with_defaults(info)
    inputs = cls.inputs(chosen, info)
    encoder = inputs.build_encoder("resnet20", stem="small", in_channels=inputs.channels)
    return cls(chosen, encoder, info).eval()


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("name", sorted(available()))
def test_every_condition_scores_every_image_and_changes_nothing(name: str) -> None:
    method, shown, index = build(name), images(), torch.arange(COUNT)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    settings = {key: value for key, value in vars(method).items() if key in ("options", "training")}
    plan = method.audit.plan(method, 0)
    names = {part for c in plan.comparisons for part in (c.present, c.absent)} | {BASE, CHANCE}
    assert names <= set(plan.conditions)
    for condition, score in plan.conditions.items():
        values = score(shown, index)
        assert values.shape == (COUNT,), condition
        assert values.dtype == torch.float64
        assert values.isfinite().sum() >= COUNT // 2
        assert (
            torch.equal(
                values,
                score(shown, index),
            )
            or values.isnan().any()
        )
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert settings == {key: getattr(method, key) for key in settings}
    assert not any(module.training for module in method.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric"),
    [("cpc", "accuracy"), ("context-encoder", "l2")],
)
def test_the_base_is_what_the_method_reports(name: str, metric: str) -> None:
    method, shown, index = build(name), images(), torch.arange(COUNT)
    with torch.no_grad():
        loss = method(method.view(shown, index, auditing.seeded(0)))
    base = method.audit.plan(method, 0).conditions[BASE](shown, index)
    assert float(base.mean()) == pytest.approx(float(loss.metrics[metric]), rel=1e-5)


def test_an_intervention_that_does_nothing_reports_zero() -> None:
    method = build("jigsaw", fc6=8, fc7=8)
    shown, index = images(), torch.arange(COUNT)
    base = _condition(method, 0)(shown, index)
    same = _condition(method, 0, tiles=lambda tiles, rng: tiles)(shown, index)
    assert torch.equal(base, same)


@pytest.mark.parametrize("name", list(PATCH_CHANGES))
def test_changes_of_patches_are_seeded_by_the_image(name: str) -> None:
    patches = 255 * torch.rand(3, 4, 3, 9, 9)
    index = torch.tensor([5, 2, 7])

    def changed(which: list[int]) -> Tensor:
        rng = auditing.PerImageRNG(index[which], auditing.seeded(1))
        return PATCH_CHANGES[name](patches[which], rng)

    found = changed([0, 1, 2])
    assert found.shape == patches.shape
    assert not torch.equal(found, patches)
    assert torch.equal(changed([2])[0], found[2])


def test_probes_are_scored_on_images_they_were_not_fitted_on() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(4, (101, 3), generator=generator)
    clear = torch.nn.functional.one_hot(target, 4).float()
    found = auditing.probe(clear, target, 4)
    assert found.isnan().tolist() == [number % 2 == 0 for number in range(101)]
    assert found[1::2].mean() == 1
    # As many features as rows: learned by heart, and no better than chance on others.
    blind = auditing.probe(torch.randn(101, 3, 150, generator=generator), target, 4)
    assert 0.1 < float(blind[1::2].mean()) < 0.4


def test_explained_variance_is_that_of_the_held_out_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, 3, generator=generator)
    y = x[..., :2] + torch.randn(200, 2, 2, generator=generator)
    found = auditing.regression(x, y)[1::2]
    assert float(found.mean()) == pytest.approx(0.5, abs=0.1)  # half signal, half noise
    assert float(auditing.regression(x, x[..., :2])[1::2].mean()) == pytest.approx(1, abs=1e-4)


def test_neighbors_of_a_grid() -> None:
    first, second, position = _neighbors(3)
    pairs = dict(
        zip(zip(first.tolist(), second.tolist(), strict=True), position.tolist(), strict=True)
    )
    assert len(pairs) == 40
    assert [pairs[4, other] for other in (0, 1, 2, 3, 5, 6, 7, 8)] == list(range(8))
    assert (0, 2) not in pairs


@pytest.mark.parametrize("grid", [2, 3])
def test_chance_levels_of_probes_are_those_of_one_answer_to_all(
    grid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe of features that say nothing answers the same to every row."""
    method, shown, index = build("jigsaw", grid=grid, fc6=8, fc7=8), images(), torch.arange(COUNT)
    plan = method.audit.plan(method, 0)

    def of_one_answer(features: Tensor, target: Tensor, classes: int) -> Tensor:
        counts = target.flatten().bincount(minlength=classes)
        share = (target == counts.argmax()).double().mean(dim=1)
        return auditing._of_every_second(share[1::2], len(target))

    monkeypatch.setattr(method.audit, "probe", of_one_answer)
    probes = [c for c in plan.comparisons if c.kind == "probe"]
    for comparison in probes:
        present, absent = (
            float(plan.conditions[part](shown, index).nanmean())
            for part in (comparison.present, comparison.absent)
        )
        assert present == pytest.approx(absent), comparison.cue
    assert len(probes) == 4


@pytest.mark.parametrize("negatives", ["all", "other-images", "same-image", "random"])
def test_what_is_matched_is_chosen_from_the_candidates_of_the_network(negatives: str) -> None:
    """Equal distances: the first candidate is taken, and their number is the network's, but for the
    context itself.
    """
    method = build("cpc", negatives=negatives)
    cells, shown, index = method.grid.count**2, images(), torch.arange(COUNT)
    with replaced(method, training=True):
        view = method.view(shown, index, auditing.seeded(0))
    true = torch.randint(cells, (COUNT, 5)) + cells * torch.arange(COUNT)[:, None]
    allowed = cpc_audit._candidates(method, true, view.sampled, cells)
    expected = infonce.candidates(negatives, COUNT, cells, view.sampled.shape[1])
    repeated = torch.isin(true, cells * torch.arange(COUNT)[:, None] + view.sampled)
    less = repeated.long() if negatives == "random" else torch.zeros_like(true)
    assert torch.equal(allowed.sum(dim=2), expected - less)
    assert allowed.gather(2, true[..., None]).all()
    if negatives == "same-image":
        assert torch.equal(allowed.nonzero()[:, 2] // cells, allowed.nonzero()[:, 0])


def test_every_answer_to_colors_is_scored_on_the_images_that_the_network_is() -> None:
    """The rows of a table are of the same images, so that they differ by the effect."""
    method, shown, index = build("colorization"), images(), torch.arange(COUNT)
    method.prepare([(shown, index)])
    plan = method.eval().audit.plan(method, 0)
    scores = {name: score(shown, index) for name, score in plan.conditions.items()}
    assert all(values.isfinite().all() for values in scores.values())
    # Of one half the answer is that of the other half alone.
    odd = colorization_audit._best_answers(method, 0, shown[1::2], index[1::2], 1)
    expected = colorization_audit._table_error(method, 0, odd, shown[::2], index[::2])
    assert torch.allclose(scores[CHANCE][::2], expected.double())
