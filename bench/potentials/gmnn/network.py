"""The atomistic network of Eq. (3) and its derivatives in closed form, for many models at once.

Every tensor has a leading axis of models. Weights have shape (models, inputs, outputs). With x^(0) = G,
z^(l+1) = x^(l) W^(l+1)/√d_l + 0.1 b^(l+1) and x^(l) = φ(z^(l)), φ(z) = 1.6765 z/(1 + e^(−z)).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bench.potentials.gmnn.compiled import elementwise
from bench.potentials.gmnn.products import Products

SILU_FACTOR = 1.6765
"""α of φ: keeps the variance of activations at one."""
BIAS_FACTOR = 0.1

Weights = list[Float[Tensor, "models _ _"]]
Biases = list[Float[Tensor, "models _"]]


@dataclass(frozen=True)
class ForwardPass:
    """Outputs y_i, the input of every layer, and φ'(z), φ''(z) of every hidden layer, where they were asked for."""

    outputs: Float[Tensor, "models atoms"]
    layer_inputs: list[Float[Tensor, "models atoms _"]]
    slopes: list[Float[Tensor, "models atoms _"]]
    curvatures: list[Float[Tensor, "models atoms _"]]


@dataclass(frozen=True)
class BackwardPass:
    """Derivatives of Σ_i a_i y_i: with respect to G, to each z^(l) and to each hidden x^(l) but the last."""

    inputs: Float[Tensor, "models atoms inputs"]
    pre_activations: list[Float[Tensor, "models atoms _"]]
    hidden: list[Float[Tensor, "models atoms _"]]


def forward(
    weights: Weights, biases: Biases, inputs: Float[Tensor, "models atoms inputs"], products: Products, order: int
) -> ForwardPass:
    """Evaluate Eq. (3) and φ's derivatives up to an order, at most 2."""
    layer_inputs, derivatives = [inputs], []
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x, *of_layer = _activate(_affine(layer_inputs[-1], weight, bias, products), order)
        layer_inputs.append(x)
        derivatives.append(of_layer)
    outputs = _affine(layer_inputs[-1], weights[-1], biases[-1], Products())[:, :, 0]
    slopes, curvatures = ([of_layer[n] for of_layer in derivatives if n < order] for n in range(2))
    return ForwardPass(outputs, layer_inputs, slopes, curvatures)


def hidden_gradients(
    weights: Weights,
    slopes: list[Float[Tensor, "models atoms _"]],
    output_weights: Float[Tensor, "models atoms"],
    products: Products,
) -> tuple[list[Float[Tensor, "models atoms _"]], list[Float[Tensor, "models atoms _"]]]:
    """Differentiate Σ_i a_i y_i, a = `output_weights`, with respect to every z^(l) and every hidden x^(l) but the last.

    That of the last is a_i times the last weights, and is never written down.
    """
    hidden: list[Float[Tensor, "models atoms _"]] = []
    pre_activations = [_last_adjoint(output_weights, last_weights(weights), slopes[-1])]
    for weight, slope in zip(weights[-2:0:-1], slopes[-2::-1], strict=True):
        hidden.insert(0, products.scaled(pre_activations[0], weight.transpose(1, 2), weight.shape[1] ** -0.5))
        pre_activations.insert(0, slope * hidden[0])
    return pre_activations, hidden


def backward(
    weights: Weights,
    slopes: list[Float[Tensor, "models atoms _"]],
    output_weights: Float[Tensor, "models atoms"],
    products: Products,
) -> BackwardPass:
    """Differentiate Σ_i a_i y_i, a = `output_weights`, with respect to the inputs, keeping what lies between."""
    pre_activations, hidden = hidden_gradients(weights, slopes, output_weights, products)
    inputs = products.scaled(pre_activations[0], weights[0].transpose(1, 2), weights[0].shape[1] ** -0.5)
    return BackwardPass(inputs, pre_activations, hidden)


def parameter_gradient(
    weights: Weights,
    passed: ForwardPass,
    slopes: list[Float[Tensor, "models atoms _"]],
    output_adjoint: Float[Tensor, "models atoms"],
    tangent: tuple[BackwardPass, Float[Tensor, "models atoms"], Float[Tensor, "models atoms inputs"]] | None,
    products: Products,
) -> tuple[Weights, Biases, Float[Tensor, "models atoms inputs"], Float[Tensor, "models atoms"]]:
    """Differentiate Σ_i e_i y_i + Σ_i a_i ẏ_i with respect to W, b and G; ẏ is the tangent along Ġ (zero without).

    `output_adjoint` is e; `tangent` holds the backward pass of Σ a_i y_i, a, and Ġ. The second term is the gradient of
    a directional derivative: with Ġ the push-forward of −∂L/∂F it is the force part of ∂L/∂θ (Eq. 5), so that no
    derivative is ever taken twice by autograd. The adjoints of the tangent stream are those of the backward pass.
    Returns the gradients of W and b, the adjoint of G, and ẏ.
    """
    n_hidden = len(slopes)
    tangents, tangent_z = [], []
    if tangent is not None:
        tangents.append(tangent[2])
        for weight, slope in zip(weights[:-1], slopes, strict=True):
            tangent_z.append(products.scaled(tangents[-1], weight, weight.shape[1] ** -0.5))
            tangents.append(slope * tangent_z[-1])
        output_tangent = torch.bmm(tangents[-1], weights[-1])[:, :, 0] * weights[-1].shape[1] ** -0.5
    else:
        output_tangent = torch.zeros_like(output_adjoint)

    weight_gradients: Weights = []
    bias_gradients: Biases = []
    adjoint = output_adjoint[:, :, None]
    for layer in range(n_hidden, -1, -1):
        multiply = products if layer < n_hidden else Products()
        norm = weights[layer].shape[1] ** -0.5
        bias_gradients.append(BIAS_FACTOR * adjoint.sum(1))
        weight_gradient = multiply.scaled(passed.layer_inputs[layer].transpose(1, 2), adjoint, norm)
        if tangent is not None:
            delta = tangent[0].pre_activations[layer] if layer < n_hidden else tangent[1][:, :, None]
            multiply.add(weight_gradient, tangents[layer].transpose(1, 2), delta, norm)
        weight_gradients.append(weight_gradient)
        if layer == n_hidden:
            of_tangent = None if tangent is None else (tangent[1], passed.curvatures[-1], tangent_z[-1])
            adjoint = _last_adjoint(output_adjoint, last_weights(weights), slopes[-1], of_tangent)
            continue
        adjoint = products.scaled(adjoint, weights[layer].transpose(1, 2), norm)
        if layer and tangent is None:
            adjoint *= slopes[layer - 1]
        elif layer and tangent is not None:
            factors = slopes[layer - 1], passed.curvatures[layer - 1], tangent_z[layer - 1]
            adjoint = _carry(adjoint, *factors, tangent[0].hidden[layer - 1])
    return weight_gradients[::-1], bias_gradients[::-1], adjoint, output_tangent


def last_weights(weights: Weights) -> Float[Tensor, "models width"]:
    """W/√d of the last layer, which has one output."""
    return weights[-1][:, :, 0] * weights[-1].shape[1] ** -0.5


def _affine(
    inputs: Float[Tensor, "models atoms inputs"],
    weight: Float[Tensor, "models inputs outputs"],
    bias: Float[Tensor, "models outputs"],
    products: Products,
) -> Float[Tensor, "models atoms outputs"]:
    return products.affine(inputs, weight, bias, BIAS_FACTOR, weight.shape[1] ** -0.5)


def _rows(values: Float[Tensor, "models atoms width"]) -> Float[np.ndarray, "models_atoms width"]:
    """The same numbers for a kernel."""
    return values.numpy().reshape(-1, values.shape[2])


def _activate(z: Float[Tensor, "models atoms width"], order: int) -> list[Float[Tensor, "models atoms width"]]:
    """φ(z) and its derivatives up to an order: φ'(z), φ''(z)."""
    if z.device.type == "cpu":
        result = [torch.empty_like(z) for _ in range(order + 1)]
        rows = [_rows(values) for values in (z, *result)]
        nothing = rows[0][:0]
        elementwise.activate(rows[0].dtype.type(SILU_FACTOR), *rows, *[nothing] * (2 - order))
        return result
    s = torch.sigmoid(z)
    result = [SILU_FACTOR * z * s]
    if order > 0:
        result.append(SILU_FACTOR * s + result[0] * (1 - s))
    if order > 1:
        result.append(SILU_FACTOR * s * (1 - s) * (2 + z * (1 - 2 * s)))
    return result


def _carry(
    adjoint: Float[Tensor, "models atoms width"],
    slope: Float[Tensor, "models atoms width"],
    curvature: Float[Tensor, "models atoms width"],
    tangent_z: Float[Tensor, "models atoms width"],
    hidden: Float[Tensor, "models atoms width"],
) -> Float[Tensor, "models atoms width"]:
    """The adjoint of z from that of x: a φ' + φ'' ż ∂y/∂x, the last being the tangent's part; may overwrite a."""
    if adjoint.device.type == "cpu":
        elementwise.carry(*(_rows(values) for values in (adjoint, slope, curvature, tangent_z, hidden)))
        return adjoint
    return adjoint * slope + curvature * tangent_z * hidden


def _last_adjoint(
    factors: Float[Tensor, "models atoms"],
    last: Float[Tensor, "models width"],
    slope: Float[Tensor, "models atoms width"],
    tangent: tuple[Float[Tensor, "models atoms"], Float[Tensor, "..."], Float[Tensor, "..."]] | None = None,
) -> Float[Tensor, "models atoms width"]:
    """The adjoint of the last hidden z where that of x is e_i w_j: e w φ', and with a tangent (a, φ'', ż) a w φ'' ż."""
    if slope.device.type == "cpu":
        result = torch.empty_like(slope)
        rows, out = _rows(slope), _rows(result)
        if tangent is None:
            elementwise.last_adjoint(factors.flatten().numpy(), last.numpy(), rows, out)
        else:
            other = tangent[0].flatten().numpy(), *(_rows(values) for values in tangent[1:])
            elementwise.last_adjoint_with_tangent(factors.flatten().numpy(), last.numpy(), rows, *other, out)
        return result
    adjoint = slope * (factors[:, :, None] * last[:, None, :])
    if tangent is None:
        return adjoint
    return adjoint + tangent[1] * tangent[2] * (tangent[0][:, :, None] * last[:, None, :])
