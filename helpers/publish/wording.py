"""Names of metrics as a reader says them, and numbers with the digits that carry something: for the report."""

from __future__ import annotations

import math

STEMS = {
    "neg_elbo": "negative ELBO", "recon": "reconstruction", "kl": "KL", "normal_kl": "KL, had the prior been N(0, I)",
    "kl_z1": "KL of the first level", "kl_z2": "KL of the second level", "log_px": "log-likelihood",
    "neg_iwae100": "negative bound, 100 samples", "nll": "negative log-likelihood", "loss": "loss", "bpd": "bound",
    "recon_mse": "squared error", "recon_mse_at_mean": "squared error, mean code", "end_recon_mse": "squared error at the ends",
    "relative_error_last": "relative error, last step", "chamfer": "Chamfer distance",
    "path_distance_mean": "path to surface, mean", "path_distance_max": "path to surface, most",
    "vqvae_loss": "VQ-VAE loss", "prior_loss": "prior loss", "codebook_perplexity": "perplexity of the codes",
    "codes_used": "codes in use", "code_nats": "tokens, nats per image", "recon_nats": "pixels, nats per image",
    "image_nats": "tokens and pixels", "inception_score": "Inception Score", "fid": "FID",
    "inception_score_smallnet": "Inception Score, small classifier", "fid_smallnet": "Fréchet distance, small classifier",
    "fid_against_test_smallnet": "the same, to test images", "jsd": "JSD", "w1": "W1", "score_test": "critic on test images",
    "score_fake": "critic on samples", "nll_constant_rate": "the same, constant rate", "final_radius": "final radius",
    "train_nll_last_200": "last 200 batches", "accuracy": "accuracy",
}
BEFORE = {"valid": "validation", "test": "test", "train": "training", "course": "course's setting:", "plain": "plain posterior:",
          "sheet_setting": "sheet's setting:", "elbo_trained": "trained on the ELBO:", "length_2": "2 layers:",
          "length_16": "16 layers:"}
AFTER = {"_bpd": "", "_first100": ", 100 points", "_small_field": ", smaller field", "_k2": ", k = 2", "_k8": ", k = 8",
         "_k32": ", k = 32"}
DIGITS = 4


def metric(name: str) -> str:
    """A metric's name in words; an identifier that no rule knows keeps its words, without underscores."""
    if name in STEMS:
        return STEMS[name]
    for start, words in BEFORE.items():
        if name.startswith(f"{start}_"):
            return f"{words} {metric(name.removeprefix(f'{start}_'))}"
    for end, words in AFTER.items():
        if name.endswith(end):
            return metric(name.removesuffix(end)) + words
    return name.replace("_", " ")


def decimals(value: float, digits: int = DIGITS) -> int:
    """Decimals with which a number shows so many significant digits."""
    return digits if value == 0 else max(0, digits - 1 - math.floor(math.log10(abs(value))))


def number(value: float | None, places: int | None = None) -> str:
    """A number with four significant digits, or with so many decimals; a dash for none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if places is None and abs(value) < 1e-3:
        return f"{value:.1e}"
    text = f"{value:,.{decimals(value) if places is None else places}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def with_spread(value: float | None, spread: dict) -> str:
    """Mean and standard deviation over seeds with the same decimals, ``4.418 ± 0.001``; the value alone for one seed."""
    if value is None or spread.get("n", 1) == 1:
        return number(value)
    deviation = spread["std"]
    if abs(value) < 1e-3:
        return f"{number(value)} ± {number(deviation)}"
    places = decimals(value)
    smallest = 10.0**-places
    return f"{number(value, places)} ± " + (number(deviation, places) if deviation >= smallest / 2 or deviation == 0
                                            else f"less than {smallest:.{places}f}")
