"""Command line -> flag values: absl's parser, and what it says in our own words."""

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
        try:
            lines: list[str] = super()._get_flag_file_lines(  # type: ignore[no-untyped-call]
                filename, parsed_file_stack
            )
        except flags.CantOpenFlagFileError as error:
            # absl's message is Python's; it was raised while that one was handled.
            raise _unreadable(filename, error.__context__) from error
        except (OSError, ValueError) as error:
            raise _unreadable(filename, error) from error
        self.flagfiles.append(filename)
        return lines


def _unreadable(filename: str, error: BaseException | None) -> OptionsError:
    if isinstance(error, UnicodeDecodeError):
        return OptionsError(
            f"--flagfile={filename}: expected flags in UTF-8, one a line; found the "
            f"byte 0x{error.object[error.start]:02x}"
        )
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return OptionsError(f"--flagfile={filename}: cannot read it: {reason}")


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
    default: int,
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
