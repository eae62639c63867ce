"""``ssltool doctor``: versions, device and defaults on this machine."""

from __future__ import annotations

from ssltool.cli._flags import command_of
from ssltool.cli._output import JsonOption, print_json
from ssltool.console import echo
from ssltool.options import DeviceName, Options, option


class DoctorOptions(Options):
    """What is reported on."""

    device: DeviceName = option("auto", "Device to report on")


def doctor(options: DoctorOptions, output: JsonOption) -> None:
    """Print versions, the device and what is chosen on this machine."""
    from ssltool.device import choose_device
    from ssltool.runs.doctor import doctor as run

    result = run(choose_device(options.device)).model_dump(mode="json")
    if output.as_json:
        print_json(result)
        return
    packages = result.pop("packages")
    for name, value in {**result, **packages}.items():
        echo(f"{name:<14} {value if value is not None else 'not installed'}")


command = command_of("doctor", doctor)
