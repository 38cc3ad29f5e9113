"""How work runs: an executor over threads or a cluster, progress bars, limits, whole files."""
