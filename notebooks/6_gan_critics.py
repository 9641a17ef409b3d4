# %% [markdown]
# # 6 · GAN critics, from one parameter to CIFAR-10
#
# A generative adversarial network (GAN) is a game. A *critic* estimates how far the generated
# distribution is from the data, and a *generator* makes that estimate smaller. What the critic
# estimates, and how it is held in check, decide whether the game ends, circles or explodes. With
# one parameter in the generator everything can be computed by hand. With seven million, the same
# losses, the same penalties and the same update draw pictures.
#
# | part | sheet | question |
# |---|---|---|
# | A | Mila/UdeM, 2020 | two losses, three regularisers, the alternating update, the average |
# | B | Mila/UdeM, 2020, 2.1 | twenty Dirac GANs: trajectories, verdicts, theory |
# | C | Mila/UdeM, 2020, 2.7 | five GANs on CIFAR-10, two scores, and which loss tells progress |
#
# References: Goodfellow et al., arXiv:1406.2661; Arjovsky, Chintala and Bottou, *Wasserstein GAN*,
# arXiv:1701.07875; Mescheder, Geiger and Nowozin, *Which training methods for GANs do actually
# converge?*, arXiv:1801.04406.

# %%
# Bootstrap: your choices (on Colab a form), then the suite's folder, cloned if need be.
import subprocess
import sys
from pathlib import Path

profile = "automatic"  # @param ["automatic", "smoke", "quick", "full"]
train = "what is missing"  # @param ["nothing", "what is missing", "long runs too", "everything"]
minutes = 0  # @param {type: "number"}
repository = ""

starts = [Path(globals().get("__file__", "notebook")).resolve().parent, Path.cwd()]
places = [place for start in starts for place in (start, *start.parents)]
places += [*sorted(Path.cwd().glob("*")), *sorted(Path.cwd().glob("drive/MyDrive/*"))]
root = next((place for place in places if (place / "helpers/settings.py").is_file()), None)
if root is None and repository and "google.colab" in sys.modules:
    command = ["git", "clone", "--depth", "1", f"https://github.com/{repository}"]
    said = subprocess.run(command, capture_output=True, encoding="utf-8").stderr
    root = Path(repository.split("/")[1]).resolve()
    print(said)
if root is None or not root.is_dir():
    raise FileNotFoundError(
        "the suite's folder was not found: open this notebook inside it. On Colab, upload the "
        "folder to the top of your Drive and mount Drive, or !git clone it; run this cell again"
    )
sys.path.insert(0, str(root))

from helpers.publish import colab

colab.prepare("6_gan_critics", profile, train, minutes)

# %%
import copy
import hashlib
import math
import os
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import plotting, settings
from helpers.data import datasets
from helpers.fast import gan
from helpers.files import file_digest
from helpers.results import deliverables, overview, records, tables
from helpers.results.overview import Question
from helpers.suite import Outcome, Run, Suite, run
from helpers.train import schedules
from helpers.train.images import autocast, seeded, to_signed
from helpers.train.training import Batches, ExponentialAverage, GradientUpdate, fit

RUNS = {}
suite = Suite("6_gan_critics", RUNS)
print(f"profile: {suite.profile}")

# %% [markdown]
# ## The questions
#
# One line for each: what the sheet asks, where it is answered, and the number that the answer rests
# on.

# %%
QUESTIONS = (
    Question("Mila 2.1: twenty Dirac GANs, which of them converge?", "B.4 What the paths show",
             "last radius of JSD without a penalty", "dirac", "final_radius_jsd_1"),
    Question("Mila 2.7: JSD without a regulariser", "C.4 Samples, curves, comparison",
             "Fréchet distance by smallnet", "cifar10_jsd_1", "fid_smallnet"),
    Question("Mila 2.7: JSD with spectral normalisation", "C.4 Samples, curves, comparison",
             "Fréchet distance by smallnet", "cifar10_jsd_2", "fid_smallnet"),
    Question("Mila 2.7: JSD with R1", "C.4 Samples, curves, comparison",
             "Fréchet distance by smallnet", "cifar10_jsd_3", "fid_smallnet"),
    Question("Mila 2.7: W1 with spectral normalisation", "C.4 Samples, curves, comparison",
             "Fréchet distance by smallnet", "cifar10_w1_2", "fid_smallnet"),
    Question("Mila 2.7: W1 with R1", "C.4 Samples, curves, comparison",
             "Fréchet distance by smallnet", "cifar10_w1_3", "fid_smallnet"),
    Question("Mila 2.7: which metric tells progress?", "C.5 Which metric tells progress?",
             "distance of two halves of the data", "cifar10_fid_noise", "fid_halves_smallnet"),
)
overview.show_questions(QUESTIONS)

# %% [markdown]
# ## A · What a critic estimates
#
# ### A.1 Two metrics
#
# **Question.** What does a critic estimate that tells real images from generated ones?
#
# **Idea.** At its best it reads off a divergence: the Jensen-Shannon one if it gives a probability,
# the Wasserstein distance if its slope is bounded.
#
# Let $p$ be the data and $q$ the generator's distribution. A critic $C$ gives every image one
# number, *high on real* ones.
#
# **Jensen-Shannon divergence.** Read $\sigma(C(x))$ as the probability that $x$ is real. The
# critic's log-likelihood is
#
# $$V(C)=\mathbb E_p[\log\sigma(C)]+\mathbb E_q[\log\sigma(-C)]
# =\int p\log\sigma(C)+q\log(1-\sigma(C))\,dx .$$
#
# At each $x$ the integrand is $p\log s+q\log(1-s)$, which is concave in $s$ and largest where
# $p/s=q/(1-s)$, that is at $s^*=p/(p+q)$, $C^*=\log(p/q)$. There, with $m=(p+q)/2$,
#
# $$V(C^*)=\int p\log\frac{p}{2m}+q\log\frac{q}{2m}\,dx
# =\mathrm{KL}(p\|m)+\mathrm{KL}(q\|m)-\log4=2\,\mathrm{JSD}(p,q)-\log 4 .$$
#
# So for any critic
# $\widehat{\mathrm{JSD}}(C)=\tfrac12\big(V(C)+\log4\big)\le\mathrm{JSD}(p,q)\le\log2$, with
# equality on the left for the best one. It is 0 for a critic that cannot tell the two apart
# ($C=0$).
#
# **Wasserstein distance.** By the duality of Kantorovich and Rubinstein, over critics with
# Lipschitz constant 1,
#
# $$W_1(p,q)=\sup_{\|C\|_L\le1}\ \mathbb E_p[C]-\mathbb E_q[C].$$
#
# $\widehat W_1(C)=\mathbb E_p[C]-\mathbb E_q[C]$ is a distance only as far as something bounds the
# slope of $C$; without a bound it can be made as large as one likes.
#
# The critic minimises $-\text{metric}+\text{coefficient}\cdot\text{regulariser}$; the generator
# minimises the metric itself (for JSD this is the *saturating* form of the loss).


# %%
def jsd(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """The critic's lower bound on the Jensen-Shannon divergence, in nats, at most log 2; scores
    (N,) of a critic high on real."""
    return 0.5 * (
        F.logsigmoid(real_scores).mean() + F.logsigmoid(-fake_scores).mean() + math.log(4)
    )


def w1(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Difference of the mean scores: a lower bound on the Wasserstein-1 distance if the critic is
    1-Lipschitz."""
    return real_scores.mean() - fake_scores.mean()


METRICS = {"jsd": jsd, "w1": w1}

# %% [markdown]
# ### A.2 Gradient penalties
#
# **Question.** How does a loss hold the critic's slope in check?
#
# **Idea.** Punish the gradient with respect to the image: on real images (R1), or between real and
# generated ones (GP).
#
# A gradient penalty bounds the slope where it matters. Both take the norm of $\nabla_xC$ over *all*
# dimensions of an example:
#
# $$\mathrm{R1}=\mathbb E_p\|\nabla C(x)\|^2,\qquad
# \mathrm{GP}=\mathbb E\big(\|\nabla C(\tilde x)\|-1\big)^2,\quad
# \tilde x=\epsilon x_p+(1-\epsilon)x_q,\ \epsilon\sim U(0,1).$$
#
# R1 asks for a flat critic on real data (there is no factor 1/2 here), GP for slope one between
# data and samples. Their gradients with respect to the critic's parameters contain second
# derivatives: `create_graph` keeps what is needed for them. References: R1 arXiv:1801.04406, GP
# arXiv:1704.00028.


# %%
def input_gradients(scores: Tensor, inputs: Tensor) -> Tensor:
    """Gradient of each score (N,) with respect to its own input (N, ...), flattened to (N, D) and
    itself differentiable."""
    (gradients,) = torch.autograd.grad(scores.sum(), inputs, create_graph=True)
    return gradients.reshape(len(gradients), -1)


def r1_penalty(scores: Tensor, inputs: Tensor) -> Tensor:
    """Mean squared norm of the critic's gradient; scores (N,) of real inputs (N, ...) that require
    a gradient."""
    return input_gradients(scores, inputs).square().sum(1).mean()


def one_centred_penalty(scores: Tensor, inputs: Tensor) -> Tensor:
    """Mean squared distance of the gradient's norm from one; scores (N,) of mixed inputs (N, ...)
    that require a gradient."""
    return (torch.linalg.vector_norm(input_gradients(scores, inputs), dim=1) - 1).square().mean()


def mix(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """share * real + (1 - share) * fake with one share (N,) an example, for real and fake (N,
    ...)."""
    share = share.reshape(-1, *[1] * (real.ndim - 1))
    return share * real + (1 - share) * fake


# %% [markdown]
# **Check** in float64: a constant critic has JSD 0, one that is always right tends to $\log2$; for
# a linear critic $C(x)=w\cdot x$ all four have closed forms: $W_1=w\cdot(\bar x_p-\bar x_q)$,
# $\mathrm{R1}=\|w\|^2$, $\mathrm{GP}=(\|w\|-1)^2$, whatever the shape of $x$.

# %%
generator = torch.Generator().manual_seed(0)
real, fake = torch.randn(2, 16, 3, 4, 4, generator=generator, dtype=torch.float64)
weight = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64)
inputs = mix(real, fake, torch.rand(16, generator=generator, dtype=torch.float64)).requires_grad_()
scores = (inputs * weight).sum((1, 2, 3))
norm = torch.linalg.vector_norm(weight)
errors = {
    "JSD of a constant critic": jsd(scores * 0, scores * 0),
    "JSD of a perfect critic": jsd(scores * 0 + 1e3, scores * 0 - 1e3) - math.log(2),
    "W1": w1((real * weight).sum((1, 2, 3)), (fake * weight).sum((1, 2, 3)))
    - (weight * (real.mean(0) - fake.mean(0))).sum(),
    "R1": r1_penalty(scores, inputs) - norm**2,
    "GP": one_centred_penalty(scores, inputs) - (norm - 1) ** 2,
}
for name, error in errors.items():
    assert abs(error.item()) < 1e-12
    print(f"{name}: differs from its closed form by {abs(error.item()):.1e}")

# %% [markdown]
# ### A.3 Spectral normalisation
#
# **Question.** Can the slope be bounded without a penalty?
#
# **Idea.** Divide every layer by its largest singular value.
#
# Spectral normalisation bounds the slope by construction. A layer $x\mapsto Wx$ has Lipschitz
# constant $\sigma(W)$, its largest singular value, and leaky ReLUs have constant one. So a network
# of kernels $W/\sigma(W)$ has a bounded slope everywhere. $\sigma$ is tracked by power iteration,
# one step a training pass: $v\leftarrow W^\top u/\|W^\top u\|$, $u\leftarrow Wv/\|Wv\|$,
# $\sigma\approx u^\top Wv$. The vectors are constants for the gradient, $\sigma$ is not.
#
# As usual the kernel is treated as a matrix $K$ of shape (out, in · height · width). That is not
# the convolution's own norm. A convolution applies $K$ to patches, and a pixel lies in at most
# $k^2/s^2$ patches for a kernel of $k\times k$ with stride $s$. So
#
# $$\sigma(K)\le\|\text{convolution}\|\le\frac ks\,\sigma(K):$$
#
# a layer of $3\times3$ with stride one has, after the division, a slope between one and $\sqrt9=3$.
# It is bounded, and it is not one. References: arXiv:1802.05957.


# %%
class SpectralConv2d(nn.Conv2d):
    """Convolution whose kernel, as a matrix (out, in * height * width), is divided by its largest
    singular value (estimated)."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("left", F.normalize(torch.randn(self.out_channels), dim=0))
        self.register_buffer("right", F.normalize(torch.randn(self.weight[0].numel()), dim=0))
        self.iterate(
            15
        )  # a good start: from then on the weights move slowly, and one iteration a pass keeps up

    @torch.no_grad()
    def iterate(self, times: int = 1) -> None:
        """Power iterations, in place: a captured update goes on from where the last one left the
        vectors."""
        matrix = self.weight.flatten(1)
        for _ in range(times):
            self.right.copy_(F.normalize(matrix.T @ self.left, dim=0))
            self.left.copy_(F.normalize(matrix @ self.right, dim=0))

    def largest_singular_value(self) -> Tensor:
        """The estimate u W v, a scalar through which gradients flow to the kernel."""
        # Copies: the backward pass of this call may come after the next iteration.
        return self.left.clone() @ (self.weight.flatten(1) @ self.right.clone())

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # a norm in 8 bits would wander
            if self.training:
                self.iterate()
            kernel = self.weight / self.largest_singular_value()
        return self._conv_forward(x, kernel, self.bias)


# %% [markdown]
# **Check**: the norm of a convolution itself, by power iteration with its transpose, lies between
# $\sigma(K)$ and $k/s$ times it. Random kernels and a constant one.


# %%
def convolution_norm(layer: nn.Conv2d, size: int, times: int = 300) -> float:
    """Largest singular value of a convolution on images of size x size pixels."""
    where = {"stride": layer.stride, "padding": layer.padding}
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(1, layer.in_channels, size, size, generator=noise, dtype=layer.weight.dtype)
    with torch.no_grad():
        for _ in range(times):
            x = F.conv_transpose2d(F.conv2d(x, layer.weight, **where), layer.weight, **where)
            x /= x.norm()
        return F.conv2d(x, layer.weight, **where).norm().item()


for kernel, stride, padding in ((1, 1, 0), (3, 1, 1), (4, 2, 1)):
    layer, ratios = nn.Conv2d(8, 16, kernel, stride, padding).double(), []
    drawn = torch.Generator().manual_seed(kernel)
    for start in (partial(nn.init.normal_, generator=drawn), nn.init.ones_):
        start(layer.weight)
        matrix = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
        ratios.append(convolution_norm(layer, 16) / matrix)
        assert 1 - 1e-3 < ratios[-1] < kernel / stride + 1e-9  # the iteration comes from below
    print(f"{kernel} x {kernel}, stride {stride}: the convolution's norm over its matrix's is "
          f"{ratios[0]:.2f} for a random kernel, {ratios[1]:.2f} for a constant one, and at most "
          f"{kernel / stride:g}")

# %% [markdown]
# ### A.4 The alternating update
#
# **Question.** In what order do the players move?
#
# **Idea.** The critic first; then the generator, against the new critic; then the average of the
# generator's weights.
#
# One update is `critic_steps` steps of the critic, each on fresh real and fresh generated images,
# then one step of the generator **against the critic as it is now**, then a step of the moving
# average $t\leftarrow\alpha t+(1-\alpha)s$ of the generator's weights.
#
# Three habits keep it quick. Real and generated images go through the critic in one batch. A step
# asks autograd for the gradients of its own player only. All noise is drawn at the start and
# nothing waits for the device, so that `helpers.fast.gan` can record the arithmetic once as a CUDA
# graph and replay it: at a batch of 64, starting a thousand small kernels takes longer than running
# them.
#
# Passes without second derivatives run in half precision where the hardware gains from it. Where R1
# is on, the real images' pass is in float32 and serves both the metric and the penalty. On GPUs
# without bfloat16 the half precision is float16. Its gradients need a scaled loss, and each player
# has a scale of its own.


# %%
@dataclass(frozen=True)
class Objective:
    """What the critic maximises: metric - coefficient * regulariser.

    Attributes:
        metric: "jsd" or "w1".
        regulariser: "none", "r1", "gp", or "sn" (spectral normalisation: a property of the critic,
            so there is no penalty).
        coefficient: of the penalty, not negative.
    """

    metric: str
    regulariser: str = "none"
    coefficient: float = 0.0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(
                f"the metric {self.metric!r} is unknown; the metrics are {', '.join(METRICS)}"
            )
        if self.regulariser not in REGULARISERS:
            raise ValueError(
                f"the regulariser {self.regulariser!r} is unknown; the regularisers are "
                f"{', '.join(REGULARISERS)}"
            )
        if not (math.isfinite(self.coefficient) and self.coefficient >= 0):
            raise ValueError(
                "the coefficient of a regulariser is a number that is not negative, not "
                f"{self.coefficient}"
            )

    def terms(
        self, critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor | None, half: Callable
    ) -> tuple[Tensor, ...]:
        """Metric, penalty and the two mean scores.

        Args:
            critic: (N, ...) to scores (N,).
            real, fake: (N, ...) float32; no gradient flows to what made them.
            share: (N,) weights of the mixed images, for "gp" only.
            half: makes the context in which passes without second derivatives run.
        """
        penalty = torch.zeros((), device=real.device, dtype=real.dtype)
        if self.regulariser == "r1":
            real = real.detach().requires_grad_()
            real_scores = critic(real)
            penalty = r1_penalty(real_scores, real)
            with half():
                fake_scores = critic(fake)
        else:
            if self.regulariser == "gp":
                mixed = mix(real, fake, share).requires_grad_()
                penalty = one_centred_penalty(critic(mixed), mixed)
            with half():
                real_scores, fake_scores = critic(torch.cat([real, fake])).chunk(2)
        return (METRICS[self.metric](real_scores, fake_scores), penalty,
                real_scores.mean(), fake_scores.mean())


# %%
REGULARISERS = ("none", "r1", "gp", "sn")


# %%
class Stateful:
    """Something whose state is that of its parts."""

    def state_dict(self) -> dict:
        """Everything that a resumed run needs."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: dict) -> None:
        """Take over a state written by :meth:`state_dict`."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])


class Player(Stateful):
    """One of the two networks with its optimiser: it goes down a loss while the other stands still.

    Args:
        network: the player's module.
        optimizer: over its parameters.
        precision: of passes without second derivatives: "float32", "bfloat16", or "float16", whose
            loss is multiplied by a scale: a step whose gradients overflow is left out and the scale
            is halved. Each player has a scale of its own.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer,
                 precision: str = "float32") -> None:
        self.network, self.optimizer, self.precision = network, optimizer, precision
        self.parameters = list(network.parameters())
        self.device, self.dtype = self.parameters[0].device, self.parameters[0].dtype
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")

    def parts(self) -> dict:
        """Everything with a state, by name."""
        return {"network": self.network, "optimizer": self.optimizer, "scaler": self.scaler}

    def load_state_dict(self, state: dict) -> None:
        """Take over a state, saved on this kind of device or another."""
        super().load_state_dict(state)
        for group in self.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = self.device.type == "cuda"

    def descend(self, loss: Tensor) -> None:
        """One step down the loss; only this player's gradients are computed."""
        for parameter in self.parameters:
            parameter.grad = None
        self.scaler.scale(loss).backward(inputs=self.parameters)
        for parameter in self.parameters:  # a fused optimiser on a GPU asks for equal strides
            if parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()


# %%
class AlternatingUpdate(Stateful):
    """Critic steps, a generator step, the moving average: an update for ``fit``.

    Args:
        generator: its network makes images (N, ...) of latents (N, latent_size).
        critic: its network makes scores (N,) of images (N, ...).
        objective: what the critic maximises; the generator minimises its metric.
        latent_size: dimensions of the standard normal latents.
        critic_steps: before each step of the generator.
        alpha: of the moving average ``self.average.module`` of the generator, in [0, 1).
    """

    def __init__(self, generator: Player, critic: Player, objective: Objective, *,
                 latent_size: int, critic_steps: int, alpha: float) -> None:
        if critic_steps < 1:
            raise ValueError(f"the critic makes at least one step an update, not {critic_steps}")
        self.generator, self.critic, self.objective = generator, critic, objective
        self.latent_size, self.critic_steps = latent_size, critic_steps
        self.average = ExponentialAverage(generator.network, alpha)
        self.device, self.precision = generator.device, generator.precision
        self.half = partial(autocast, self.device, self.precision)

    def __call__(self, batch: Tensor, step: int, noise: torch.Generator) -> Tensor:
        """One update on critic_steps * N images, bytes (..., H, W, 3) or floats: see `step`."""
        return self.step(*self.draw(batch, noise))

    def draw(self, batch: Tensor, noise: torch.Generator) -> list[Tensor]:
        """The batch, latents (critic_steps + 1, N, latent_size), GP's shares (critic_steps, N)."""
        steps, size = self.critic_steps, len(batch) // self.critic_steps
        drawn = {"generator": noise, "device": self.device, "dtype": self.generator.dtype}
        shares = [torch.rand(steps, size, **drawn)] if self.objective.regulariser == "gp" else []
        return [batch, torch.randn(steps + 1, size, self.latent_size, **drawn), *shares]

    def step(self, batch: Tensor, latents: Tensor, shares: Tensor | None = None) -> Tensor:
        """The arithmetic, given its noise: metric, penalty, mean scores on real and fake of the
        last critic step, and the mean score that the generator's step saw, (5,)."""
        real = to_signed(batch) if batch.dtype == torch.uint8 else batch
        for index, part in enumerate(real.chunk(self.critic_steps)):
            terms = self.critic_step(
                part, latents[index], None if shares is None else shares[index]
            )
        with self.half():
            fake_scores = self.critic.network(self.generator.network(latents[-1]))
        # Only fakes depend on the generator: the metric's term on real images has no gradient here.
        metric = METRICS[self.objective.metric]
        self.generator.descend(metric(torch.zeros_like(fake_scores), fake_scores))
        self.average.update(self.generator.network)
        return torch.stack([*terms, fake_scores.mean()]).detach()

    def critic_step(self, real: Tensor, latents: Tensor, share: Tensor | None) -> tuple:
        """One step of the critic; returns the terms before it."""
        with torch.no_grad(), self.half():
            fake = self.generator.network(latents)
        terms = self.objective.terms(self.critic.network, real, fake, share, self.half)
        self.critic.descend(self.objective.coefficient * terms[1] - terms[0])
        return terms

    def parts(self) -> dict:
        """Everything with a state, by name."""
        return {"generator": self.generator, "critic": self.critic, "average": self.average.module}


# %% [markdown]
# ## B · Twenty Dirac GANs
#
# ### B.1 The game and its theory
#
# **Question (Mila 2.1).** A generator of one parameter plays against a linear critic, with two
# metrics, two regularisers and an averaged generator. What do the trajectories do?
#
# **Idea.** Near the target an update is a matrix. Its eigenvalues say whether the path spirals in,
# circles or flies off.
#
# The data are one point, $p=\delta_0$. The generator has one parameter and puts out
# $q=\delta_\theta$; the critic is linear, $C(x)=\psi_0x+\psi_1$, so that $C$ is $\psi_1$ on real
# and $c=\psi_0\theta+\psi_1$ on fake. The equilibrium is $\theta=0$, $\psi_0=0$. All three
# parameters start at $\mathcal N(0,0.7^2)$; both players use gradient descent with rate $\eta=0.1$,
# 5000 steps, the critic first.

# %% [markdown] tags=["solution"]
# **Gradients.** With $\sigma'/\sigma=\sigma(-\cdot)$ and $s=\sigma(c)$, the derivatives of the
# metric are
#
# | | $\partial/\partial\psi_0$ | $\partial/\partial\psi_1$ | $\partial/\partial\theta$ |
# |---|---|---|---|
# | JSD | $-\frac12\theta s$ | $\frac12\big(\sigma(-\psi_1)-s\big)$ | $-\frac12\psi_0 s$ |
# | $W_1$ | $-\theta$ | $0$ | $-\psi_0$ |
#
# and those of the penalties, since $\nabla_xC=\psi_0$ everywhere, are $2\psi_0$ for R1 and
# $2(|\psi_0|-1)\,\mathrm{sign}\,\psi_0$ for GP, with respect to $\psi_0$ alone. Under $W_1$ the
# offset $\psi_1$ has no gradient and never moves.
#
# **Linear theory.** Near the equilibrium both metrics give a rotation,
# $\partial_{\psi_0}\approx-g\theta$ and $\partial_\theta\approx-g\psi_0$, with $g=1$ for $W_1$ and
# $g=\tfrac14$ for JSD (where, besides, $\psi_1$ decays by itself, with factor $1-\eta/4$). Let
# $h=\eta g$ and $a=1-2\eta\lambda$ with $\lambda$ the coefficient of R1. The critic moves first,
# $\psi_0'=a\psi_0-h\theta$; the generator sees the new critic, $\theta'=\theta+h\psi_0'$. If both
# moved at once it would be $\theta'=\theta+h\psi_0$. So $(\psi_0,\theta)$ is multiplied by
#
# $$A_{\text{alternating}}=\begin{pmatrix}a&-h\\ ha&1-h^2\end{pmatrix},\quad
# \det=a(1-h^2)+h^2a=a;\qquad
# A_{\text{simultaneous}}=\begin{pmatrix}a&-h\\h&1\end{pmatrix},\quad\det=a+h^2.$$
#
# The eigenvalues are a complex pair in all these runs, so each has modulus $\sqrt{\det}$:
#
# - **no penalty, alternating**: $\sqrt a=1$. Neither growth nor decay: *orbits*. For $W_1$ the
#   quadratic form $\psi_0^2+\theta^2-\eta\psi_0\theta$ is conserved exactly (insert
#   $\psi_0=\psi_0'+\eta\theta$), an ellipse whose radius varies by $\sqrt{(2+\eta)/(2-\eta)}$,
#   about 5 %.
# - **R1, alternating**: $\sqrt{1-2\eta\lambda}$ a step: a *spiral in*, at a rate that depends on
#   $\lambda$ and not on the metric. A large coefficient overshoots: both eigenvalues stay inside
#   the unit circle only while $2\eta\lambda<2-h^2/2$, that is $\lambda<(1-h^2/4)/\eta$.
# - **simultaneous**: $\sqrt{1-2\eta\lambda+h^2}$. Without penalty this is above one, however small
#   $\eta$: *divergence*.
#
# **One-centred penalty.** It pushes $|\psi_0|$ to one, also at the equilibrium, where $\psi_0$
# should be zero: there it has a kink and no linearisation, but the motion can be averaged over a
# turn. With $\psi_0=r\cos\varphi$ the penalty changes the radius by
# $\dot r=-2\eta\lambda(\psi_0-\mathrm{sign}\,\psi_0)\cos\varphi$ a step, and
# $\langle\cos^2\rangle=\tfrac12$, $\langle|\cos|\rangle=\tfrac2\pi$ give
#
# $$\langle\dot r\rangle=-\eta\lambda\Big(r-\frac4\pi\Big):$$
#
# a *limit cycle* of radius $4/\pi$, approached at $\eta\lambda$ a step from inside and outside.
# (Averaging needs a turn to be quick against the penalty: $2\lambda\ll g$.)


# %%
DIRAC_PENALTIES = (("none", 0.0), ("r1", 0.01), ("r1", 0.1), ("gp", 0.01), ("gp", 0.1))


@dataclass(frozen=True)
class DiracGame:
    """One of the twenty: its name on the sheet, its objective, and alpha of the moving average (0:
    none)."""

    name: str
    objective: Objective
    alpha: float

    @property
    def label(self) -> str:
        """Metric, penalty with its coefficient, average."""
        penalty = self.objective.regulariser.upper().replace("NONE", "no penalty")
        coefficient = f" {self.objective.coefficient:g}" * (self.objective.regulariser != "none")
        return (
            f"{self.objective.metric.upper()}, {penalty}{coefficient}"
            + f", EMA {self.alpha:g}" * (self.alpha > 0)
        )


DIRAC_GAMES = tuple(
    DiracGame(f"{metric}_{number}", Objective(metric, *penalty), alpha)
    for metric in ("jsd", "w1")
    for number, (alpha, penalty) in enumerate(product((0.0, 0.998), DIRAC_PENALTIES), 1)
)


# %%
class DiracGradients:
    """The closed-form gradients of R games, vectorised over games and starts: every argument and
    result is (R, S).

    Args:
        games: R of them.
    """

    def __init__(self, games: tuple[DiracGame, ...]) -> None:
        def column(values) -> np.ndarray:
            return np.array(list(values))[:, None]

        self.is_jsd = column(game.objective.metric == "jsd" for game in games)
        self.r1, self.gp = (
            column(
                game.objective.coefficient * (game.objective.regulariser == kind) for game in games
            )
            for kind in ("r1", "gp")
        )

    def critic(
        self, psi0: np.ndarray, psi1: np.ndarray, theta: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gradient of the critic's loss, -metric + coefficient * regulariser, with respect to psi0
        and psi1."""
        slope = np.where(
            self.is_jsd, 0.5 * sigmoid(psi0 * theta + psi1), 1.0
        )  # minus the metric's derivative by C on fake
        offset = np.where(self.is_jsd, slope - 0.5 * sigmoid(-psi1), 0.0)
        return slope * theta + 2 * self.r1 * psi0 + 2 * self.gp * (psi0 - np.sign(psi0)), offset

    def generator(self, psi0: np.ndarray, psi1: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Gradient of the metric with respect to theta."""
        return -np.where(self.is_jsd, 0.5 * sigmoid(psi0 * theta + psi1), 1.0) * psi0


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


# %%
def play_dirac(games: tuple[DiracGame, ...], starts: np.ndarray, *, steps: int, rate: float,
               simultaneous: bool = False) -> np.ndarray:
    """Play all games from all starts in one loop.

    Args:
        games: R games.
        starts: (S, 3) values of psi0, psi1, theta.
        steps: of both players.
        rate: of gradient descent, for both.
        simultaneous: both players move at once; else the generator sees the updated critic.

    Returns:
        psi0, psi1, theta and the moving average of theta after every step: (steps + 1, 4, R, S).
    """
    starts = np.asarray(starts, np.float64)
    if starts.ndim != 2 or starts.shape[1] != 3 or not np.isfinite(starts).all():
        raise ValueError(
            f"starts must be finite rows of psi0, psi1, theta, shape (S, 3), not {starts.shape}"
        )
    gradients, alpha = DiracGradients(games), np.array([game.alpha for game in games])[:, None]
    psi0, psi1, theta = (np.tile(column, (len(games), 1)) for column in starts.T)
    average = theta
    path = np.empty((steps + 1, 4, *theta.shape))
    path[0] = psi0, psi1, theta, average
    for step in range(steps):
        down0, down1 = gradients.critic(psi0, psi1, theta)
        seen = (psi0, psi1) if simultaneous else (psi0 - rate * down0, psi1 - rate * down1)
        theta_next = theta - rate * gradients.generator(*seen, theta)
        psi0, psi1, theta = psi0 - rate * down0, psi1 - rate * down1, theta_next
        average = alpha * average + (1 - alpha) * theta
        path[step + 1] = psi0, psi1, theta, average
    return path


def radius_of(path: np.ndarray) -> np.ndarray:
    """Distance of (psi0, theta) from the equilibrium, (steps + 1, R, S), along a path of
    :func:`play_dirac`."""
    return np.hypot(path[:, 0], path[:, 2])


def update_matrix(objective: Objective, rate: float, simultaneous: bool = False) -> np.ndarray:
    """Jacobian (2, 2) of one step on (psi0, theta) at the equilibrium, for no penalty and R1."""
    turn = rate * {"jsd": 0.25, "w1": 1.0}[objective.metric]
    shrink = 1 - 2 * rate * objective.coefficient * (objective.regulariser == "r1")
    if simultaneous:
        return np.array([[shrink, -turn], [turn, 1.0]])
    return np.array([[shrink, -turn], [turn * shrink, 1 - turn**2]])


# %% [markdown]
# ### B.2 Three checks
#
# **Question.** Are the formulas, the matrices and the quick loop right?
#
# **Idea.** Hold each against something that cannot share its mistake.
#
# The closed forms against autograd on the functions of part A; the matrices against central
# differences of the update itself; and the vectorised loop against the very `AlternatingUpdate`
# that trains the images below, on a one-parameter generator with plain gradient descent.


# %%
class DiracGenerator(nn.Module):
    """Puts out theta for every latent (N, 1)."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, latents: Tensor) -> Tensor:
        return self.theta.expand(len(latents))


class DiracCritic(nn.Module):
    """psi0 * x + psi1 for x (N,)."""

    def __init__(self, psi0: float, psi1: float) -> None:
        super().__init__()
        self.psi0, self.psi1 = (
            nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (psi0, psi1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.psi0 * x + self.psi1


# %%
def play_dirac_by_autograd(
    game: DiracGame, start: np.ndarray, *, steps: int, rate: float
) -> np.ndarray:
    """One game by :class:`AlternatingUpdate`: psi0, psi1, theta and its average after every step,
    (steps + 1, 4)."""
    generator, critic = DiracGenerator(start[2]), DiracCritic(start[0], start[1])
    players = (Player(network, torch.optim.SGD(network.parameters(), lr=rate))
               for network in (generator, critic))
    update = AlternatingUpdate(
        *players, game.objective, latent_size=1, critic_steps=1, alpha=game.alpha
    )
    noise, real = torch.Generator().manual_seed(0), torch.zeros(4, dtype=torch.float64)

    def state() -> list[float]:
        return [
            parameter.item()
            for parameter in (
                critic.psi0,
                critic.psi1,
                generator.theta,
                update.average.module.theta,
            )
        ]

    path = [state()]
    for step in range(steps):
        update(real, step, noise)
        path.append(state())
    return np.array(path)


DIRAC_RATE = 0.1
start = np.random.default_rng(0).normal(0, 0.7, 3)
by_hand = play_dirac(DIRAC_GAMES, start[None], steps=20, rate=DIRAC_RATE)[..., 0]
by_autograd = np.stack(
    [play_dirac_by_autograd(game, start, steps=20, rate=DIRAC_RATE) for game in DIRAC_GAMES],
    axis=-1,
)
error = np.abs(by_hand - by_autograd).max()
assert error < 1e-12
print(
    "20 games, 20 steps: closed forms and AlternatingUpdate with autograd differ by at most "
    f"{error:.1e}"
)


# %%
linear = tuple(
    game for game in DIRAC_GAMES if game.objective.regulariser != "gp" and game.alpha == 0
)
for simultaneous in (False, True):
    small = 1e-5 * np.array([[1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1.0]])
    after = play_dirac(linear, small, steps=1, rate=DIRAC_RATE, simultaneous=simultaneous)[1][
        [0, 2]
    ]
    numerical = (
        np.stack([after[..., 0] - after[..., 1], after[..., 2] - after[..., 3]], axis=-1).transpose(
            1, 0, 2
        )
        / 2e-5
    )
    expected = np.stack(
        [update_matrix(game.objective, DIRAC_RATE, simultaneous) for game in linear]
    )
    eigenvalues = np.linalg.eigvals(expected)
    assert np.abs(numerical - expected).max() < 1e-9 and np.abs(eigenvalues.imag).min() > 0
    print(
        f"{'simultaneous' if simultaneous else 'alternating'} update: matrices differ from "
        "central differences by "
        f"{np.abs(numerical - expected).max():.1e}; every eigenvalue is one of a complex pair"
    )

for metric in METRICS:
    turn = -update_matrix(Objective(metric), DIRAC_RATE)[0, 1]
    limit, found = (1 - turn**2 / 4) / DIRAC_RATE, []
    for coefficient in (0.99 * limit, 1.01 * limit):
        game = DiracGame("", Objective(metric, "r1", coefficient), 0.0)
        path = play_dirac((game,), 1e-6 * np.ones((1, 3)), steps=2000, rate=DIRAC_RATE)
        found.append(radius_of(path)[[0, -1], 0, 0])
    assert found[0][1] < found[0][0] / 2 and found[1][1] > found[1][0] * 1e3
    print(
        f"{metric.upper()} with R1: converges just below a coefficient of {limit:.2f}, diverges "
        "just above"
    )

# %% [markdown]
# ### B.3 A verdict by a rule
#
# **Question.** When is a path said to converge, to circle or to diverge?
#
# **Idea.** Judge all starts together, by how far from the target they end.
#
# Words like "diverges" need a rule. Let $r_t=\|(\psi_0,\theta)\|$ and $\bar r$ its mean over the
# last 500 steps (about two turns near the target; fewer far from it, where JSD turns more slowly).
# The rule looks at all starts together, because an orbit and a limit cycle differ in one thing
# only: whether the end remembers the start.
#
# 1. **converges**: $\bar r\le10^{-6}$ from every start;
# 2. **spiral in**: $\bar r\le r_0/10$ from every start, but not yet there;
# 3. **orbit**: $\bar r$ within 20 % of $r_0$ from every start, though the starts differ;
# 4. **limit cycle**: $\bar r$ is the same from every start, within 10 % of its mean;
# 5. **diverges**: $\bar r\ge1.2\,r_0$ from every start (or not finite);
# 6. **undecided** otherwise.
#
# The rule is about the two live parameters. The moving average changes what is plotted, not what is
# played.


# %%
DIRAC_WINDOW = 500  # steps that the final radius averages


def verdict(first: np.ndarray, final: np.ndarray) -> str:
    """The rule above, for the first and the final radius from each start, (S,) each."""
    ratio = final / first
    if not np.isfinite(final).all():
        return "diverges"
    if (final <= 1e-6).all():
        return "converges"
    if (ratio <= 0.1).all():
        return "spiral in"
    if (np.abs(ratio - 1) <= 0.2).all():
        return "orbit"
    if (np.abs(final / final.mean() - 1) <= 0.1).all():
        return "limit cycle"
    return "diverges" if (ratio >= 1.2).all() else "undecided"


def factor_per_step(radius: np.ndarray) -> np.ndarray:
    """Factor by which the radius changes a step, (R, S): slope of a straight line through log
    radius over the second half."""
    half = len(radius) // 2
    steps = np.arange(len(radius) - half) - (len(radius) - half - 1) / 2
    return np.exp(
        np.tensordot(steps, np.log(np.maximum(radius[half:], 1e-300)), axes=1) / (steps**2).sum()
    )


# %%
def run_dirac(run: Run, steps: int, rate: float, starts: int) -> Outcome:
    """Question 2.1: the twenty games from many starts, alternating, and beside it simultaneous."""
    seeds, started = run.seeds(starts), time.perf_counter()
    points = np.stack([np.random.default_rng(seed).normal(0, 0.7, 3) for seed in seeds])
    shown = int(np.argsort(np.hypot(points[:, 0], points[:, 2]))[starts // 2])
    names = [game.name for game in DIRAC_GAMES]
    arrays, facts, values = (
        {"starts": points},
        {"shown": "the start of median radius", "window": DIRAC_WINDOW},
        {},
    )
    for scheme in ("alternating", "simultaneous"):
        path = play_dirac(
            DIRAC_GAMES, points, steps=steps, rate=rate, simultaneous=scheme == "simultaneous"
        )
        radius = radius_of(path)
        final = radius[-DIRAC_WINDOW:].mean(0)
        verdicts = {
            name: verdict(radius[0, index], final[index]) for index, name in enumerate(names)
        }
        facts["verdicts" if scheme == "alternating" else "verdicts_simultaneous"] = verdicts
        arrays[f"{scheme}_final_radius"], arrays[f"{scheme}_factor"] = (
            final,
            factor_per_step(radius),
        )
        live = [
            index for index, game in enumerate(DIRAC_GAMES) if game.alpha == 0
        ]  # the average does not change the radius
        arrays[f"{scheme}_radius"] = np.log10(np.maximum(radius[::25, live], 1e-30)).astype(
            np.float16
        )
        if scheme == "alternating":
            arrays["path"] = path[::2, :, :, shown].astype(np.float32)
            arrays["last_amplitude"] = np.abs(path[-DIRAC_WINDOW:, 2:]).max(
                0
            )  # of theta and of its average, (2, R, S)
            values = {f"final_radius_{name}": radius[-1, index] for index, name in enumerate(names)}
    arrays["path"] = np.stack([arrays["path"][:, :, index] for index in range(len(names))])
    return Outcome(values, arrays, budget=(steps, steps, "steps"), seeds=seeds, shown=shown,
                   seconds=time.perf_counter() - started, facts=facts)


RUNS |= {
    "dirac": run(
        run_dirac, full={"steps": 5000, "rate": DIRAC_RATE, "starts": 32}, quick={"starts": 16}
    )
}
dirac = suite.run("dirac")

# %% [markdown]
# **Check**: the twenty verdicts are those of a correct implementation, the ones with a moving
# average repeating the ten without; the radii and rates are those of the theory.

# %%
expected = deliverables.entry("dirac")["verdicts"]
verdicts = dirac["facts"]["verdicts"]
for index, game in enumerate(DIRAC_GAMES):
    family, number = game.name.split("_")
    twin = f"{family}_{(int(number) - 1) % len(DIRAC_PENALTIES) + 1}"
    assert verdicts[game.name] == expected[twin], (
        f"{game.name}: {verdicts[game.name]}, expected {expected[twin]}"
    )
    if game.objective.regulariser != "gp":
        modulus = np.abs(np.linalg.eigvals(update_matrix(game.objective, DIRAC_RATE))).max()
        assert np.abs(dirac.arrays["alternating_factor"][index] - modulus).max() < 1e-4
assert (
    np.diff(
        dirac.arrays["path"][[game.objective.metric == "w1" for game in DIRAC_GAMES], :, 1], axis=1
    )
    == 0
).all()
print(
    f"{len(verdicts)} verdicts as expected; every measured factor a step is within 1e-4 of the "
    "eigenvalue's modulus; "
    "under W1 the offset never moves"
)

first = np.hypot(*dirac.arrays["starts"][:, [0, 2]].T)
for rate in (DIRAC_RATE, DIRAC_RATE / 2):
    path = play_dirac(DIRAC_GAMES[:1], dirac.arrays["starts"], steps=round(500 / rate), rate=rate)
    ratio = radius_of(path)[-DIRAC_WINDOW:, 0].mean(0) / first
    print(
        f"jsd_1, rate {rate:g}, {round(500 / rate)} steps: final over first radius from "
        f"{ratio.min():.3f} to {ratio.max():.3f}"
    )

# %% [markdown]
# ### B.4 What the paths show
#
# **Question (Mila 2.1), answered.** What do the twenty paths show?
#
# **Idea.** Draw all of them from one start, and the radius from every start beside the theory.
#
# Each path runs in $(\psi_0,\psi_1,\theta)$, from light to dark blue. The start is the red dot. The
# target is the black star (JSD) or, under $W_1$, the dashed line $\psi_0=\theta=0$ between two
# stars, on which $\psi_1$ is free. In runs 6 to 10 the plotted $\theta$ is the moving average, and
# the verdict in the title is that of the live pair. All twenty begin at the record's start of
# median radius; its seed is printed.


# %%
DIRAC_DRAWN = 2501  # points of a path that are drawn, every other step


def game_title(game: DiracGame) -> str:
    """A game's name as the tables of the report have it: JSD 1."""
    return game.name.replace("_", " ").upper()


def draw_dirac_path(game: DiracGame, index: int, record) -> plt.Figure:
    """The path of one game from the shown start, in three dimensions."""
    path = record.arrays["path"][index][:, [0, 1, 3]]
    names = (r"$\psi_0$", r"$\psi_1$", r"$\theta$ (average)" if game.alpha else r"$\theta$")
    offsets = [0.0] if game.objective.metric == "jsd" else [path[0, 1] - 0.25, path[0, 1] + 0.25]
    figure = plt.figure(figsize=(2.7, 2.8), layout="none")
    axis = figure.add_axes((0.0, 0.1, 0.9, 0.8), projection="3d")
    target = dict(zip(names, ([0.0] * len(offsets), offsets, [0.0] * len(offsets)), strict=True))
    plotting.path_3d(axis, path[:DIRAC_DRAWN], names=names, target=target)
    limits = np.array([axis.get_xlim(), axis.get_ylim(), axis.get_zlim()])
    reach = np.abs(limits[[0, 2]]).max()
    axis.set(xlim=(-reach, reach), zlim=(-reach, reach))
    if game.objective.metric == "w1":  # the offset is constant: a band around it
        axis.set_ylim(offsets)
    axis.locator_params(nbins=4)
    axis.tick_params(labelsize=6, pad=0)
    for label in (axis.xaxis.label, axis.yaxis.label, axis.zaxis.label):
        label.set_fontsize(8)
    axis.set_box_aspect((1, 1, 1), zoom=0.82)
    figure.legend(*axis.get_legend_handles_labels(), loc="lower center", fontsize=6, ncols=4,
                  handlelength=1.2, columnspacing=0.9)
    found = record["facts"]["verdicts"][game.name]
    word = f"{'live pair: ' * (game.alpha > 0)}{found}"
    plotting.title(figure, f"{game_title(game)}: {game.label}\n{word}", record)
    return figure


seed = dirac["seeds"][dirac["shown"]]
print(f"the start that is drawn: seed {seed}, psi0, psi1, theta ="
      f" {', '.join(f'{value:.3f}' for value in dirac.arrays['starts'][dirac['shown']])}")
for index, game in enumerate(DIRAC_GAMES):
    suite.figure(draw_dirac_path(game, index, dirac), f"dirac_{game.name}.png", dirac)

# %%
figure, axes = plt.subplots(4, 5, figsize=(10, 8.8))
for index, (game, axis) in enumerate(zip(DIRAC_GAMES, axes.flat, strict=True)):
    path = dirac.arrays["path"][index][:DIRAC_DRAWN]
    axis.plot(path[:, 0], path[:, 3], color=plotting.BLUE, linewidth=0.4)
    axis.plot(*path[0, [0, 3]], "o", color=plotting.VERMILION, markersize=4)
    axis.plot(0, 0, "*", color=plotting.BLACK, markersize=7)
    reach = 1.1 * np.abs(path[:, [0, 3]]).max()
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    words = (game_title(game) + (", live pair" if game.alpha else ""), verdicts[game.name],
             game.label.split(", ", 1)[1])
    axis.set_title("\n".join(words))
    axis.tick_params(labelsize=7)
    if index >= 15:
        axis.set_xlabel(r"$\psi_0$")
    if index % 5 == 0:
        axis.set_ylabel(r"$\theta$, averaged" if game.alpha else r"$\theta$")
plotting.title(figure, r"Twenty Dirac GANs, seen along $\psi_1$ (red: start, star: target)", dirac)
suite.figure(figure, "dirac_overview.png", dirac)

# %% [markdown]
# The radius of the ten games without average from every start, beside the theory; and what happens
# if the two players move at once.

# %%
figure, axes = plt.subplots(2, 5, figsize=(11, 4.6), sharex=True)
live = [game for game in DIRAC_GAMES if game.alpha == 0]
steps = 25 * np.arange(len(dirac.arrays["alternating_radius"]))
for index, (game, axis) in enumerate(zip(live, axes.flat, strict=True)):
    for scheme, colour in (("simultaneous", plotting.ORANGE), ("alternating", plotting.BLUE)):
        radius = 10.0 ** dirac.arrays[f"{scheme}_radius"][:, index].astype(np.float64)
        axis.plot(steps, radius, color=colour, linewidth=0.5, alpha=0.4)
        axis.plot([], [], color=colour, label=scheme)
    if game.objective.regulariser == "gp":
        axis.axhline(
            4 / math.pi, color=plotting.BLACK, linestyle="--", linewidth=1, label=r"theory, $4/\pi$"
        )
    else:
        for simultaneous in (False, True):
            modulus = np.abs(
                np.linalg.eigvals(update_matrix(game.objective, DIRAC_RATE, simultaneous))
            ).max()
            axis.plot(
                steps,
                modulus**steps,
                color=plotting.BLACK,
                linestyle=":" if simultaneous else "--",
                linewidth=1,
                label=r"theory, $|$eigenvalue$|^t$" if not simultaneous else None,
            )
    axis.set_yscale("log")
    axis.set_title(game.label)
    axis.set_ylim(*((1e-13, 1e4) if game.objective.regulariser != "gp" else (1e-2, 1e2)))
    if index % 5 == 0:
        axis.set_ylabel(r"$\|(\psi_0,\theta)\|$")
    if index >= 5:
        axis.set_xlabel("step")
axes[0, 0].legend(fontsize=7)
axes[0, 3].legend(fontsize=7)
plotting.title(
    figure, "Radius from every start, alternating and simultaneous, beside the theory", dirac
)
suite.figure(figure, "dirac_radius.png", dirac)

# %%
# What the sheet's own solution says under each plot, shortened.
SHEET_WORDS = dict(
    zip(
        [game.name for game in DIRAC_GAMES],
        (
            "diverges",
            "gets closer, very slowly",
            "converges quickly",
            "diverges, far more and more",
            "diverges",
            "gets closer but diverges",
            "converges slowly",
            "converges well",
            "diverges",
            "diverges",
            "fails to converge",
            "converges slowly",
            "converges",
            "diverges",
            "diverges",
            "fails to converge",
            "converges slowly",
            "converges well, quickly",
            "diverges",
            "fails to converge",
        ),
        strict=True,
    )
)


def modulus_of(game: DiracGame, simultaneous: bool) -> str:
    """Modulus of the eigenvalues as a text, a dash where there is no linearisation."""
    if game.objective.regulariser == "gp":
        return "-"
    matrix = update_matrix(game.objective, DIRAC_RATE, simultaneous)
    return f"{np.abs(np.linalg.eigvals(matrix)).max():.5f}"


# %%
rows = []
for index, game in enumerate(DIRAC_GAMES):
    final, factor = (
        dirac.arrays[f"alternating_{name}"][index] for name in ("final_radius", "factor")
    )
    predicted = f"{4 / math.pi:.3f}" if game.objective.regulariser == "gp" else "-"
    rows.append(
        [
            game.name,
            game.label,
            verdicts[game.name],
            SHEET_WORDS[game.name],
            f"{final.mean():.3g}",
            f"{final.min():.3g} to {final.max():.3g}",
            predicted,
            f"{factor.mean():.5f}",
            modulus_of(game, False),
        ]
    )
tables.show(
    [
        "run",
        "loss",
        "verdict by the rule",
        "the sheet's words",
        "final radius, mean",
        "over starts",
        "averaged theory",
        "factor a step, measured",
        "by eigenvalue",
    ],
    rows,
)

# %%
print("both players at once:")
tables.show(
    ["run", "loss", "verdict", "final radius, mean", "factor a step, measured", "by eigenvalue"],
    [
        [
            game.name,
            game.label,
            dirac["facts"]["verdicts_simultaneous"][game.name],
            f"{dirac.arrays['simultaneous_final_radius'][index].mean():.3g}",
            f"{dirac.arrays['simultaneous_factor'][index].mean():.5f}",
            modulus_of(game, True),
        ]
        for index, game in enumerate(DIRAC_GAMES)
        if game.alpha == 0
    ],
)

# %%
def averaging(record) -> list[list[str]]:
    """What the moving average changes in runs 6 to 10: the largest |theta| of the last steps, live
    and averaged, their ratio, and where the live pair turns for ever the gain of the average at the
    linear theory's frequency."""
    rows = []
    for index, game in enumerate(DIRAC_GAMES):
        if not game.alpha:
            continue
        live, averaged = record.arrays["last_amplitude"][:, index].mean(-1)
        turn = np.angle(
            np.linalg.eigvals(update_matrix(Objective(game.objective.metric), DIRAC_RATE))[0]
        )
        gain = (1 - game.alpha) / abs(1 - game.alpha * np.exp(-1j * turn))
        found = record["facts"]["verdicts"][game.name]
        turns = found in ("orbit", "limit cycle")
        rows.append([game.name, game.label, found, f"{live:.3g}", f"{averaged:.3g}",
                     f"{averaged / live:.3g}" if averaged < live else "above one",
                     f"{gain:.3g}" if turns else "-"])
    return rows


print(
    f"runs 6 to 10: the largest |theta| in the last {dirac['facts']['window']} steps, mean over "
    "the starts"
)
tables.show(["run", "loss", "the live pair", "live theta", "averaged theta", "averaged over live",
             "gain of the average as a filter, linear theory"], averaging(dirac))

# %% [markdown] tags=["answer:mila_p2_dirac"]
# **Answer (mila_p2_dirac): what do the twenty trajectories show?**
#
# With alternating updates no game diverges: without a penalty the pair orbits, with R1 it
# converges, with GP it ends on a cycle, and the moving average changes only what is looked at.
#
# *No penalty (1, 6)*: the live pair is on an **orbit**. The map has determinant one, so that the
# radius neither grows nor shrinks to first order. After 5000 steps every start is near the radius
# it began with. For $W_1$ that is exact, up to the few per cent by which the orbit is not a circle.
# For JSD the flow conserves the radius, since
# $\psi_0\dot\psi_0+\theta\dot\theta=\tfrac12\sigma(c)(-\psi_0\theta+\theta\psi_0)=0$, but finite
# steps do not quite: the radius drifts slowly, the less the smaller the rate (printed in the check
# of B.3). The sheet says "diverges" for JSD and "fails to converge" for $W_1$. Only the second is
# true, and it is true of both. What does diverge is the *simultaneous* update: its determinant is
# $1+h^2$, and the second table shows the radius growing (for JSD more slowly than the linear theory
# has it once the radius is large). The order of two lines of code separates the two.
#
# *R1 (2, 3, 7, 8)* **converges**, at $\sqrt{1-2\eta\lambda}$ a step, for any small coefficient. It
# fails for large ones: from $(1-h^2/4)/\eta$ on, just below ten here, the critic overshoots and the
# game diverges (checked in B.2). With $\lambda=0.01$ the convergence is so slow that after 5000
# steps the path is still a spiral. Ten times the coefficient gives ten times the rate, which in the
# exponent is the difference between a fraction of a per cent and nothing. Here the sheet and the
# truth agree ("slowly", "quickly"), and the theory adds that the rate is the same for JSD and
# $W_1$: the metric sets how fast the game turns, the penalty how fast it shrinks. R1 works because
# it vanishes with its gradient at the equilibrium: the critic may be flat there.
#
# *GP (4, 5, 9, 10)* ends on a **limit cycle**. The penalty asks for slope one everywhere, and the
# only critic of slope zero, the one of the equilibrium, is forbidden. From inside the radius grows,
# from outside it shrinks, and all starts end on the same cycle, near $4/\pi$. The sheet's
# "diverges, far more and more" describes what a start *inside* the cycle does for a while; the
# radius is bounded. The largest departure from $4/\pi$ is JSD with $\lambda=0.1$, where the penalty
# is as quick as the rotation and averaging over a turn is no longer exact.
#
# *Moving average (6 to 10)*: it does not touch the game. The live pair does what it does in runs 1
# to
# 5. The plotted, averaged $\theta$ is the output of a low-pass filter. On an orbit or a cycle of
#    frequency $\eta g$ a step its amplitude is the live one times about $(1-\alpha)/\eta g$, which
#    is 0.08 for JSD and 0.02 for $W_1$: $W_1$ turns four times as fast near the target and is
#    averaged away better. So the averaged $\theta$ comes near the target although the live one
#    never does. This is the sheet's "gets closer", and it is why a moving average of the generator
#    can help on images: it removes rotation. It does not turn an orbit into an equilibrium. Where
#    the live pair converges quickly (8), the average is the one that lags: it forgets its start at
#    0.998 a step.

# %% [markdown]
# ## C · Five GANs on CIFAR-10
#
# ### C.1 Two networks
#
# **Question (Mila 2.7), the networks.** Which generator and which critic?
#
# **Idea.** Mirror images of each other, made of blocks that are nearly the identity at the start.
#
# The generator maps $z\in\mathbb R^{100}$ through four transposed convolutions, 4, 8, 16, 32
# pixels; the critic mirrors it. Between the resolutions are residual blocks $y=(1-c)x+c\,F(x)$ with
# $c=\sigma(\alpha)$ and $\alpha$ learned from $-3$: at the start they are nearly the identity. The
# critic has no normalisation: batch statistics would make the score of one image depend on the
# others, and a penalty on $\nabla_xC$ would no longer be one on each image's slope.
#
# **A small start.** The sheet does not say how the weights start. PyTorch scales a transposed
# convolution by the number of its *outputs*, so that the generator's last layer, 128 channels to 3
# colours, starts with values that $\tanh$ cuts off (the check below prints how many). That is noise
# of full contrast, which an unregularised critic knows from images within a few updates. When this
# was tried with `jsd_1`, the critic was all but perfect within 50 updates, for two seeds, and the
# generator's gradient, $-\tfrac12\sigma(c)\nabla c$, went to zero with $\sigma(c)$. The one run
# that was followed for 1300 updates drew one pattern for all latents. So all kernels start at
# $\mathcal N(0,0.02^2)$, as in DCGAN (arXiv:1511.06434).
#
# | run | metric | regulariser |
# |---|---|---|
# | jsd_1 | JSD | none |
# | jsd_2, w1_2 | JSD, $W_1$ | spectral normalisation |
# | jsd_3, w1_3 | JSD, $W_1$ | R1, coefficient 1 |


# %%
class Mixed(nn.Module):
    """Residual block (1 - c) x + c F(x) with a learned share c = sigmoid(alpha), alpha from -3."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch, self.alpha = branch, nn.Parameter(torch.tensor(-3.0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return torch.lerp(x.to(y.dtype), y, torch.sigmoid(self.alpha).to(y.dtype))


class Generator(nn.Module):
    """Latents (N, 100) to images (N, 3, 32, 32) in [-1, 1].

    Args:
        width: channels at 16 x 16 pixels; twice and four times as many below. The sheet's is 128.
        latent_size: dimensions of z.
    """

    def __init__(self, width: int = 128, latent_size: int = 100) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = latent_size
        for out, (stride, padding) in zip(
            (4 * width, 2 * width, width), ((1, 0), (2, 1), (2, 1)), strict=True
        ):
            branch = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1), nn.BatchNorm2d(out), nn.ReLU(),
                                   nn.Conv2d(out, out, 1), nn.BatchNorm2d(out), nn.ReLU())
            layers += [
                nn.ConvTranspose2d(channels, out, 4, stride, padding),
                nn.BatchNorm2d(out),
                nn.ReLU(),
                Mixed(branch),
            ]
            channels = out
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1))

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(self.layers(latents[:, :, None, None]).to(latents.dtype))


# %%
class Critic(nn.Module):
    """Images (N, 3, 32, 32) in [-1, 1] to scores (N,), high on real.

    Args:
        width: channels at 16 x 16 pixels; the sheet's is 128.
        spectral: spectral normalisation of every convolution.
    """

    def __init__(self, width: int = 128, spectral: bool = False) -> None:
        super().__init__()
        convolution = SpectralConv2d if spectral else nn.Conv2d
        layers: list[nn.Module] = []
        channels = 3
        for out in (width, 2 * width, 4 * width):
            branch = nn.Sequential(
                convolution(out, out, 3, 1, 1),
                nn.LeakyReLU(0.2),
                convolution(out, out, 1),
                nn.LeakyReLU(0.2),
            )
            layers += [convolution(channels, out, 4, 2, 1), nn.LeakyReLU(0.2), Mixed(branch)]
            channels = out
        self.layers, self.head = nn.Sequential(*layers), convolution(channels, 1, 4, 1, 0)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layers(images)
        with torch.autocast(
            images.device.type, enabled=False
        ):  # one number an image: eight bits are too few
            return self.head(features.to(self.head.weight.dtype)).flatten()


def start_small(module: nn.Module) -> None:
    """Draw a convolution's kernel from N(0, 0.02^2) and set its bias to zero; leave other modules
    as they are.

    References: DCGAN, arXiv:1511.06434.
    """
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    if isinstance(module, SpectralConv2d):
        module.iterate(15)


def build_pair(width: int, spectral: bool, seed: int) -> tuple[Generator, Critic]:
    """Generator and critic on the device in use, started from a seed by :func:`start_small`."""
    def build() -> nn.ModuleList:
        return nn.ModuleList([Generator(width), Critic(width, spectral)]).apply(start_small)

    return tuple(seeded(build, seed))


# %%
def build_update(generator: Generator, critic: Critic, objective: Objective, *, critic_steps: int,
                 alpha: float, learning_rates: tuple[float, float], betas: tuple[float, float],
                 weight_decay: float, precision: str = "float32") -> AlternatingUpdate:
    """The update of part A with the sheet's optimisers: Adam for both, weight decay for the
    critic."""
    on_cuda = next(generator.parameters()).device.type == "cuda"
    shared = {"betas": tuple(betas), "fused": True, "capturable": on_cuda}
    adams = [
        torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay, **shared)
        for network, rate, decay in zip(
            (generator, critic), learning_rates, (0.0, weight_decay), strict=True
        )
    ]
    return AlternatingUpdate(
        Player(generator, adams[0], precision),
        Player(critic, adams[1], precision),
        objective,
        latent_size=100,
        critic_steps=critic_steps,
        alpha=alpha,
    )


# %% [markdown]
# **Check**: the parameter counts of the sheet's networks; a block at its start is nearly the
# identity; scores of a batch do not depend on the other images; after enough power iterations the
# singular value is that of a full decomposition.

# %%
pair = build_pair(128, False, 0)
with torch.random.fork_rng(devices=[]), torch.no_grad():
    torch.manual_seed(0)
    before_tanh = [network.layers(torch.randn(64, 100, 1, 1)) for network in (pair[0], Generator())]
cut_off = [(values.abs() > 2).float().mean().item() for values in before_tanh]
assert cut_off[0] < 1e-3 < cut_off[1]
counts = [sum(parameter.numel() for parameter in module.parameters()) for module in pair]
assert counts == [6_895_494, 6_079_108]
images = pair[0](torch.randn(4, 100, generator=torch.Generator().manual_seed(0)))
assert images.shape == (4, 3, 32, 32) and images.abs().max() <= 1
error = (pair[1](images)[:1] - pair[1](images[:1])).abs().max().item()
assert error < 1e-5
layer = build_pair(4, True, 0)[1].cpu().double().layers[0]
layer.iterate(200)
difference = abs(
    layer.largest_singular_value().item()
    / torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
    - 1
)
assert difference < 1e-6
print(
    f"parameters: generator {counts[0]:,}, critic {counts[1]:,}; a score alone and in a batch "
    f"differ by {error:.1e}; "
    f"the power iteration's singular value is right to {difference:.1e}"
)
print(
    f"before tanh, the generator's values beyond 2 at its start: {cut_off[0]:.1%}; with PyTorch's "
    f"own start {cut_off[1]:.1%}"
)

# %% [markdown]
# ### C.2 Inception Score and Fréchet distance
#
# **Question (Mila 2.7), the scores.** How good are generated images?
#
# **Idea.** Look at real and generated images through a classifier, and compare what it says.
#
# Both see images through a classifier with features $\phi(x)\in\mathbb R^D$ and class probabilities
# $p(y|x)$:
#
# $$\mathrm{IS}=\exp\mathbb E_q\,\mathrm{KL}\big(p(y|x)\,\|\,p(y)\big),\qquad
# d^2=\|\mu_p-\mu_q\|^2+\mathrm{tr}\big(\Sigma_p+\Sigma_q-2(\Sigma_p\Sigma_q)^{1/2}\big),$$
#
# where $\mu,\Sigma$ are mean and covariance of $\phi$ on data and on samples. IS asks for confident
# and varied classes and never looks at the data; the Fréchet distance does.
#
# **A number is only called FID if the classifier is the Inception network** that everyone else
# uses. Its weights (found in the cache of torch-fidelity, or at the path in `SUITE_INCEPTION`) need
# a download. Where they are missing, a small classifier that is trained here on CIFAR-10 takes
# their place, registered with torch-fidelity as a feature extractor of its own. The numbers then
# carry the name `smallnet` and the digest of its weights. They rank the five runs and draw the
# curves, and they are **not comparable** with anybody's FID. The mathematics is torch-fidelity's in
# either case, and the features are computed in full float32. The distance depends on the number of
# images, which the tables state: generated images against the 50000 of the training split and, as
# the sheet has it, against the test split. References: arXiv:1606.03498, arXiv:1706.08500.
#
# **The distance has a noise of its own.** Two sets of real images are not at distance zero, because
# mean and covariance are estimates. `cifar10_fid_noise` measures that: two random halves of the
# training images, ten thousand of them against all, and the test split against the training split.
# What a GAN has above those numbers is its own doing.


# %%
class SmallNet(nn.Module):
    """A convolutional classifier of 32 x 32 images: uint8 (N, 3, 32, 32) to features (N, 128) and
    logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()

        def block(channels: int, out: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.GELU()
            )

        self.body = nn.Sequential(
            block(3, 48),
            block(48, 64, 2),
            block(64, 96),
            block(96, 128, 2),
            block(128, 128),
            nn.MaxPool2d(2),
            block(128, 128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(to_signed(pixels.permute(0, 2, 3, 1)))
        return features, self.head(features)


# %%
def shifted_and_flipped(pixels: Tensor, noise: torch.Generator, reach: int = 4) -> Tensor:
    """Each image (N, 3, H, W) moved by up to ``reach`` pixels, edges repeated, and mirrored with
    probability one half."""
    number, _, height, width = pixels.shape
    padded = F.pad(pixels.float(), (reach,) * 4, mode="replicate").to(pixels.dtype)
    down, right = torch.randint(
        0, 2 * reach + 1, (2, number, 1), generator=noise, device=pixels.device
    )
    rows, columns = (
        torch.arange(size, device=pixels.device) + offset
        for size, offset in ((height, down), (width, right))
    )
    mirrored = torch.rand(number, 1, generator=noise, device=pixels.device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    examples = torch.arange(number, device=pixels.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[examples, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def pack_weights(network: nn.Module) -> np.ndarray:
    """All parameters and running statistics as one float16 vector; those values, so rounded, *are*
    the classifier."""
    values = [
        value.detach().float().flatten()
        for value in network.state_dict().values()
        if value.is_floating_point()
    ]
    return torch.cat(values).cpu().numpy().astype(np.float16)


def unpack_weights(weights: np.ndarray) -> SmallNet:
    """The classifier of :func:`pack_weights`, ready for evaluation."""
    network, rest = SmallNet(), torch.from_numpy(weights.astype(np.float32))
    state = network.state_dict()
    needed = sum(value.numel() for value in state.values() if value.is_floating_point())
    if rest.shape != (needed,):
        raise ValueError(
            f"the classifier has {needed} weights, not an array of shape {tuple(rest.shape)}"
        )
    for name, value in state.items():
        if value.is_floating_point():
            state[name], rest = rest[: value.numel()].view_as(value), rest[value.numel() :]
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def resident_pixels(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 images (N, H, W, 3) as (N, 3, H, W) on the device; in memory they stay channels
    last."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2)


# %%
def train_smallnet(run: Run, dataset: str, limit: dict | None, epochs: int, batch_size: int,
                   learning_rate: float) -> Outcome:
    """Train the small classifier; its record holds the weights."""
    device, data = settings.device(), datasets.load(dataset, limit=limit)
    pixels, test_pixels = (
        resident_pixels(data.images[split], device) for split in ("train", "test")
    )
    labels = torch.from_numpy(data.labels["train"]).to(device)
    network = seeded(SmallNet, run.seed_for("initialisation"))

    def loss(batch: tuple[Tensor, Tensor], noise: torch.Generator, step: int) -> Tensor:
        _, logits = network(shifted_and_flipped(batch[0], noise))
        return F.cross_entropy(logits.float(), batch[1], label_smoothing=0.1)[None]

    batches = Batches((pixels, labels), batch_size, seed=run.seed_for("order"), drop_last=True)
    steps = epochs * batches.per_epoch
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, weight_decay=0.02, fused=True
    )
    update = GradientUpdate(network, loss, optimizer, schedule=schedules.one_cycle(steps),
                            precision=settings.half_precision(device))
    history = fit(update, batches, steps=steps, **run.training())
    weights = pack_weights(network)
    digest = hashlib.sha256(weights.tobytes()).hexdigest()
    extractor = Extractor("smallnet", digest, unpack_weights(weights).to(device))
    _, logits = extractor(test_pixels)
    accuracy = (logits.argmax(1).numpy() == data.labels["test"]).mean()
    return Outcome({"test_accuracy": float(accuracy)},
                   {"weights": weights, "loss": history.terms[::10, 0]}, data.describe(),
                   (history.done, history.planned, "steps"), seconds=history.seconds,
                   facts={"weights_sha256": digest})


# %%
@dataclass(frozen=True)
class Extractor:
    """Sees images as features and logits.

    Attributes:
        name: "inception" or "smallnet".
        digest: sha256 of its weights.
        network: uint8 (N, 3, H, W) to features (N, D) and logits (N, classes).
    """

    name: str
    digest: str
    network: nn.Module

    @property
    def suffix(self) -> str:
        """What follows the name of a number made with it: nothing only for the Inception
        network."""
        return "" if self.name == "inception" else f"_{self.name}"

    def __call__(self, pixels: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
        """Features and logits of uint8 images (N, 3, H, W), computed in full float32, as float64 on
        the CPU."""
        with torch.no_grad(), gan.full_float32(pixels.device):
            parts = [self.network(batch) for batch in pixels.split(batch_size)]
        return tuple(
            torch.cat([part[index].cpu().double() for part in parts]) for index in range(2)
        )

    def statistics(self, pixels: Tensor) -> dict[str, np.ndarray]:
        """Mean and covariance of the features, as torch-fidelity computes them."""
        from torch_fidelity.metric_fid import fid_features_to_statistics

        return fid_features_to_statistics(self(pixels)[0])

    def scores(
        self, pixels: Tensor, references: dict[str, dict[str, np.ndarray]]
    ) -> dict[str, float]:
        """Inception Score of generated images, and their squared Fréchet distance to each
        reference, by torch-fidelity.

        Args:
            pixels: generated images, uint8 (N, 3, H, W).
            references: metric name -> :meth:`statistics` of real images.
        """
        from torch_fidelity.metric_fid import fid_features_to_statistics
        from torch_fidelity.metric_isc import isc_features_to_metric

        features, logits = self(pixels)
        found = {"inception_score": isc_features_to_metric(logits)["inception_score_mean"]}
        statistics = fid_features_to_statistics(features)
        found |= {name: squared_distance(statistics, there) for name, there in references.items()}
        return {f"{name}{self.suffix}": value for name, value in found.items()}


# %%
def squared_distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Squared Fréchet distance of two :meth:`Extractor.statistics`, by torch-fidelity."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    return fid_statistics_to_metric(one, other, False)["frechet_inception_distance"]


def register(extractor: Extractor) -> str:
    """Make a classifier known to torch-fidelity as a feature extractor; returns its name there,
    which has its digest."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    class Registered(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **options) -> None:
            super().__init__(name, features_list)
            self.network = copy.deepcopy(extractor.network)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "features"

        def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
            found = dict(zip(("features", "logits"), self.network(pixels), strict=True))
            return tuple(found[name] for name in self.features_list)

    name = f"{extractor.name}-{extractor.digest[:12]}"
    if name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(name, Registered)
    return name


def inception_weights() -> Path | None:
    """The Inception weights, where they are at hand: ``SUITE_INCEPTION``, then torch-fidelity's
    download cache."""
    if os.environ.get("SUITE_INCEPTION"):
        path = Path(os.environ["SUITE_INCEPTION"])
        if not path.is_file():
            raise FileNotFoundError(f"SUITE_INCEPTION names {path}, which is not a file")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    return (
        path if path.is_file() and settings.profile() == "full" else None
    )  # the small profiles are to be quick


# %%
def load_extractor(run: Run, device: torch.device) -> Extractor:
    """The Inception network if its weights are at hand, else the small classifier that a run needs.

    Raises:
        ImportError: torch-fidelity is missing, which would show only after hours of training
            otherwise.
        RecordError: the small classifier has not been trained.
    """
    try:
        from torch_fidelity.utils import create_feature_extractor
    except ImportError as error:
        raise ImportError("IS and FID need torch-fidelity: pip install torch-fidelity") from error
    path = inception_weights()
    if path is None:
        record = run.needed("cifar10_smallnet")
        network = unpack_weights(record.arrays["weights"]).to(device)
        return Extractor("smallnet", record["facts"]["weights_sha256"], network)
    network = create_feature_extractor(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        cuda=False,
        verbose=False,
        feature_extractor_weights_path=str(path),
    )
    return Extractor("inception", file_digest(path), network.to(device))


# %%
def measure_noise(
    run: Run, dataset: str, limit: dict | None, sizes: list[int], splits: int
) -> Outcome:
    """What the distance is between real images: its own noise, below which no GAN can be told
    apart.

    Args:
        dataset, limit: see :func:`helpers.data.datasets.load`.
        sizes: M, the images that stand in for generated ones; each M against all training images.
        splits: into two random halves, and so many random choices of M images for each size.

    Returns:
        Distances of two halves, of M training images to all of them, and of the test split to the
        training split, which are different images.
    """
    started, device, data = (
        time.perf_counter(),
        settings.device(),
        datasets.load(dataset, limit=limit),
    )
    extractor, seeds = load_extractor(run, device), run.seeds(splits)
    train, test = (
        extractor(resident_pixels(data.images[split], device))[0] for split in ("train", "test")
    )
    from torch_fidelity.metric_fid import fid_features_to_statistics as statistics_of

    everything, values = statistics_of(train), {}
    orders = [np.random.default_rng(seed).permutation(len(train)) for seed in seeds]
    halves = [np.array_split(order, 2) for order in orders]
    values["fid_halves"] = [
        squared_distance(*(statistics_of(train[half]) for half in pair)) for pair in halves
    ]
    for size in sizes:
        parts = [statistics_of(train[order[:size]]) for order in orders]
        values[f"fid_{size}"] = [squared_distance(part, everything) for part in parts]
    values["fid_test"] = squared_distance(statistics_of(test), everything)
    return Outcome({f"{name}{extractor.suffix}": value for name, value in values.items()},
                   dataset=data.describe(), budget=(splits, splits, "splits"), seeds=seeds,
                   seconds=time.perf_counter() - started,
                   facts={"extractor": extractor.name, "extractor_sha256": extractor.digest,
                          "reference": len(train), "sizes": sizes, "test": len(test)})


def noise_names(record) -> dict[str, str]:
    """Metric of a record of :func:`measure_noise` -> what it compares."""
    facts, suffix = (
        record["facts"],
        "" if record["facts"]["extractor"] == "inception" else "_smallnet",
    )
    halves = {f"fid_halves{suffix}": f"two halves of {facts['reference']:,} training images"}
    sizes = {f"fid_{size}{suffix}": f"{size:,} training images to all" for size in facts["sizes"]}
    return halves | sizes | {f"fid_test{suffix}": "test split to training split"}


# %%
CIFAR_DATA = {"dataset": "cifar10", "limit": None}
QUICK_DATA = {"dataset": "photo_patches", "limit": {"train": 2000, "test": 500}}
SMOKE_DATA = {"dataset": "photo_patches", "limit": {"train": 256, "test": 128}}
RUNS |= {
    "cifar10_smallnet": run(
        train_smallnet,
        long=True,
        full={**CIFAR_DATA, "epochs": 20, "batch_size": 250, "learning_rate": 4e-3},
        quick={**QUICK_DATA, "epochs": 2},
        smoke={**SMOKE_DATA, "epochs": 1, "batch_size": 64},
    ),
    "cifar10_fid_noise": run(
        measure_noise,
        needs=("cifar10_smallnet",),
        full={**CIFAR_DATA, "sizes": [10_000], "splits": 10},
        quick={**QUICK_DATA, "sizes": [300], "splits": 3},
        smoke={**SMOKE_DATA, "sizes": [64]},
    ),
}
smallnet = suite.run("cifar10_smallnet")
noise = None if smallnet is None else suite.run("cifar10_fid_noise")
if smallnet is not None:
    overview.show_training(smallnet)
    print(
        "test accuracy "
        f"{smallnet.metrics['test_accuracy']:.4f}"
        f"{' (' + smallnet.remark + ')' if smallnet.remark else ''}, "
        f"weights {smallnet['facts']['weights_sha256'][:12]}"
    )
    assert smallnet.remark or smallnet.metrics["test_accuracy"] >= 0.85
    tables.show(
        ["squared distance of real images", "mean", "smallest", "largest", "splits"],
        [
            [
                words,
                *(
                    f"{noise.spread[name][key] if key else noise.metrics[name]:.3g}"
                    for key in ("", "min", "max")
                ),
                str(noise.spread[name]["n"]),
            ]
            for name, words in noise_names(noise).items()
        ],
    )

# %% [markdown]
# **Check**: the same images are at distance zero, more noise is further away, the batch size does
# not matter, and calling torch-fidelity's parts on images that lie on the device gives what its own
# `calculate_metrics` gives for the classifier registered with it.

# %%
from torch.utils.data import Dataset as ImageList


class Listed(ImageList):
    """Images one by one, for torch-fidelity's own loader."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index]


# %%
def check_extractor(extractor: Extractor, pixels: Tensor) -> None:
    """The four properties, on real images uint8 (N, 3, H, W)."""
    from torch_fidelity import calculate_metrics

    noise = torch.Generator().manual_seed(0)
    bell = torch.randn(pixels.shape, generator=noise)
    noisy = [
        (pixels + strength * bell).clamp(0, 255).round().to(torch.uint8)
        for strength in (0, 10, 30, 90)
    ]
    reference = {"fid": extractor.statistics(pixels)}
    distances = [extractor.scores(images, reference)[f"fid{extractor.suffix}"] for images in noisy]
    assert abs(distances[0]) < 1e-4 and all(low < high for low, high in pairwise(distances))
    by_sevens = torch.cat([extractor(part, 7)[0] for part in (pixels[:50], pixels[50:])])
    error = (by_sevens - extractor(pixels)[0]).abs().max().item()
    assert error < 1e-4
    theirs = calculate_metrics(
        input1=Listed(noisy[2]),
        input2=Listed(pixels),
        feature_extractor=register(extractor),
        isc=True,
        fid=True,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )
    ours = extractor.scores(noisy[2], reference)
    for name, key in (
        ("fid", "frechet_inception_distance"),
        ("inception_score", "inception_score_mean"),
    ):
        assert math.isclose(ours[f"{name}{extractor.suffix}"], theirs[key], rel_tol=1e-3)
    print(
        f"fid{extractor.suffix} of noise 0, 10, 30, 90: "
        f"{', '.join(f'{distance:.4f}' for distance in distances)}; "
        f"another batch size changes features by {error:.0e}; "
        f"torch-fidelity's own loop gives {theirs['frechet_inception_distance']:.4f} for noise 30"
    )


if smallnet is not None:
    some = datasets.load(smallnet["config"]["dataset"], limit={"train": 200, "test": 1}).images[
        "train"
    ]
    network = unpack_weights(smallnet.arrays["weights"])
    check_extractor(Extractor("smallnet", smallnet["facts"]["weights_sha256"], network),
                    resident_pixels(some, torch.device("cpu")))

# %% [markdown]
# ### C.3 Training
#
# **Question (Mila 2.7), trained.** What do five configurations learn?
#
# **Idea.** The same networks, data and rates for all; only metric and regulariser differ.
#
# Batches of 64, Adam with $\beta=(0,0.99)$, rates $2\cdot10^{-4}$ (generator) and $4\cdot10^{-4}$
# (critic, weight decay $10^{-6}$), two critic steps for each generator step, average
# $\alpha=0.998$, 100000 generator updates, images in $[-1,1]$ without flips.
#
# **What is evaluated is the averaged generator.** Its weights are averages, but its batch-norm
# buffers are those of the live one and belong to other weights. They are estimated anew, over fresh
# batches, before each evaluation. The evaluation then uses the running statistics, so that an image
# depends on its own $z$ alone. Every evaluation draws the same latents. There are ten, evenly over
# the updates that are asked for. Along the way networks run in the precision that they are trained
# in; the numbers at the end are from full float32.
#
# Five runs can only be compared at equal numbers of updates: `python -m helpers train 'cifar10_*'
# --updates 20000` brings all of them there, and each record says how far of the 100000 it came.


# %%
def with_fresh_statistics(
    generator: nn.Module, *, batches: int, batch_size: int, seed: int
) -> nn.Module:
    """A copy of a generator, in evaluation mode, whose batch-norm statistics are averages over
    fresh batches of latents."""
    renewed = copy.deepcopy(generator).train()
    for module in renewed.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain average over the batches
    with torch.no_grad():
        for latents in draw_latents(generator, batches * batch_size, seed).split(batch_size):
            renewed(latents)
    return renewed.eval()


def draw_latents(generator: nn.Module, number: int, seed: int) -> Tensor:
    """Standard normal latents (number, 100) on the generator's device, the same for the same
    seed."""
    device = next(generator.parameters()).device
    return torch.randn(
        number, 100, generator=torch.Generator(device).manual_seed(seed), device=device
    )


def to_pixels(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes of the same shape, on their device; waits for it."""
    low, high = images.min().item(), images.max().item()
    if not (low >= -1 and high <= 1):
        raise ValueError(f"images must lie in [-1, 1]; these reach from {low} to {high}")
    return ((images + 1) * 127.5).round_().to(torch.uint8)


def generate(generator: nn.Module, number: int, seed: int, batch_size: int = 500) -> Tensor:
    """uint8 images (number, 3, 32, 32) of a generator in evaluation mode."""
    with torch.no_grad():
        parts = draw_latents(generator, number, seed).split(batch_size)
        return torch.cat([to_pixels(generator(latents)) for latents in parts])


def critic_scores(critic: nn.Module, pixels: Tensor, batch_size: int = 500) -> Tensor:
    """Scores (N,) of uint8 images (N, 3, H, W)."""
    with torch.no_grad():
        parts = pixels.permute(0, 2, 3, 1).split(batch_size)
        return torch.cat([critic(to_signed(batch)) for batch in parts])


# %%
class Judge:
    """Looks at a GAN: at its averaged generator and its critic, with the same latents every time.

    Args:
        run: whose seeds the latents have.
        update: the GAN.
        extractor: makes Inception Score and Fréchet distances.
        references: name -> real images uint8 (N, 3, H, W); the critic is measured on the last of
            them.
        batch_size: of the batches that the batch-norm statistics are estimated on.

    Attributes:
        names: of the numbers of a :meth:`look`.
    """

    def __init__(self, run: Run, update: AlternatingUpdate, extractor: Extractor,
                 references: dict[str, Tensor], batch_size: int) -> None:
        self.run, self.update, self.extractor, self.batch_size = run, update, extractor, batch_size
        self.references, self.held_out = references, list(references.values())[-1]
        self.statistics = {
            name: extractor.statistics(pixels) for name, pixels in references.items()
        }
        seen = [f"{name}{extractor.suffix}" for name in ("inception_score", *references)]
        self.names = [f"{update.objective.metric}_test", "score_test", "score_fake", *seen]

    def ready(self, batches: int) -> nn.Module:
        """The averaged generator with batch-norm statistics from so many fresh batches."""
        return with_fresh_statistics(
            self.update.average.module,
            batches=batches,
            batch_size=self.batch_size,
            seed=self.run.seed_for("statistics"),
        )

    def look(self, batches: int, samples: int) -> list[float]:
        """The numbers along the way: networks in the precision that they are trained in."""
        with self.update.half():
            return self.numbers(self.ready(batches), samples)

    def numbers(self, generator: nn.Module, samples: int) -> list[float]:
        """Metric and mean scores on held-out images and on fakes, then what the extractor says."""
        critic = self.update.critic.network.eval()  # no power iteration while looking
        fakes = generate(generator, samples, self.run.seed_for("samples"))
        scores = critic_scores(critic, self.held_out), critic_scores(critic, fakes)
        critic.train()
        with torch.autocast(fakes.device.type, enabled=False):
            found = self.extractor.scores(fakes, self.statistics)
        held_out = METRICS[self.update.objective.metric](*scores)
        return [held_out.item(), *(part.mean().item() for part in scores), *found.values()]

    def facts(self) -> dict:
        """What a record says of its numbers."""
        networks = self.update.generator.network, self.update.critic.network
        counts = [sum(weights.numel() for weights in network.parameters()) for network in networks]
        return {"extractor": self.extractor.name, "extractor_sha256": self.extractor.digest,
                "generator": "averaged generator, batch-norm statistics estimated anew",
                "reference": {name: len(pixels) for name, pixels in self.references.items()},
                "evaluated": self.names, "parameters": counts}


# %%
def train_gan(run: Run, *, metric: str, regulariser: str, coefficient: float, dataset: str,
              limit: dict | None, width: int, updates: int, evaluations: int, batch_size: int,
              critic_steps: int, statistics_batches: int, curve_samples: int, final_samples: int,
              **optimisation) -> Outcome:
    """Question 2.7: one GAN, evaluated along the way and at the end.

    Args:
        metric, regulariser, coefficient: see :class:`Objective`.
        dataset, limit: see :func:`helpers.data.datasets.load`.
        width: of both networks, see :class:`Generator`.
        updates: of the generator.
        evaluations: evenly over the updates that are asked for, beside the one at the start.
        batch_size, critic_steps: of the critic, before each step of the generator.
        statistics_batches: for the averaged generator's batch-norm statistics; a tenth along the
            way.
        curve_samples, final_samples: generated images an evaluation, and at the end.
        optimisation: alpha, learning_rates, betas, weight_decay, see :func:`build_update`.
    """
    device, data = settings.device(), datasets.load(dataset, limit=limit)
    gan.let_cudnn_choose(device)
    extractor, precision = load_extractor(run, device), settings.half_precision(device)
    train, test = (resident_pixels(data.images[split], device) for split in ("train", "test"))
    pair = build_pair(width, regulariser == "sn", run.seed_for("initialisation"))
    plain = build_update(*pair, Objective(metric, regulariser, coefficient), precision=precision,
                         critic_steps=critic_steps, **optimisation)
    update = gan.CapturedUpdate(plain)
    judge = Judge(run, plain, extractor, {"fid": train, "fid_against_test": test}, batch_size)
    look = partial(judge.look, max(1, statistics_batches // 10), curve_samples)
    batches = Batches(
        train.permute(0, 2, 3, 1),
        critic_steps * batch_size,
        seed=run.seed_for("order"),
        drop_last=True,
    )
    # Evaluations by another extractor are other numbers: a checkpoint is resumed only with its own.
    stage = run.checkpoint(f"gan-{extractor.name}-{extractor.digest[:8]}")
    training = run.training() | {"checkpoint": stage}
    asked = min(updates, training["stop_after"] or updates)
    history = fit(update, batches, steps=updates, evaluate=look,
                  evaluate_every=max(1, asked // evaluations), **training)
    looks, looked_at = history.evaluations, history.evaluation_steps
    if looked_at[-1] < history.done:  # stopped between two evaluations
        looks, looked_at = np.concatenate([looks, [look()]]), np.append(looked_at, history.done)
    with gan.full_float32(device):
        final = judge.ready(statistics_batches)
        values = dict(zip(judge.names, judge.numbers(final, final_samples), strict=True))
        samples = generate(final, 100, run.seed_for("shown")).permute(0, 2, 3, 1).cpu().numpy()
    middles, terms = plotting.smoothed(history.terms, points=500)
    arrays = {"samples": samples, "terms": terms.astype(np.float32),
              "terms_every": np.array(round(2 * middles[0])),
              "evaluations": looks, "evaluation_steps": looked_at}
    facts = judge.facts() | {
        "generated": final_samples, "generated_for_curves": curve_samples, "precision": precision,
        "penalties": gan.float32_convolutions(device), "cuda_graph": update.captured}
    budget = (history.done, history.planned, "generator updates")
    return Outcome(values, arrays, data.describe(), budget, [run.seed], seconds=history.seconds,
                   facts=facts, weights={"generator": final, "critic": pair[1]})


# %%
CIFAR_GANS = {
    "cifar10_jsd_1": ("jsd", "none", 0.0), "cifar10_jsd_2": ("jsd", "sn", 0.0),
    "cifar10_jsd_3": ("jsd", "r1", 1.0), "cifar10_w1_2": ("w1", "sn", 0.0),
    "cifar10_w1_3": ("w1", "r1", 1.0),
}
PLAN = {
    **CIFAR_DATA,
    "width": 128,
    "updates": 100_000,
    "evaluations": 10,
    "batch_size": 64,
    "critic_steps": 2,
    "alpha": 0.998,
    "learning_rates": [2e-4, 4e-4],
    "betas": [0.0, 0.99],
    "weight_decay": 1e-6,
    "statistics_batches": 1000,
    "curve_samples": 10_000,
    "final_samples": 50_000,
}
QUICK_PLAN = {
    **QUICK_DATA, "width": 12, "updates": 25, "evaluations": 3, "alpha": 0.9,
    "statistics_batches": 20, "curve_samples": 200, "final_samples": 400,
}
SMOKE_PLAN = {
    **SMOKE_DATA, "width": 4, "updates": 4, "evaluations": 2, "alpha": 0.5,
    "statistics_batches": 2, "curve_samples": 64, "final_samples": 128,
}
RUNS |= {
    run_id: run(
        train_gan,
        long=True,
        needs=("cifar10_smallnet",),
        gpu=0.2,
        memory_gb=6.0,
        full={"metric": metric, "regulariser": regulariser, "coefficient": coefficient, **PLAN},
        quick=QUICK_PLAN,
        smoke=SMOKE_PLAN,
    )
    for run_id, (metric, regulariser, coefficient) in CIFAR_GANS.items()
}


# %%
def earlier(run_id: str):
    """The record of a GAN by an earlier version of this code, if its configuration differs from
    today's only in how often it was evaluated; else None."""
    there, wanted = records.load(run_id), RUNS[run_id].config(suite.profile)
    if there is None or there["profile"] != suite.profile:
        return None
    same = all(
        there["config"].get(key) == value for key, value in wanted.items() if key != "evaluations"
    )
    if same:
        print(
            f"{run_id}: shown is the record of an earlier version of this code, {there.describe()}"
        )
    return there if same else None


recorded = {}
for run_id in CIFAR_GANS if smallnet is not None else ():
    recorded[run_id] = suite.run(run_id) or earlier(run_id)
gans = {run_id: record for run_id, record in recorded.items() if record is not None}

# %% [markdown]
# ### C.4 Samples, curves, comparison
#
# **Question (Mila 2.7), compared.** How do the five differ?
#
# **Idea.** Compare them at the largest number of updates that all of them have.
#
# Per run: 100 samples from fixed latents; the metric on held-out images and the Fréchet distance in
# one picture with two axes. Then all runs on one page, at the largest number of updates that all of
# them have. What a run has beyond that is drawn pale.
#
# **Why a JSD can be negative.** $\widehat{\mathrm{JSD}}(C)$ is a lower bound of a divergence that
# is at least zero; the bound itself can be anything below. A constant critic has 0. A critic that
# is sure and wrong has less: one fake with a score of $c=10$ contributes $\tfrac12\log\sigma(-10)$,
# which is about $-5$. The critic is trained against the live generator, and the metric on held-out
# images is measured with the averaged one, which it has never seen. Where that number is below
# zero, the critic does worse on those fakes than a constant would.


# %%
def looks(record) -> np.ndarray:
    """Which evaluations count: not the one before training, nor a last one so soon after its
    neighbour that it shows the same."""
    steps = record.arrays["evaluation_steps"]
    repeated = len(steps) > 2 and steps[-1] - steps[-2] < (steps[1] - steps[0]) / 10
    return np.arange(1, len(steps) - repeated)


def evaluated(record, name: str) -> np.ndarray:
    """One evaluated number, by its name without the extractor's suffix, over the evaluations that
    count."""
    names = record["facts"]["evaluated"]
    column = next(
        index
        for index, full in enumerate(names)
        if full in (name, f"{name}_{record['facts']['extractor']}")
    )
    return record.arrays["evaluations"][looks(record), column]


# %%
def live_metric(record) -> np.ndarray:
    """The metric on training batches and the live generator, averaged over the fifth of an interval
    before each evaluation."""
    arrays, steps = record.arrays, record.arrays["evaluation_steps"]
    ends = np.minimum(steps[looks(record)] // arrays["terms_every"], len(arrays["terms"]))
    number = max(1, int((steps[1] - steps[0]) // (5 * arrays["terms_every"])))
    return np.array([arrays["terms"][max(0, end - number) : end, 0].mean() for end in ends])


EXTRACTORS = {"smallnet": "a small classifier"}  # words for titles


def distance_name(record) -> str:
    """How the Fréchet distance of a record may be called."""
    name = record["facts"]["extractor"]
    return "FID" if name == "inception" else f"Fréchet distance by {EXTRACTORS.get(name, name)}"


def describe_run(record) -> str:
    """Metric and regulariser of a record, for titles."""
    config = record["config"]
    regulariser = {
        "none": "no regulariser",
        "sn": "spectral normalisation",
        "r1": f"R1, coefficient {config['coefficient']:g}",
    }
    return f"{config['metric'].upper()}, {regulariser[config['regulariser']]}"


# %%
def draw_gan_curves(record) -> plt.Figure:
    """Metric (left axis) and Fréchet distance (right axis) against generator updates."""
    arrays, metric, steps = (
        record.arrays,
        record["config"]["metric"],
        record.arrays["evaluation_steps"][looks(record)],
    )
    figure, axis = plt.subplots(figsize=(5.6, 3.2))
    axis.plot(
        (np.arange(len(arrays["terms"])) + 0.5) * arrays["terms_every"],
        arrays["terms"][:, 0],
        color=plotting.BLUE,
        alpha=0.25,
        linewidth=0.8,
        label="training batches, live generator",
    )
    axis.plot(
        steps,
        evaluated(record, f"{metric}_test"),
        color=plotting.BLUE,
        marker="o",
        markersize=3,
        label="test images, averaged generator",
    )
    if metric == "jsd":
        axis.axhline(
            math.log(2),
            color=plotting.BLACK,
            linestyle="--",
            linewidth=0.9,
            label="log 2, the largest possible",
        )
    else:  # the first critics, before the penalty holds them, would flatten all that follows
        later = arrays["terms"][len(arrays["terms"]) // 5 :, 0]
        axis.set_ylim(
            min(0.0, later.min()), 1.1 * max(later.max(), evaluated(record, f"{metric}_test").max())
        )
    axis.set_xlabel("generator updates")
    axis.set_ylabel(
        f"{metric.upper()} by the critic" + ", nats" * (metric == "jsd"), color=plotting.BLUE
    )
    right = axis.twinx()
    right.plot(
        steps,
        evaluated(record, "fid"),
        color=plotting.VERMILION,
        marker="s",
        markersize=3,
        label=distance_name(record),
    )
    right.set_ylabel(distance_name(record), color=plotting.VERMILION)
    right.spines["right"].set_visible(True)
    right.grid(False)
    named = zip(axis.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True)
    figure.legend(
        *(left + more for left, more in named), loc="outside lower center", fontsize=7, ncols=2
    )
    plotting.title(figure, describe_run(record), record)
    return figure


# %%
for record in gans.values():
    figure = plotting.image_grid(
        record.arrays["samples"], 10, describe_run(record), record, width=3.6
    )
    suite.figure(figure, f"{record.id}_samples.png", record)
    suite.figure(draw_gan_curves(record), f"{record.id}_curves.png", record)

# %%
def common_updates(records) -> int:
    """The largest number of updates at which all records were evaluated; 0 if there is none."""
    steps = [set(record.arrays["evaluation_steps"][looks(record)].tolist()) for record in records]
    return max(set.intersection(*steps), default=0)


def comparable(records) -> tuple[list, int]:
    """The records that share an evaluation, without the shortest ones that stopped before any that
    the others share; and how many updates it was made after."""
    kept = sorted(records, key=lambda record: record["budget"]["done"])
    while kept and not common_updates(kept):
        kept = kept[1:]
    return [record for record in records if record in kept], common_updates(kept) if kept else 0


def upto(record, updates: int) -> np.ndarray:
    """Which of the evaluations that count were made after at most so many updates."""
    return record.arrays["evaluation_steps"][looks(record)] <= updates


# %%
def draw_comparison(records, noise, updates: int) -> plt.Figure:
    """Samples of all runs, and what was evaluated: strong up to ``updates``, pale beyond."""
    titles = [  # narrow enough to stand beside each other
        "\n".join(textwrap.fill(said, width, break_on_hyphens=False)
                  for said, width in ((describe_run(record), 28), (record.remark, 25)) if said)
        for record in records
    ]
    above = 2.0 + 0.17 * max(title.count("\n") + 1 for title in titles)  # inches: pictures, lines
    figure = plt.figure(figsize=(10, above + 3.66))
    top, bottom = figure.subfigures(2, 1, height_ratios=(above, 3.66))
    axes = top.subplots(1, len(records), squeeze=False)[0]
    for axis, record, title in zip(axes, records, titles, strict=True):
        plotting.show_image(axis, plotting.tile(record.arrays["samples"][:12], 4))
        axis.set_title(title)
    held_out = sorted({f"{record['config']['metric']}_test" for record in records})
    names = ("fid", "inception_score", *held_out)
    panels = dict(zip(names, bottom.subplots(1, len(names)), strict=True))
    for record, colour in zip(records, plotting.COLOURS, strict=False):
        steps, early = record.arrays["evaluation_steps"][looks(record)], upto(record, updates)
        for name in ("fid", "inception_score", f"{record['config']['metric']}_test"):
            values, axis = evaluated(record, name), panels[name]
            axis.plot(steps, values, color=colour, alpha=0.35, linewidth=1, marker="o", ms=2)
            axis.plot(
                steps[early],
                values[early],
                color=colour,
                marker="o",
                markersize=2.5,
                label=describe_run(record),
            )
    same = noise is not None and noise["facts"]["extractor"] == records[0]["facts"]["extractor"]
    for (name, words), style in zip(
        noise_names(noise).items() if same else (), (":", "-.", "--"), strict=False
    ):
        panels["fid"].axhline(
            noise.metrics[name], color="grey", linewidth=0.9, linestyle=style, label=words
        )
    panels["fid"].set_yscale("log")
    by = (
        ""
        if records[0]["facts"]["extractor"] == "inception"
        else f" by {EXTRACTORS.get(records[0]['facts']['extractor'], 'another network')}"
    )
    headings = (distance_name(records[0]), f"Inception Score{by}",
                *(f"{name.removesuffix('_test').upper()}, test split" for name in held_out))
    for axis, heading in zip(panels.values(), headings, strict=True):
        axis.set_title(textwrap.fill(heading, 34))
        axis.set_xlabel("generator updates")
        axis.locator_params(axis="x", nbins=4)
        axis.tick_params(labelsize=7)
    handles, labels = panels["fid"].get_legend_handles_labels()
    bottom.legend(handles, labels, loc="outside lower center", fontsize=7, ncols=4)
    return figure


def short(record) -> str:
    """The id of a run without its data set."""
    return record.id.removeprefix("cifar10_")


# %%
if gans:
    shown = list(gans.values())
    equal_runs, equal = comparable(shown)
    figure = draw_comparison(shown, noise, equal)
    number = "Five" if len(shown) == len(CIFAR_GANS) else f"{len(shown)} of the five"
    heading = f"{number} configurations, samples at each run's end; strong up to {equal:,} updates"
    plotting.title(figure.subfigs[0], heading)
    suite.figure(figure, "cifar10_comparison.png", *shown)


# %%
def at_equal_updates(records, updates: int) -> list[list[str]]:
    """Rows of a table: each run after ``updates`` generator updates."""
    rows = []
    for record in records:
        place = int(np.flatnonzero(record.arrays["evaluation_steps"][looks(record)] == updates)[0])
        metric = record["config"]["metric"]
        rows.append(
            [
                short(record),
                describe_run(record),
                f"{updates:,}",
                *(f"{evaluated(record, name)[place]:.3g}" for name in ("fid", "inception_score")),
                f"{live_metric(record)[place]:.3g}",
                f"{evaluated(record, f'{metric}_test')[place]:.3g}",
            ]
        )
    return rows


def beyond(records, updates: int) -> list[str]:
    """A sentence for each run that came further than ``updates``."""
    said = []
    for record in records:
        steps = record.arrays["evaluation_steps"]
        if steps[-1] > updates:
            said.append(
                f"{short(record)} went on to {steps[-1]:,} updates: {distance_name(record)} "
                f"{evaluated(record, 'fid')[-1]:.3g}"
            )
    return said


# %%
def by_distance(records, updates: int) -> list[str]:
    """What the distances at equal updates show, in sentences, and no more."""
    distances = {}
    for record in records:
        place = int(np.flatnonzero(record.arrays["evaluation_steps"][looks(record)] == updates)[0])
        distances[record.id] = float(evaluated(record, "fid")[place])
    order = sorted(records, key=lambda record: distances[record.id])
    ranked = ", ".join(f"{short(record)} {distances[record.id]:.3g}" for record in order)
    planned = records[0]["budget"]["planned"]
    said = [
        f"After {updates:,} of {planned:,} updates each, from the nearest to the data: {ranked}."
    ]
    for regulariser in ("sn", "r1"):
        pair = [record for record in order if record["config"]["regulariser"] == regulariser]
        if len(pair) == 2:
            near, far = (record["config"]["metric"].upper() for record in pair)
            ratio = distances[pair[1].id] / distances[pair[0].id]
            said.append(
                f"With {describe_run(pair[0]).split(', ', 1)[1]}, {near} is nearer than {far}, "
                f"{ratio:.2f} times."
            )
    if all(record.spread[name]["n"] == 1 for record in records for name in record.spread):
        said.append(
            "There is one seed each, so it is not known which of these differences another seed "
            "repeats."
        )
    return said


if gans:
    tables.show(
        [
            "run",
            "loss",
            "updates",
            distance_name(shown[0]),
            "Inception Score",
            "metric, training batches",
            "metric, test split",
        ],
        at_equal_updates(equal_runs, equal),
    )
    left_out = [short(record) for record in shown if record not in equal_runs]
    if left_out:
        print(f"not among them, since they stopped before: {', '.join(left_out)}")
    print("\n".join([*by_distance(equal_runs, equal), *beyond(equal_runs, equal)]))

# %%
if gans:
    tables.show_results(*gans.values())
    overview.show_training(*gans.values())
    facts = shown[0]["facts"]
    print(
        f"features by {facts['extractor']} (weights {facts['extractor_sha256'][:12]}); "
        f"{facts['generated']:,} "
        f"images of the {facts['generator']}; against {facts['reference']['fid']:,} training "
        "images (fid) and "
        f"{facts['reference']['fid_against_test']:,} test images (fid_against_test)"
    )
    for record in shown:
        facts = record["facts"]
        graph = "replayed as a CUDA graph" if facts.get("cuda_graph") else "made one by one"
        print(f"{short(record)}: networks in {facts['precision']}, penalties in "
              f"{facts.get('penalties', 'float32')}, updates {graph}")
else:
    print("none of the five runs is recorded yet: no samples, curves or comparison to show")

# %% [markdown]
# ### C.5 Which metric tells progress?
#
# **Question (Mila 2.7), discussed.** Which metric is more indicative of training's progress?
#
# **Idea.** Rank the evaluations of a run by metric and by Fréchet distance, and see whether the two
# orders agree.
#
# An indicator of progress falls *with* the Fréchet distance: over a run's evaluations its rank
# correlation with the distance is positive. One that rises while the samples get better has a
# negative one and misleads. Two versions of the metric are tested. The *live* one is what training
# reports, on its own batches. The other is measured on held-out images and the averaged generator,
# which the critic has never seen.


# %%
def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of two sequences without ties; not a number for fewer than two
    pairs."""
    if len(first) < 2:
        return math.nan
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


# %%
def progress(record) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Distance, and the live and the held-out metric, at all evaluations of a run."""
    metric = record["config"]["metric"]
    metrics = {"live": live_metric(record), "held out": evaluated(record, f"{metric}_test")}
    return evaluated(record, "fid"), metrics


def lowest_jsd(records) -> list[str]:
    """Where a held-out JSD fell below zero, lowest: a sentence for each run."""
    said = []
    for record in records:
        if record["config"]["metric"] == "jsd":
            held_out = evaluated(record, "jsd_test")
            place = int(held_out.argmin())
            if held_out[place] < 0:
                updates = record.arrays["evaluation_steps"][looks(record)][place]
                said.append(
                    f"Held-out JSD of {short(record)} is {held_out[place]:.2f} after {updates:,} "
                    "updates: the critic does worse on the averaged generator than a constant."
                )
    return said


def tells_progress(records) -> list[str]:
    """For each metric: in how many runs its live value falls with the distance, in a sentence."""
    said = []
    for metric in METRICS:
        found = {}
        for record in records:
            if record["config"]["metric"] == metric:
                distance, metrics = progress(record)
                found[short(record)] = rank_correlation(metrics["live"], distance)
        values = ", ".join(f"{name} {value:+.2f}" for name, value in found.items())
        good = sum(value > 0.5 for value in found.values())
        said.append(f"Live {metric.upper()} falls with the distance in {good} of {len(found)} runs "
                    f"(rank correlation above one half; {values}).")
    return said


if gans:
    rows = []
    for record in shown:
        distance, metrics = progress(record)
        curves = (distance, *metrics.values())
        rows.append(
            [
                short(record),
                str(len(distance)),
                *(f"{values[place]:.3g}" for values in curves for place in (0, -1)),
                *(f"{rank_correlation(values, distance):+.2f}" for values in metrics.values()),
            ]
        )
    tables.show(["run", "evaluations", "distance, first", "last", "live metric, first", "last",
                 "held-out metric, first", "last", "rank correlation, live", "held out"], rows)
    print("\n".join([*tells_progress(shown), *lowest_jsd(shown)]))

# %% [markdown] tags=["answer:mila_p2_metric"]
# **Answer (mila_p2_metric): which of JSD and $W_1$ is more indicative of training's progress, and
# why?**
#
# By theory it is $W_1$, for a critic whose slope is bounded and along one run; the beginnings that
# are recorded here do not show it, since with R1 both metrics fall with the distance.
#
# *What was measured* is one seed each, over the first 7 to 15 per cent of the sheet's updates. An
# indicator of progress falls with the Fréchet distance. With R1 both live metrics do, JSD as well
# as $W_1$: up to 6,000 updates all of them fall to about a third. At the last evaluation, a
# thousand updates on, the distance is lower still and the metrics are where they were. Without a
# regulariser the live JSD is in the upper third of its range at every evaluation, while the
# distance falls to a quarter and then stands still: it misleads. With spectral normalisation the
# live JSD falls at first and then doubles, and $W_1$ doubles, while the distance goes on to a
# third: both mislead. So what separates a metric that can be read from one that cannot is, in
# these runs, the penalty on the slope at the data, and not the choice between JSD and $W_1$. At
# equal updates the two runs with R1 are also the nearest to the data, and in both pairs JSD is
# nearer than $W_1$. What prefers $W_1$ is the theory, which is about later: a critic that has had
# the time to win.
#
# *Why JSD fails.* Images and samples lie near sets of low dimension in $\mathbb R^{3072}$, which
# hardly meet. If two distributions have disjoint supports, then $\mathrm{JSD}=\log2$ whether they
# are a hair or a mile apart: the divergence does not know how far. What the critic reports is then
# not a property of the generator but of its own training. $\widehat{\mathrm{JSD}}$ *rises* towards
# $\log2$ as the critic learns to tell the two apart, while the generator, which sees gradients of
# the same critic, may be getting better all the time. Near $\log2$ the saturating loss has no
# gradient left, $\sigma(c)\to0$ on fakes. This is the first theorem of Arjovsky and Bottou,
# arXiv:1701.04862, and it is what the sheet's solution observed: "the JSD loss increases with
# training steps". Spectral normalisation and R1 delay it, because a critic whose slope is bounded
# cannot be perfect on sets that are close. The estimate stays below $\log2$ and useful longer.
#
# *Why $W_1$ does better.* It is a distance that goes to zero continuously as the sets approach each
# other. With a slope bounded by $L$ the critic's estimate is at most $L\,W_1$: a large estimate is
# a proof of distance, in units of $L$.
#
# *What it does not say.* The scale is the critic's. R1 penalises slopes softly and on real images
# only, so $L$ moves during training. Two runs with different regularisers have different units. A
# critic that lags behind reports a small distance for bad samples. So $\widehat W_1$ can indicate
# progress along a run, and the Fréchet distance compares runs. The Dirac games say the same in
# small: without a penalty the metric circles for ever with the parameters, with R1 it decays with
# them, and with GP it never comes to rest.

# %% [markdown]
# **Drawn anew.** The saved weights of the averaged generators, with other latents.


# %%
def draw_anew(record, number: int, seed: int) -> np.ndarray | None:
    """New samples of a recorded run, (number, 32, 32, 3) uint8; None if its weights are not
    here."""
    saved = suite.weights(record.id)
    if saved is None:
        return None
    generator = Generator(record["config"]["width"]).eval()
    generator.load_state_dict(saved["generator"])
    return generate(generator, number, seed).permute(0, 2, 3, 1).numpy()


drawn = {run_id: draw_anew(record, 10, seed=7) for run_id, record in gans.items()}
drawn = {run_id: images for run_id, images in drawn.items() if images is not None}
if drawn:
    rows = ", ".join(run_id.removeprefix("cifar10_") for run_id in drawn)
    figure = plotting.image_grid(
        np.concatenate(list(drawn.values())),
        10,
        f"drawn anew, by row: {rows}",
        *(gans[run_id] for run_id in drawn),
    )
    suite.figure(figure, "cifar10_drawn_anew.png")
else:
    print(
        "the weights of these runs are not here: python -m helpers weights --unpack takes them over"
    )

# %%
overview.show_questions(QUESTIONS, again=True)  # a notebook run without records has its numbers now

# %%
# The end: which code was run; on Colab also one zip to hand in.
colab.pack()
