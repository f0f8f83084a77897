"""What can go wrong in training, as a user sees it."""


class TrainingError(Exception):
    """A configuration, data set, model or run that cannot be used; the message is one sentence that says what to change."""
