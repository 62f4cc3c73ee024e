"""The parts of benchmarks/gpu.py: devices, floors, and what is checked and timed."""
