"""Floor 4: several processes as one trainer (torchrun). Nothing here is imported where there is only one."""
