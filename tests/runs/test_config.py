from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssltool.data.sources.survey import automatic_size
from ssltool.errors import UsageError
from ssltool.methods.options import DataInfo
from ssltool.methods.registry import available, find_method
from ssltool.runs.config import ResolvedConfig, RunConfig
from ssltool.runs.options import RunOptions
from ssltool.runs.resolve import resolve

JIGSAW = find_method("jigsaw")


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text('method = "jigsaw"\nbatch_size = 128\nlr = 0.3\n')
    config = RunConfig.merged("jigsaw", {"lr": 0.7}, preset="paper", config=config)
    assert (config.run.lr, config.run.batch_size, config.run.weight_decay) == (0.7, 128, 5e-4)
    assert config.task.permutation_mode == "max_mean"


def test_larger_images_than_a_preset_reads_take_the_place_of_its_load_size() -> None:
    sizes = {
        typed: RunConfig.merged(
            "npid", {} if typed is None else {"image_size": typed}, preset="paper"
        ).run
        for typed in (None, 256, 512)
    }
    assert {typed: (run.image_size, run.load_size) for typed, run in sizes.items()} == {
        None: (224, 384),
        256: (256, 384),
        512: (512, None),
    }


def test_an_image_size_as_typed_replaces_the_load_size_too() -> None:
    """The command line hands values over as words."""
    config = RunConfig.merged("npid", {"image_size": "400"}, preset="paper")
    assert (config.run.image_size, config.run.load_size) == (400, None)
    config = RunConfig.merged("npid", {"image_size": "300"}, preset="paper")
    assert (config.run.image_size, config.run.load_size) == (300, 384)


def test_typed_epochs_replace_the_presets_steps() -> None:
    config = RunConfig.merged("jigsaw", {"epochs": 3.0}, preset="paper")
    assert (config.run.epochs, config.run.steps) == (3.0, None)


def test_a_file_for_another_method_and_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('method = "cpc"\n')
    (tmp_path / "broken.toml").write_text("= 3")
    (tmp_path / "unknown.toml").write_text("epoch = 3")
    with pytest.raises(UsageError, match="pretrain cpc"):
        RunConfig.merged("jigsaw", {}, config=tmp_path / "other.toml")
    with pytest.raises(UsageError, match=r"it is no TOML: .*TOML or JSON of options"):
        RunConfig.merged("jigsaw", {}, config=tmp_path / "broken.toml")
    with pytest.raises(UsageError, match="did you mean --epochs"):
        RunConfig.merged("jigsaw", {}, config=tmp_path / "unknown.toml")


def test_a_files_epochs_replace_a_presets_steps_and_typed_steps_both(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("epochs = 2")
    config = RunConfig.merged("jigsaw", {}, preset="paper", config=tmp_path / "c.toml")
    assert (config.run.epochs, config.run.steps) == (2.0, None)
    config = RunConfig.merged("jigsaw", {"steps": 7}, config=tmp_path / "c.toml")
    assert (config.run.epochs, config.run.steps) == (None, 7)
    (tmp_path / "c.toml").write_text("epochs = 2\nsteps = 3")
    with pytest.raises(UsageError, match="--epochs and --steps"):
        RunConfig.merged("jigsaw", {}, config=tmp_path / "c.toml")


def test_stored_paths_are_absolute_whatever_the_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every option that is a path, as its type says; and of specs of images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for name in available():
        fields = RunOptions.model_fields | find_method(name).Options.model_fields
        paths = {n: f"a/{n}" for n, field in fields.items() if "Path" in str(field.annotation)}
        data = ("p", "../q", "~/r", "s/{00..09}.tar", "demo:3", "torchvision:MNIST@t?download")
        config = RunConfig.validated(name, {**paths, "data": data, "probe_data": data[:1]})
        stored = config.absolute().given()
        assert {n: str(stored[n]) for n in paths} == {
            n: f"{tmp_path}/{p}" for n, p in paths.items()
        }
        assert stored["probe_data"] == (f"{tmp_path}/p",)
        assert stored["data"] == (
            f"{tmp_path}/p",
            f"{tmp_path}/../q",
            "/home/me/r",
            f"{tmp_path}/s/{{00..09}}.tar",
            "demo:3",
            f"torchvision:MNIST@{tmp_path}/t?download",
        )
        assert config.run.data == data  # as typed
    resolved = resolve(RunConfig.merged("jigsaw", {"data": data, "out": "r"}), DataInfo(100, 64))
    assert resolved.options()["data"] == list(stored["data"])
    assert resolved.options()["out"] == f"{tmp_path}/r"
    assert resolved.run.data == data


def test_seeds_fit_into_64_bits() -> None:
    """Of every command; the range is declared once."""
    from ssltool.data.options import PackOptions
    from ssltool.options import LARGEST_SEED, Options
    from ssltool.probing.options import CompareOptions, ProbeOptions
    from ssltool.visualizing.options import FIGURES

    models: list[type[Options]] = [RunOptions, PackOptions, CompareOptions, ProbeOptions]
    models += [figure.options for figure in FIGURES.values()]
    for model in models:
        for wrong in (-1, LARGEST_SEED + 1, 2**64, 2**200) if "seed" in model.model_fields else ():
            with pytest.raises(UsageError, match=f"--seed {wrong}: should be at (least|most)"):
                model.checked(seed=wrong)
    assert RunOptions.checked(seed=LARGEST_SEED).seed == LARGEST_SEED
    with pytest.raises(UsageError, match="--permutation-seed"):
        RunConfig.merged("jigsaw", {"permutation_seed": 2**64})


def test_all_faults_come_in_one_line() -> None:
    with pytest.raises(UsageError) as fault:
        RunConfig.merged("jigsaw", {"lr": -1, "grayscale": 2, "keep": 0})
    assert all(flag in str(fault.value) for flag in ("--lr", "--grayscale", "--keep"))
    assert "\n" not in str(fault.value)


@given(st.integers(2, 10**7), st.integers(28, 256))
def test_everything_is_decided(count: int, size: int) -> None:
    run = resolve(RunConfig.merged("jigsaw", {}), DataInfo(count, size)).run
    open_fields = {name for name, value in run.model_dump().items() if value is None}
    not_decided = {"out", "init", "load_size", "epochs", "budget", "workers", "probe_every"}
    assert open_fields <= not_decided | {"value_range"}  # RGB has no range
    assert run.batch_size <= count


@pytest.mark.parametrize(
    ("side", "size"), [(10, 28), (28, 28), (31, 28), (100, 96), (320, 256), (4000, 256)]
)
def test_the_image_size_never_enlarges_a_typical_image(side: int, size: int) -> None:
    assert automatic_size(side) == size


def test_run_options_are_described_and_no_method_reuses_their_names() -> None:
    assert all(field.description for field in RunOptions.model_fields.values())
    for name in available():
        assert not set(find_method(name).Options.model_fields) & set(RunOptions.model_fields)


def test_channels_follow_what_the_method_reads() -> None:
    info = DataInfo(100, 64)
    assert resolve(RunConfig.merged("jigsaw", {}), info).run.channels == 3
    assert resolve(RunConfig.merged("jigsaw", {"channels": 1}), info).run.channels == 1
    assert resolve(RunConfig.merged("colorization", {}), info).run.channels == 1
    with pytest.raises(UsageError, match="--channels 3: colorization reads lightness"):
        resolve(RunConfig.merged("colorization", {"channels": 3}), info)


def test_squares_larger_than_the_images_are_for_methods_that_cut_crops() -> None:
    info = DataInfo(count=100, image_size=64)

    def load_size(name: str, asked: int | None) -> int | None:
        given = {} if asked is None else {"load_size": asked}
        return resolve(RunConfig.merged(name, given), info).run.load_size

    assert [load_size("npid", asked) for asked in (None, 64, 96)] == [None, 64, 96]
    assert load_size("jigsaw", 64) == 64
    with pytest.raises(
        UsageError, match="jigsaw cuts no random crops; omit it, or type --image-size 96"
    ):
        load_size("jigsaw", 96)
    with pytest.raises(UsageError, match="--load-size 60 is less than the images' 64 px; type 64"):
        load_size("npid", 60)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.json", "[]", "a table of options is expected"),
        ("c.json", "1e-320", "a table of options is expected"),
        ("c.json", "[" * 5000 + "]" * 5000, "64 levels"),
        ("c.json", '{"steps": NaN}', "not a finite number"),
        ("c.json", '{"steps": ' + "9" * 5000 + "}", "5,000 digits"),
        ("c.json", '{"steps": 3, "steps": 4}', "'steps' is there twice"),
        ("c.json", '{"format": 1, "options": {"steps": 3}}', "has format 1"),
        ("c.json", '{"options": 3}', "options should be a table"),
        ("c.json", '{"method": ["jigsaw"]}', "method should be a name"),
        ("c.json", '{"data": ["a\\u0000b"]}', "--data .*without null characters"),
        ("c.json", '{"permutation_file": "a\\u0000b"}', "--permutation-file .*null characters"),
        ("c.json", '{"lr": "' + "x" * 10_000 + '"}', r"--lr x{200}\.\.\."),
        ("c.json", '{"' + "x" * 10_000 + '": 1}', "unknown option --x+"),
        ("c.toml", "steps = nan", "--steps nan"),
        ("c.toml", "lr = inf", "--lr inf"),
        ("c.toml", "steps = 1979-05-27", "--steps 1979-05-27"),
        ("c.toml", "a = " + "[" * 5000, "64 levels"),
        ("c.toml", "steps = 3\nsteps = 4", "no TOML"),
    ],
)
def test_a_damaged_file_is_one_short_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        RunConfig.merged("jigsaw", {}, config=tmp_path / name)
    assert len(str(caught.value)) < 700


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("steps = 3", encoding="utf-8-sig")
    assert RunConfig.merged("jigsaw", {}, config=tmp_path / "c.toml").run.steps == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 20_000}, "--image-size 20000"),
        ({"image_size": 48}, "--image-size 48: the data are of"),
        ({"steps": 0}, "--steps 0"),
        ({"batch_size": -1}, "--batch-size -1"),
        ({"cls": 1}, "unknown option --cls"),
        ({"a\nb": 1}, "unknown option --a b"),
        ({"permutations": "many"}, "--permutations many"),
    ],
)
def test_wrong_options_of_a_record_are_named(change: dict[str, Any], words: str) -> None:
    data = DataInfo(count=1000, image_size=96)
    resolved = resolve(RunConfig.validated("jigsaw", {}), data)
    assert ResolvedConfig.restored("jigsaw", resolved.options(), data).options()
    with pytest.raises(UsageError, match=words) as caught:
        ResolvedConfig.restored("jigsaw", {**resolved.options(), **change}, data)
    assert "\n" not in str(caught.value)


def test_sizes_that_no_weights_file_holds_are_refused() -> None:
    data = DataInfo(count=1000, image_size=256)
    with pytest.raises(UsageError, match="patches, more than 64x64"):
        resolve(RunConfig.validated("cpc", {"patch": 16, "stride": 1}), data)
    options = {"patch": 32, "patch_input": 512}
    with pytest.raises(UsageError, match="encoded at 4096 px"):
        resolve(RunConfig.validated("context-prediction", options), data)


def test_gradients_are_averaged_during_the_backward_pass_on_cuda_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = DataInfo(count=100, image_size=32)

    def resolved(device: str, **given: Any) -> str:
        monkeypatch.setattr("ssltool.device.choose_device", lambda _: torch.device(device))
        return resolve(RunConfig.merged("jigsaw", {"data": ["demo"], **given}), data).run.all_reduce

    assert [resolved(device) for device in ("cuda", "cpu")] == ["overlap", "single"]
    assert resolved("cuda", all_reduce="single") == "single"
    assert resolved("cpu", all_reduce="overlap") == "overlap"
