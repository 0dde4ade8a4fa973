"""Which faults the tests would not notice; see `scripts/mutation`."""
