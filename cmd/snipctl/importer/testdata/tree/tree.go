// Package tree is a small tree.
//
// It has two paragraphs.
package tree

// MaxDepth bounds a tree.
const MaxDepth = 10

const Quiet = 1

// Node is one node.
type Node struct {
	// Value is what it holds.
	Value int
	next  *Node
}

// Walk visits each node.
func (n *Node) Walk(visit func(*Node) bool) error {
	return nil
}

func (n *Node) Silent() {}

// hidden is not exported.
func hidden() {}

// New makes a node.
func New(value int) *Node { hidden(); return &Node{Value: value} }
