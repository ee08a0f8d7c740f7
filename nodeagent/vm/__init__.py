"""A virtual machine, or another host outside of any cluster, as a node of the mesh: how it joins and leaves, what runs there, how it is.

What the machine is stands in its state directory from `join` on (`membership`); what the controller made of it is kept there too, so that
an agent that starts again without its controller serves at once.
"""
