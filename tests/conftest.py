"""One thread for every test: with tiny tensors two are slower, and far slower on a busy machine."""

import torch

torch.set_num_threads(1)
