"""The one kind of error that the command line shows as a single line."""


class UserError(Exception):
    """Something the user can mend. The message is one line: the thing, the value, the remedy."""
