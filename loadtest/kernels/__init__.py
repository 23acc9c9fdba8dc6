"""What a process of the load test has compiled: reading and decoding what its players are sent, without a Python object for a snapshot.

Each module stands alone, since Numba's cache does not notice an edit in another file. Imported by loadtest.reader alone. The kernels' naive
twin is the SDK's decoder (tests/unit/loadtest/test_reader.py).
"""
