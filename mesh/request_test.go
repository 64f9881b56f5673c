package mesh

import (
	"net/http"
	"strings"
	"testing"
)

func TestCookie(t *testing.T) {
	tests := []struct {
		fields []string
		want   string
		ok     bool
	}{
		{nil, "", false},
		{[]string{"id=1"}, "1", true},
		{[]string{"a=b; id=1; c=d"}, "1", true},
		{[]string{"a=b;id=1"}, "1", true},
		{[]string{" id=1 ;"}, "1", true},
		{[]string{"a=b", "id=1"}, "1", true},
		{[]string{"id=1", "id=2"}, "1", true},
		{[]string{`id="1 2"`}, "1 2", true},
		{[]string{`id="`}, `"`, true},
		{[]string{"id="}, "", true},
		{[]string{"id"}, "", false},
		{[]string{"ID=1"}, "", false},
		{[]string{"xid=1; idx=2"}, "", false},
		{[]string{"id=a=b"}, "a=b", true},
		{[]string{";;;=;"}, "", false},
	}
	for _, tt := range tests {
		var f Fields
		for _, v := range tt.fields {
			f = append(f, Field{"cookie", v})
		}
		if got, ok := f.Cookie("id"); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %q, %v; want %q, %v", tt.fields, got, ok, tt.want, tt.ok)
		}
	}
}

// FuzzCookie compares with net/http where that reads a cookie at all.
func FuzzCookie(f *testing.F) {
	f.Add("a=b; id=1")
	f.Add(`id="x"; id=y`)
	f.Fuzz(func(t *testing.T, line string) {
		if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			return // no such field gets here
		}
		got, ok := Fields{{"cookie", line}}.Cookie("id")
		r := http.Request{Header: http.Header{"Cookie": {line}}}
		if c, err := r.Cookie("id"); err == nil && ok && c.Value != got {
			if first, _ := http.ParseCookie(line); len(first) > 0 { // it reads all of it: no doubt about which is the first
				for _, x := range first {
					if x.Name == "id" {
						if x.Value != got {
							t.Errorf("%q: %q, net/http reads %q", line, got, x.Value)
						}
						break
					}
				}
			}
		}
	})
}
