"""Floor 1: C++ kernels on plain arrays, compiled at first use, each beside its torch reference. No model in here."""
