"""Gradients of energies with respect to the linear layers of a torch module, by autograd: the test of features."""

import torch


def by_autograd(energies, blocks):
    """For each energy a list of ∂E/∂(W, b), one for each linear map, as (inputs + bias, outputs)."""
    return [[_gradient(energy, block) for block in blocks] for energy in energies]


def _gradient(energy, block):
    layer = block.layer

    def of(parameter):
        (found,) = torch.autograd.grad(energy, parameter, retain_graph=True, allow_unused=True, materialize_grads=True)
        return found

    if isinstance(layer, torch.nn.Linear):
        return torch.cat([of(layer.weight).T, *([] if layer.bias is None else [of(layer.bias)[None]])])
    # e3nn keeps the weights of all paths in one row
    sizes = [one.path_shape[0] * one.path_shape[1] for one in layer.instructions]
    return of(layer.weight).split(sizes)[block.path].reshape(block.size)


def check_features(energies_of, layers, last_layer, projected, *, matter=1.0):
    """`last_layer()` and `projected(projections)` are the gradients of `energies_of()`, projected by hand, to 1e-10.

    Of the linear maps at least a fraction `matter` has a gradient.
    """
    gradients = by_autograd(energies_of(), layers.blocks)
    generator = torch.Generator().manual_seed(0)
    projections = [
        tuple(torch.randn(n, 7, dtype=torch.float64, generator=generator) for n in block.size)
        for block in layers.blocks
    ]
    by_hand = torch.stack(
        [
            sum(torch.einsum("ip,io,op->p", u, g, v) for g, (u, v) in zip(of_one, projections, strict=True))
            for of_one in gradients
        ]
    )
    close(last_layer(), torch.stack([one[-1][:, 0] for one in gradients]))
    close(projected(projections), by_hand * 7**-0.5)
    matters = [any(one[place].abs().max() > 0 for one in gradients) for place in range(len(layers.blocks))]
    assert sum(matters) >= matter * len(matters)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * max(1.0, float(expected.abs().max())))
