"""A fleet of hollow edge nodes: they speak the real wire to any cloudcore, and run nothing.

`app` is the command, `scenarios` what a fleet can do, `node` what one node says, `hub_socket` how it is carried.
"""
