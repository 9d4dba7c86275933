"""Command line -> flag values: absl's parser, and what it says in our own words."""

import os
from collections.abc import Sequence
from typing import Any

from absl import flags

from bert_extract.errors import OptionsError


class CommandFlags(flags.FlagValues):
    """absl's flags, whose flagfiles are known and say which of them cannot be read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # absl has no types there
        # absl's class has flags for attributes, but not under a name like this one.
        self.__dict__["_flagfiles"] = []

    @property
    def flagfiles(self) -> list[str]:
        """The flagfiles that were read, those within others too."""
        found: list[str] = self.__dict__["_flagfiles"]
        return found

    def _get_flag_file_lines(
        self, filename: str, parsed_file_stack: list[str] | None = None
    ) -> list[str]:
        stack = [*(parsed_file_stack or ())]  # the files that this one stands in
        filename = _found(filename, stack)
        try:
            lines: list[str] = super()._get_flag_file_lines(  # type: ignore[no-untyped-call]
                filename, parsed_file_stack
            )
        except flags.CantOpenFlagFileError as error:
            # absl's message is Python's; it was raised while that one was handled.
            raise _unreadable(filename, stack, error.__context__) from error
        except (OSError, ValueError) as error:
            raise _unreadable(filename, stack, error) from error
        self.flagfiles.append(filename)
        return lines


def _found(filename: str, stack: Sequence[str]) -> str:
    """A flagfile as its name is meant, in a flagfile or on the command line.

    absl looks for it where the command runs; if it is not there, it may lie beside the
    flagfile that names it. One that is being read has its name there, whatever it is
    called now, so that absl notices the circle.
    """
    if stack and filename and not os.path.exists(filename):
        beside = os.path.join(os.path.dirname(stack[-1]), filename)
        if os.path.exists(beside):
            filename = beside
    for name in stack:
        if os.path.exists(filename) and os.path.samefile(filename, name):
            return name
    return filename


def _unreadable(
    filename: str, stack: Sequence[str], error: BaseException | None
) -> OptionsError:
    if isinstance(error, UnicodeDecodeError):
        return OptionsError(
            f"--flagfile={filename}: expected flags in UTF-8, one a line; found the "
            f"byte 0x{error.object[error.start]:02x}"
        )
    reason = error.strerror if isinstance(error, OSError) else str(error)
    where = ""
    if isinstance(error, FileNotFoundError) and stack:
        where = f", neither here nor beside {stack[-1]}, which names it"
    return OptionsError(f"--flagfile={filename}: cannot read it: {reason}{where}")


class _WholeNumberParser(flags.IntegerParser):
    def parse(self, argument: Any) -> int:
        try:
            number: int = super().parse(argument)
        except ValueError:
            raise ValueError("expected a whole number") from None
        return number


class _TrueOrFalseParser(flags.BooleanParser):
    def parse(self, argument: Any) -> bool:
        try:
            truth: bool = super().parse(argument)
        except ValueError:
            raise ValueError("expected true or false") from None
        return truth


def define_integer(
    values: flags.FlagValues,
    name: str,
    default: int | None,
    help_text: str,
    short_name: str | None = None,
) -> None:
    """Defines a flag for a whole number."""
    flags.DEFINE(
        _WholeNumberParser(),
        name,
        default,
        help_text,
        flag_values=values,
        short_name=short_name,
    )


def define_bool(
    values: flags.FlagValues,
    name: str,
    default: bool | None,
    help_text: str,
    short_name: str | None = None,
) -> None:
    """Defines a flag that is there or not, or has "true" or "false"."""
    flag = flags.BooleanFlag(name, default, help_text, short_name=short_name)
    flag.parser = _TrueOrFalseParser()
    flags.DEFINE_flag(flag, flag_values=values)


def parse(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Reads a command line, and the flagfiles that it names.

    Args:
      values: get what the command line says.
      argv: the program's name first.

    Returns:
      The arguments that are no flags.

    Raises:
      OptionsError: it cannot be read.
    """
    try:
        positional: list[str] = values(list(argv))[1:]
    except (flags.Error, ValueError) as error:
        # "flag --batch_size=x: ..." is what absl begins with; and a value behind a
        # flag like --noresume is a plain ValueError of its.
        raise OptionsError(str(error).removeprefix("flag ")) from error
    return positional
