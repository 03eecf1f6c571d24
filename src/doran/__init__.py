"""doran: build, train, measure and serve small R1-style reasoning models, in Korean and English."""

__version__ = "0.1.0"
