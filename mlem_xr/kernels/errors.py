"""What a kernel raises."""


class Undefined(ValueError):
    """These arrays have no answer: says which option, what was found and what is expected."""
