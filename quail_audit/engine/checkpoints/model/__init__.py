"""The class of a checkpoint, its modules, its matrices and its sizes."""
