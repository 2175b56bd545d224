"""Integer arithmetic."""


def ceil_div(numerator: int, denominator: int) -> int:
    """Returns the quotient rounded up, exactly for integers of any size.

    Example:
        >>> ceil_div(7, 3), ceil_div(6, 3)
        (3, 2)
    """
    return -(-numerator // denominator)
