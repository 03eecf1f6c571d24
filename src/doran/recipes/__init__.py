"""Floor 7: a recipe is a list of stages with settings; running it leaves model folders, metrics, receipts and a report."""
