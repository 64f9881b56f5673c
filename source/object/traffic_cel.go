package object

import "cairnproxy.dev/cairn/expr"

// celCheck is what is remembered of an expression: to compile one takes long.
type celCheck struct {
	text string
	kind expr.Kind
}

// cel checks an expression that may be left out, and returns it.
func (t *translator) cel(o *Object, path, text string, kind expr.Kind) string {
	if text != "" {
		t.neededCEL(o, path, text, kind)
	}
	return text
}

// neededCEL checks an expression and returns it.
func (t *translator) neededCEL(o *Object, path, text string, kind expr.Kind) string {
	key := celCheck{text, kind}
	err, known := t.past.cel[key]
	if !known {
		err = expr.Check(text, kind)
	}
	t.celSeen[key] = err
	if err != nil {
		t.bad(o, path, "%s; correct the expression", err)
	}
	return text
}
