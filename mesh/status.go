package mesh

// Status is what became of one object: a route, or a policy (GEP-1364, GEP-713).
type Status struct {
	Kind    string
	Object  Name
	Parents []ParentStatus
}

// ParentStatus is what became of it at one parent (a route) or ancestor (a policy).
type ParentStatus struct {
	Parent     ParentRef
	Conditions []Condition
}

// ParentRef names a parent. Section and Port are "" and 0 for the whole of it.
type ParentRef struct {
	Group, Kind string
	Name        Name
	Section     string
	Port        uint16
}

// Condition is one of Accepted, ResolvedRefs, PartiallyInvalid, Conflicted and the like.
type Condition struct {
	Type string
	True bool
	// Reason is a word of the specification's, Message says object, field and remedy.
	Reason, Message string
}
