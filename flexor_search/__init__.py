"""flexor-search: search over fractional-bit allocations of FleXOR-quantized PyTorch models under a size budget."""

__version__ = "0.1.0"
