"""The site: results, curves, samples and notebooks as plain pages that open from a folder, ``build/site/``."""
