"""Small loops over tensors on CPU, compiled by numba and run by torch's own threads.

Between two matrix products torch makes a pass over memory, and a meeting of all threads, for each operator. Here what
lies between two products is one loop. Only the products themselves, and whatever needs a GPU, are left to torch.
"""
