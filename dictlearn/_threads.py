"""Imported before torch: how its threads wait for one another.

Threads that spin while they wait make small dictionaries train several times slower, and more than
twenty times slower where another program has one of the cores. Passive ones sleep. The setting is
read once, when torch is loaded, and a value set by the user stands.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
