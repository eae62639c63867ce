from __future__ import annotations

import copy
import math
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from torch.nn import functional as F

from ssltool.encoders.registry import build_encoder
from ssltool.encoders.transform import InputTransform
from ssltool.errors import SslToolError, UsageError
from ssltool.methods.npid import losses as nce
from ssltool.methods.npid.options import NpidOptions
from ssltool.methods.npid.task import Npid, NpidView
from ssltool.methods.options import DataInfo
from ssltool.plotting.records import Lines

COUNT, SIDE = 37, 16  # divisible by no number of processes


def build(count: int = COUNT, gray: bool = False, channels: int = 3, **options: Any) -> Npid:
    info = DataInfo(count, SIDE, gray)
    torch.manual_seed(0)
    encoder = build_encoder("resnet20", stem="small", in_channels=channels)
    return Npid(NpidOptions(**options).with_defaults(info), encoder, info)


def make_images(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) * 3 % COUNT


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step(method: Npid, view: NpidView) -> float:
    loss = method(view)
    loss.value.backward()
    method.after_step([loss.update])
    return float(loss.value.detach())


def test_automatic_options_suit_the_images() -> None:
    fashion = NpidOptions().with_defaults(DataInfo(60_000, 28, gray=True))
    assert (fashion.loss, fashion.bank_init, fashion.crop) == ("softmax", "warm", 0.5)
    assert (fashion.flip, fashion.jitter, fashion.hue, fashion.grayscale) == (0, 0, 0, 0)
    photos = NpidOptions().with_defaults(DataInfo(1_281_167, 224))
    assert (photos.loss, photos.bank_init, photos.temperature, photos.crop) == (
        "nce",
        "random",
        0.07,
        0.2,
    )
    assert (photos.flip, photos.jitter, photos.hue, photos.grayscale) == (0.5, 0.4, 0.4, 0.2)
    assert NpidOptions(flip=0.5, loss="nce").with_defaults(DataInfo(100, 28, gray=True)).flip == 0.5


def test_gray_views_stay_gray_and_upright() -> None:
    method = build(gray=True, rotation=0.0, crop=1.0)
    images, index = make_images()
    images = images[:, :1].expand(-1, 3, -1, -1)
    view = (
        method.train()
        .figures.draw_task(method, images, index, seeded())
        .columns["view, epoch 1"]
        .images
    )
    assert torch.equal(view, view[:, :1].expand_as(view))
    ratio_changed = [not torch.equal(a, b) for a, b in zip(view, images, strict=True)]
    assert not all(ratio_changed)  # a crop of the whole area is the image unless its sides change


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_is_standardized_by_itself_as_images_are_for_features(channels: int) -> None:
    images, index = make_images()
    method = build(standardize=True, channels=channels)
    inputs = Npid.inputs(method.options, DataInfo(COUNT, SIDE))
    zero, one = (0.0,) * channels, (1.0,) * channels
    transform = InputTransform(SIDE, zero, one, standardize=inputs.standardize)
    seen = method.eval().view(images, index, seeded()).images
    assert torch.allclose(seen, transform(images), atol=1e-5)
    views = method.train().view(images, index, seeded()).images
    assert views.mean(dim=(2, 3)).abs().max() < 1e-4
    assert torch.allclose(views.square().mean(dim=(1, 2, 3)), torch.ones(8), atol=1e-3)


def test_crops_may_be_smaller_than_the_images_of_features() -> None:
    images, index = make_images()
    method = build(crop_scale=0.75)
    assert method.train().view(images, index, seeded()).images.shape[-1] == 12
    assert method.eval().view(images, index, seeded()).images.shape[-1] == SIDE
    inputs = Npid.inputs(method.options, DataInfo(COUNT, SIDE))
    assert (inputs.train_size, inputs.feature_size) == (12, SIDE)


def test_an_evaluation_view_is_the_image() -> None:
    images, index = make_images()
    method = build().eval()
    seen = method.view(images, index, seeded()).images
    assert torch.allclose((seen * method._std + method._mean) * 255, images.float(), atol=1e-3)
    assert torch.equal(
        method.figures.draw_task(method, images, index, seeded()).columns["view, epoch 1"].images,
        images,
    )


def test_one_channel_reads_the_mean_with_the_cards_statistics() -> None:
    method = build(channels=1)
    images, index = make_images()
    view = method.eval().view(images, index, seeded())
    expected = (images.float().mean(dim=1, keepdim=True) / 255 - 0.449) / 0.226
    assert torch.allclose(view.images, expected, atol=1e-5)


def test_vectors_have_length_one_in_float32_under_autocast() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        features = method.embed(method.view(*make_images(), seeded()).images)
    assert features.dtype == torch.float32
    assert torch.allclose(features.norm(dim=1), torch.ones(8), atol=1e-6)
    method.head.weight.data.zero_()
    method.head.bias.data.zero_()
    assert torch.equal(
        method.embed(method.view(*make_images(), seeded()).images), torch.zeros(8, 128)
    )


def test_a_norm_of_the_head_spreads_the_embeddings_of_an_untrained_network() -> None:
    images, index = make_images()
    spread = {}
    for head_norm in (False, True):
        method = build(head_norm=head_norm).train()
        vectors = method.embed(method.view(images, index, seeded()).images).detach()
        assert torch.allclose(vectors.norm(dim=1), torch.ones(8), atol=1e-6)
        others = ~torch.eye(8, dtype=torch.bool)
        spread[head_norm] = float((vectors @ vectors.T)[others].mean())
    assert spread[True] < 0.1 < spread[False]


def by_hand(method: Npid, view: NpidView, negatives: Tensor) -> Tensor:
    """The loss from the definition, h from probabilities."""
    features = method.embed(view.images).double()
    logits = (features @ method.bank.rows.double().T / method.temperature).exp()
    positive = logits.gather(1, view.indices[:, None])[:, 0]
    others = logits.gather(1, negatives)
    if method.loss != "nce":
        return -(positive / (positive + others.sum(dim=1))).log().mean()
    n, m = method.count, negatives.shape[1]
    z = math.exp(method.log_c) * n
    h_positive, h = positive / z / (positive / z + m / n), others / z / (others / z + m / n)
    return -(h_positive.log() + (1 - h).log().sum(dim=1)).mean()


@pytest.mark.parametrize("loss", ["nce", "infonce"])
def test_a_sampled_loss_is_the_papers(loss: str) -> None:
    method = build(loss=loss, negatives=10, shared_negatives=False).train()
    method.encoder.eval()
    view = method.view(*make_images(), seeded())
    negatives = nce.sample(view.seed, view.indices, COUNT, 10, shared=False, exclude=True)
    assert not (negatives == view.indices[:, None]).any()
    with torch.no_grad():
        assert float(method(view).value) == pytest.approx(
            float(by_hand(method, view, negatives)), rel=1e-5
        )


@pytest.mark.parametrize("shared", [True, False])
def test_the_released_code_lets_a_image_be_its_own_negative(shared: bool) -> None:
    options = {
        "loss": "nce",
        "negatives": 30,
        "shared_negatives": shared,
        "exclude_positive": False,
    }
    method = build(**options).train()
    method.encoder.eval()
    view = method.view(*make_images(), seeded())
    negatives = nce.sample(view.seed, view.indices, COUNT, 30, shared=shared, exclude=False).expand(
        8, -1
    )
    assert (negatives == view.indices[:, None]).any()
    with torch.no_grad():
        assert float(method(view).value) == pytest.approx(
            float(by_hand(method, view, negatives)), rel=1e-5
        )


def test_a_step_that_went_wrong_leaves_bank_and_c_to_the_loops_own_error() -> None:
    method = build(loss="nce", negatives=10).train()
    before = copy.deepcopy(method.state_dict())
    method.head.weight.data.fill_(math.nan)
    assert math.isnan(step(method, method.view(*make_images(), seeded())))
    assert torch.equal(method.bank.rows, before["bank.rows"])
    assert torch.equal(method.log_c, before["log_c"])


@pytest.mark.parametrize("loss", ["softmax", "nce", "infonce"])
def test_more_negatives_than_images_are_all_others_once(loss: str) -> None:
    """T11: and n - 1 takes the place of m."""
    method = build(loss=loss, negatives=4096, temperature=0.1).train()
    method.encoder.eval()
    view = method.view(*make_images(), seeded())
    everyone = torch.arange(COUNT).expand(8, -1)
    negatives = everyone[everyone != view.indices[:, None]].view(8, COUNT - 1)
    with torch.no_grad():
        assert float(method(view).value) == pytest.approx(
            float(by_hand(method, view, negatives)), rel=1e-5
        )
    assert method.chance["accuracy"] == 1 / COUNT


def test_scoring_leaves_the_bank_and_c_alone_and_a_step_writes_what_was_scored() -> None:
    """T11. Ports that write inside forward or backward change the bank by looking at the loss."""
    method = build(loss="nce", negatives=10).train()
    view, state = method.view(*make_images(), seeded()), copy.deepcopy(method.state_dict())
    with torch.no_grad():
        updates = [method(view).update for _ in range(2)]
    assert updates == [(), ()]
    assert torch.equal(method.bank.rows, state["bank.rows"])
    assert torch.equal(method.log_c, state["log_c"])
    method.encoder.eval()
    features = method.embed(view.images).detach()
    step(method, view)
    expected = F.normalize(0.5 * state["bank.rows"][view.indices] + 0.5 * features)
    assert torch.allclose(method.bank.rows[view.indices], expected, atol=1e-6)
    rest = torch.ones(COUNT, dtype=torch.bool)
    rest[view.indices] = False
    assert torch.equal(method.bank.rows[rest], state["bank.rows"][rest])
    assert float(method.log_c) != float(state["log_c"])


def test_all_batches_of_an_accumulated_step_are_written() -> None:
    method = build().train()
    images, index = make_images()
    before = method.bank.rows.clone()
    updates = []
    for part in (slice(0, 4), slice(4, 8)):
        loss = method(method.view(images[part], index[part], seeded()))
        loss.value.backward()
        updates.append(loss.update)
    method.after_step(updates)
    changed = (method.bank.rows != before).any(dim=1)
    assert changed[index].all()
    assert int(changed.sum()) == 8


def test_the_bank_has_no_gradient_and_mean_squares_reach_the_vectors() -> None:
    method = build(proximal=2.0).train()
    method.encoder.eval()
    view = method.view(*make_images(), seeded())
    plain = build().train()
    plain.encoder.eval()
    features = method.embed(view.images)
    expected = 2 * (features - method.bank.rows[view.indices]).square().sum(dim=1).mean()
    difference = method(view).value - plain(view).value
    assert float(difference.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert not method.bank.rows.requires_grad


def test_c_is_followed_measured_once_or_fixed() -> None:
    images, index = make_images()
    found = {}
    for constant in ("ema", "first", "fixed"):
        method = build(loss="nce", negatives=20, constant=constant, bank_init="warm").train()
        method.prepare([(images, index)] * 3)
        started = float(method.log_c)
        step(method, method.view(images, index, seeded()))
        found[constant] = (started, float(method.log_c))
    theory = nce.log_constant(128, 0.07)
    assert found["fixed"] == pytest.approx((theory, theory))
    assert found["first"][0] == found["first"][1] != theory
    assert found["ema"][0] == found["first"][0] != found["ema"][1]
    # c moves by a hundredth of the difference, not ln c.
    method = build(loss="nce", negatives=20).train()
    view = method.view(images, index, seeded())
    measured = method._compare(method.embed(view.images), view.indices, view.seed).log_c
    expected = 0.99 * math.exp(method.log_c) + 0.01 * math.exp(measured)
    method.after_step([(view.indices, method.embed(view.images).detach(), measured.detach())])
    assert math.exp(method.log_c) == pytest.approx(expected, rel=1e-5)


def test_an_impossible_constant_is_an_error() -> None:
    """A user of a port met c = 1.7e11, which unit vectors cannot give."""
    method = build(loss="nce", negatives=10).train()
    method.log_c.fill_(26.0)
    view = method.view(*make_images(), seeded())
    with pytest.raises(SslToolError, match=r"is 2\d\..*; .* within 1 / tau = 14\.29") as error:
        step(method, view)
    assert "\n" not in str(error.value)


def test_the_bound_of_the_constant_is_1_over_tau() -> None:
    method = build(loss="nce", negatives=10, constant="first").train()
    for log_c in (14.28, -14.28, math.nan):
        method._check_constant(torch.tensor([log_c]))
    for log_c in (14.4, -14.4, math.inf):
        with pytest.raises(SslToolError, match="not of unit length"):
            method._check_constant(torch.tensor([0.8, log_c]))
    # c is measured once, yet a bank that breaks later is noticed, and a vector named.
    method.bank.rows *= 30
    with pytest.raises(SslToolError, match=r"memory vector \d+ has length 30"):
        step(method, method.view(*make_images(), seeded()))


def test_projection_and_memory_are_what_the_loss_compares() -> None:
    method = build(head_norm=True).train()
    images = method.view(*make_images(), seeded()).images
    method.eval()
    with torch.no_grad():
        expected = method.embed(images)
        assert torch.equal(method.projection(method.encoder(images)), expected)
    assert method.memory.vectors is method.bank.rows
    assert method.memory.temperature == method.temperature
    assert "projection" not in " ".join(method.state_dict())


@pytest.mark.parametrize("size", [1, 3])
def test_a_warm_start_writes_each_row_whatever_the_batches(size: int) -> None:
    """T9: a port computes where the last, shorter batch goes from its own length and overwrites
    other rows.
    """
    method = build(count=7, bank_init="warm").train()
    images, index = make_images(7)[0], torch.tensor([6, 2, 0, 4, 1, 5, 3])
    before = method.bank.rows.clone()
    said = method.prepare(zip(images.split(size), index.split(size), strict=True))
    changed = (method.bank.rows != before).any(dim=1)
    assert changed.tolist() == [
        place != 3 and size > 1 for place in range(7)
    ]  # the last batch is of one image
    if size == 3:
        assert "6 images" in said
        again = build(count=7, bank_init="warm").train()
        again.prepare([(images[:3], index[:3]), (images[3:6], index[3:6])])
        assert torch.equal(again.bank.rows, method.bank.rows)


def test_a_bank_is_not_half_warm() -> None:
    method = build(bank_init="warm").train()
    before = method.bank.rows.clone()
    assert "random" in method.prepare([make_images(8)])
    assert torch.equal(method.bank.rows, before)


def test_a_random_bank_reads_one_batch_at_most() -> None:
    method, read = build(bank_init="random", loss="nce", negatives=9), []

    def batches() -> Any:
        for _ in range(3):
            read.append(1)
            yield make_images()

    assert "noise" in method.prepare(batches())
    assert len(read) == 1


@pytest.mark.parametrize(
    ("loss", "negatives", "expected"),
    [
        ("softmax", 4096, math.log(1000)),
        ("infonce", 300, math.log(301)),
        # -ln h of the positive and of 300 negatives, h = 1 / 301 and 1 - h.
        ("nce", 300, math.log(301) - 300 * math.log(300 / 301)),
    ],
)
def test_a_constant_network_scores_the_chance_level(
    loss: str, negatives: int, expected: float
) -> None:
    method = build(count=1000, loss=loss, negatives=negatives).eval()
    constant = F.normalize(torch.randn(128, generator=seeded(1)), dim=0)
    method.bank.rows.copy_(constant.expand(1000, -1))
    method.log_c.fill_(1 / method.temperature)  # as measured
    method.embed = lambda images: constant.expand(len(images), -1)  # type: ignore[method-assign]
    assert method.chance["loss"] == pytest.approx(expected, rel=1e-9)
    assert float(method(method.view(*make_images(), seeded())).value) == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize(("loss", "negatives"), [("softmax", 4096), ("nce", 300), ("infonce", 300)])
def test_independent_vectors_are_no_better_than_chance_level(loss: str, negatives: int) -> None:
    """T7. The first loss of a random bank, above that of equal vectors by ln c."""
    method = build(count=1000, loss=loss, negatives=negatives, bank_init="random", temperature=0.1)
    features = F.normalize(torch.randn(256, 128, generator=seeded(1)))
    index, seed = torch.arange(256), torch.arange(256) * 7919
    compared = method._compare(features, index, seed)
    positive = compared.similarity / 0.1
    if loss == "nce":
        losses = nce.nce_loss(positive, compared.against, method.log_c + math.log(300))
    else:
        losses = nce.softmax_loss(positive, compared.against)
    log_c = nce.log_constant(128, 0.1)
    assert float(losses.mean()) == pytest.approx(method.chance["loss"] + log_c, abs=0.2)
    accuracy = (positive > compared.hardest).float().mean()
    assert float(accuracy) == pytest.approx(method.chance["accuracy"], abs=0.01)


def test_tiny_data_and_a_batch_of_one() -> None:
    method = build(count=3, loss="nce", negatives=4096, shared_negatives=False).train()
    method.encoder.eval()
    images = make_images(1)[0]
    assert math.isfinite(step(method, method.view(images, torch.tensor([2]), seeded())))


@pytest.mark.parametrize(
    "loss", ["softmax", *(pytest.param(x, marks=pytest.mark.slow) for x in ("nce", "infonce"))]
)
def test_the_loss_falls_on_one_repeated_batch(loss: str) -> None:
    method = build(
        count=8, loss=loss, bank_init="warm"
    ).train()  # from random rows the loss of nce first rises
    optimizer = torch.optim.SGD(method.parameters(), lr=0.02, momentum=0.9)
    images, index = make_images()[0], torch.arange(8)
    method.prepare([(images, index)])
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(step(method, method.view(images, index, seeded())))
        optimizer.step()
    assert min(losses[-5:]) < 0.8 * losses[0]


def test_other_images_than_the_banks_are_refused_to_be_named_but_compared() -> None:
    method = build().eval()
    images, index = make_images()
    with pytest.raises(UsageError, match="its own 37 training images"):
        method(method.view(images, index + COUNT, seeded()))
    predictions = method.figures.draw_predictions(method, images, index + COUNT, seeded())
    assert all("own memory vector" not in caption for caption in predictions.sheet.captions)
    assert method.figures.plots(method, images, index + COUNT, seeded()) == {}


def test_predictions_point_to_the_nearest_other_images() -> None:
    method = build().eval()
    images, index = make_images(3)
    features = method.embed(method.view(images, index, seeded()).images).detach()
    method.bank.rows[index] = features
    method.bank.rows[[10, 20]] = F.normalize(features[:2] + 0.01)
    predictions = method.figures.draw_predictions(method, images, index, seeded())
    assert predictions.nearest is not None
    nearest, similarity = predictions.nearest
    assert any(column[:2].tolist() == [10, 20] for column in nearest[:, :2].unbind(dim=1))
    assert (nearest != index[:, None]).all()
    assert (similarity.diff(dim=1) <= 0).all()
    assert all(
        caption.startswith("similarity to own memory vector 1.00, rank 1 of 37")
        for caption in predictions.sheet.captions
    )


def test_histograms_hold_all_pairs() -> None:
    method = build().eval()
    chart = method.figures.plots(method, *make_images(), seeded())["similarities"]
    assert isinstance(chart, Lines)
    assert sum(chart.series["own memory vector"].y) == pytest.approx(1)
    assert sum(chart.series["other memory vectors"].y) == pytest.approx(1)


CASES: list[dict[str, Any]] = [
    {"loss": "softmax"},
    {"loss": "nce", "negatives": 12},
    {"loss": "nce", "negatives": 12, "shared_negatives": False, "proximal": 3.0},
    {"loss": "infonce", "negatives": 12},
    {"loss": "infonce", "negatives": 2, "shared_negatives": False, "bank_dtype": "fp16"},
]
RESUMED = (1, 4)


def global_step(number: int, results: Path, loaded: Path | None = None) -> None:
    """Two steps of one case on this process's part of a batch of eight; the first process writes
    what came of it.
    """
    method = build(**CASES[number]).train()
    images, index = make_images(8)
    index[5] = index[1]  # an image twice in the global batch
    if loaded is None:
        method.bank.update(
            torch.arange(COUNT), F.normalize(torch.randn(COUNT, 128, generator=seeded(7))), 0.5
        )
    else:
        method.load_state_dict(load_file(loaded))
    method.encoder.eval()  # batch statistics are a process's own
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
    losses = []
    for epoch in range(2):
        method.zero_grad()
        losses.append(step(method, method.view(images[mine], index[mine], seeded(epoch))))
    found = {f"grad.{name}": p.grad for name, p in method.named_parameters() if p.grad is not None}
    found["losses"] = torch.tensor(losses)
    if world > 1:
        for value in found.values():  # as training in several processes does
            distributed.all_reduce(value)
            value /= world
    state = method.state_dict()
    if rank == 0:
        results.mkdir(exist_ok=True)
        save_file({**found, **state}, results / f"{number}.safetensors")
        save_file(state, results / f"{number}.state.safetensors")


def process(rank: int, world: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    for number in range(len(CASES)):
        global_step(number, folder / "many")
    for number in RESUMED:
        global_step(number, folder / "resumed", folder / "alone" / f"{number}.state.safetensors")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.ci), 4])
def test_many_processes_give_what_one_gives(tmp_path: Path, world: int) -> None:
    """Losses, gradients, c, bank: equal, from the start, and resumed with another number of
    processes.
    """
    for number in range(len(CASES)):
        global_step(number, tmp_path / "alone")
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=process, args=(rank, world, tmp_path)) for rank in range(world)
    ]
    for child in started:
        child.start()
    for child in started:
        child.join(300)
    assert [child.exitcode for child in started] == [0] * world
    compare(tmp_path / "alone", tmp_path / "many", range(len(CASES)))
    for number in RESUMED:
        global_step(number, tmp_path / "again", tmp_path / "many" / f"{number}.state.safetensors")
    compare(tmp_path / "again", tmp_path / "resumed", RESUMED)


def compare(one: Path, other: Path, numbers: Sequence[int]) -> None:
    for number in numbers:
        a, b = (load_file(folder / f"{number}.safetensors") for folder in (one, other))
        assert a.keys() == b.keys()
        for name in a:
            tolerance = 2e-3 if "bank_dtype" in CASES[number] else 2e-5
            assert torch.allclose(a[name].float(), b[name].float(), atol=tolerance, rtol=1e-3), (
                CASES[number],
                name,
            )
