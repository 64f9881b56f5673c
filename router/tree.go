package router

import "strings"

// fewChildren is how many children a node searches one by one before it builds
// a map: comparing a handful of short strings is quicker than hashing one.
const fewChildren = 6

// node is one path element in the tree of prefixes. The root stands for "/"
// and never holds candidates; the node of "/foo/bar" is its grandchild.
type node struct {
	element string
	few     []*node
	many    map[string]*node
	// up is the nearest node above that holds candidates; nil for none.
	up   *node
	list list
}

func (n *node) child(element string) *node {
	if n.many != nil {
		return n.many[element]
	}
	for _, c := range n.few {
		if c.element == element {
			return c
		}
	}
	return nil
}

func (n *node) add(element string) *node {
	c := &node{element: element}
	if n.many == nil && len(n.few) < fewChildren {
		n.few = append(n.few, c)
		return c
	}
	if n.many == nil {
		n.many = make(map[string]*node, len(n.few)+1)
		for _, f := range n.few {
			n.many[f.element] = f
		}
		n.few = nil
	}
	n.many[element] = c
	return c
}

// at returns the node of prefix, "/a/b" without a trailing slash, making the
// path to it.
func (n *node) at(prefix string) *node {
	for prefix != "" {
		var element string
		element, prefix = cutElement(prefix)
		c := n.child(element)
		if c == nil {
			c = n.add(element)
		}
		n = c
	}
	return n
}

// link sets up everywhere below n, once the tree is complete. up is the nearest
// node above n that holds candidates.
func (n *node) link(up *node) {
	n.up = up
	if n.list.all != nil {
		n.list.seal()
		up = n
	}
	for _, c := range n.few {
		c.link(up)
	}
	for _, c := range n.many {
		c.link(up)
	}
}

// longest returns the node with candidates that stands for the longest prefix
// of path, or nil. Follow up for the shorter ones.
func (n *node) longest(path string) *node {
	if path == "" || path[0] != '/' {
		return nil
	}
	for path != "" {
		element, rest := cutElement(path)
		c := n.child(element)
		if c == nil {
			break
		}
		n, path = c, rest
	}
	if n.list.all != nil {
		return n
	}
	return n.up
}

// cutElement splits "/a/b" into "a" and "/b". path begins with a slash.
func cutElement(path string) (element, rest string) {
	if i := strings.IndexByte(path[1:], '/'); i >= 0 {
		return path[1 : i+1], path[i+1:]
	}
	return path[1:], ""
}
