"""The exception for errors that a user can correct, and errors as one line."""

__all__ = ["UserError", "one_line"]


class UserError(Exception):
    """Input that a user must correct: a config, a file, an argument, a checkpoint.

    The message is one sentence that says what is wrong, where (file, image id, key) and what to do about it. The
    command line prints it without a traceback; see :func:`adet_ext.cli.run`.
    """


def one_line(error: BaseException) -> str:
    """Return an error's text as one line, or the name of its type if there is no text."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error  # a KeyError's own text is quoted
    return " ".join(str(text).split()) or type(error).__name__
