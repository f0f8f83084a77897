"""What can go wrong in an audit, as a user sees it."""


class AuditError(Exception):
    """A model, update, data set or configuration that cannot be audited; the message is one sentence that names it."""
