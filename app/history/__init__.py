"""What was answered, and what it takes to answer it again."""
