# %% [markdown]
# # 4 · VQ-VAE with a transformer prior
#
# A variational auto-encoder with a Gaussian code has to keep every image's code close to one fixed prior. A
# *vector-quantised* auto-encoder (VQ-VAE) turns the order around: first learn a code, made of a few *discrete* tokens, then
# learn the prior of that code, with the strongest model of sequences there is. An image of 32 x 32 pixels becomes 64 tokens
# out of 128, and drawing a picture becomes writing a sentence of 64 words.
#
# | part | question |
# |---|---|
# | A | the quantiser: nearest code, straight-through gradient, the loss of three terms, and what keeps a codebook alive |
# | B | the prior: a transformer over tokens, sampled with a cache, temperature and top-p |
# | C | Berkeley CS294-158, 2024, question 3: both stages on CIFAR-10 and on SVHN's stand-in |
# | D | the sheet's codebook loss beside running means |
#
# References: van den Oord, Vinyals and Kavukcuoglu, *Neural discrete representation learning*, arXiv:1711.00937; Razavi et
# al., *VQ-VAE-2*, arXiv:1906.00446; Vaswani et al., *Attention is all you need*, arXiv:1706.03762.

# %%
# Bootstrap, the same in every notebook: find the suite's folder; on Colab clone it if need be, and install what is missing.
import subprocess
import sys
from pathlib import Path

repository = ""
here, on_colab = Path.cwd(), "google.colab" in sys.modules
starts = [Path(globals().get("__file__", "notebook")).resolve().parent, here]
folders = [folder for start in starts for folder in (start, *start.parents)]
if on_colab:  # a clone or an upload, in the runtime or on a mounted Drive
    folders += [*sorted(here.glob("*")), *sorted(here.glob("drive/MyDrive/*"))]
root = next((folder for folder in folders if (folder / "helpers" / "settings.py").is_file()), None)
if root is None and on_colab and repository:
    address, said = f"https://github.com/{repository}", []
    command = ["git", "clone", "--progress", "--depth", "1", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as clone:
        for line in clone.stdout:
            said.append(line.strip())
            print(f"\r{said[-1]:<80}", end="")
    print()
    if clone.returncode:
        raise RuntimeError("\n".join([f"{address} could not be cloned:", *said[-4:]]))
    root = here / repository.split("/")[1]
if root is None:
    raise FileNotFoundError(
        "the suite's folder, with 'helpers' in it, was not found: open this notebook inside the folder. On Colab, either upload "
        "the folder to the top of your Drive and mount Drive, or clone it with !git clone, and run this cell again"
    )
sys.path.insert(0, str(root))

from helpers.publish import colab

colab.prepare()

# %%
import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from helpers import plotting, settings
from helpers.data import datasets
from helpers.results import tables
from helpers.suite import Outcome, Run, Suite
from helpers.train import schedules
from helpers.train.training import Batches, GradientUpdate, History, fit

suite = Suite("4_vqvae")
print(f"profile: {suite.profile}")

# %% [markdown]
# ## Images
#
# Images stay bytes, (N, 32, 32, 3), and are scaled to $[-1,1]$ a batch at a time. All squared errors below are in these
# units, averaged over images, pixels and channels.


# %%
K = 128
CODE_SIZE = 256
SIDE = 32


def image_tensor(dataset: datasets.Dataset, split: str, device: torch.device) -> Tensor:
    """The images of a split, (N, 32, 32, 3) uint8, on the device.

    Raises:
        datasets.DataError: no such split, or images of another form; the message has both sides.
    """
    datasets.check_dataset(dataset, side=SIDE, channels=3, splits=(split,))
    return torch.from_numpy(dataset.images[split]).to(device)


def scale_pixels(pixels: Tensor) -> Tensor:
    """uint8 images (N, H, W, 3) as float32 (N, 3, H, W) in [-1, 1], channels last in memory.

    Raises:
        ValueError: another type or shape, or a side that two halvings do not divide.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"expected uint8 images of shape (N, H, W, 3), not {pixels.dtype} of shape {tuple(pixels.shape)}")
    if pixels.shape[1] % 4 or pixels.shape[2] % 4:
        raise ValueError(f"the encoder halves each side twice, so sides must be multiples of 4, not {tuple(pixels.shape[1:3])}")
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pixels(images: Tensor) -> np.ndarray:
    """Images (N, 3, H, W) in about [-1, 1] as uint8 (N, H, W, 3); what lies outside is clamped."""
    return images.float().add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


# %% [markdown]
# ## A · The quantiser
#
# The encoder makes of an image a map of $8\times8$ vectors $z\in\mathbb R^D$. A *codebook* holds $K$ vectors
# $e_1,\dots,e_K\in\mathbb R^D$. Each vector of the map is replaced by the code nearest to it,
#
# $$k(z)=\arg\min_k\lVert z-e_k\rVert^2,\qquad e(z)=e_{k(z)},$$
#
# and the decoder sees $e(z)$ only: an image is $64$ integers, at most $64\log_2K$ bits. Since
# $\lVert z-e_k\rVert^2=\lVert z\rVert^2-2\,z\cdot e_k+\lVert e_k\rVert^2$ and the first term is the same for all $k$, the
# search is one product of matrices.
#
# **Straight through.** $k(z)$ is constant almost everywhere, so the true gradient of anything behind it is zero: the encoder
# would learn nothing. The remedy is to pass the decoder's gradient on as if the quantiser were the identity,
#
# $$e = z + \mathrm{sg}\big(e(z)-z\big),\qquad \frac{\partial e}{\partial z}:=1,$$
#
# where $\mathrm{sg}$ (stop gradient) is the identity forwards and a constant backwards. What is the error of that? Let $L(e)$
# be the decoder's loss and $\delta=e(z)-z$. The encoder receives $\nabla L(z+\delta)$, and for a smooth $L$
#
# $$\nabla L(z+\delta)=\nabla L(z)+\nabla^2L(z)\,\delta+O(\lVert\delta\rVert^2):$$
#
# it is the gradient of the unquantised auto-encoder, wrong by the curvature times the quantisation error. It is only as good
# as $z$ is close to its code, which is why the loss has to hold the two together.
#
# **The loss** of the sheet has three terms, each with one purpose:
#
# $$\mathcal L=\underbrace{\mathrm{mse}\big(x,\,d(e)\big)}_{\text{decoder, and encoder straight through}}
# +\underbrace{\overline{\lVert \mathrm{sg}(z)-e\rVert^2}}_{\text{moves the codes}}
# +\underbrace{\overline{\lVert z-\mathrm{sg}(e)\rVert^2}}_{\text{commits the encoder}},$$
#
# the bars being means over images, positions and dimensions. The last two have the same value and different gradients.
#
# **What the codes want.** Fix the assignment, and let $n_k$ vectors $z_i$ have chosen code $k$, of $n$ in all. The second
# term is $\frac1{nD}\sum_k\sum_{i\in k}\lVert z_i-e_k\rVert^2$, its gradient
# $\frac{2}{nD}\sum_{i\in k}(e_k-z_i)=\frac{2n_k}{nD}(e_k-\bar z_k)$, and it vanishes at the mean $\bar z_k$ of the vectors
# that chose the code. This is the $k$-means algorithm, a step at a time; and its weakness: **the gradient is proportional to
# $n_k$**. Adam evens out its size for codes that are chosen now and then, but zero stays zero: a code that nobody chooses
# never moves, and is never chosen. The sheet starts all codes in $[-1/K,1/K]^D$, a
# tiny cloud which the encodings leave at once, a few codes following: the others are dead from the start.
#
# **The option.** Set each code to its mean directly. Keep running counts and sums over the batches,
#
# $$N_k\leftarrow\gamma N_k+(1-\gamma)\,n_k,\qquad m_k\leftarrow\gamma m_k+(1-\gamma)\sum_{i\in k}z_i,\qquad e_k=m_k/N_k ,$$
#
# so that a code is where its vectors are, over a memory of about $1/(1-\gamma)$ batches, whatever the optimiser's rate.
# And **restart the dead**: a code whose $N_k$ is below a tenth of an even share is put on a random vector of the batch, where
# the encodings are. At the start all counts are zero: the first batch gives the first codes. Counts and sums are buffers, so
# a checkpoint has them.
#
# With codes that follow by themselves, the second term has nobody left to move but the encoder; so there its stop gradient is
# dropped, and it commits the encoder a second time. That is the gradient of the whole loss: at its minimum over the codes,
# $e_k=\bar z_k$, the derivative by $e_k$ vanishes, so $\frac{d}{dz}\min_e\lVert z-e\rVert^2$ is the partial derivative at
# fixed $e$, for each of the two terms. The loss has the sheet's terms and weights in either case. References: the appendix of
# arXiv:1711.00937; restarts as in arXiv:2005.00341.


# %%
@dataclass(frozen=True)
class Quantized:
    """What a quantiser makes of an encoding.

    Attributes:
        codes: (B, D, H, W), the nearest codes; their gradient passes straight through to the encoding.
        tokens: (B, H, W) int64, which codes they are.
        codebook: mean ||sg(z) - e||^2, the term that moves the codes; where they are running means, mean ||z - sg(e)||^2.
        commitment: mean ||z - sg(e)||^2, the term that moves the encoding.
    """

    codes: Tensor
    tokens: Tensor
    codebook: Tensor
    commitment: Tensor


class StraightThrough(torch.autograd.Function):
    """The codes forwards, the identity from codes to encoding backwards."""

    @staticmethod
    def forward(ctx, z: Tensor, codes: Tensor) -> Tensor:
        """Codes of the shape of z, unchanged."""
        return codes.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient at the codes, as the encoding's."""
        return gradient, None


def check_tokens(tokens: Tensor, number: int) -> None:
    """Refuse tokens that are not integers in 0..number-1."""
    if tokens.numel() == 0 or tokens.is_floating_point():
        raise ValueError(f"expected integer tokens, at least one, not {tokens.dtype} of shape {tuple(tokens.shape)}")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= number:
        raise ValueError(f"tokens must lie in 0..{number - 1}; these reach from {low} to {high}")


class Quantizer(nn.Module):
    """A codebook: replaces each vector by the nearest code.

    Args:
        number: of codes, K.
        size: of a code, D.
    """

    def __init__(self, number: int = K, size: int = CODE_SIZE) -> None:
        super().__init__()
        if number < 1 or size < 1:
            raise ValueError(f"a codebook has at least one code of at least one dimension, not {number} codes of {size}")
        self.codes = nn.Parameter(torch.empty(number, size).uniform_(-1 / number, 1 / number))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index (N,) of the code nearest to each of vectors (N, D).

        ||z - e||^2 is ||e||^2 - 2 z.e plus ||z||^2, which is the same for all codes: one product of matrices.
        """
        with torch.no_grad():
            return torch.addmm(self.codes.square().sum(1), vectors, self.codes.T, alpha=-2).argmin(1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """The codes (B, D, H, W) of tokens (B, H, W).

        Raises:
            ValueError: a token that is not in 0..K-1.
        """
        check_tokens(tokens, len(self.codes))
        return F.embedding(tokens.long(), self.codes).permute(0, 3, 1, 2)

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantise z (B, D, H, W); distances and losses in at least float32. The generator is for codebooks with noise."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.permute(0, 2, 3, 1).to(self.codes.dtype)  # rows of D numbers, without a copy where channels are last
            tokens = self.nearest(z.detach().flatten(0, 2)).reshape(z.shape[:3])
            codes = F.embedding(tokens, self.codes)
            commitment = F.mse_loss(z, codes.detach())
            # Codes that are not trained leave their term to the encoder: the same value, the other gradient.
            codebook = F.mse_loss(codes, z.detach()) if self.codes.requires_grad else commitment
            passed = StraightThrough.apply(z, codes.detach())
        return Quantized(passed.permute(0, 3, 1, 2), tokens, codebook, commitment)


class TrackingQuantizer(Quantizer):
    """A codebook without gradient: each code is the running mean of the vectors that chose it, and the unused start anew.

    Args:
        number, size: as in :class:`Quantizer`.
        decay: of the running counts and sums, in [0, 1).
        dead: a code is dead when its running count is below this share of an even one.
    """

    def __init__(self, number: int = K, size: int = CODE_SIZE, decay: float = 0.98, dead: float = 0.1) -> None:
        super().__init__(number, size)
        self.codes.requires_grad_(False)
        self.decay, self.dead = decay, dead
        self.register_buffer("counts", torch.zeros(number))  # zero: all dead, so the first batch gives the first codes
        self.register_buffer("sums", torch.zeros(number, size))

    @torch.no_grad()
    def restart(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Put each dead code on a random one of vectors (N, D), with twice the count of a dead one to prove itself."""
        limit = self.dead * len(vectors) / len(self.codes)
        drawn = vectors[torch.randint(len(vectors), (len(self.codes),), generator=generator, device=vectors.device)]
        dead = self.counts < limit
        self.counts.masked_fill_(dead, 2 * limit)
        self.sums.copy_(torch.where(dead[:, None], 2 * limit * drawn, self.sums))
        self.codes.copy_(torch.where(dead[:, None], drawn, self.codes))

    @torch.no_grad()
    def track(self, vectors: Tensor, tokens: Tensor) -> None:
        """Move the running counts and sums towards those of vectors (N, D) with tokens (N,), and the codes to the means."""
        chosen = F.one_hot(tokens, len(self.codes)).to(vectors.dtype)
        self.counts.lerp_(chosen.sum(0), 1 - self.decay)
        self.sums.lerp_(chosen.T @ vectors, 1 - self.decay)
        self.codes.copy_(self.sums / self.counts[:, None])

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """As :meth:`Quantizer.forward`; in training, ``generator`` draws where dead codes start anew."""
        if not self.training:
            return super().forward(z)
        with torch.autocast(z.device.type, enabled=False):
            vectors = z.detach().permute(0, 2, 3, 1).to(self.codes.dtype).flatten(0, 2)
            self.restart(vectors, generator)
            quantized = super().forward(z)
            self.track(vectors, quantized.tokens.flatten())
        return quantized


# %% [markdown]
# **Checks** in float64. The codes chosen against a search through all distances; each of the three paths of the gradient
# against its formula, and that nothing leaks into the others; running means without memory ($\gamma=0$) against the means
# themselves; and at such means the gradient of the two quantisation terms against autograd's, with the means as functions of
# $z$.

# %%
noise = torch.Generator().manual_seed(0)
quantizer = Quantizer(7, 5).double()
quantizer.codes.data = torch.randn(7, 5, generator=noise, dtype=torch.float64)
z = torch.randn(3, 5, 4, 4, generator=noise, dtype=torch.float64, requires_grad=True)
decoder_gradient = torch.randn(3, 5, 4, 4, generator=noise, dtype=torch.float64)
quantized = quantizer(z)
vectors = z.detach().permute(0, 2, 3, 1).reshape(-1, 5)
distances = (vectors[:, None] - quantizer.codes.detach()).square().sum(2)
assert torch.equal(quantized.tokens.flatten(), distances.argmin(1))
nearest = quantizer.codes.detach()[quantized.tokens].permute(0, 3, 1, 2)
assert torch.equal(quantized.codes.detach(), nearest)
print("nearest codes: the same as by brute force; what the decoder sees: the codes, bit for bit")


def gradients(loss: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of a loss with respect to the encoding and to the codes; None where there is no path."""
    return torch.autograd.grad(loss, [z, quantizer.codes], retain_graph=True, allow_unused=True)


by_path = {"decoder": gradients((quantized.codes * decoder_gradient).sum()), "commitment": gradients(quantized.commitment),
           "codebook": gradients(quantized.codebook)}
assert by_path["decoder"][1] is by_path["commitment"][1] is by_path["codebook"][0] is None
counts = torch.bincount(quantized.tokens.flatten(), minlength=7)[:, None].double()
means = torch.zeros(7, 5, dtype=torch.float64).index_add(0, quantized.tokens.flatten(), vectors) / counts.clamp(min=1)
expected = 2 * counts / z.numel() * (quantizer.codes.detach() - means)
errors = {"decoder: its gradient at the code": (by_path["decoder"][0] - decoder_gradient).abs().max(),
          "commitment: 2 (z - e) / n D": (by_path["commitment"][0] - 2 * (z - nearest) / z.numel()).abs().max(),
          "codebook: 2 n_k / n D (e_k - mean_k)": (by_path["codebook"][1] - expected).abs().max()}
for name, error in errors.items():
    assert error < 1e-14
    print(f"{name}, and no other: differs by {error.item():.1e}")

tracking = TrackingQuantizer(4, 5, decay=0.0, dead=0.0).double()
tracking.codes.copy_(vectors[:4])  # each is chosen at least by itself
tokens = tracking(z, noise).tokens.flatten()
means = torch.stack([vectors[tokens == code].mean(0) for code in range(4)])
assert (tracking.codes - means).abs().max() < 1e-14
print(f"running means without memory: differ from the means by {(tracking.codes - means).abs().max().item():.1e}")

for _ in range(30):  # without memory this is k-means: soon no vector changes its code
    quantized = tracking(z, noise)
(both,) = torch.autograd.grad(quantized.codebook + quantized.commitment, z)
members = F.one_hot(quantized.tokens.flatten(), 4).double()
rows = z.permute(0, 2, 3, 1).reshape(-1, 5)
moving = members @ ((members.T @ rows) / members.sum(0)[:, None])  # the means as functions of z
(expected,) = torch.autograd.grad(2 * F.mse_loss(rows, moving), z)
assert (both - expected).abs().max() < 1e-14
print(f"gradient of both terms at the means: differs from that through the means by {(both - expected).abs().max().item():.1e}")

# %% [markdown]
# **A codebook in use.** With frequencies $f_k$ over a whole split, $\mathrm{perplexity}=\exp\big(-\sum_kf_k\log f_k\big)$ is
# the number of codes that, evenly used, would carry as much: $K$ at most, 1 for a codebook that has collapsed. It is measured
# over all test images, never over a batch: a batch of a few images cannot show more codes than it has in it.


# %%
def usage_perplexity(counts: np.ndarray) -> float:
    """exp of the entropy of the frequencies of codes (K,): K for an even use, 1 where one code does all."""
    frequencies = np.asarray(counts, np.float64)
    if frequencies.ndim != 1 or not frequencies.sum() > 0 or frequencies.min() < 0:
        raise ValueError("expected the counts of codes, (K,), not negative and not all zero")
    frequencies = frequencies[frequencies > 0] / frequencies.sum()
    return float(np.exp(-(frequencies * np.log(frequencies)).sum()))


even, single = usage_perplexity(np.full(K, 17)), usage_perplexity(np.eye(K)[3])
assert abs(even - K) < 1e-10
assert single == 1.0
print(f"perplexity of an even use of {K} codes: {even:.10f}; of one code: {single}")

# %% [markdown]
# **The network** is the sheet's. Encoder: conv 3-256 (kernel 4, stride 2), BN, ReLU, conv 256-256 (4, 2), two residual blocks
# of BN, ReLU, conv 3x3, BN, ReLU, conv 1x1. The decoder mirrors it with transposed convolutions. A code has as many
# dimensions as the layers are wide.


# %%
class ResidualBlock(nn.Module):
    """x plus (BN, ReLU, conv 3x3, BN, ReLU, conv 1x1) of it; (B, width, H, W) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, 1, 1),
            nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x plus the branch."""
        return x + self.branch(x)


class VQVAE(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to (B, H/4, W/4) tokens and back.

    Args:
        quantizer: with codes of D dimensions, which is the width of all layers.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        width = quantizer.codes.shape[1]
        self.quantizer = quantizer
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 4, 2, 1), ResidualBlock(width), ResidualBlock(width))
        self.decoder = nn.Sequential(
            ResidualBlock(width), ResidualBlock(width), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width, 3, 4, 2, 1))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Quantized]:
        """Reconstructions of x, and what the quantiser made of its encoding."""
        quantized = self.quantizer(self.encoder(x), generator)
        return self.decoder(quantized.codes), quantized

    def decode(self, tokens: Tensor) -> Tensor:
        """Images (B, 3, H, W) of tokens (B, H/4, W/4)."""
        return self.decoder(self.quantizer.lookup(tokens))


def vqvae_terms(x: Tensor, reconstruction: Tensor, quantized: Quantized) -> Tensor:
    """The sheet's loss and its parts (4,): loss, mse, codebook, commitment; x and reconstruction (B, 3, H, W)."""
    mse = F.mse_loss(reconstruction.to(x.dtype), x)
    return torch.stack([mse + quantized.codebook + quantized.commitment, mse, quantized.codebook, quantized.commitment])


# %% [markdown]
# **Two of the three terms have no scale.** Multiply encodings and codes by $s$. The decoder begins with residual blocks,
# which normalise their input, and ends them with a normalisation: let the last convolution of each block be $s$ times as
# large, and the same picture comes out, while the codebook and commitment terms have become $s^2$ times what they were. So
# the network may make them as small as it likes by shrinking its code, down to where the $\epsilon$ of batch normalisation is
# felt. **Check**, in float64:

# %%
def shrunken_decoder(model: VQVAE, scale: float) -> nn.Module:
    """A copy of the decoder for codes that are ``scale`` times as large."""
    decoder = copy.deepcopy(model.decoder)
    for block in decoder[:2]:
        block.branch[-1].weight.data *= scale
        block.branch[-1].bias.data *= scale
    return decoder


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    model = VQVAE(Quantizer(16, 8)).double()
codes = torch.randn(4, 8, 8, 8, generator=noise, dtype=torch.float64)
with torch.no_grad():
    picture, shrunken = model.decoder(codes), shrunken_decoder(model, 0.1)(0.1 * codes)
difference = ((picture - shrunken).abs().max() / picture.std()).item()
assert picture.shape == (4, 3, 32, 32)
assert difference < 0.01
print(f"codes a tenth as large, terms a hundredth: the picture differs by {difference:.1e} of its standard deviation")

# %% [markdown]
# **Training** is by Adam with a rate that rises to a peak and falls to nearly zero (one-cycle; the sheet keeps it constant),
# the convolutions in bfloat16 where the device gains from it; distances and losses are in float32 always.


# %%
def build_vqvae(number: int, size: int, tracked: bool, seed: int, device: torch.device) -> VQVAE:
    """A VQ-VAE initialised from a seed, channels last; ``tracked``: codes are running means, else parameters."""
    if number > 256:
        raise ValueError(f"tokens are kept in a byte each: a codebook has at most 256 codes, not {number}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VQVAE((TrackingQuantizer if tracked else Quantizer)(number, size))
    return model.to(device, memory_format=torch.channels_last)


def arithmetic(device: torch.device, precision: str):
    """The context in which layers compute in ``precision``: "float32", "bfloat16" or "float16"."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


@torch.no_grad()
def evaluate_vqvae(model: VQVAE, pixels: Tensor, precision: str = "float32", batch_size: int = 250) -> tuple[Tensor, Tensor]:
    """The terms of the loss over all images, in evaluation mode, and the images' tokens.

    Args:
        model: left in the mode it was in.
        pixels: (N, H, W, 3) uint8 on the model's device.
        precision: of the layers; distances and losses are in float32.
        batch_size: images at a time; the result does not depend on it.

    Returns:
        (4,) float64 as :func:`vqvae_terms`; (N, T) uint8 tokens, row by row.
    """
    mode, total, tokens = model.training, torch.zeros(4, dtype=torch.float64, device=pixels.device), []
    model.eval()
    for part in pixels.split(batch_size):
        x = scale_pixels(part)
        with arithmetic(pixels.device, precision):
            reconstruction, quantized = model(x)
        total += len(part) * vqvae_terms(x, reconstruction, quantized)
        tokens.append(quantized.tokens.flatten(1).to(torch.uint8))
    model.train(mode)
    return total / len(pixels), torch.cat(tokens)


@torch.no_grad()
def encode_images(model: VQVAE, pixels: Tensor, precision: str = "float32", batch_size: int = 250) -> Tensor:
    """The tokens (N, T) uint8 of images (N, H, W, 3) uint8, in evaluation mode."""
    mode, tokens = model.training, []
    model.eval()
    for part in pixels.split(batch_size):
        with arithmetic(pixels.device, precision):
            tokens.append(model.quantizer(model.encoder(scale_pixels(part))).tokens.flatten(1).to(torch.uint8))
    model.train(mode)
    return torch.cat(tokens)


def fit_vqvae(model: VQVAE, train: Tensor, watched: Tensor, *, epochs: float, batch_size: int, rate: float, order: int,
              training: dict) -> History:
    """Train a VQ-VAE by Adam with a one-cycle rate.

    Args:
        model: trained in place; in evaluation mode afterwards.
        train, watched: (N, H, W, 3) uint8 on the model's device; the second are evaluated before, and after each epoch.
        epochs: passes over the training images.
        batch_size: images a step; the last batch of an epoch is dropped, a small one would upset batch normalisation.
        rate: largest learning rate.
        order: seed of the order of the images.
        training: seed, checkpoint, label and time budget for :func:`helpers.train.training.fit`.
    """
    precision = settings.half_precision(train.device)
    batches = Batches(train, batch_size, seed=order, drop_last=True)
    steps = round(epochs * batches.per_epoch)

    def loss(pixels: Tensor, generator: torch.Generator) -> Tensor:
        x = scale_pixels(pixels)
        return vqvae_terms(x, *model(x, generator))

    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    update = GradientUpdate(model, loss, torch.optim.Adam(learned, lr=rate, fused=True),
                            schedule=schedules.one_cycle(steps, warm_up=0.15), precision=precision)
    model.train()
    history = fit(update, batches, steps=steps, evaluate=lambda: evaluate_vqvae(model, watched, precision)[0], **training)
    model.eval()
    return history

# %% [markdown]
# ## B · The prior over tokens
#
# The tokens $t_1,\dots,t_{64}$ of an image, row by row, have a distribution that the encoder has made, and it is far from
# uniform. By the chain rule any distribution of sequences is
#
# $$p(t)=\prod_{i=1}^{64}p(t_i\mid t_1,\dots,t_{i-1}),$$
#
# and a causal transformer computes all 64 factors in one pass: it is given a *start token* and $t_1,\dots,t_{63}$, and
# position $i$ attends to positions up to $i$ only, so that its output depends on $t_1,\dots,t_{i-1}$. The start token has an
# embedding and no logit: it cannot be sampled. The loss is the cross-entropy in nats per token,
#
# $$\ell=-\frac1{64}\,\mathbb E\log p(t)=\frac1{64}\big(H(t)+\mathrm{KL}(\text{tokens}\,\|\,p)\big).$$
#
# **Read it beside the perplexity.** With $H(t)\le\sum_iH(t_i)$ (independence is the worst case) and concavity of the entropy,
# which pooling all positions into one distribution $f$ can only raise,
#
# $$\tfrac1{64}H(t)\le\tfrac1{64}\textstyle\sum_iH(t_i)\le H(f)=\log\mathrm{perplexity}.$$
#
# So a model that knows nothing but how often each code is used already has $\ell=\log\mathrm{perplexity}$, and $\ell=0$ comes
# for free with one code. What the transformer has *learned* is the difference, $\log\mathrm{perplexity}-\ell$.
#
# **One layer**: $x\mathrel{+}=\mathrm{attention}(\mathrm{norm}(x))$, then
# $x\mathrel{+}=W_2\,\mathrm{gelu}(W_1\,\mathrm{norm}(x))$ (pre-norm), with learned positions.
#
# **Sampling** goes token by token. Without memory, step $i$ passes $i$ tokens through the network, $64\cdot65/2=2080$ in all.
# But the keys and values of earlier positions do not change, because nothing they see does: kept in a *cache*, each step
# passes one token, 64 in all. All 100 images are drawn in one batch.
#
# - *Temperature* $\tau$ draws from $p^{1/\tau}/\sum p^{1/\tau}$, logits divided by $\tau$: below 1 it prefers what is likely,
#   above 1 it evens out.
# - *Top-p* keeps the smallest set of most probable tokens whose mass reaches $p$, and draws among them: it cuts the long tail
#   of tokens each of which is unlikely, and one of which, in 64 draws, is nearly sure to come. References: arXiv:1904.09751.


# %%
class Attention(nn.Module):
    """Causal self-attention with several heads; (B, T, width) to the same shape.

    Args:
        width: of the vectors.
        heads: that divide it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads, self.inputs, self.output = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, cache: Tensor | None = None, position: int = 0) -> Tensor:
        """All positions at once; or, with a cache (2, B, heads, length, d), the one at ``position``, which is put there."""
        query, key, value = self.inputs(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0, :, :, position : position + 1], cache[1, :, :, position : position + 1] = key, value
            key, value = cache[:, :, :, : position + 1]
        y = F.scaled_dot_product_attention(query, key, value, is_causal=cache is None)
        return self.output(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then a layer of 4 times the width, each on normalised vectors and added to what comes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.norms = Attention(width, heads), nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mixer = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, cache: Tensor | None = None, position: int = 0) -> Tensor:
        """(B, T, width) to the same shape; the cache as in :class:`Attention`."""
        x = x + self.attention(self.norms[0](x), cache, position)
        return x + self.mixer(self.norms[1](x))


class TokenPrior(nn.Module):
    """A decoder-only transformer over sequences of tokens.

    Args:
        number: of different tokens, K. The start token has index K: it has an embedding and no logit.
        length: of a sequence.
        width, heads, layers: of the transformer.
    """

    def __init__(self, number: int = K, length: int = 64, width: int = 128, heads: int = 4, layers: int = 4) -> None:
        super().__init__()
        self.number, self.length = number, length
        self.embedding, self.positions = nn.Embedding(number + 1, width), nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, number)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" not in name:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, K) of each of tokens (B, T) given those before it, T at most ``length``."""
        start = tokens.new_full((len(tokens), 1), self.number)
        x = self.embedding(torch.cat([start, tokens[:, :-1]], 1)) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def empty_cache(self, rows: int) -> list[Tensor]:
        """Keys and values (2, rows, heads, length, d) of each layer, for :meth:`step`."""
        width, heads = self.positions.shape[1], self.blocks[0].attention.heads
        return [self.positions.new_zeros(2, rows, heads, self.length, width // heads) for _ in self.blocks]

    def step(self, previous: Tensor, position: int, cache: list[Tensor]) -> Tensor:
        """Logits (B, K) of the token at ``position``, given the one before it (B,) and the cache of those before that."""
        x = (self.embedding(previous) + self.positions[position])[:, None]
        for block, memory in zip(self.blocks, cache, strict=True):
            x = block(x, memory, position)
        return self.head(self.norm(x))[:, 0]


def draw_tokens(logits: Tensor, generator: torch.Generator, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """One token (B,) for each row of logits (B, K).

    Args:
        logits: of the tokens.
        generator: of the noise.
        temperature: positive; divides the logits.
        top_p: in (0, 1]; only the smallest set of most probable tokens with this mass is drawn from.
    """
    if not temperature > 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature must be positive and top_p in (0, 1], not {temperature} and {top_p}")
    probabilities = (logits.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, tokens = probabilities.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # the mass of those more probable: 0 for the first, which always stays
        probabilities = torch.zeros_like(probabilities).scatter(-1, tokens, ordered.masked_fill(before >= top_p, 0))
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


@torch.no_grad()
def sample_tokens(prior: TokenPrior, rows: int, generator: torch.Generator, *, temperature: float = 1.0, top_p: float = 1.0,
                  cached: bool = True) -> Tensor:
    """Draw sequences (rows, length) of tokens, all rows at once.

    Args:
        prior: the model.
        rows: how many sequences.
        generator: of the noise, on the prior's device.
        temperature, top_p: see :func:`draw_tokens`.
        cached: keep keys and values of earlier positions; else each step passes the whole beginning through again.
    """
    tokens = torch.full((rows, prior.length + 1), prior.number, device=prior.positions.device)  # the start token, then room
    cache = prior.empty_cache(rows)
    for position in range(prior.length):
        # Uncached, the last of the tokens passed is not seen, only asked for.
        logits = prior.step(tokens[:, position], position, cache) if cached else prior(tokens[:, 1 : position + 2])[:, -1]
        tokens[:, position + 1] = draw_tokens(logits, generator, temperature, top_p)
    return tokens[:, 1:]


def prior_nats(prior: TokenPrior, tokens: Tensor) -> Tensor:
    """Cross-entropy of tokens (B, T) under the prior, in nats per token, (B, T) in at least float32."""
    logits = prior(tokens.long())
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), tokens.long().flatten(), reduction="none").reshape(tokens.shape)


# %% [markdown]
# **Checks** in float64, on a prior with random weights. The probabilities of *all* sequences of a small one sum to one; a
# changed token changes no earlier logit; the cache gives the logits and, from the same noise, the tokens of the pass without
# it; the start token does not come; temperature and top-p draw from the distributions they say.

# %%
def random_prior(number: int, length: int, seed: int = 0) -> TokenPrior:
    """A small float64 prior whose predictions are far from uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = TokenPrior(number, length, 16, 2, 2).double().requires_grad_(False)
        for parameter in prior.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return prior


small = random_prior(3, 4)
sequences = torch.tensor(list(product(range(3), repeat=4)))
total = (-prior_nats(small, sequences).sum(1)).exp().sum().item()
assert abs(total - 1) < 1e-12
print(f"probabilities of all {len(sequences)} sequences of 4 tokens out of 3 sum to 1 + {total - 1:.1e}")

prior = random_prior(9, 12)
tokens = torch.randint(0, 9, (5, 12), generator=noise)
changed = tokens.clone()
changed[:, 7] = (changed[:, 7] + 1) % 9
before, after = prior(tokens), prior(changed)
assert torch.equal(before[:, :8], after[:, :8])
assert not torch.allclose(before[:, 8], after[:, 8])
print("token 7 changed: logits 0 to 7 are the same bit for bit, those from 8 on are not")

cache, previous, error = prior.empty_cache(5), torch.full((5,), 9), 0.0
for position in range(12):
    error = max(error, (prior.step(previous, position, cache) - before[:, position]).abs().max().item())
    previous = tokens[:, position]
assert error < 1e-12
draws = [sample_tokens(prior, 200, torch.Generator().manual_seed(1), top_p=0.95, cached=cached) for cached in (True, False)]
assert torch.equal(*draws)
assert draws[0].max() < 9
print(f"cached and uncached: logits differ by {error:.1e}, 200 sequences token by token by nothing; no start token among them")

logits = torch.randn(6, generator=noise, dtype=torch.float64)
drawn = 40_000


def frequencies(**options) -> Tensor:
    """How often each token is drawn."""
    return torch.bincount(draw_tokens(logits.expand(drawn, -1), noise, **options), minlength=6).double() / drawn


for temperature in (0.5, 2.0):
    powers = logits.softmax(0) ** (1 / temperature)
    error = (frequencies(temperature=temperature) - powers / powers.sum()).abs().max().item()
    assert error < 0.01
    print(f"temperature {temperature}: frequencies of {drawn:,} draws within {error:.4f}")
order = logits.argsort(descending=True)
kept = order[: int((logits.softmax(0)[order].cumsum(0) < 0.8).sum()) + 1]
assert set(frequencies(top_p=0.8).nonzero().flatten().tolist()) == set(kept.tolist())
print(f"top-p 0.8: only the {len(kept)} most probable tokens of 6 come, with mass {logits.softmax(0)[kept].sum().item():.3f}")

# %% [markdown]
# **What an image costs.** Prior and decoder together are a code for images. The tokens cost $64\,\ell/\log2$ bits. To make
# the squared error a cost in bits, let the decoder's density be normal with one variance $\sigma^2$ for all pixels, and
# multiply it by the width of a grey level, $2/255$ in these units:
#
# $$-\log_2p(x\mid t)\approx\frac{3072}{\log2}\Big(\tfrac12\log2\pi\sigma^2+\frac{\mathrm{mse}}{2\sigma^2}+\log127.5\Big).$$
#
# $\sigma^2$ is the mean squared error on *training* images in the last epoch; the best constant would be the test error
# itself. This bounds the bits of the tokens and the picture given the tokens, and it prices what the two losses leave apart:
# since the derivative by mse is $3072/(2\sigma^2\log2)$ bits, a little less error is worth many tokens.


# %%
def gaussian_bits(mse: float, variance: float, dimensions: int = 3 * SIDE * SIDE) -> float:
    """Bits for an image's pixels, given its code, under a normal density with one variance around the reconstruction.

    Args:
        mse: squared error of the reconstruction, mean over the pixels, in the units of [-1, 1].
        variance: of the density.
        dimensions: of an image. A pixel's 256 values lie 2/255 apart: a density p costs -log2(p 2/255) bits.
    """
    nats = 0.5 * math.log(2 * math.pi * variance) + mse / (2 * variance) + math.log(127.5)
    return dimensions * nats / math.log(2)


variance, errors = 0.03, 0.2 * torch.randn(1000, generator=noise, dtype=torch.float64)
density = torch.distributions.Normal(torch.zeros_like(errors), math.sqrt(variance)).log_prob(errors).sum().item()
expected = (-density - 1000 * math.log(2 / 255)) / math.log(2)
difference = abs(gaussian_bits(errors.square().mean().item(), variance, 1000) - expected)
assert difference < 1e-8
print(f"bits of 1000 pixels: differ from torch.distributions by {difference:.1e}")


# %%
@torch.no_grad()
def evaluate_prior(prior: TokenPrior, tokens: Tensor, precision: str = "float32", batch_size: int = 500) -> Tensor:
    """Nats of each position, averaged over sequences (N, T): (T,) float64. Their mean is the prior loss."""
    total = torch.zeros(tokens.shape[1], dtype=torch.float64, device=tokens.device)
    for part in tokens.split(batch_size):
        with arithmetic(tokens.device, precision):
            total += prior_nats(prior, part).sum(0, dtype=torch.float64)
    return total / len(tokens)


def build_prior(number: int, length: int, width: int, layers: int, seed: int, device: torch.device) -> TokenPrior:
    """A prior initialised from a seed, with 4 heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TokenPrior(number, length, width, 4, layers).to(device)


def fit_prior(prior: TokenPrior, train: Tensor, test: Tensor, *, epochs: float, batch_size: int, rate: float, order: int,
              training: dict) -> History:
    """Train a prior on tokens by Adam, a warm-up and a half cosine.

    Args:
        prior: trained in place.
        train, test: (N, T) uint8 tokens on its device; the second are evaluated before, and after each epoch.
        epochs: passes over the training tokens.
        batch_size: sequences a step.
        rate: largest learning rate.
        order: seed of the order of the sequences.
        training: seed, checkpoint, label and time budget for :func:`helpers.train.training.fit`.

    Raises:
        ValueError: tokens that the prior does not know.
    """
    check_tokens(train, prior.number)
    check_tokens(test, prior.number)
    precision = settings.half_precision(train.device)
    batches = Batches(train, min(batch_size, len(train)), seed=order)
    steps = round(epochs * batches.per_epoch)

    def loss(tokens: Tensor, generator: torch.Generator) -> Tensor:
        # 64 tokens are few for a CPU's flash kernel: its backward pass alone would take half of the step.
        with sdpa_kernel(SDPBackend.MATH) if tokens.device.type == "cpu" else nullcontext():
            return prior_nats(prior, tokens).mean()[None]

    update = GradientUpdate(prior, loss, torch.optim.Adam(prior.parameters(), lr=rate, betas=(0.9, 0.99), fused=True),
                            clip=1.0, schedule=schedules.cosine(steps, warm_up_steps=max(1, steps // 20)), precision=precision)
    return fit(update, batches, steps=steps, evaluate=lambda: evaluate_prior(prior, test, precision).mean()[None], **training)


# %% [markdown]
# ## C · Both stages on images (question 3)
#
# A run trains the VQ-VAE, turns all images into tokens, trains the prior on the tokens of the training images, and measures
# both on the whole test split. Each stage has its own checkpoint; a run that was killed goes on in the stage where it was.
# The codebook is the option of part A, running means with restart: `vqvae_loss` is the sheet's sum of three terms, evaluated
# with the codes as they are.


# %%
TEMPERATURES = (0.7, 1.0, 1.3)
TOP_P = 0.9
SHOWN_IMAGES = 50


def train_q3(run: Run, dataset: str, limit: dict | None, number: int, size: int, tracked: bool, epochs: float, batch_size: int,
             rate: float, watched: int, prior: dict) -> Outcome:
    """Question 3: a VQ-VAE, then a transformer over its tokens.

    Args:
        run: the run.
        dataset: name of the images.
        limit: at most so many of each split, or None.
        number, size: of the codes.
        tracked: codes are running means with restart of the dead, else trained by the gradient.
        epochs, batch_size, rate: of the VQ-VAE, see :func:`fit_vqvae`.
        watched: the curve is drawn from so many test images; the numbers are from all.
        prior: width and layers of the transformer; its epochs, batch_size and rate, see :func:`fit_prior`.
    """
    device = settings.device()
    data = datasets.load(dataset, limit=limit)
    train, test = (image_tensor(data, split, device) for split in ("train", "test"))
    model = build_vqvae(number, size, tracked, run.seed_for("initialisation"), device)
    first = run.training("vqvae")
    if run.time_budget is not None:
        first["time_budget"] = 0.85 * run.time_budget
    vqvae = fit_vqvae(model, train, test[:watched], epochs=epochs, batch_size=batch_size, rate=rate,
                      order=run.seed_for("order of images"), training=first)

    terms, test_tokens = evaluate_vqvae(model, test)
    train_tokens = encode_images(model, train, settings.half_precision(device))
    second = run.training("prior")
    if run.time_budget is not None:
        second["time_budget"] = max(1.0, run.time_budget - vqvae.seconds)
    if vqvae.done < vqvae.planned:
        second["checkpoint"] = None  # these tokens are not the ones that the prior will see when the run goes on
    network = build_prior(number, test_tokens.shape[1], prior["width"], prior["layers"],
                          run.seed_for("initialisation of the prior"), device)
    history = fit_prior(network, train_tokens, test_tokens, epochs=prior["epochs"], batch_size=prior["batch_size"],
                        rate=prior["rate"], order=run.seed_for("order of tokens"), training=second)
    position_nats = evaluate_prior(network, test_tokens)

    grid = (SIDE // 4, SIDE // 4)
    with torch.no_grad():
        shown = model(scale_pixels(test[:SHOWN_IMAGES]))[0]
        alone = torch.arange(number, device=device)[:, None, None].expand(number, *grid)
        patches = model.decode(alone)[:, :, 12:20, 12:20]

        def draw(rows: int, purpose: str, **options) -> np.ndarray:
            generator = torch.Generator(device).manual_seed(run.seed_for(purpose))
            return to_pixels(model.decode(sample_tokens(network, rows, generator, **options).unflatten(1, grid)))

        samples = draw(100, "samples")
        # The same noise for all: only temperature and top-p differ.
        tempered = np.stack([draw(15, "tempered samples", temperature=value) for value in TEMPERATURES]
                            + [draw(15, "tempered samples", top_p=TOP_P)])
        centred = model.quantizer.codes.cpu().double() - model.quantizer.codes.cpu().double().mean(0)
        directions = torch.linalg.svd(centred, full_matrices=False)[2][:3]
    usage = {split: np.bincount(tokens.flatten().cpu().numpy(), minlength=number)
             for split, tokens in (("train", train_tokens), ("test", test_tokens))}
    per_epoch = len(train) // batch_size
    variance = float(vqvae.terms[-per_epoch:, 1].mean())
    loss, mse, nats = float(terms[0]), float(terms[1]), float(position_nats.mean())
    prior_bits, pixel_bits = nats * test_tokens.shape[1] / math.log(2), gaussian_bits(mse, variance)
    values = {
        "vqvae_loss": loss, "prior_loss": nats, "recon_mse": mse, "codebook_perplexity": usage_perplexity(usage["test"]),
        "codes_used": int((usage["test"] > 0).sum()), "prior_bits": prior_bits, "pixel_bits": pixel_bits,
        "image_bpd": (prior_bits + pixel_bits) / (3 * SIDE * SIDE),
    }
    arrays = {
        "vqvae_train": vqvae.terms[:, :2].astype(np.float32), "vqvae_test": vqvae.evaluations.astype(np.float32),
        "vqvae_steps": vqvae.evaluation_steps, "prior_train": history.terms.astype(np.float32),
        "prior_test": history.evaluations.astype(np.float32), "prior_steps": history.evaluation_steps,
        "position_nats": position_nats.cpu().numpy().astype(np.float32), "originals": test[:SHOWN_IMAGES].cpu().numpy(),
        "reconstructions": to_pixels(shown), "tokens": test_tokens[:SHOWN_IMAGES].cpu().numpy(),
        "samples": samples, "tempered": tempered, "code_patches": to_pixels(patches),
        "code_coordinates": (centred @ directions.T).numpy().astype(np.float32),
        "usage_train": usage["train"].astype(np.int32), "usage_test": usage["test"].astype(np.int32),
    }
    facts = {
        "codebook": "running means, dead codes restarted" if tracked else "trained by the gradient",
        "vqvae_epochs": vqvae.done / per_epoch, "prior_epochs": prior["epochs"], "train_mse": variance,
        "seconds": {"vqvae": vqvae.seconds, "prior": history.seconds},
        "parameters": {"vqvae": sum(p.numel() for p in model.parameters()),
                       "prior": sum(p.numel() for p in network.parameters())},
        "precision": settings.half_precision(device),
    }
    return Outcome(values, arrays, data.describe(), (vqvae.done + history.done, vqvae.planned + history.planned, "steps"),
                   [run.seed], 0, vqvae.seconds + history.seconds, facts)


# %% [markdown]
# **The course's function**, for dropping into the course's own notebook.


# %%
def q3(train_data: np.ndarray, test_data: np.ndarray, dset_id: int):
    """The course's homework function.

    Args:
        train_data, test_data: (n, 32, 32, 3) uint8.
        dset_id: 1 or 2, for the label only: the model is the same.

    Returns:
        VQ-VAE train losses (iterations,) and test losses (epochs + 1,); the prior's likewise, nats per token; 100 samples and 50
        test images, each followed by its reconstruction, both (100, 32, 32, 3) floats in 0..255.
    """
    if dset_id not in (1, 2):
        raise ValueError(f"dset_id is 1 or 2, not {dset_id!r}")
    for split, images in (("train", train_data), ("test", test_data)):
        datasets.check_images(images, side=SIDE, channels=3, split=split)
    device, plan = settings.device(), PLAN
    train, test = (torch.from_numpy(np.ascontiguousarray(images, np.uint8)).to(device) for images in (train_data, test_data))
    if len(test) < SHOWN_IMAGES:
        raise ValueError(f"{SHOWN_IMAGES} test images are shown beside their reconstructions; there are only {len(test)}")
    model = build_vqvae(plan["number"], plan["size"], plan["tracked"], 0, device)
    vqvae = fit_vqvae(model, train, test, epochs=plan["epochs"], batch_size=min(plan["batch_size"], len(train)),
                      rate=plan["rate"], order=1, training={"seed": 2, "label": f"q3 dataset {dset_id}, vqvae"})
    tokens = [encode_images(model, images) for images in (train, test)]
    prior = build_prior(plan["number"], tokens[0].shape[1], plan["prior"]["width"], plan["prior"]["layers"], 3, device)
    history = fit_prior(prior, *tokens, order=4, training={"seed": 5, "label": f"q3 dataset {dset_id}, prior"},
                        **{name: plan["prior"][name] for name in ("epochs", "batch_size", "rate")})
    with torch.no_grad():
        drawn = sample_tokens(prior, 100, torch.Generator(device).manual_seed(6))
        samples = to_pixels(model.decode(drawn.unflatten(1, (SIDE // 4, SIDE // 4))))
        reconstructions = to_pixels(model(scale_pixels(test[:SHOWN_IMAGES]))[0])
    pairs = np.stack([test[:SHOWN_IMAGES].cpu().numpy(), reconstructions], axis=1).reshape(-1, SIDE, SIDE, 3)
    return (vqvae.terms[:, 0], vqvae.evaluations[:, 0], history.terms[:, 0], history.evaluations[:, 0],
            samples.astype(np.float64), pairs.astype(np.float64))


# %% [markdown]
# **The budget.** Network and batch size are the sheet's in the full profile. Its 20 epochs are cut to what is printed below,
# because on one CPU core an epoch takes minutes, and a rate that falls to zero gets there sooner: the table below says
# whether it did. Dataset 2 is CIFAR-10. Dataset 1 is SVHN on the sheet; here it is `street_digits`, house numbers drawn by
# this suite, and every title and table says so: its numbers are **not** comparable with the sheet's. Where the photographs can be
# downloaded, `SUITE_HOUSE_NUMBERS=svhn` takes them.

# %%
LIMIT = settings.choose(smoke={"train": 192, "test": 64}, quick={"train": 2000, "test": 500}, full=None)
PRIOR = {"width": settings.choose(smoke=32, quick=64, full=128), "layers": settings.choose(smoke=2, quick=3, full=4),
         "epochs": settings.choose(smoke=1, quick=8, full=5), "batch_size": settings.choose(smoke=32, quick=100, full=128),
         "rate": settings.choose(smoke=2e-3, quick=3e-3, full=2e-3)}
PLAN = {"limit": LIMIT, "number": settings.choose(smoke=16, quick=64, full=K), "tracked": True,
        "size": settings.choose(smoke=16, quick=32, full=CODE_SIZE), "epochs": settings.choose(smoke=2, quick=10, full=8),
        "batch_size": settings.choose(smoke=32, quick=50, full=128), "rate": settings.choose(smoke=2e-3, quick=2e-3, full=1.5e-3),
        "watched": settings.choose(smoke=64, quick=500, full=2000), "prior": PRIOR}
COMPARISON = {"dataset": settings.choose(smoke="photo_patches", quick="photo_patches", full="cifar10"),
              **{name: PLAN[name] for name in ("limit", "number", "batch_size", "rate", "watched")},
              "size": settings.choose(smoke=16, quick=32, full=64), "epochs": settings.choose(smoke=2, quick=6, full=4)}


DATASETS = {"q3_dset1": settings.house_numbers(), "q3_dset2": settings.choose(smoke="photo_patches", quick="photo_patches", full="cifar10")}
asked = {run_id: suite.attempt(run_id, train_q3, {"dataset": name, **PLAN}) for run_id, name in DATASETS.items()}
found = [record for record in asked.values() if record is not None]
for record in found:
    facts = record["facts"]
    for stage, sheet in (("vqvae", " (the sheet: 20)"), ("prior", "")):
        print(f"{record.id}, {stage} on {record['dataset']['name']}: {facts['parameters'][stage]:,} parameters, "
              f"{facts[f'{stage}_epochs']:g} epochs{sheet}, {facts['seconds'][stage]:.0f} s in {facts['precision']}")
    print(f"{record.id}, codebook: {facts['codebook']}")

# %% [markdown]
# **(a) The VQ-VAE's curves**, the loss and its first term: minibatches pale, test images strong. What lies between the two
# curves is twice the quantisation error. **(b) The prior's curves**, in nats per token, with the entropy of the pooled
# tokens, which a model reaches that knows only how often each code is used; beside them the loss at each of the 64 positions,
# in the order of the map.


# %%
def draw_vqvae_curves(record) -> plt.Figure:
    """Loss and reconstruction error against epochs."""
    arrays, per_epoch = record.arrays, record["dataset"]["sizes"]["train"] // record["config"]["batch_size"]
    figure, axis = plt.subplots(figsize=(5.6, 3.2))
    plotting.training_curves(axis, arrays["vqvae_train"], arrays["vqvae_test"][:, :2], arrays["vqvae_steps"],
                             names=("VQ-VAE loss", "mse"), per_epoch=per_epoch, ylabel="squared error, images in [-1, 1]",
                             smooth=max(1, len(arrays["vqvae_train"]) // 500))
    sheet = tables.asked(record.id)["metrics"]["vqvae_loss"]["sheet"]
    axis.axhline(sheet, color=plotting.BLACK, linestyle="--", linewidth=0.9, label=f"the sheet's loss, {sheet}, on its data")
    axis.set_yscale("log")
    axis.legend(fontsize=8)
    number = min(record["config"]["watched"], record["dataset"]["sizes"]["test"])
    plotting.title(figure, f"{record.id}: VQ-VAE; test curve on {number:,} test images", record)
    return figure


def draw_prior_curves(record) -> plt.Figure:
    """Nats per token against epochs, and by position."""
    arrays, per_epoch = record.arrays, -(-record["dataset"]["sizes"]["train"] // record["config"]["prior"]["batch_size"])
    figure, (axis, board) = plt.subplots(1, 2, figsize=(7.6, 3.2), width_ratios=(1.7, 1))
    plotting.training_curves(axis, arrays["prior_train"], arrays["prior_test"], arrays["prior_steps"], names=("prior loss",),
                             per_epoch=per_epoch, ylabel="nats per token", bound=math.log(record.metrics["codebook_perplexity"]),
                             bound_label="log perplexity of the codes", smooth=max(1, len(arrays["prior_train"]) // 400))
    positions = arrays["position_nats"].reshape(SIDE // 4, -1)
    # The first token costs much more than all others: it would flatten their colours.
    image = board.imshow(positions, cmap=plotting.DENSITY_MAP, vmin=positions.min(), vmax=np.sort(positions, axis=None)[-2])
    board.set_title("test loss by position of the token", fontsize=9)
    board.set_axis_off()
    figure.colorbar(image, ax=board, shrink=0.8, label=f"nats; the first token {positions[0, 0]:.2f}")
    epochs = record["config"]["prior"]["epochs"]
    plotting.title(figure, f"{record.id}: transformer prior, {epochs} epochs, over the codes of a VQ-VAE", record)
    figure.draw_without_rendering()  # the layout needs a second look at pictures of fixed proportions
    return figure


for record in found:
    suite.figure(draw_vqvae_curves(record), f"{record.id}_vqvae_train_plot.png", record)
    suite.figure(draw_prior_curves(record), f"{record.id}_prior_train_plot.png", record)

# %% [markdown]
# **(c) Samples**, drawn at temperature 1 without top-p, all 100 of them. **(d) Reconstructions**: rows of test images, each
# above the row of its reconstructions from 64 tokens.


# %%
def alternate_rows(first: np.ndarray, second: np.ndarray, columns: int) -> np.ndarray:
    """Images (N, ...) of two arrays in one: a row of the first, the row of the second below it, and so on."""
    rows = [images.reshape(-1, columns, *images.shape[1:]) for images in (first, second)]
    return np.stack(rows, axis=1).reshape(-1, *first.shape[1:])


for record in found:
    pairs = alternate_rows(record.arrays["originals"], record.arrays["reconstructions"], 10)
    pictures = {"samples": (record.arrays["samples"], "samples of prior and decoder"),
                "reconstructions": (pairs, "test images, and below them their reconstructions")}
    for name, (images, heading) in pictures.items():
        figure = plotting.image_grid(images, 10, f"{record.id}: {heading}", record, width=4.5)
        suite.figure(figure, f"{record.id}_{name}.png", record)

# %% [markdown]
# **The codes.** How often each is used, over all test images, the most frequent first; and what each of them draws: the
# middle of the picture that the decoder makes of a map filled with that code alone, in the same order. Plain colours come
# first, edges and strong colours later.


# %%
def draw_code_usage(record) -> plt.Figure:
    """Frequencies of the codes, and what they draw."""
    arrays, number = record.arrays, len(record.arrays["usage_test"])
    order = np.argsort(-arrays["usage_test"], kind="stable")
    figure, (axis, patches) = plt.subplots(2, 1, figsize=(6.4, 4.2), height_ratios=(2.2, 1))
    for split, colour in (("train", plotting.SKY), ("test", plotting.BLUE)):
        share = arrays[f"usage_{split}"][order] / arrays[f"usage_{split}"].sum()
        axis.step(np.arange(number), share, where="mid", color=colour, label=f"{split} images")
    axis.axhline(1 / number, color=plotting.BLACK, linestyle="--", linewidth=0.9, label="even use")
    axis.set(xlabel="codes, the most frequent first", ylabel="share of the tokens", ylim=(0, None))
    axis.legend(fontsize=8)
    plotting.show_image(patches, plotting.tile(arrays["code_patches"][order], min(32, number), gap=1))
    patches.set_title("what each code draws alone, row by row in that order", fontsize=9)
    plotting.title(figure, f"{record.id}: {record.metrics['codes_used']:.0f} of {number} codes used, perplexity "
                           f"{record.metrics['codebook_perplexity']:.1f}", record)
    return figure


def draw_code_maps(record, number: int = 8) -> plt.Figure:
    """Test images, their maps of tokens, and their reconstructions."""
    arrays = record.arrays
    place = arrays["code_coordinates"]
    low, high = np.percentile(place, [2, 98], axis=0)
    colours = np.clip((place - low) / (high - low), 0, 1)
    figure, axes = plt.subplots(3, number, figsize=(1.0 * number, 3.4), squeeze=False)
    maps = arrays["tokens"][:number].reshape(number, SIDE // 4, -1)
    for column in range(number):
        pictures = (arrays["originals"][column] / 255, colours[maps[column]], arrays["reconstructions"][column] / 255)
        for axis, picture in zip(axes[:, column], pictures, strict=True):
            plotting.show_image(axis, picture)
    for axis, name in zip(axes[:, 0], ("image", "tokens", "reconstruction"), strict=True):
        axis.text(-0.08, 0.5, name, rotation=90, va="center", ha="right", fontsize=8, transform=axis.transAxes)
    plotting.title(figure, f"{record.id}: 64 tokens an image, similar codes in similar colours", record)
    return figure


def draw_temperatures(record) -> plt.Figure:
    """Samples at several temperatures and with top-p, from the same noise."""
    names = [f"temperature {value:g}" for value in TEMPERATURES] + [f"temperature 1, top-p {TOP_P:g}"]
    figure, axes = plt.subplots(2, 2, figsize=(6.4, 4.4))
    for axis, name, images in zip(axes.flat, names, record.arrays["tempered"], strict=True):
        plotting.show_image(axis, plotting.tile(images, 5))
        axis.set_title(name, fontsize=9)
    plotting.title(figure, f"{record.id}: samples from the same noise", record)
    return figure


for record in found:
    suite.figure(draw_code_usage(record), f"{record.id}_code_usage.png", record)
    suite.figure(draw_code_maps(record), f"{record.id}_code_maps.png", record)
    suite.figure(draw_temperatures(record), f"{record.id}_temperatures.png", record)

# %%
if found:
    tables.show_results(*found)
else:
    print("neither run is recorded yet: no numbers to show")

# %% [markdown]
# **What the sheet's numbers mean.** The table sets prior loss beside the entropy that it has to be read against, and prices
# both stages in bits an image. The sheet does not print a perplexity or an mse, so three things can be said about it: its
# prior loss is at most its log-perplexity, which bounds the perplexity from below; its tokens' cost is known; and its mse is
# at most its loss, which bounds the pixels' cost from above, at the best constant variance, $\sigma^2=\mathrm{mse}$. The last
# printed line turns the trade-off around: how small the sheet's mse would have to be for its cheaper tokens to win.


# %%
def pixels_at(mse: float) -> float:
    """Bits of an image's pixels at the best constant variance."""
    return gaussian_bits(mse, mse)


for record in found:
    metrics, number = record.metrics, record["config"]["number"]
    sheet = {name: facts.get("sheet") for name, facts in tables.asked(record.id)["metrics"].items()}
    log_perplexity = math.log(metrics["codebook_perplexity"])
    sheet_bits, sheet_pixels = 64 * sheet["prior_loss"] / math.log(2), pixels_at(sheet["vqvae_loss"])
    tables.show([record.id, record.remark or "full budget", "sheet, on its data"], [
        ["prior loss, nats per token", f"{metrics['prior_loss']:.4f}", f"{sheet['prior_loss']:.4f}"],
        ["log perplexity of the codes", f"{log_perplexity:.4f}", f"at least {sheet['prior_loss']:.4f}"],
        ["perplexity", f"{metrics['codebook_perplexity']:.1f} of {number}", f"at least {math.exp(sheet['prior_loss']):.1f}"],
        ["learned by the prior: their difference", f"{log_perplexity - metrics['prior_loss']:.4f}", "-"],
        ["mse", f"{metrics['recon_mse']:.4f}", f"at most {sheet['vqvae_loss']:.4f}"],
        ["tokens, bits an image", f"{metrics['prior_bits']:.0f}", f"{sheet_bits:.0f}"],
        ["pixels given the tokens, bits an image", f"{metrics['pixel_bits']:.0f}", f"at most {sheet_pixels:.0f}"],
        ["both, bits per dimension", f"{metrics['image_bpd']:.4f}", f"at most {(sheet_bits + sheet_pixels) / 3072:.4f}"]])
    if record["dataset"]["stand_in"] or not record.complete or suite.profile != "full":
        print(f"{record.id}: {record.remark}, so the two columns are not about the same thing\n")
        continue
    dearer = metrics["prior_bits"] - sheet_bits
    same = metrics["recon_mse"] * 2 ** (2 * dearer / 3072)
    print(f"{record.id}: the prior loss is {metrics['prior_loss'] - sheet['prior_loss']:+.4f} nats from the sheet's, so our "
          f"tokens cost {dearer:+.0f} bits an image more.\nAll in all ours is the shorter code if the sheet's mse is above "
          f"{same:.4f}. Ours is {metrics['recon_mse']:.4f};\nof the sheet's, only its sum with two quantisation errors is "
          f"known: {sheet['vqvae_loss']:.4f}.\n")

# %% [markdown]
# **Discussion.** A lower prior loss is not a better model: it is the price of naming the picture that the decoder will then
# draw. A codebook that uses few of its codes is cheap to predict and leaves the detail to the mse, where it costs more: the
# pixels take nearly all of an image's bits, and a whole nat more per token is only $64/\log2$ of them. That is why the two
# losses are printed with what they buy, and why a codebook that raises the prior loss can still be the better one.
#
# What the pictures show, then, has two causes. Reconstructions lose what the 64 tokens cannot name, texture and sharp edges:
# the decoder, trained on squared error, draws the mean of what the tokens leave open. Samples have the same softness and in
# addition what the prior has not learned: neighbouring tokens fit together, so that colours, horizons and outlines hold,
# while an object as a whole, which needs tokens far apart to agree, often does not. The loss by position says where pictures
# are hard to foresee: at the first token, which has nothing to look back on, and then, on photographs of objects as on house
# numbers, in the middle, where the object is; the border is mostly background, and cheap.
#
# Lower temperatures and top-p trade variety for agreement. Below 1 the pictures become calm, and many of them nothing but
# background: the likeliest tokens, 64 times in a row, are not a typical picture, because a typical one has its share of
# unlikely tokens. Above 1 there are more of these than the following tokens can make sense of.

# %% [markdown]
# ## D · The sheet's codebook loss beside running means
#
# The same network from the same first weights, on the same images in the same order with the same steps; only the rule that
# moves the codes differs. To be affordable, layers and codes have fewer dimensions than in part C, and the budget is shorter.


# %%
def compare_codebooks(run: Run, dataset: str, limit: dict | None, number: int, size: int, epochs: float, batch_size: int,
                      rate: float, watched: int) -> Outcome:
    """The sheet's loss beside running means: the same network, first weights, images in the same order, rates and steps.

    Args:
        run: the run.
        dataset, limit, number, size, epochs, batch_size, rate, watched: as in :func:`train_q3`.
    """
    device = settings.device()
    data = datasets.load(dataset, limit=limit)
    train, test = (image_tensor(data, split, device) for split in ("train", "test"))
    values, arrays, done, planned, seconds = {}, {"originals": test[:10].cpu().numpy()}, 0, 0, 0.0
    for variant in ("gradient", "tracked"):
        model = build_vqvae(number, size, variant == "tracked", run.seed_for("initialisation"), device)
        training = run.training(variant)
        if run.time_budget is not None:
            training["time_budget"] = 0.5 * run.time_budget
        history = fit_vqvae(model, train, test[:watched], epochs=epochs, batch_size=batch_size, rate=rate,
                            order=run.seed_for("order of images"), training=training)
        terms, tokens = evaluate_vqvae(model, test)
        usage = np.bincount(tokens.flatten().cpu().numpy(), minlength=number)
        values |= {f"{variant}_loss": float(terms[0]), f"{variant}_recon_mse": float(terms[1]),
                   f"{variant}_perplexity": usage_perplexity(usage), f"{variant}_codes_used": int((usage > 0).sum())}
        with torch.no_grad():
            arrays[f"{variant}_reconstructions"] = to_pixels(model(scale_pixels(test[:10]))[0])
        arrays |= {f"{variant}_usage": usage.astype(np.int32), f"{variant}_test": history.evaluations.astype(np.float32),
                   f"{variant}_train": history.terms[:, :2].astype(np.float32), f"{variant}_steps": history.evaluation_steps}
        done, planned, seconds = done + history.done, planned + history.planned, seconds + history.seconds
    return Outcome(values, arrays, data.describe(), (done, planned, "steps"), [run.seed], 0, seconds,
                   {"precision": settings.half_precision(device)})


# %%
comparison = suite.run("q3_codebook", compare_codebooks, COMPARISON)
VARIANTS = {"gradient": "the sheet's loss", "tracked": "running means, restart"}
rows = [[name, *(f"{comparison.metrics[f'{variant}_{metric}']:.4f}" for metric in ("loss", "recon_mse")),
         f"{comparison.metrics[f'{variant}_perplexity']:.1f}",
         f"{comparison.metrics[f'{variant}_codes_used']:.0f} of {comparison['config']['number']}",
         "; ".join(filter(None, [f"{comparison['config']['epochs']:g} epochs", comparison.remark]))]
        for variant, name in VARIANTS.items()]
tables.show(["codes moved by", "loss", "mse", "perplexity", "codes used", "budget and data"], rows)


# %%
def draw_comparison(record) -> plt.Figure:
    """Losses, code usage and reconstructions of both variants."""
    arrays, columns = record.arrays, 10
    per_epoch = record["dataset"]["sizes"]["train"] // record["config"]["batch_size"]
    figure = plt.figure(figsize=(8.4, 6.2))
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1))
    losses, usage = top.subplots(1, 2)
    for (variant, name), colour in zip(VARIANTS.items(), (plotting.VERMILION, plotting.BLUE), strict=True):
        epochs, test = arrays[f"{variant}_steps"] / per_epoch, arrays[f"{variant}_test"]
        train = arrays[f"{variant}_train"][:, 0]
        losses.plot((np.arange(len(train)) + 0.5) / per_epoch, train, color=colour, alpha=0.25, linewidth=0.8)
        losses.plot(epochs, test[:, 0], color=colour, marker="o", markersize=3, label=f"{name}: loss")
        losses.plot(epochs, test[:, 1], color=colour, marker="o", markersize=3, linestyle=":", label=f"{name}: mse")
        share = np.sort(arrays[f"{variant}_usage"])[::-1] / arrays[f"{variant}_usage"].sum()
        usage.step(np.arange(len(share)), share, where="mid", color=colour,
                   label=f"{name}: perplexity {record.metrics[f'{variant}_perplexity']:.1f}")
    usage.axhline(1 / len(share), color=plotting.BLACK, linestyle="--", linewidth=0.9, label="even use")
    losses.plot([], [], color="grey", alpha=0.5, label="loss on training minibatches")
    losses.set(xlabel="epoch", ylabel="squared error", yscale="log")
    usage.set(xlabel="codes, the most frequent first", ylabel="share of the test tokens", yscale="log", ylim=(1e-5, 1))
    losses.legend(fontsize=7)
    usage.legend(fontsize=7)
    rows = {"test images": arrays["originals"]}
    rows |= {name: arrays[f"{variant}_reconstructions"] for variant, name in VARIANTS.items()}
    for axis, (name, images) in zip(bottom.subplots(3, 1), rows.items(), strict=True):
        plotting.show_image(axis, plotting.tile(images[:columns], columns))
        axis.set_title(name, fontsize=8)
    plotting.title(figure, f"Two ways to move {record['config']['number']} codes of {record['config']['size']} dimensions, "
                           f"{record['config']['epochs']} epochs", record)
    return figure


suite.figure(draw_comparison(comparison), "q3_codebook.png", comparison)

# %% [markdown]
# **Reading it.** On training minibatches the sheet's loss first *climbs*: the encodings leave the tiny cloud of first codes
# within a few steps, at the speed of the network's weights, and the two quantisation terms are then larger than anything
# else. The codes follow at Adam's pace, those that are chosen at all: the commitment has to pull the encoder back meanwhile,
# and the rest are never chosen again. Running means are where the encodings are from the first batch on, and the restart
# spends every code; so the encoder may keep distinctions that the other variant has no code for. The mse, the dotted lines,
# says that the difference is in the pictures too, and not only in the two terms that have no scale.
#
# What the option costs is the prior's ease: more codes in use are more to predict. Part C puts a price on both.

# %%
# On Colab: one zip of results and figures to download.
colab.pack()
