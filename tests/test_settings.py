"""Tests of cartpole/settings.py."""

import re
from pathlib import Path

import pytest

from cartpole.settings import (
    BUNDLED_MODEL,
    DECLARED,
    BadSettings,
    Setting,
    Settings,
    read,
    read_environment,
)

ODD = [
    *(
        "",
        " ",
        "\0",
        "a\nb",
        "1\n",
        "\x1b[2J",
        "\x7f",
        "\udcff",
        "é",
        "é..b",
        "٣",
        "%s",
        "{}",
        "nan",
    ),
    *("-1", "+1", "1_000", "1e3", "1.0", "0x10", "0" * 12 + "999999", "9" * 25, "9" * 5000),
    *("x" * 5000, ".." * 100),
]


def test_defaults() -> None:
    assert read([], {}) == read_environment({}) == Settings()
    assert Settings().host == "127.0.0.1"
    assert Settings().port == 3000
    assert Settings().model == BUNDLED_MODEL
    assert not Settings().access_log


def test_flag_over_environment_over_default() -> None:
    environment = {"CARTPOLE_PORT": "4000", "CARTPOLE_HOST": "::1", "CARTPOLE_ACCESS_LOG": "on"}
    settings = read(["--port", "5000", "--no-access-log"], environment)
    assert (settings.port, settings.host, settings.access_log) == (5000, "::1", False)
    assert read_environment(environment).access_log
    assert read_environment({"CARTPOLE_PORT": ""}).port == 3000


def test_every_setting_is_a_flag_and_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    values = {
        "host": "::1",
        "log_level": "debug",
        "http": "asgi",
        "engine": "native",
        "log_format": "json",
    }
    by_type = {int: "300", bool: "on"}
    for setting in DECLARED:
        text = values.get(setting.name, by_type.get(setting.type, str(file)))
        variables = {setting.variable: text}
        flags = [setting.flag] if setting.type is bool else [setting.flag, text]
        if setting.name == "ssl_keyfile":
            variables["CARTPOLE_SSL_CERTFILE"] = str(file)
            flags += ["--ssl-certfile", str(file)]
        assert read(flags, {}) == read([], variables)
        assert getattr(read(flags, {}), setting.name) == setting.parse(text)


def test_zero_is_for_ever() -> None:
    assert [read(["--worker-timeout", text], {}).worker_timeout for text in "03"] == [0, 3]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "70000"], "argument --port: 70000: expected a whole number from 0 to 65,535"),
        (["--port", "-1"], "argument --port: -1: expected"),
        (["--port", "1e3"], "argument --port: 1e3: expected"),
        (["--port", "٣"], "argument --port: ٣: expected"),
        (["--port"], "argument --port: expected one argument"),
        (["--threads", "0"], "argument --threads: 0: expected a whole number from 1 to 1,024"),
        (
            ["--worker-timeout", "2"],
            "argument --worker-timeout: 2: expected a whole number from 3 to 3,600, or 0",
        ),
        (["--log-level", "loud"], "argument --log-level: loud: expected one of debug, info, wa"),
        (["--ssl-certfile", "none.pem"], "argument --ssl-certfile: none.pem: No such file"),
        (["--ssl-keyfile", __file__], "--ssl-keyfile needs --ssl-certfile"),
        (["--pin", "--threads", "2"], "--pin gives a worker one core: --threads must be 1"),
        (["--port", "000000000000999999"], "argument --port: 000000000000999999: expected"),
        (
            ["--limit-requests", "9" * 25],
            f"argument --limit-requests: {'9' * 25}: expected a whole",
        ),
        (["--host", ""], "argument --host: '': expected a value"),
        (["--host", "é..b"], "argument --host: é..b: expected a host name or an IP address"),
        (["--uds", "a\nb"], r"argument --uds: a\nb: control characters"),
        (["a\nb"], r"unrecognized arguments: a\nb"),
        (["--por", "1"], "unrecognized arguments: --por"),
        (["extra"], "unrecognized arguments: extra"),
    ],
)
def test_bad_flags(flags: list[str], message: str) -> None:
    with pytest.raises(BadSettings, match=f"^{re.escape(message)}"):
        read(flags, {})


@pytest.mark.parametrize(
    ("name", "text"),
    [("PORT", "x"), ("THREADS", "0"), ("ACCESS_LOG", "maybe"), ("SSL_CERTFILE", "none.pem")],
)
def test_bad_variables(name: str, text: str) -> None:
    with pytest.raises(BadSettings, match=f"^CARTPOLE_{name}={text}: "):
        read([], {f"CARTPOLE_{name}": text})


@pytest.mark.parametrize("setting", DECLARED, ids=lambda setting: setting.name)
def test_odd_values_are_values_or_one_line(setting: Setting) -> None:
    for text in ODD:
        for flags, variables in (([f"{setting.flag}={text}"], {}), ([], {setting.variable: text})):
            try:
                value = getattr(read(flags, variables), setting.name)
            except BadSettings as error:
                assert setting.flag in str(error) or setting.variable in str(error)
                assert str(error).isprintable()
            else:
                assert value not in ("", Path())
                assert type(value) in (int, bool) or str(value).isprintable() or text == "\udcff"


def test_leading_zeros() -> None:
    assert read(["--port", "0" * 20 + "80"], {}).port == 80
    assert read(["--port", "0"], {}).port == 0


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "--version"):
        with pytest.raises(SystemExit) as stopped:
            read([flag], {})
        assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(setting.flag in shown and setting.help in shown for setting in DECLARED)
    assert re.search(r"^cartpole \d+\.\d+\.\d+$", shown, re.M)
