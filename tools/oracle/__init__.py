"""The independent oracle behind tests/fixtures: public Python implementations, none of this crate's code."""
