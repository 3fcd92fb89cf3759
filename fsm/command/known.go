package command

import (
	"fmt"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// shape is what one message type looks like on the wire: for each field
// number its wire type and, for messages, their shape. It is made of the
// descriptor once, so it can't be out of date.
//
// A walk over the bytes with it finds unknown fields without a look at the
// decoded messages. protoreflect takes four to six times as long, because it
// visits each field through an interface; the walk skips a text or vector of
// any length in one step.
type shape struct {
	fields []shapeField // by number; the numbers are small
}

type shapeField struct {
	known bool
	wire  protowire.Type
	sub   *shape // for messages
}

// entryShape returns the shape of a log entry. It is made at first use: the
// generated code registers its descriptors in an init of its own.
var entryShape = sync.OnceValue(func() *shape {
	return shapeOf((*Entry)(nil).ProtoReflect().Descriptor(), map[protoreflect.FullName]*shape{})
})

// shapeOf builds the shape of a message; made holds those that exist already,
// because messages may hold themselves.
func shapeOf(d protoreflect.MessageDescriptor, made map[protoreflect.FullName]*shape) *shape {
	if s, ok := made[d.FullName()]; ok {
		return s
	}
	s := &shape{}
	made[d.FullName()] = s
	fields := d.Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.IsMap() || fd.IsPacked() {
			// Neither exists in command.proto. A map has no order, and a packed
			// field has two forms on the wire.
			panic(fmt.Sprintf("command: field %s is a map or packed: commands must not have those", fd.FullName()))
		}
		for len(s.fields) <= int(fd.Number()) {
			s.fields = append(s.fields, shapeField{})
		}
		f := shapeField{known: true, wire: wireType(fd.Kind())}
		if fd.Message() != nil {
			f.sub = shapeOf(fd.Message(), made)
		}
		s.fields[fd.Number()] = f
	}
	return s
}

// wireType is how a field of this kind is written.
func wireType(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.DoubleKind, protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind:
		return protowire.Fixed64Type
	case protoreflect.FloatKind, protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind:
		return protowire.Fixed32Type
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	}
	return protowire.VarintType
}

// check returns ErrUnknown if b holds a field that the shape does not, or has
// in another wire type (which proto.Unmarshal takes for unknown as well).
func (s *shape) check(b []byte) error {
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %v", ErrMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		if int(number) >= len(s.fields) || !s.fields[number].known || s.fields[number].wire != wire {
			return fmt.Errorf("field %d: %w", number, ErrUnknown)
		}
		if n = protowire.ConsumeFieldValue(number, wire, b); n < 0 {
			return fmt.Errorf("%w: %v", ErrMalformed, protowire.ParseError(n))
		}
		if sub := s.fields[number].sub; sub != nil {
			value, _ := protowire.ConsumeBytes(b)
			if err := sub.check(value); err != nil {
				return err
			}
		}
		b = b[n:]
	}
	return nil
}
