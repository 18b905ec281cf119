"""What raycal measures, one file a question: pure functions and sums of numpy arrays over a whole split."""
