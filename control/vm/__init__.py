"""Virtual machines that join by themselves: who is connected, which WorkloadEntry each has, and when that goes.

Level-triggered: `plan` compares what is connected with the entries that are there, and says what to write. What is known of a machine
that is away stands in its entry, so that another replica, or the next process, goes on from there.
"""
