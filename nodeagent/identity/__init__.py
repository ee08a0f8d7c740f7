"""Who the agent and its workloads are: keys made here, certificates asked for, checked, renewed and kept."""
