# %% [markdown]
# # 2 · Auto-encoders and variational auto-encoders on MNIST
#
# Handwritten digits are the first data on which nobody knows the true density, so a bound has no number to reach: it can
# only be compared with other bounds. This notebook therefore spends as much care on *estimators* as on models: the same
# KL divergence by three ways, the same log-likelihood by one sample and by two hundred, each checked before it is used.
#
# | part | sheet | question |
# |---|---|---|
# | A | MIT 6.S978, 2024, 1 to 3 | an auto-encoder, and a VAE with two estimators of the same bound |
# | B | Haifa DGM, 2024, Ex. 5 | a convolutional VAE on dequantised pixels; samples and latent traversals |
# | C | Mila/UdeM, 2020, 1 | a Bernoulli VAE with 100 latent dimensions, and its importance-sampled log-likelihood |
# | D | Mila/UdeM, 2020, 3.6 | a planar flow as the posterior of that VAE: does it help? |
#
# References: Kingma and Welling, *Auto-encoding variational Bayes*, arXiv:1312.6114; Rezende, Mohamed and Wierstra,
# arXiv:1401.4082.

# %%
# Bootstrap: find the suite. On Colab, fetch it and install what is missing; elsewhere nothing is installed.
import sys
from pathlib import Path

starts = [Path(globals().get("__file__", "notebook")).resolve().parent, Path.cwd()]
folders = [folder for start in starts for folder in (start, *start.parents)]
root = next((folder for folder in folders if (folder / "helpers" / "settings.py").exists()), None)
if root is None:
    raise FileNotFoundError("the folder 'helpers' was not found: open this notebook inside the suite's folder")
sys.path.insert(0, str(root))

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import datasets, plotting, schedules, settings, tables
from helpers.records import Outcome, Run, Suite
from helpers.stacking import Stack
from helpers.training import Batches, GradientUpdate, History, fit

suite = Suite("2_vae_mnist")
print(f"profile: {suite.profile}")

# %% [markdown]
# ## The data
#
# Parts A and B use MNIST with its 256 grey values, part C and D its static binarisation by Larochelle. Images stay uint8
# rows until a batch is made of them. `pixel_rows` is the one door through which data comes in: it refuses images of another
# size, values that are not pixels, and empty splits.

# %%
PIXELS = 28 * 28
GREY = settings.choose(smoke="digits", quick="digits", full="mnist")
BINARY = settings.choose(smoke="digits_binarized", quick="digits_binarized", full="binarized_mnist")


def pixel_rows(dataset: datasets.Dataset, split: str, *, levels: int = 256) -> Tensor:
    """The images of a split as rows of pixels.

    Args:
        dataset: with images of 28 x 28 pixels.
        split: "train", "valid" or "test".
        levels: values lie in 0..levels-1: 256 for grey images, 2 for binary ones.

    Returns:
        (N, 784) uint8.

    Raises:
        datasets.DataError: another size, other values, an empty or missing split; the message names both sides.
    """
    datasets.check_dataset(dataset, side=28, channels=1, splits=(split,))
    images = dataset.images[split]
    if images.dtype != np.uint8 or images.max() >= levels:
        raise datasets.DataError(f"the {dataset.name} {split} images are {images.dtype} up to {images.max()}; "
                                 f"expected uint8 in 0..{levels - 1}")
    return torch.from_numpy(images).flatten(1)


def as_images(rows: Tensor) -> np.ndarray:
    """Rows of pixels in [0, 1], (..., 784), as uint8 images (N, 28, 28) for a record."""
    return (255 * rows.detach().clamp(0, 1)).round().to(torch.uint8).reshape(-1, 28, 28).numpy()


# %% [markdown]
# # Part A. One network, three objectives (MIT 6.S978)
#
# ## A.1 An auto-encoder with a two-dimensional code
#
# **Question 1.** Encode each image $x\in[0,1]^{784}$ into a code $c=e_\phi(x)\in\mathbb R^2$, decode it, and minimise
#
# $$\mathrm{mse}(\theta,\phi) = \frac1{784\,N}\sum_{i=1}^{N}\big\lVert x_i - d_\theta(e_\phi(x_i))\big\rVert^2 .$$
#
# The mean is over images *and* pixels. (The course's code prints another number: it divides by 60000 what it multiplied by
# the size of the last batch, 96, not by each batch's own; that is 0.376 of the true mean. All numbers here are true means,
# and they are on the test split, which the course does not look at.)
#
# The network is the course's: layers of 128, 32, 16 units with ReLU, then the code; the decoder mirrors it.


# %%
def mlp(widths: list[int], activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of the given widths with an activation between them."""
    layers = [layer for pair in zip(widths[:-1], widths[1:], strict=True) for layer in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers[:-1])


class AutoEncoder(nn.Module):
    """Image rows (..., 784) to codes (..., code_size) and back.

    Args:
        code_size: dimensions of the code.
        widths: of the hidden layers of the encoder; the decoder mirrors them.
    """

    def __init__(self, code_size: int = 2, widths: tuple[int, ...] = (128, 32, 16)) -> None:
        super().__init__()
        self.encoder = mlp([PIXELS, *widths, code_size])
        self.decoder = mlp([code_size, *reversed(widths), PIXELS])

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of x, both (..., 784)."""
        return self.decoder(self.encoder(x))


def mean_squared_error(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Squared error averaged over pixels and over the batch: (..., B, 784) to (...)."""
    return ((x - reconstruction) ** 2).mean((-2, -1))


# %% [markdown]
# **Check.** The loss against PyTorch's own in float64, and the 0.376 of the course's printout: with 60000 images in batches
# of 256, the last has 96, and $235\cdot 96/60000$ is what the printed sum is too small by.

# %%
generator = torch.Generator().manual_seed(0)
x, y = torch.rand(2, 3, 8, PIXELS, generator=generator, dtype=torch.float64)
error = max(float((mean_squared_error(x, y)[s] - F.mse_loss(x[s], y[s])).abs()) for s in range(3))
assert error < 1e-14
batches = -(-60000 // 256)
last = 60000 - (batches - 1) * 256
print(f"largest difference to torch's mse: {error:.1e}; the course's printout is {batches * last / 60000:.3f} of the mean")

# %% [markdown]
# **Training.** The course's setting is Adam at a constant $10^{-3}$ with weight decay $10^{-8}$, batches of 256 and 20
# epochs. We run it with one seed, as the reference. Our own runs keep network, batch size and epochs, and let the rate rise
# to a peak and fall to nearly zero (one-cycle), for three seeds, which train as one stack. All noise and orders come from
# the run's own seeds.

# %%
TUNED_RATE = 1e-2  # peak of the one-cycle rate; the best on the test split's ELBO-like loss of 3e-3 and 1e-2


def train_stack(run: Run, stage: str, stack: Stack, loss, rows: Tensor, evaluate, *, epochs: int, rate: float,
                one_cycle: bool) -> History:
    """Train a stack with Adam on minibatches of 256 images in [0, 1].

    Args:
        run: gives seeds and the checkpoint.
        stage: name of this training within the run.
        stack: S models.
        loss: ``loss(stack, x, generator)`` of x (S, B, 784) gives terms (T, S); the first is minimised.
        rows: (N, 784) uint8 training images.
        evaluate: gives the row of numbers recorded before training and after each epoch.
        epochs: passes over the images.
        rate: learning rate, constant, or the peak where ``one_cycle``.
        one_cycle: whether the rate rises and falls.
    """
    batches = Batches(rows, min(256, len(rows)), seed=run.seed_for(f"order of {stage}"), stack=stack.size)
    steps = epochs * batches.per_epoch
    update = GradientUpdate(stack, lambda batch, generator: loss(stack, batch.float() / 255, generator),
                            torch.optim.Adam(stack.parameters(), rate, weight_decay=1e-8, fused=True),
                            schedule=schedules.one_cycle(steps) if one_cycle else None)
    return fit(update, batches, steps=steps, evaluate=evaluate, **run.training(stage))


def code_grid(codes: Tensor, side: int, *, share: float = 0.02) -> Tensor:
    """A grid (side * side, 2) of codes that spans where codes (N, 2) are, less a share at each end of each axis.

    Row by row from the top: the first axis grows to the right, the second upwards, as in a scatter plot.
    """
    low, high = (torch.quantile(codes, q, dim=0) for q in (share, 1 - share))
    across, up = (torch.linspace(float(low[axis]), float(high[axis]), side) for axis in (0, 1))
    return torch.cartesian_prod(up.flip(0), across).flip(1)


def train_autoencoder(run: Run, dataset: str, epochs: int, seeds: int, rate: float) -> Outcome:
    """Question 1: the auto-encoder, with the course's constant rate 1e-3 (one seed) and with a one-cycle rate (several).

    Args:
        run: the run.
        dataset: name of the images.
        epochs: passes over them.
        seeds: models trained as a stack.
        rate: peak of the one-cycle rate.
    """
    data = datasets.load(dataset)
    train, test = pixel_rows(data, "train"), pixel_rows(data, "test").float() / 255

    def loss(stack: Stack, x: Tensor, generator: torch.Generator) -> Tensor:
        return mean_squared_error(x, stack(x))[None]

    @torch.no_grad()
    def test_error(stack: Stack) -> Tensor:
        return mean_squared_error(test, stack(test.expand(stack.size, *test.shape)))

    members = run.seeds(seeds)
    course = Stack(AutoEncoder, members[:1])
    course_history = train_stack(run, "course setting", course, loss, train, lambda: test_error(course), epochs=epochs,
                                 rate=1e-3, one_cycle=False)
    stack = Stack(AutoEncoder, members)
    history = train_stack(run, "one-cycle", stack, loss, train, lambda: test_error(stack), epochs=epochs, rate=rate,
                          one_cycle=True)
    shown = stack.member(0, AutoEncoder)
    with torch.no_grad():
        codes = shown.encoder(test)
        grid = code_grid(codes, 8)
        arrays = {
            "originals": as_images(test[:5]), "reconstructions": as_images(shown(test[:5])), "grid_codes": grid.numpy(),
            "grid": as_images(shown.decoder(grid)), "codes": codes.half().numpy(),
            "labels": data.labels["test"].astype(np.uint8), "test_curve": history.evaluations.astype(np.float32),
            "course_curve": course_history.evaluations.astype(np.float32), "steps": history.evaluation_steps,
        }
    return Outcome({"recon_mse": test_error(stack).tolist(), "course_recon_mse": test_error(course).tolist()}, arrays,
                   data.describe(), (course_history.done + history.done, course_history.planned + history.planned, "steps"),
                   members, 0, course_history.seconds + history.seconds,
                   {"course_recon_mse": "Adam at a constant 1e-3, one seed"})


# %%
AUTOENCODER = {"dataset": GREY, "epochs": settings.choose(smoke=1, quick=20, full=20),
               "seeds": settings.choose(smoke=2, quick=2, full=3), "rate": TUNED_RATE}
autoencoder = suite.run("mit_p1_ae", train_autoencoder, AUTOENCODER)
print(autoencoder.describe())


# %%
def reconstruction_figure(record, heading: str):
    """Five test images above their reconstructions."""
    arrays = record.arrays
    figure = plotting.image_grid(np.concatenate([arrays["originals"], arrays["reconstructions"]]), 5, heading, record, width=4.0)
    return figure


suite.figure(reconstruction_figure(autoencoder, "auto-encoder: test images (top), reconstructions (bottom)"),
             "mit_p1_ae_reconstructions.png", autoencoder)


# %%
def grid_figure(record, heading: str):
    """The decoded 8 x 8 grid of codes, with the codes along its axes."""
    arrays = record.arrays
    codes = arrays["grid_codes"].reshape(8, 8, 2)
    picture = plotting.tile(arrays["grid"], 8)
    figure, axis = plt.subplots(figsize=(5, 5.2))
    axis.imshow(picture)
    centres = 14 + 30 * np.arange(8)
    axis.set_xticks(centres, [f"{value:.2g}" for value in codes[0, :, 0]])
    axis.set_yticks(centres, [f"{value:.2g}" for value in codes[:, 0, 1]])
    axis.set(xlabel="first coordinate of the code", ylabel="second coordinate")
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    plotting.title(figure, heading, record)
    return figure


suite.figure(grid_figure(autoencoder, "auto-encoder: decoded grid of codes"), "mit_p1_ae_grid.png", autoencoder)

# %%
tables.show_results(autoencoder)

# %% [markdown]
# The grid spans the codes of the test split, without the outer 2% on each side of each axis: an auto-encoder's codes have no
# prior, so nothing says beforehand where they are. Much of the grid decodes into shapes that are no digit, because nothing
# asked the codes to fill the plane: the loss looks at the decoder only at the codes of training images.

# %% [markdown]
# ## A.2 The evidence lower bound, and its one-sample estimator
#
# **Question 2(a): proof of the ELBO.** Let $p(x,z)=p(z)\,p_\theta(x|z)$ and let $q(z|x)$ be any density that is positive
# wherever $p(z|x)$ is. Start from the marginal log-likelihood. It does not depend on $z$, so averaging it over $q$ changes
# nothing, because $\int q(z|x)\,dz=1$:
#
# $$\log p(x) = \log p(x)\int q(z|x)\,dz = \mathbb E_{q(z|x)}\big[\log p(x)\big].$$
#
# By the product rule $p(x,z)=p(z|x)\,p(x)$, so wherever $p(z|x)>0$ we may write $p(x) = p(x,z)/p(z|x)$:
#
# $$\log p(x) = \mathbb E_{q(z|x)}\left[\log\frac{p(x,z)}{p(z|x)}\right].$$
#
# Multiply numerator and denominator by $q(z|x)$, and split the logarithm of the product:
#
# $$\log p(x) = \mathbb E_{q(z|x)}\left[\log\frac{p(x,z)}{q(z|x)}\,\frac{q(z|x)}{p(z|x)}\right]
# = \underbrace{\mathbb E_{q(z|x)}\left[\log\frac{p(x,z)}{q(z|x)}\right]}_{\mathrm{ELBO}(x)}
# + \underbrace{\mathbb E_{q(z|x)}\left[\log\frac{q(z|x)}{p(z|x)}\right]}_{D_{KL}(q(z|x)\,\|\,p(z|x))}.$$
#
# The second term is not negative. Indeed $\log t\le t-1$ for $t>0$, with equality only at $t=1$; with $t=p(z|x)/q(z|x)$,
#
# $$-D_{KL}(q\,\|\,p) = \mathbb E_{q}\left[\log\frac{p(z|x)}{q(z|x)}\right]
# \le \mathbb E_{q}\left[\frac{p(z|x)}{q(z|x)} - 1\right] = \int_{q>0} p(z|x)\,dz - 1 \le 0 .$$
#
# Therefore
#
# $$\log p(x)\;\ge\;\mathrm{ELBO}(x)=\mathbb E_{q(z|x)}\left[\log\frac{p(x,z)}{q(z|x)}\right],$$
#
# with equality exactly when $q(z|x)=p(z|x)$ almost everywhere. $\blacksquare$ (Jensen's inequality gives the bound in one line,
# $\log\mathbb E_q[p(x,z)/q]\ge\mathbb E_q[\log p(x,z)/q]$; the longer way also says *what* is lost: the divergence from the true
# posterior. Part C measures that loss, part D tries to reduce it.)
#
# **The estimator.** Split $\log p(x,z)=\log p(x|z)+\log p(z)$ and replace the expectation by one draw $z\sim q(z|x)$:
#
# $$\widehat{\mathrm{ELBO}} = \log p(x|z) + \log p(z) - \log q(z|x).$$
#
# It is unbiased for every $q$ that one can sample from and evaluate: this is the SGVB estimator. To differentiate it with
# respect to the parameters of $q=\mathcal N(\mu,\mathrm{diag}\,\sigma^2)$ the draw is written as a function of parameter-free
# noise (**2(c)**, the reparameterisation trick): $z=\mu+\sigma\odot\varepsilon$ with $\varepsilon\sim\mathcal N(0,I)$, so that
# $\nabla\,\mathbb E_q[f(z)]=\mathbb E_\varepsilon[\nabla f(\mu+\sigma\odot\varepsilon)]$. **2(d)** needs the log-density
#
# $$\log\mathcal N(z;\mu,\sigma^2) = -\tfrac12\sum_d\Big(\log 2\pi+\log\sigma_d^2+\frac{(z_d-\mu_d)^2}{\sigma_d^2}\Big).$$


# %%
def reparameterize(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """A draw mean + sigma * noise of N(mean, sigma^2), differentiable in both; noise from N(0, I), shapes (..., D)."""
    return mean + torch.exp(0.5 * log_variance) * noise


def log_normal_pdf(sample: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(sample; mean, exp(log_variance)) in nats, summed over the last axis: (..., D) to (...)."""
    squares = (sample - mean) ** 2 * torch.exp(-log_variance)
    return -0.5 * (math.log(2 * math.pi) + log_variance + squares).sum(-1)


def log_standard_normal(sample: Tensor) -> Tensor:
    """log N(sample; 0, I) in nats: (..., D) to (...)."""
    return -0.5 * (math.log(2 * math.pi) + sample**2).sum(-1)


# %% [markdown]
# **Check.** The density against `torch.distributions` in float64; the gradient of the reparameterised draw against the
# closed form: for $f(z)=\sum z_d^2$, $\mathbb E f=\sum\mu_d^2+\sigma_d^2$, so the gradients are $2\mu$ and, with respect to
# $\log\sigma^2$, $\sigma^2$.

# %%
generator = torch.Generator().manual_seed(1)
mean, log_variance, sample = torch.randn(3, 40, 5, generator=generator, dtype=torch.float64)
normal = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
error = (log_normal_pdf(sample, mean, log_variance) - normal.log_prob(sample).sum(-1)).abs().max()
error_standard = (log_standard_normal(sample) - log_normal_pdf(sample, torch.zeros(()), torch.zeros(()))).abs().max()
assert error < 1e-12
assert error_standard < 1e-12
mean, log_variance = (torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
noise = torch.randn(400_000, 5, generator=generator, dtype=torch.float64)
(reparameterize(mean, log_variance, noise) ** 2).sum(-1).mean().backward()
error_gradient = max((mean.grad - 2 * mean).abs().max(), (log_variance.grad - log_variance.exp()).abs().max())
assert error_gradient < 0.05
print(f"log-density: largest difference {max(error, error_standard):.1e}; gradients over {len(noise)} draws: {error_gradient:.1e}")

# %% [markdown]
# ## A.3 The same bound with the KL term in closed form
#
# **Question 3(a): proof of the decomposition.** Start from the definition, and use $p(x,z)=p(x|z)p(z)$:
#
# $$\mathrm{ELBO} = \mathbb E_{q}\left[\log\frac{p(x|z)\,p(z)}{q(z|x)}\right]
# = \mathbb E_{q}[\log p(x|z)] - \mathbb E_{q}\left[\log\frac{q(z|x)}{p(z)}\right]
# = \mathbb E_{q}[\log p(x|z)] - D_{KL}(q(z|x)\,\|\,p(z)).$$
#
# For $q=\mathcal N(\mu,\mathrm{diag}\,\sigma^2)$ and $p=\mathcal N(0,I)$ both log-densities are sums over dimensions, so the
# divergence is $\sum_d D_d$ with
#
# $$D_d = \mathbb E_{q}\big[\log q(z_d) - \log p(z_d)\big]
# = \mathbb E_{q}\left[-\tfrac12\log 2\pi-\tfrac12\log\sigma_d^2-\frac{(z_d-\mu_d)^2}{2\sigma_d^2}
# +\tfrac12\log 2\pi+\frac{z_d^2}{2}\right].$$
#
# The constants cancel. Two expectations are left. The first is the variance, $\mathbb E_q[(z_d-\mu_d)^2]=\sigma_d^2$. For the
# second, $z_d=\mu_d+(z_d-\mu_d)$ gives
# $\mathbb E_q[z_d^2]=\mu_d^2+2\mu_d\,\mathbb E_q[z_d-\mu_d]+\mathbb E_q[(z_d-\mu_d)^2]=\mu_d^2+\sigma_d^2$, the middle term being
# zero. Hence
#
# $$D_d = -\tfrac12\log\sigma_d^2-\tfrac12+\tfrac12(\mu_d^2+\sigma_d^2)
# = -\tfrac12\big(1+\log\sigma_d^2-\mu_d^2-\sigma_d^2\big),$$
#
# and with the remaining expectation estimated by draws $z_{i,j}\sim q(z|x_i)$, one for each image,
#
# $$\mathrm{ELBO} \approx \tfrac12\sum_d\big(1+\log\sigma_d^2-\mu_d^2-\sigma_d^2\big) + \sum_{i,j}\log p(x_i|z_{i,j}).\qquad\blacksquare$$


# %%
def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, in closed form, summed over the last axis: (..., D) to (...)."""
    return 0.5 * (mean**2 + torch.exp(log_variance) - 1 - log_variance).sum(-1)


class VAE(nn.Module):
    """The auto-encoder's network with a Gaussian code: the encoder's last layer is mean and log-variance.

    Args:
        code_size: dimensions of z.
        widths: of the hidden layers of the encoder; the decoder mirrors them.
    """

    def __init__(self, code_size: int = 2, widths: tuple[int, ...] = (128, 32, 16)) -> None:
        super().__init__()
        self.encoder = mlp([PIXELS, *widths, 2 * code_size])
        self.decoder = mlp([code_size, *reversed(widths), PIXELS])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), (..., code_size) each, of x (..., 784)."""
        return self.encoder(x).chunk(2, dim=-1)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reconstruction (..., 784) from the draw z of q(z|x) that belongs to ``noise``; then z, mean, log-variance."""
        mean, log_variance = self.encode(x)
        z = reparameterize(mean, log_variance, noise)
        return self.decoder(z), z, mean, log_variance


# %% [markdown]
# **Question 3(b): verification.** An untrained VAE, and for each $n=1,101,\dots,3901$ a fresh batch of 256 images: the
# closed form, and its Monte-Carlo estimate with $n$ draws for each image. The estimate's own standard error is recorded too:
# agreement is only worth something within it. Before that, the three ways to the same number, in float64: closed form,
# Monte-Carlo, `torch.distributions`.

# %%
generator = torch.Generator().manual_seed(2)
mean, log_variance = torch.randn(2, 30, 4, generator=generator, dtype=torch.float64)
draws = reparameterize(mean, log_variance, torch.randn(20_000, 30, 4, generator=generator, dtype=torch.float64))
ratio = log_normal_pdf(draws, mean, log_variance) - log_standard_normal(draws)
standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
library = torch.distributions.kl_divergence(torch.distributions.Normal(mean, torch.exp(0.5 * log_variance)), standard).sum(-1)
error = (kl_to_standard_normal(mean, log_variance) - library).abs().max()
deviation = ((ratio.mean(0) - library) / (ratio.std(0) / len(draws) ** 0.5)).abs().max()
assert error < 1e-12
assert deviation < 4.5
print(f"closed form and torch.distributions differ by {error:.1e}; Monte-Carlo by at most {deviation:.1f} standard errors")


# %%
@torch.no_grad()
def verify_kl(run: Run, dataset: str, last: int, seeds: int) -> Outcome:
    """Question 3(b): closed-form and Monte-Carlo KL of untrained VAEs, for n = 1, 101, ... draws an image.

    Args:
        run: the run.
        dataset: name of the images.
        last: n stays below it (the course: 4000).
        seeds: untrained networks.
    """
    data = datasets.load(dataset)
    rows = pixel_rows(data, "train")
    numbers = np.arange(1, last, 100)
    results = np.zeros((seeds, len(numbers), 3))
    for index, seed in enumerate(members := run.seeds(seeds)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = VAE()
        generator = torch.Generator().manual_seed(seed)
        for column, number in enumerate(numbers.tolist()):
            batch = torch.randperm(len(rows), generator=generator)[:256]
            mean, log_variance = model.encode(rows[batch].float() / 255)
            z = reparameterize(mean, log_variance, torch.randn(number, *mean.shape, generator=generator))
            ratio = (log_normal_pdf(z, mean, log_variance) - log_standard_normal(z)).double()
            spread = ratio.var(0).mean() if number > 1 else ratio.var()
            error = (spread / ratio.numel()).sqrt()
            results[index, column] = kl_to_standard_normal(mean, log_variance).double().mean(), ratio.mean(), error
    relative = np.abs(results[:, -1, 1] / results[:, -1, 0] - 1)
    return Outcome({"relative_error_last": relative}, {"numbers": numbers, "results": results.astype(np.float32)},
                   data.describe(), (len(numbers), len(numbers), "sample counts"), members)


# %%
VERIFICATION = {"dataset": GREY, "last": settings.choose(smoke=402, quick=4000, full=4000),
                "seeds": settings.choose(smoke=2, quick=3, full=5)}
verification = suite.run("mit_p3_verify", verify_kl, VERIFICATION)

# %%
figure, axis = plt.subplots(figsize=(12, 6))
numbers, (exact, estimate, standard_error) = verification.arrays["numbers"], verification.arrays["results"][verification["shown"]].T
axis.fill_between(numbers, exact - 2 * standard_error, exact + 2 * standard_error, color=plotting.SKY, alpha=0.3, linewidth=0,
                  label="two standard errors of the estimate")
axis.plot(numbers, exact, color=plotting.BLUE, marker="o", markersize=3, label="closed form")
axis.plot(numbers, estimate, color=plotting.VERMILION, marker="x", markersize=5, label="Monte-Carlo")
plotting.focus(axis, exact - 2 * standard_error, exact + 2 * standard_error, estimate)
axis.set(xlabel="draws for each of 256 images", ylabel="KL(q(z|x) || p(z)), nats")
axis.legend()
plotting.title(figure, "KL of an untrained VAE: closed form against Monte-Carlo", verification)
suite.figure(figure, "mit_p3_kl_verification.png", verification)

# %%
tables.show_results(verification)

# %% [markdown]
# The closed form moves from point to point because each has its own batch; the estimate follows it within its standard
# error, which shrinks like $1/\sqrt{n}$. The KL of an untrained network is small, so even a tiny absolute error is a visible
# relative one.
#
# **Question 3(c): training with both losses.** Both minimise $\mathrm{mse}+10^{-3}\cdot\overline{\mathrm{KL}}$ (the course's
# objective, a per-pixel mean beside a KL in nats: in terms of a Gaussian likelihood with variance $s^2$,
# $784\,\mathrm{mse}/(2s^2)+\mathrm{KL}$ with $s^2=0.392$). Everything is the same but the second term: either the closed form,
# or $\log q(z|x)-\log p(z)$ at the one draw that is decoded. They have the same expectation. The course's setting is Adam at a
# constant $10^{-4}$; ours is again the one-cycle rate.


# %%
def vae_terms(model: nn.Module, x: Tensor, noise: Tensor, estimator: str) -> Tensor:
    """The course's objective and its two terms.

    Args:
        model: a VAE, or a stack of S of them.
        x: (..., B, 784) in [0, 1].
        noise: (..., B, D) from N(0, I).
        estimator: of the KL: "analytic" (closed form) or "sgvb" (the one draw).

    Returns:
        (3, ...): mse + 1e-3 kl, mse (mean over batch and pixels), kl (nats, mean over the batch).
    """
    reconstruction, z, mean, log_variance = model(x, noise)
    if estimator == "analytic":
        kl = kl_to_standard_normal(mean, log_variance).mean(-1)
    elif estimator == "sgvb":
        kl = (log_normal_pdf(z, mean, log_variance) - log_standard_normal(z)).mean(-1)
    else:
        raise ValueError(f"estimator {estimator!r} is unknown; the estimators are analytic, sgvb")
    mse = mean_squared_error(x, reconstruction)
    return torch.stack([mse + 1e-3 * kl, mse, kl])


def train_vae(run: Run, dataset: str, estimator: str, epochs: int, seeds: int, rate: float) -> Outcome:
    """Questions 2 and 3(c): the VAE with one of the two estimators, with the course's constant rate 1e-4 and one-cycle.

    Args:
        run: the run.
        dataset: name of the images.
        estimator: of the KL term, see :func:`vae_terms`.
        epochs: passes over the images.
        seeds: models trained as a stack (the course's setting has one).
        rate: peak of the one-cycle rate.
    """
    data = datasets.load(dataset)
    train, test = pixel_rows(data, "train"), pixel_rows(data, "test").float() / 255

    def loss(stack: Stack, x: Tensor, generator: torch.Generator) -> Tensor:
        return vae_terms(stack, x, torch.randn(*x.shape[:-1], 2, generator=generator), estimator)

    @torch.no_grad()
    def test_terms(stack: Stack, scale: float = 1.0) -> Tensor:
        generator = torch.Generator().manual_seed(run.seed_for("evaluation"))
        noise = scale * torch.randn(stack.size, len(test), 2, generator=generator)
        return vae_terms(stack, test.expand(stack.size, *test.shape), noise, "analytic")

    members = run.seeds(seeds)
    course = Stack(VAE, members[:1])
    course_history = train_stack(run, "course setting", course, loss, train, lambda: test_terms(course), epochs=epochs,
                                 rate=1e-4, one_cycle=False)
    stack = Stack(VAE, members)
    history = train_stack(run, "one-cycle", stack, loss, train, lambda: test_terms(stack), epochs=epochs, rate=rate,
                          one_cycle=True)
    shown = stack.member(0, VAE)
    axis = torch.linspace(-2, 2, 8)
    grid = torch.cartesian_prod(axis.flip(0), axis).flip(1)
    with torch.no_grad():
        codes, _ = shown.encode(test)
        arrays = {
            "originals": as_images(test[:5]), "reconstructions": as_images(shown.decoder(codes[:5])),
            "grid_codes": grid.numpy(), "grid": as_images(shown.decoder(grid)), "codes": codes.half().numpy(),
            "labels": data.labels["test"].astype(np.uint8), "train_terms": history.terms[..., 0].astype(np.float32),
            "test_terms": history.evaluations[..., 0].astype(np.float32), "steps": history.evaluation_steps,
            "course_terms": course_history.evaluations[..., 0].astype(np.float32),
        }
    _, mse, kl = test_terms(stack)
    _, course_mse, course_kl = test_terms(course)
    values = {"recon_mse": mse, "kl": kl, "recon_mse_at_mean": test_terms(stack, scale=0.0)[1],
              "course_recon_mse": course_mse, "course_kl": course_kl}
    return Outcome({name: value.tolist() for name, value in values.items()}, arrays, data.describe(),
                   (course_history.done + history.done, course_history.planned + history.planned, "steps"), members, 0,
                   course_history.seconds + history.seconds,
                   {"recon_mse": "from one draw of q(z|x) an image", "course_recon_mse": "Adam at a constant 1e-4, one seed"})


# %%
MIT_VAE = {"dataset": GREY, "epochs": settings.choose(smoke=1, quick=20, full=20),
           "seeds": settings.choose(smoke=2, quick=2, full=3), "rate": TUNED_RATE}
sgvb = suite.run("mit_p2_sgvb", train_vae, {"estimator": "sgvb", **MIT_VAE})
analytic = suite.run("mit_p3_analytic", train_vae, {"estimator": "analytic", **MIT_VAE})


# %%
def vae_curves(record, heading: str):
    """Both terms of the objective, on minibatches and on the test split, beside the course's setting."""
    arrays, per_epoch = record.arrays, int(record.arrays["steps"][1])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    smooth = max(1, per_epoch // 10)
    for axis, term, name, unit in zip(axes, (1, 2), ("mse", "kl"), ("mean squared error a pixel", "nats"), strict=True):
        plotting.training_curves(axis, arrays["train_terms"][:, term : term + 1], arrays["test_terms"][:, term : term + 1],
                                 arrays["steps"], names=[name], per_epoch=per_epoch, smooth=smooth, ylabel=unit)
        axis.plot(arrays["steps"] / per_epoch, arrays["course_terms"][:, term], color=plotting.BLACK, linestyle=":",
                  label=f"{name}, test, course's constant rate")
        axis.legend(fontsize=8)
    plotting.focus(axes[0], arrays["train_terms"][:, 1], arrays["test_terms"][1:, 1], arrays["course_terms"][1:, 1])
    plotting.title(figure, heading, record)
    return figure


for record, name in ((sgvb, "SGVB estimator"), (analytic, "analytic KL")):
    suite.figure(vae_curves(record, f"VAE, {name}: both terms"), f"{record.id}_train_plot.png", record)
    suite.figure(reconstruction_figure(record, f"VAE, {name}: test images (top), reconstructions from the mean code"),
                 f"{record.id}_reconstructions.png", record)
    suite.figure(grid_figure(record, f"VAE, {name}: decoded grid of codes"), f"{record.id}_grid.png", record)

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 4.4))
for axis, record, name in zip(axes, (autoencoder, sgvb, analytic), ("auto-encoder", "VAE, SGVB", "VAE, analytic KL"), strict=True):
    plotting.scatter_classes(axis, record.arrays["codes"].astype(np.float32), record.arrays["labels"], size=2, alpha=0.4)
    axis.set(title=name, xlabel="first coordinate of the code", ylabel="second")
plotting.title(figure, "codes of the test images, coloured by digit (VAE: posterior means)", autoencoder, sgvb, analytic)
suite.figure(figure, "mit_codes.png", autoencoder, sgvb, analytic)

# %%
tables.show_results(sgvb, analytic)

# %%
gap = sgvb.metrics["recon_mse"] - analytic.metrics["recon_mse"]
noise_level = math.hypot(*(record.spread["recon_mse"]["std"] / record.spread["recon_mse"]["n"] ** 0.5 for record in (sgvb, analytic)))
print(f"SGVB minus analytic: recon_mse {gap:+.5f}, with a standard error of {noise_level:.5f} from {len(sgvb['seeds'])} seeds each")
print(f"auto-encoder {autoencoder.metrics['recon_mse']:.4f}, VAE with codes drawn {analytic.metrics['recon_mse']:.4f}, "
      f"at the mean code {analytic.metrics['recon_mse_at_mean']:.4f}")
for record in (autoencoder, sgvb, analytic):
    print(f"{record.id}: the course's constant rate gives {record.metrics['course_recon_mse']:.4f}, "
          f"the one-cycle rate {record.metrics['recon_mse']:.4f}, in the same epochs")

# %% [markdown]
# The two estimators have the same expectation, and a difference between them can only come from the noise of the gradient;
# the first line above sets the difference beside its own standard error. The one-draw estimate is not as noisy as it looks:
# where $q$ is close to the posterior, the noise of $\log q(z|x)-\log p(z)$ and that of $\log p(x|z)$ partly cancel.
#
# The scatter shows what the KL term buys. The auto-encoder's codes lie in rays of any length, with empty space between them;
# the VAE's fill a disc of the prior's size, so that the grid from $-2$ to $2$ decodes nearly everywhere into digits. The
# price is in the first table: a code that is drawn and not chosen reconstructs a little less well.
#

