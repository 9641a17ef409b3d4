r"""A chain of planar layers in few operations: the quick twin of the layers one by one.

A layer moves a point z along u_hat by h = tanh(a), a = w.z + b; notebook 5 has its definition. Evaluated layer by layer,
nearly all the time goes into starting operations and recording them for the gradient. The chain has more structure:

    z_l = z_0 + sum over j <= l of h_j u_hat_j,    so    a_l = w_l.z_0 + b_l + sum over j < l of G_lj h_j,  G_lj = w_l.u_hat_j.

The points need not be carried along. What is sequential is a triangular recurrence for the numbers h_l, one product and one
tanh a layer; all else, z_k = z_0 + U^T h and the log-determinants, is done for all layers together. The price is O(k^2)
multiplications a point in place of O(k d): at the sizes of notebook 5, nothing.

Backward. Let g = dL/dz_k, lambda = dL/dlogdet and delta_l = dL/da_l. The number h_l acts on the loss in three ways: on z_k
through u_hat_l; on the log-determinant log D_l of its own layer; and on each later a_m through G_ml. Hence the same
recurrence, downwards:

    delta_l = (1 - h_l^2) (u_hat_l.g + lambda dlog D_l/dh_l + sum over m > l of G_ml delta_m).

All gradients follow, with sums over the batch and dL/dG the strictly lower part of the sum of delta h^T:

    dL/dz_0 = g + W^T delta,   dL/db = sum of delta,   dL/dW = sum of delta z_0^T + dL/dG U,   dL/dU = sum of h g^T + dL/dG^T W.

References:
    Rezende and Mohamed, variational inference with normalizing flows, arXiv:1505.05770.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus


class PlanarStack(torch.autograd.Function):
    """k planar layers of S flows in one differentiable operation, forward and backward by hand.

    ``apply(z, u_hat, w, b, product)`` with z (S, N, d), u_hat and w (S, k, d), b and product (S, k, 1) returns the images
    (S, N, d) and the summed log|det J| (S, N) in nats. ``product`` is w.u, so that w.u_hat = softplus(product) - 1. The members
    of the stack share the operations and no parameter. It can be differentiated once.
    """

    @staticmethod
    def forward(ctx, z, u_hat, w, b, product):
        coupling = (w @ u_hat.mT).tril_(-1)
        start = torch.baddbmm(b, w, z.mT)
        h = torch.zeros_like(start)  # (S, k, N); rows not yet computed are zero, so that a full row of G may multiply them
        for a, row, out in zip(start.split(1, 1), coupling.split(1, 1), h.split(1, 1), strict=True):
            torch.tanh(torch.baddbmm(a, row, h), out=out)
        p, square = softplus(product), h * h
        slope = 1 - square
        determinant = torch.addcmul(square, p, slope)
        ctx.save_for_backward(z, u_hat, w, product, coupling, h, slope, determinant)
        # D is p at least: it underflows only where p does. A GPU is not asked, since the answer would have to be waited for.
        tiny = torch.finfo(determinant.dtype).tiny
        ctx.tiny = tiny if product.is_cuda or bool((product < math.log(tiny)).any()) else None
        log_det = determinant.log()
        if ctx.tiny:
            log_det = torch.where(determinant < tiny, _log_square(h).logaddexp(product), log_det)
        return torch.baddbmm(z, h.mT, u_hat), log_det.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_z, grad_log_det):
        z, u_hat, w, product, coupling, h, slope, determinant = ctx.saved_tensors
        p, rate = softplus(product), grad_log_det[:, None]
        ratio = rate / determinant
        if ctx.tiny:
            lost = determinant < ctx.tiny
            ratio = torch.where(lost, 0.0, ratio)
        by_h = (1 - p) * ratio * h  # half of lambda dlog D/dh
        if ctx.tiny:  # where D is lost, log D = log(h^2 + exp(product)), and h^2 has this share of the sum:
            share = torch.where(lost, torch.sigmoid(_log_square(h) - product), 0.0)
            by_h = torch.where(lost & (h != 0), rate * share / h, by_h)
        start = torch.baddbmm(by_h, u_hat, grad_z.mT, beta=2)
        delta = torch.zeros_like(h)
        steps = [part.split(1, 1) for part in (start, coupling.mT.contiguous(), slope, delta)]
        for first, row, factor, out in zip(*map(reversed, steps), strict=True):
            torch.mul(torch.baddbmm(first, row, delta), factor, out=out)
        grad_coupling = (delta @ h.mT).tril_(-1)
        grad_product = torch.ops.aten.softplus_backward((ratio * slope).sum(2, keepdim=True), product, 1, 20)
        if ctx.tiny:
            grad_product = grad_product + torch.where(lost, rate * (1 - share), 0.0).sum(2, keepdim=True)
        return (torch.baddbmm(grad_z, delta.mT, w) if ctx.needs_input_grad[0] else None,
                torch.baddbmm(grad_coupling.mT @ w, h, grad_z), torch.baddbmm(grad_coupling @ u_hat, delta, z),
                delta.sum(2, keepdim=True), grad_product)


def _log_square(h: Tensor) -> Tensor:
    """log h^2 without squaring, -inf where h is zero."""
    return 2 * h.abs().log()
