"""Work in the background: the queue, and what each kind of job does."""
