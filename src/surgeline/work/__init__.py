"""What travels: jobs, the resources that they need, their outcomes, and the queue that they stand in."""
