"""Does a dictionary show the hops that a circuit has?"""
