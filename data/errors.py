"""The one exception that the command line turns into a single clear line."""


class UserError(Exception):
    """Bad input or a refused request. The message says what, where and how to mend it, in one line."""
