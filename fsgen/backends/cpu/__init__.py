"""The compiled forward pass of Llama-like models on a CPU, by numba."""
