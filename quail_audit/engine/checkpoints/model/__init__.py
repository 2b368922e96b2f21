"""Which class a checkpoint is, its modules, its matrices and its sizes."""
