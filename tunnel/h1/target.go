package h1

import (
	"bytes"
	"net/netip"

	"cairnproxy.dev/cairn/mesh"
)

// NormalizePath rewrites an absolute path in place as Istio's default, BASE,
// has it (RFC 3986, 6.2.2, and Envoy's normalize_path), and returns the
// shortened slice:
//
//   - a backslash becomes a slash;
//   - percent escapes of unreserved characters are decoded, once;
//   - "." and ".." segments, in whatever spelling, are resolved and never lead
//     above the root.
//
// %2F and %5C stay as they are, and so do empty segments ("//"). It refuses a
// path that does not start with a slash, a malformed escape, %00, and bytes
// that may not stand in a path (controls, space, '?', '#', non-ASCII). Beyond
// what BASE asks for it refuses what some servers resolve and others do not, so that
// policies and they might mean different resources:
//
//   - dot segments with parameters ("..;x", as servlet containers have them);
//   - dot segments that an escaped slash or backslash delimits ("..%2F");
//   - overlong UTF-8 (%C0%AE, which is no dot, and to old decoders is one).
//
// Normalising twice is the same as once.
func NormalizePath(path []byte) ([]byte, error) { return NormalizePathAs(mesh.PathBase, path) }

// NormalizePathAs is NormalizePath for any of Istio's levels. What it refuses is the
// same for all but NONE, which leaves the path alone and refuses only malformed escapes,
// %00, and what may not stand in a path.
func NormalizePathAs(level mesh.PathLevel, path []byte) ([]byte, error) {
	if len(path) == 0 || path[0] != '/' && (path[0] != '\\' || level == mesh.PathNone) {
		return nil, errTarget
	}
	if level == mesh.PathNone {
		return path, checkPath(path)
	}
	path[0] = '/'
	w, segment := 1, 1 // path[:w] is done; the current segment starts at segment
	for r := 1; r < len(path); r++ {
		c := path[r]
		slash := c == '/' || c == '\\'
		if c == '%' {
			if r+2 >= len(path) {
				return nil, errEscape
			}
			hi, lo := hexValue[path[r+1]], hexValue[path[r+2]]
			v := hi<<4 | lo
			if hi == 0xff || lo == 0xff || v == 0 {
				return nil, errEscape
			}
			slash = level == mesh.PathDecode && (v == '/' || v == '\\')
			if class[v]&classUnreserved == 0 && !slash {
				if v >= 0xc0 && overlong(v, path[r+3:]) {
					return nil, errOverlong
				}
				w += copy(path[w:], path[r:r+3])
				r += 2
				continue
			}
			c = v
			r += 2
		}
		switch {
		case slash:
			keep, err := endSegment(path, segment, w)
			if err != nil {
				return nil, err
			}
			if keep != w {
				w = keep
			} else {
				path[w] = '/'
				w++
			}
			segment = w
			continue
		case class[c]&classPath == 0:
			return nil, errTargetByte
		}
		path[w] = c
		w++
	}
	end, err := endSegment(path, segment, w)
	if err != nil {
		return nil, err
	}
	path = path[:end]
	if level == mesh.PathMerge || level == mesh.PathDecode {
		path = mergeSlashes(path)
	}
	return path, nil
}

// mergeSlashes makes one slash of several, in place. It comes after dot segments are
// resolved, as Envoy has it: "/a//../b" is "/a/b".
func mergeSlashes(path []byte) []byte {
	i := bytes.Index(path, []byte("//"))
	if i < 0 {
		return path
	}
	w := i + 1
	for _, c := range path[w:] {
		if c != '/' || path[w-1] != '/' {
			path[w] = c
			w++
		}
	}
	return path[:w]
}

// checkPath says what of a path that is left alone may not stand in one.
func checkPath(path []byte) error {
	for i, c := range path {
		if class[c]&classPath == 0 {
			return errTargetByte
		}
		if c == '%' && (i+2 >= len(path) || hexValue[path[i+1]] == 0xff || hexValue[path[i+2]] == 0xff || hexValue[path[i+1]]|hexValue[path[i+2]] == 0) {
			return errEscape
		}
	}
	return nil
}

// endSegment is closeSegment after a look at what the segment hides.
func endSegment(path []byte, start, end int) (int, error) {
	if hidesDots(path[start:end]) {
		return 0, errDotSegment
	}
	return closeSegment(path, start, end), nil
}

// hidesDots reports whether a segment whose unreserved escapes are decoded is a dot
// segment to a server that drops parameters or decodes slashes before it resolves.
func hidesDots(segment []byte) bool {
	for whole := true; ; whole = false {
		dots := 0
		for dots < len(segment) && segment[dots] == '.' {
			dots++
		}
		rest := segment[dots:]
		if dots == 1 || dots == 2 {
			switch {
			case len(rest) == 0:
				return !whole // after an escaped slash
			case rest[0] == ';', escapedSlash(rest):
				return true
			}
		}
		for !escapedSlash(rest) {
			i := bytes.IndexByte(rest[min(1, len(rest)):], '%')
			if i < 0 {
				return false
			}
			rest = rest[1+i:]
		}
		segment = rest[3:]
	}
}

// escapedSlash reports whether b begins with %2F or %5C.
func escapedSlash(b []byte) bool {
	return len(b) >= 3 && b[0] == '%' && (b[1] == '2' && b[2]|0x20 == 'f' || b[1] == '5' && b[2]|0x20 == 'c')
}

// overlong reports whether first, from an escape, and the escape in rest begin a
// sequence of UTF-8 that is longer than it need be (RFC 3629, 3), as no encoder makes
// them.
func overlong(first byte, rest []byte) bool {
	if len(rest) < 3 || rest[0] != '%' {
		return false
	}
	hi, lo := hexValue[rest[1]], hexValue[rest[2]]
	if hi == 0xff || lo == 0xff {
		return false // refused in its turn
	}
	next := hi<<4 | lo
	switch first {
	case 0xc0, 0xc1:
		return next >= 0x80 && next < 0xc0
	case 0xe0:
		return next >= 0x80 && next < 0xa0
	case 0xf0:
		return next >= 0x80 && next < 0x90
	}
	return false
}

// closeSegment returns where to write on after the segment path[start:end],
// which is end itself unless the segment is "." or "..".
func closeSegment(path []byte, start, end int) int {
	switch string(path[start:end]) {
	case ".":
		return start
	case "..":
		if start == 1 {
			return 1
		}
		return bytes.LastIndexByte(path[:start-1], '/') + 1
	}
	return end
}

// SetPath reads b, a request target in origin form ("/path?query") or the
// asterisk of OPTIONS, and sets req.Path (normalised), Query and HasQuery. They
// alias b, which is rewritten in place. It serves :path of HTTP/2 as well.
func SetPath(b []byte, req *mesh.Request) error { return SetPathAs(mesh.PathBase, b, req) }

// SetPathAs is SetPath for any of Istio's levels.
func SetPathAs(level mesh.PathLevel, b []byte, req *mesh.Request) error {
	if len(b) == 1 && b[0] == '*' && req.Method == options {
		req.Path, req.Query, req.HasQuery = "*", "", false
		return nil
	}
	if len(b) == 0 || b[0] != '/' {
		return errTarget
	}
	// Most paths are what they will be; those of other levels than BASE are not looked at twice.
	i, look := 0, level != mesh.PathBase
	for ; i < len(b); i++ {
		c := class[b[i]]
		if c == classPath {
			continue
		}
		if c&classPath == 0 {
			break
		}
		// A dot matters only at the start of a segment.
		if c&classSpecial != 0 && (b[i] != '.' || b[i-1] == '/') {
			look = true
		}
	}
	path := b[:i]
	if i < len(b) && b[i] != '?' {
		return errTargetByte
	}
	if err := setQuery(b[i:], req); err != nil {
		return err
	}
	if look {
		var err error
		if path, err = NormalizePathAs(level, path); err != nil {
			return err
		}
	}
	req.Path = view(path)
	return nil
}

// setQuery reads "" or "?query".
func setQuery(b []byte, req *mesh.Request) error {
	req.Query, req.HasQuery = "", false
	if len(b) == 0 {
		return nil
	}
	query := b[1:]
	if indexNotVisible(query, 0) != len(query) || bytes.IndexByte(query, '#') >= 0 {
		return errTargetByte
	}
	req.Query, req.HasQuery = view(query), true
	return nil
}

// SetAuthority reads b, "host" or "host:port", lower-cases it in place and sets
// req.Authority and req.Host, which alias it. The host is a name (letters,
// digits, "-._~" and RFC 3986's sub-delims but the comma), an IPv4 address, or
// an IPv6 address in brackets, which Host keeps. A dot at the end of a name, which
// says that it is complete, is taken off: the name is the same without, and so it
// is for all who compare names. It serves :authority of HTTP/2 as well.
func SetAuthority(b []byte, req *mesh.Request) error {
	n, err := hostLength(b)
	if err != nil {
		return err
	}
	if b[n-1] == '.' {
		if n == 1 || b[n-2] == '.' {
			return errAuthority // an empty name, or an empty label in it
		}
		n--
		b = b[:n+copy(b[n:], b[n+1:])]
	}
	req.Authority, req.Host = view(b), view(b[:n])
	return nil
}

// hostLength checks an authority, lower-cases it in place, and returns the
// length of its host.
func hostLength(b []byte) (int, error) {
	n := 0
	if len(b) > 0 && b[0] == '[' {
		n = bytes.IndexByte(b, ']') + 1
		if n == 0 {
			return 0, errAuthority
		}
		toLower(b[:n])
		literal := b[1 : n-1]
		if bytes.IndexByte(literal, '%') >= 0 { // no zones
			return 0, errAuthority
		}
		if a, err := netip.ParseAddr(view(literal)); err != nil || !a.Is6() {
			return 0, errAuthority
		}
	} else {
		for n < len(b) && class[b[n]]&classHost != 0 {
			if c := b[n]; c-'A' < 26 {
				b[n] = c | 0x20
			}
			n++
		}
	}
	switch {
	case n == len(b):
	case b[n] == ':':
		if !validPort(b[n+1:]) {
			if bytes.IndexByte(b, '@') >= 0 {
				return 0, errUserinfo
			}
			return 0, errAuthority
		}
	case bytes.IndexByte(b, '@') >= 0:
		return 0, errUserinfo
	default:
		return 0, errAuthority
	}
	if n == 0 {
		return 0, errAuthority
	}
	return n, nil
}

func validPort(b []byte) bool {
	if len(b) == 0 || len(b) > 5 {
		return false
	}
	n := 0
	for _, c := range b {
		if c-'0' > 9 {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535
}
