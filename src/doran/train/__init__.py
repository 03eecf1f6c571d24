"""Training: the loop, its losses and its three uses (pretraining, supervised fine-tuning, GRPO)."""
