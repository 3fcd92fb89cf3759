package tree

// Helper is a test's.
func Helper() {}
