"""What is adapted: parameters with a leading episode axis, and how the tower reads them."""
