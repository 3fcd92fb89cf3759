package tree

// OnlyWindows is for another platform.
func OnlyWindows() {}
