"""Threads that stay in jitted code: the thread pool, atomics, the command buffer between Python and the workers."""
