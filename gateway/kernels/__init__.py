"""What a gateway has compiled: loops over sockets and arrays, without a Python object for a player.

Each module stands alone: a compiled function here calls none of another file, since Numba's cache does not notice an edit there. Never
imported when a gateway starts, but by gateway.send_table while it waits for its world: the compiler's import takes longer than all the
rest. Every kernel has a naive twin in tests/unit/gateway.
"""
