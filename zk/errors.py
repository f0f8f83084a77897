"""What can go wrong, as a user sees it: the input is unusable, a proof is not valid, or it speaks about something else."""


class BadInput(Exception):
    """A file, an option or a run that cannot be used; the message is one sentence that names what and where."""


class InvalidProof(Exception):
    """A well-formed file whose proof must not be believed; the message names the check that failed."""


class NotBound(Exception):
    """A valid proof that speaks about something else than what stands beside it; the message is a sentence that says where."""
