//go:build !mutants

package mutant

// Enabled says whether this binary was built with the tag.
const Enabled = false

// On says whether a mistake is to be made. In this build none is, and the
// compiler drops what depends on it.
func On(Name) bool { return false }

// IsVariable says whether an environment variable is this package's. In this
// build none is, so that a server refuses it like every other that it lacks.
func IsVariable(string) bool { return false }
