"""What small models need compiled, by numba: calls of a processor's own instructions on torch's threads.

A function takes the address of an array of numbers and addresses, which every thread reads; each does its share.
"""
