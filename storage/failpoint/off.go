//go:build !failpoints

package failpoint

// Enabled says whether this binary was built with the tag.
const Enabled = false

// Hit marks a point. In this build it is nothing.
func Hit(Name) {}

// Error marks a point that can fail. In this build it is nil, and the
// compiler drops the branch on it.
func Error(Name) error { return nil }

// Value returns def, in this build always.
func Value(_ Name, def int64) int64 { return def }

// Arm is what a process does first. In this build it does nothing.
func Arm([]string) error { return nil }

// IsVariable says whether an environment variable is Arm's. In this build none
// is, so that a server refuses it like every other setting that it lacks.
func IsVariable(string) bool { return false }
