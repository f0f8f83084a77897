"""Search over hyper-parameters, budgets, sizes and plans of training."""
