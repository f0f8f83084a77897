"""What can go wrong, as a user sees it: the input is unusable, or a proof is not valid."""


class BadInput(Exception):
    """A file, an option or a run that cannot be used; the message is one sentence that names what and where."""


class InvalidProof(Exception):
    """A well-formed file whose proof must not be believed; the message names the check that failed."""
