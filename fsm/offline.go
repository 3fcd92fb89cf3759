package fsm

import (
	"github.com/snipdb/snipdb/fsm/command"
	"github.com/snipdb/snipdb/storage"
)

// ReadMembers returns the members that a state names, for tools that look at
// the state of a node that does not run.
func ReadMembers(v *storage.View) ([]*command.Member, error) {
	sys, err := loadSystem(v)
	return sys.members, err
}
