"""Model shapes without torch: configuration, presets and counting."""
