"""Errors that a user can cause or mend, each with the exit code that the command line returns.

| code | class | meaning |
|---|---|---|
| 0 | | success |
| 1 | | a bug of ours (the only case that shows a traceback) |
| 2 | ConfigError | a config, a name or a command-line value is wrong |
| 3 | DataError | a data set is missing, malformed or empty |
| 4 | ModelError | a model or tokenizer cannot be loaded, or returned unusable scores |
| 5 | OfflineError | something has to come from the hub and the hub cannot be reached |
| 6 | StorageError | results cannot be written (disk full, read-only folder) |
| 7 | DeviceError | the device ran out of memory or does not support what was asked |
| 8 | ReproductionError | a result is off the published one (`reproduce`; with --strict also one that is missing) |
| 9 | SetupError | a check of `doctor` failed |
| 10 | VerificationError | a number does not follow from its files (`verify`) |
| 11 | ServerError | a server that scores or embeds does not answer, or refuses the key or the model's name |
| 12 | ParityError | two ways of scoring the same pairs differ by more than the tolerance (`parity`) |
| 130 | | interrupted by Ctrl-C; every score is kept but those of the block under way |
| 143 | | the same by SIGTERM, which batch systems send before they kill |
"""

from __future__ import annotations


class RerankEvalError(Exception):
    """Base of all errors that end in one clear line instead of a traceback.

    Args:
        message: One line: what is wrong, where (file, key), and how to mend it.
        lacking: Where something has to be fetched: what, in words, so that an error can name all that is missing.
    """

    exit_code = 1

    def __init__(self, message: str, *, lacking: str | None = None) -> None:
        # The line is promised to be one line: text from data or from a library may hold newlines.
        super().__init__(" ".join(message.split()))
        self.lacking = lacking


class ConfigError(RerankEvalError):
    """A config file, a name in it or a command-line value is wrong."""

    exit_code = 2


class DataError(RerankEvalError):
    """A data set is missing, malformed or empty."""

    exit_code = 3


class ModelError(RerankEvalError):
    """A model or tokenizer cannot be loaded, or returned unusable scores."""

    exit_code = 4


class OfflineError(RerankEvalError):
    """Something has to come from the hub and the hub cannot be reached."""

    exit_code = 5


class StorageError(RerankEvalError):
    """Results cannot be written."""

    exit_code = 6


class DeviceError(RerankEvalError):
    """The device ran out of memory or does not support what was asked."""

    exit_code = 7


class ReproductionError(RerankEvalError):
    """A result is farther from the published one than three times its tolerance, or, if asked for, missing."""

    exit_code = 8


class SetupError(RerankEvalError):
    """A check of `doctor` failed; its line says what to do."""

    exit_code = 9


class VerificationError(RerankEvalError):
    """A result's number does not follow from the files beside it."""

    exit_code = 10


class ServerError(RerankEvalError):
    """A server that scores or embeds does not answer, or refuses the key or the model's name."""

    exit_code = 11


class ParityError(RerankEvalError):
    """Two ways of scoring the same pairs differ by more than the tolerance (`parity`)."""

    exit_code = 12


INTERRUPTED = 130
"""Exit code after Ctrl-C (128 + SIGINT, the shell's convention)."""

TERMINATED = 143
"""Exit code after SIGTERM (128 + SIGTERM)."""
