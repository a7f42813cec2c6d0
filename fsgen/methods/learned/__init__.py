"""Learned routers: what they read of the draft's distribution, how they score it, and their files.

In NumPy alone: the decode loop, which has the distribution at hand, and the analyses, which have its trace, make the
same features and scores of it. Training is `fsgen.analysis.learning`.
"""
