"""The one exception type for what a user can put right."""

__all__ = ["UserError"]


class UserError(Exception):
    """Input that a user has to put right: a config, a file, an argument, a checkpoint.

    The message is one sentence that says what is wrong, where (file, image id, key) and what to do about it. The
    command line prints it without a traceback; see :func:`adet_ext.cli.run`.
    """
