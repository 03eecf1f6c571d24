"""doran: build, train, measure and serve small R1-style reasoning models, in Korean and English."""

import os

# oneDNN compiles a kernel for every new matrix shape (1 to 3 ms) and keeps 1024 of them. Decoding meets one shape for
# each number of running requests, so more must be kept; it reads this once, before the first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")

__version__ = "0.1.0"
