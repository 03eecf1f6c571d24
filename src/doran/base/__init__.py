"""Floor 0: errors, strict config, files, run log, seeds and facts about the machine. Imports nothing else of doran."""
