"""Measuring a model: metrics, the evaluation run, and the report page. Nothing here trains."""
