package object

import (
	"encoding/binary"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// selectorKey is one label that a service asks of its endpoints.
type selectorKey struct{ namespace, label, value string }

// indexSelectors files each service under the rarest label of its selector, so
// that a workload need look at few of 10,000 services.
func (t *translator) indexSelectors() {
	t.selectors = map[selectorKey][]*service{}
	t.shared = map[string]map[mesh.ServiceKey]map[uint16]uint16{}
	uses := map[selectorKey]int{}
	for _, s := range t.serviceSeq {
		for _, l := range s.selector {
			uses[selectorKey{s.model.Key.Namespace, l.key, l.value}]++
		}
	}
	for _, s := range t.serviceSeq {
		var best selectorKey
		least := 0
		for _, l := range s.selector {
			key := selectorKey{s.model.Key.Namespace, l.key, l.value}
			if n := uses[key]; least == 0 || n < least || n == least && key.label < best.label {
				best, least = key, n
			}
		}
		if least > 0 {
			t.selectors[best] = append(t.selectors[best], s)
		}
	}
}

// servicesOf returns the services that select a workload with these labels, and
// its ports for them. Workloads with the same answer may share one map, which
// must not be changed. named and entry are the workload's ports by name.
func (t *translator) servicesOf(ns string, labels map[string]string, named map[string]uint16, entry map[string]uint32) map[mesh.ServiceKey]map[uint16]uint16 {
	var found []*service
	for k, v := range labels {
		for _, s := range t.selectors[selectorKey{ns, k, v}] {
			if selects(s.selector, labels) {
				found = append(found, s)
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	if len(entry) > 0 || slices.ContainsFunc(found, (*service).anyNamed) {
		return portsOfAll(found, named, entry)
	}
	slices.SortFunc(found, func(a, b *service) int { return a.seq - b.seq })
	key := make([]byte, 0, 64)
	for _, s := range found {
		key = binary.AppendUvarint(key, uint64(s.seq))
	}
	m := t.shared[string(key)]
	if m == nil {
		m = portsOfAll(found, nil, nil)
		t.shared[string(key)] = m
	}
	return m
}

func portsOfAll(list []*service, named map[string]uint16, entry map[string]uint32) map[mesh.ServiceKey]map[uint16]uint16 {
	m := make(map[mesh.ServiceKey]map[uint16]uint16, len(list))
	for _, s := range list {
		m[s.model.Key] = endpointPorts(s, named, entry)
	}
	return m
}

func (s *service) anyNamed() bool {
	return slices.ContainsFunc(s.ports, func(p servicePort) bool { return p.targetName != "" })
}

func selects(selector []label, labels map[string]string) bool {
	for _, l := range selector {
		if got, ok := labels[l.key]; !ok || got != l.value {
			return false
		}
	}
	return len(selector) > 0
}
