"""What runs found: records, the digests of their code, verdicts and tables."""
