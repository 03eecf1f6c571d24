"""Data: users' files read and checked, corpora of ids, mixtures, packing. No tasks, no rewards, no training."""
