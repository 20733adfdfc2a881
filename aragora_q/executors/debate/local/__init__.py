"""A small model that runs on this machine, for debates without a provider.

Everything that exists only for local models is in this folder.
"""
