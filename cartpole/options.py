"""Settings as options of click: strict types, an environment given as a mapping, grouped help."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

import click
from click import Context, Parameter
from click.core import ParameterSource

T = TypeVar("T")


class WholeNumber(click.IntRange):
    """A range of ASCII digits: click's own takes "1_000", "+1" and digits of other scripts."""

    def __init__(self, least: int, most: int, or_zero: bool = False) -> None:
        super().__init__(least, most)
        self._allowed, self._or_zero = range(least, most + 1), or_zero
        self.described = f"{least:,} to {most:,}" + (", or 0" if or_zero else "")

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> int:
        text = str(value)
        if self._or_zero and text == "0":
            return 0
        is_number = text.isascii() and text.isdigit()
        parsed = int(text.lstrip("0")[:20] or "0") if is_number else -1  # 20 exceed every limit
        if parsed not in self._allowed:
            self.fail(f"{text!r} is not a whole number from {self.described}.", param, ctx)
        return parsed


class Switch(click.types.BoolParamType):
    """A boolean with fewer spellings than click's, which takes a blank for off."""

    VALUES = ("1", "true", "on", "0", "false", "off")

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> bool:
        if isinstance(value, str) and value.lower() not in self.VALUES:
            self.fail(f"{value!r} is not one of {', '.join(self.VALUES)}.", param, ctx)
        return super().convert(value, param, ctx)


class FileMode(click.ParamType[int]):
    """Permissions of a file, as three octal digits, with or without a 0 before them."""

    name = "mode"

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> int:
        if isinstance(value, int):
            return value
        if not re.fullmatch("0?[0-7]{3}", value):
            self.fail(f"{value!r} is not a mode of three octal digits, such as 0660.", param, ctx)
        return int(value, 8)


class Host(click.types.StringParamType):
    """A host name or an IP address."""

    def convert(self, value: Any, param: Parameter | None, ctx: Context | None) -> str:
        try:
            str(value).encode("idna")  # as socket.bind() does
        except UnicodeError:
            self.fail(f"{value!r} is not a host name or an IP address.", param, ctx)
        return str(value)


ANY_FILE = click.Path(readable=False, path_type=Path)  # checked when it is opened


def setting(
    default: T,
    group: str,
    type: "click.ParamType[T]",
    help: str,
    metavar: str | None = None,
    shown: str | None = None,
) -> T:
    """Declare a field of a dataclass as a setting.

    Args:
        group: the section of help that lists it.
        metavar: the unit or thing that a value stands for; choices and switches have none.
        shown: the default in help and documentation, if not its own text.
    """
    declared = {"group": group, "type": type, "help": help, "metavar": metavar, "shown": shown}
    value: T = field(default=default, metadata=declared)
    return value


def number(default: int, group: str, least: int, most: int, metavar: str, help: str) -> int:
    """Declare a whole number from least to most."""
    return setting(default, group, WholeNumber(least, most), help, metavar)


def choice(default: str, group: str, choices: Sequence[str], help: str) -> str:
    """Declare a choice among names."""
    return setting(default, group, click.Choice(choices), help)


def switch(group: str, help: str, default: bool = False) -> bool:
    """Declare a boolean."""
    return setting(default, group, Switch(), help, shown="on" if default else "off")


class Setting(click.Option):
    """A setting as an option of click. Its variable is looked up in the context's object."""

    def __init__(
        self, name: str, default: Any, group: str, shown: str | None, **declared: Any
    ) -> None:
        dashed = name.replace("_", "-")
        self.group, self.flag = group, f"--{dashed}"
        self.default_text = shown or ("" if default is None else str(default))
        # Not auto_envvar_prefix: CARTPOLE_HELP and CARTPOLE_VERSION would act as flags.
        self.variable = f"CARTPOLE_{name.upper()}"
        flags = f"--{dashed}/--no-{dashed}" if isinstance(default, bool) else self.flag
        declared |= {"envvar": self.variable, "show_envvar": True, "show_default": True}
        super().__init__([name, flags], default=default, **declared)

    def resolve_envvar_value(self, ctx: Context) -> str | None:
        environ: Mapping[str, str] = ctx.obj
        return environ.get(self.variable) or None

    def type_cast_value(self, ctx: Context, value: Any) -> Any:
        if value == "":
            raise click.BadParameter("expected a value.")
        if isinstance(value, str) and value[:1] == "-" and not isinstance(self.type, WholeNumber):
            raise click.BadParameter(f"expected a value, found {value!r}.")
        if isinstance(value, str) and any(c < " " or c == "\x7f" for c in value):
            raise click.BadParameter(f"{value!r} has control characters.")
        return super().type_cast_value(ctx, value)

    def get_error_hint(self, ctx: Context | None) -> str:
        source = ctx.get_parameter_source(self.name) if ctx else None
        return self.variable if source is ParameterSource.ENVIRONMENT else self.flag

    def get_help_extra(self, ctx: Context) -> "click.types.OptionHelpExtra":
        extra = super().get_help_extra(ctx)
        if isinstance(self.type, WholeNumber):
            extra["range"] = self.type.described
        if self.default_text:
            extra["default"] = self.default_text
        return extra


class GroupedCommand(click.Command):
    """A command with a section of help for each group of settings."""

    def format_options(self, ctx: Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                rows.setdefault(getattr(param, "group", "Other"), []).append(record)
        for group, records in rows.items():
            with formatter.section(group):
                formatter.write_dl(records)
