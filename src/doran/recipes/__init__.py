"""Floor 7: a recipe is a list of stages; running it leaves model folders, metrics, receipts and a report."""
