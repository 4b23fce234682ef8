"""The one class of errors that are the user's to mend."""


class UserError(ValueError):
    """One line that says what was given, what exists and what to do. The CLI prints it without a traceback and exits with 2."""
