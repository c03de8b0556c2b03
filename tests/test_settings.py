"""Settings from flags and variables, bad values in one line, help, and their page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cartpole.options import Setting, WholeNumber
from cartpole.settings import (
    BUNDLED_MODEL,
    SETTINGS,
    BadSettings,
    Settings,
    read,
    read_environment,
)
from tests.support.paths import ROOT

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
        "poll": "never",
        "log_format": "json",
        "uds_mode": "600",
    }
    for setting in SETTINGS:
        is_number = isinstance(setting.type, WholeNumber)
        usual = "300" if is_number else "on" if setting.is_flag else str(file)
        text = values.get(setting.name, usual)
        variables = {setting.variable: text}
        flags = [setting.flag] if setting.is_flag else [setting.flag, text]
        if setting.name == "ssl_keyfile":
            variables["CARTPOLE_SSL_CERTFILE"] = str(file)
            flags += ["--ssl-certfile", str(file)]
        assert read(flags, {}) == read([], variables)
        value = 300 if is_number else True if setting.is_flag else values.get(setting.name, file)
        value = 0o600 if setting.name == "uds_mode" else value
        assert getattr(read(flags, {}), setting.name) == value


def test_zero_is_for_ever() -> None:
    assert [read(["--worker-timeout", text], {}).worker_timeout for text in "03"] == [0, 3]


NUMBER = "is not a whole number from"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "70000"], f"Invalid value for --port: '70000' {NUMBER} 0 to 65,535."),
        (["--port", "-1"], f"Invalid value for --port: '-1' {NUMBER}"),
        (["--port", "1e3"], f"Invalid value for --port: '1e3' {NUMBER}"),
        (["--port", "٣"], f"Invalid value for --port: '٣' {NUMBER}"),
        (["--port"], "Option '--port' requires an argument."),
        (["--threads", "0"], f"Invalid value for --threads: '0' {NUMBER} 1 to 1,024."),
        (
            ["--worker-timeout", "2"],
            f"Invalid value for --worker-timeout: '2' {NUMBER} 3 to 3,600, or 0.",
        ),
        (
            ["--log-level", "loud"],
            "Invalid value for --log-level: 'loud' is not one of 'debug', 'info', 'warning', 'err",
        ),
        (["--ssl-keyfile", __file__], "--ssl-keyfile needs --ssl-certfile"),
        (["--pin", "--threads", "2"], "--pin gives a worker one core: --threads must be 1"),
        (["--port", "000000000000999999"], "Invalid value for --port: '000000000000999999' is"),
        (
            ["--limit-requests", "9" * 25],
            f"Invalid value for --limit-requests: '{'9' * 25}' {NUMBER}",
        ),
        (["--host", "--port"], "Invalid value for --host: expected a value, found '--port'."),
        (["--uds", "-s"], "Invalid value for --uds: expected a value, found '-s'."),
        (["--host", ""], "Invalid value for --host: expected a value."),
        (["--host", "é..b"], "Invalid value for --host: 'é..b' is not a host name or an IP"),
        (["--uds", "a\nb"], r"Invalid value for --uds: 'a\nb' has control characters."),
        (["a\nb"], r"Got unexpected extra argument (a\nb)"),
        (["--por", "1"], "No such option '--por'."),
        (["extra"], "Got unexpected extra argument (extra)"),
    ],
)
def test_bad_flags(flags: list[str], message: str) -> None:
    with pytest.raises(BadSettings, match=f"^{re.escape(message)}"):
        read(flags, {})


@pytest.mark.parametrize(
    ("name", "text"),
    [("PORT", "x"), ("THREADS", "0"), ("ACCESS_LOG", "maybe"), ("UDS_MODE", "rw")],
)
def test_bad_variables(name: str, text: str) -> None:
    with pytest.raises(BadSettings, match=f"^Invalid value for CARTPOLE_{name}: .*'{text}'"):
        read([], {f"CARTPOLE_{name}": text})


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
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
    for flag in ("--help", "-h", "--version"):
        with pytest.raises(SystemExit) as stopped:
            read([flag], {})
        assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for setting in SETTINGS:
        assert setting.flag in shown
        assert setting.variable in shown
        assert setting.help is not None
        assert setting.help in shown
    assert re.search(r" cartpole \d+\.\d+\.\d+", shown)


def test_only_settings_are_variables() -> None:
    """CARTPOLE_HELP or CARTPOLE_VERSION of some environment does not end the service."""
    assert read([], {"CARTPOLE_HELP": "1", "CARTPOLE_VERSION": "1"}) == Settings()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_value_is_named_by_its_unit(setting: Setting) -> None:
    if setting.is_flag or isinstance(setting.type, click.Choice):
        assert setting.metavar is None
    else:
        assert setting.metavar in {
            "ADDRESS",
            "BYTES",
            "COUNT",
            "FILE",
            "MODE",
            "PORT",
            "SECONDS",
            "SOCKET",
        }


def test_shells_complete_flags_and_choices() -> None:
    program = "from cartpole.settings import read; read([])"
    for words, expected in (("cartpole --eng", "--engine"), ("cartpole --engine na", "native")):
        variables = {"_CARTPOLE_COMPLETE": "bash_complete", "COMP_WORDS": words}
        variables["COMP_CWORD"] = str(len(words.split()) - 1)
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, env=os.environ | variables, cwd=ROOT, capture_output=True, text=True
        )
        assert f"plain,{expected}" in done.stdout


def test_completion_is_for_the_command_line_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that is made from the environment does not end its process."""
    monkeypatch.setenv("_CARTPOLE_COMPLETE", "bash_source")
    assert read_environment({}) == Settings()


def page() -> str:
    """The tables of docs/configuration.md, as the settings have them."""
    lines: list[str] = []
    for group in dict.fromkeys(setting.group for setting in SETTINGS):
        lines += ["", f"## {group}", "", "| flag | variable | default | meaning |"]
        lines += ["|---|---|---|---|"]
        for setting in SETTINGS:
            if setting.group == group:
                lines.append(f"| {' | '.join(row(setting))} |")
    return "\n".join(lines)


def row(setting: Setting) -> tuple[str, ...]:
    value = f" {setting.metavar}" if setting.metavar else ""
    if isinstance(setting.type, click.Choice):
        value = " " + "\\|".join(setting.type.choices)
    allowed = (
        f" Allowed: {setting.type.described}." if isinstance(setting.type, WholeNumber) else ""
    )
    default = setting.default_text or "none"
    flag = f"{setting.flag}{value}"
    return f"`{flag}`", f"`{setting.variable}`", default, f"{setting.help}{allowed}"


def test_the_page_is_the_settings() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    assert page() in text, f"docs/configuration.md should hold:\n{page()}"
