"""Tiny tensors: one thread, so that the tests do not wait for a busy second core (28× slower on a shared machine)."""

import torch

torch.set_num_threads(1)
