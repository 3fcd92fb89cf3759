package fsm

import (
	"fmt"
	"reflect"

	"github.com/snipdb/snipdb/fsm/command"
)

// The two tables name every verb that exists and the function that does it. A
// verb without a row can't be applied and stops the process; a test holds the
// tables against the protobuf file.
var (
	commandTable = table(
		verb(func(x *execution, op *command.Command_Mutation) (*command.Result, error) {
			return x.mutate(op.Mutation)
		}),
		verb(func(x *execution, op *command.Command_Batch) (*command.Result, error) { return x.batch(op.Batch) }),
		verb((*execution).tick),
		verb((*execution).initCluster),
		verb((*execution).setMember),
		verb((*execution).removeMember),
		verb((*execution).setLimits),
	)
	mutationTable = table(
		verb((*change).putCollection),
		verb((*change).deleteCollection),
		verb((*change).putDocument),
		verb((*change).patchDocument),
		verb((*change).deleteDocument),
		verb((*change).putSnippet),
		verb((*change).patchSnippet),
		verb((*change).deleteSnippet),
		verb((*change).putEmbeddings),
		verb((*change).deleteOwner),
	)
)

// row is one verb: the type that protobuf wraps it in, and its function.
type row[X any] struct {
	op reflect.Type
	do func(X, any) (*command.Result, error)
}

// verb makes a row of a function.
func verb[X, Op any](do func(X, Op) (*command.Result, error)) row[X] {
	return row[X]{
		op: reflect.TypeFor[Op](),
		do: func(x X, op any) (*command.Result, error) { return do(x, op.(Op)) },
	}
}

// table makes a table of rows.
func table[X any](rows ...row[X]) map[reflect.Type]func(X, any) (*command.Result, error) {
	t := make(map[reflect.Type]func(X, any) (*command.Result, error), len(rows))
	for _, r := range rows {
		t[r.op] = r.do
	}
	return t
}

// dispatch runs the command's operation.
func (x *execution) dispatch(c *command.Command) (*command.Result, error) {
	do, ok := commandTable[reflect.TypeOf(c.GetOp())]
	if !ok {
		return nil, fmt.Errorf("operation %T: %w", c.GetOp(), command.ErrUnknown)
	}
	return do(x, c.GetOp())
}

// mutate runs one mutation, alone or as part of a batch.
func (x *execution) mutate(m *command.Mutation) (*command.Result, error) {
	do, ok := mutationTable[reflect.TypeOf(m.GetOp())]
	if !ok {
		return nil, fmt.Errorf("mutation %T: %w", m.GetOp(), command.ErrUnknown)
	}
	c := &change{execution: x, name: m.GetCollection(), condition: m.GetCondition()}
	if err := c.open(); err != nil {
		return nil, err
	}
	return do(c, m.GetOp())
}
