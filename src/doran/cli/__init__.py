"""Floor 8: the command `doran`, one file per verb. A verb reads options, calls the floors below, and prints."""
