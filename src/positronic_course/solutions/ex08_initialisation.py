"""Solutions: initialisation."""


def keeping_scale(D_in: int) -> float:
    return D_in**-0.5


def relu_scale(D_in: int) -> float:
    # Half of the squares are lost; the variance of w has to make up for it: D_in s^2 / 2 = 1.
    return (2 / D_in) ** 0.5


def branch_scale(n_layers: int) -> float:
    return (2 * n_layers) ** -0.5
