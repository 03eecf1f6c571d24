"""Data: users' files read and checked, corpora of token ids, mixtures and packing. No tasks, no rewards, no training."""
