package filters

import "cairnproxy.dev/cairn/mesh"

// FieldEdit is one change of a head, as a service that is asked wants it.
type FieldEdit struct {
	mesh.Field
	How FieldAction
}

// FieldAction is Envoy's HeaderAppendAction.
type FieldAction uint8

const (
	// Append adds a field beside those of its name.
	Append FieldAction = iota
	// AddIfAbsent adds a field where there is none of its name.
	AddIfAbsent
	// Overwrite is in place of all fields of its name, or adds.
	Overwrite
	// OverwriteIfExists is in place of all fields of its name, if there are any.
	OverwriteIfExists
)

// Apply changes f.
func (e *FieldEdit) Apply(f *mesh.Fields) {
	switch e.How {
	case Append:
		*f = append(*f, e.Field)
	case AddIfAbsent:
		if !f.Has(e.Name) {
			*f = append(*f, e.Field)
		}
	case Overwrite:
		f.Set(e.Name, e.Value)
	case OverwriteIfExists:
		if f.Has(e.Name) {
			f.Set(e.Name, e.Value)
		}
	}
}
