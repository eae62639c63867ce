from __future__ import annotations

from ssltool.plotting.units import headed, is_share, said


def test_numbers_are_said_in_their_units() -> None:
    assert said("accuracy", 0.5, {"accuracy": 0.125}) == "accuracy 50.0% (chance 12.5%)"
    assert said("psnr_interpolation_db", 18.58, {}) == "psnr interpolation 18.6 dB"
    assert said("loss", 2.07944, {}) == "loss 2.079"
    assert (
        said("cross_entropy_nats", 5.746, {"cross_entropy_nats": 5.7})
        == "cross entropy 5.746 nats (chance 5.700 nats)"
    )


def test_only_shares_are_shown_in_percent() -> None:
    assert [
        name
        for name in ("accuracy", "knn", "loss", "log_c", "psnr_db", "mean_similarity", "lr")
        if is_share(name)
    ] == [
        "accuracy",
        "knn",
    ]


def test_headings_name_the_unit() -> None:
    assert [headed(name) for name in ("psnr_db", "right_image", "images_per_s")] == [
        "psnr, dB",
        "right image, %",
        "images per s",
    ]
