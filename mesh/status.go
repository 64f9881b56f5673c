package mesh

import "strconv"

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

// Good reports whether all is well as far as c says: a condition like Accepted that is true, or
// one like Conflicted that is not.
func (c Condition) Good() bool {
	switch c.Type {
	case "PartiallyInvalid", "Conflicted":
		return !c.True
	}
	return c.True
}

// Good reports whether all conditions at all parents are.
func (s *Status) Good() bool {
	for i := range s.Parents {
		for _, c := range s.Parents[i].Conditions {
			if !c.Good() {
				return false
			}
		}
	}
	return true
}

// String returns "Service default/web:80".
func (p ParentRef) String() string {
	s := p.Kind + " " + p.Name.Name // of the cluster, as a GatewayClass
	if p.Name.Namespace != "" {
		s = p.Kind + " " + p.Name.String()
	}
	if p.Section != "" {
		s += "/" + p.Section
	}
	if p.Port != 0 {
		s += ":" + strconv.Itoa(int(p.Port))
	}
	return s
}
