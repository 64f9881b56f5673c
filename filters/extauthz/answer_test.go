package extauthz

import (
	"context"
	"net/http"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/extauthz/extauthztest"
	"cairnproxy.dev/cairn/filters/filterstest"
	"cairnproxy.dev/cairn/mesh"
)

func option(k, v string) *core.HeaderValueOption {
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: k, Value: v}}
}

func appended(k, v string, yes bool) *core.HeaderValueOption {
	o := option(k, v)
	o.Append = wrapperspb.Bool(yes) //nolint:staticcheck // services use it
	return o
}

func acted(k, v string, a core.HeaderValueOption_HeaderAppendAction) *core.HeaderValueOption {
	o := option(k, v)
	o.AppendAction = a
	return o
}

func denial(status int, body string, headers ...*core.HeaderValueOption) *auth.CheckResponse {
	return &auth.CheckResponse{Status: &rpc.Status{Code: 7}, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode(status)}, Body: body, Headers: headers,
	}}}
}

func ok(o *auth.OkHttpResponse) *auth.CheckResponse {
	return &auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: o}}
}

func TestAnswers(t *testing.T) {
	type opts = []*core.HeaderValueOption
	const invalid = `500 UAEX ext_authz_invalid "" []`
	many := make(opts, maxFields+1)
	for i := range many {
		many[i] = option("x-m", "1")
	}
	for _, tt := range []struct {
		name   string
		answer *auth.CheckResponse
		want   string
	}{
		{"ok", &auth.CheckResponse{}, "/a/b?q=1&r=2 [{x-user mallory} {x-b 1}]"},
		{"denied", &auth.CheckResponse{Status: &rpc.Status{Code: 16}}, `403 UAEX ext_authz_denied "" []`},
		{
			"denied_all", denial(401, "log in", option("WWW-Authenticate", "Basic"), option("x-b", "1"), appended("x-b", "2", true), option("content-length", "7"), option(":status", "200")),
			`401 UAEX ext_authz_denied "log in" [{www-authenticate Basic} {x-b 1} {x-b 2}]`,
		},
		{"denied_200", denial(200, "a page"), `200 UAEX ext_authz_denied "a page" []`},
		{"denied_204", denial(204, "a page"), `204 UAEX ext_authz_denied "" []`},
		{"denied_100", denial(100, ""), `403 UAEX ext_authz_denied "" []`},
		{"denied_999", denial(999, ""), `403 UAEX ext_authz_denied "" []`},
		{"denied_crlf", denial(401, "", option("x-a", "1\r\nx-b: 2")), invalid},
		{"ok_decides", &auth.CheckResponse{HttpResponse: denial(401, "").GetHttpResponse()}, "/a/b?q=1&r=2 [{x-user mallory} {x-b 1}]"},
		{"error", &auth.CheckResponse{Status: &rpc.Status{Code: 13}, HttpResponse: &auth.CheckResponse_ErrorResponse{ErrorResponse: &auth.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: 503}, Body: "later", Headers: opts{option("retry-after", "1")},
		}}}, `503 UAEX ext_authz_error "later" [{retry-after 1}]`},
		{"set", ok(&auth.OkHttpResponse{Headers: opts{option("X-User", "alice")}}), "/a/b?q=1&r=2 [{x-user alice} {x-b 1}]"},
		{"append", ok(&auth.OkHttpResponse{Headers: opts{appended("x-b", "2", true)}}), "/a/b?q=1&r=2 [{x-user mallory} {x-b 1} {x-b 2}]"},
		{"append_no", ok(&auth.OkHttpResponse{Headers: opts{appended("x-b", "2", false)}}), "/a/b?q=1&r=2 [{x-user mallory} {x-b 2}]"},
		{"absent", ok(&auth.OkHttpResponse{Headers: opts{acted("x-b", "2", core.HeaderValueOption_ADD_IF_ABSENT), acted("x-c", "3", core.HeaderValueOption_ADD_IF_ABSENT)}}), "/a/b?q=1&r=2 [{x-user mallory} {x-b 1} {x-c 3}]"},
		{"exists", ok(&auth.OkHttpResponse{Headers: opts{acted("x-b", "2", core.HeaderValueOption_OVERWRITE_IF_EXISTS), acted("x-c", "3", core.HeaderValueOption_OVERWRITE_IF_EXISTS)}}), "/a/b?q=1&r=2 [{x-user mallory} {x-b 2}]"},
		{"action_unknown", ok(&auth.OkHttpResponse{Headers: opts{acted("x-b", "2", 9)}}), invalid},
		{"raw", ok(&auth.OkHttpResponse{Headers: opts{{Header: &core.HeaderValue{Key: "x-r", RawValue: []byte("raw")}}}}), "/a/b?q=1&r=2 [{x-user mallory} {x-b 1} {x-r raw}]"},
		{"ours", ok(&auth.OkHttpResponse{Headers: opts{option("Host", "evil"), option(":path", "/evil"), option("transfer-encoding", "chunked"), option("Content-Length", "3")}}), "/a/b?q=1&r=2 [{x-user mallory} {x-b 1}]"},
		{"remove", ok(&auth.OkHttpResponse{HeadersToRemove: []string{"X-User", "host", ":path", "x-none"}}), "/a/b?q=1&r=2 [{x-b 1}]"},
		{"removed_last", ok(&auth.OkHttpResponse{Headers: opts{option("x-c", "1")}, HeadersToRemove: []string{"x-c"}}), "/a/b?q=1&r=2 [{x-user mallory} {x-b 1}]"},
		{"bad_name", ok(&auth.OkHttpResponse{Headers: opts{option("x a", "1")}}), invalid},
		{"bad_value", ok(&auth.OkHttpResponse{Headers: opts{option("x-a", "1\n")}}), invalid},
		{"too_many", ok(&auth.OkHttpResponse{Headers: many}), invalid},
		{"too_long", ok(&auth.OkHttpResponse{Headers: opts{option("x-a", strings.Repeat("a", maxFieldBytes))}}), invalid},
		{"query", ok(&auth.OkHttpResponse{QueryParametersToSet: []*core.QueryParameter{{Key: "q", Value: "a b&c"}, {Key: "new", Value: "1"}}, QueryParametersToRemove: []string{"r"}}), "/a/b?q=a+b%26c&new=1 [{x-user mallory} {x-b 1}]"},
		{"query_none", ok(&auth.OkHttpResponse{QueryParametersToRemove: []string{"q", "r"}}), "/a/b [{x-user mallory} {x-b 1}]"},
		{
			"response", ok(&auth.OkHttpResponse{ResponseHeadersToAdd: opts{option("x-from", "auth"), acted("x-new", "1", core.HeaderValueOption_ADD_IF_ABSENT), acted("x-old", "1", core.HeaderValueOption_OVERWRITE_IF_EXISTS)}}),
			"/a/b?q=1&r=2 [{x-user mallory} {x-b 1}] > [{x-from endpoint} {x-from auth} {x-new 1}]",
		},
		{
			"response_set", ok(&auth.OkHttpResponse{ResponseHeadersToAdd: opts{acted("x-from", "auth", core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)}}),
			"/a/b?q=1&r=2 [{x-user mallory} {x-b 1}] > [{x-from auth}]",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := extauthztest.Start(t, func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) { return tt.answer, nil }, nil)
			r, _ := registry(t, s)
			if got := outcome(filterstest.Exchange(request("x-user", "mallory", "x-b", "1")), routeChain(t, r, ext(true, nil))); got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestResponseOnce: edits of a response are done once, whichever chain has them, and for replies of our own, too.
func TestResponseOnce(t *testing.T) {
	x := filterstest.Exchange(request())
	c := filters.Chain{{OnResponse: responseStep{}, OnLocal: responseStep{}}}
	edit := filters.FieldEdit{Field: mesh.Field{Name: "x-a", Value: "1"}}
	x.Notes().ResponseEdits = []filters.FieldEdit{edit}
	if r := filterstest.Response(x, append(c, c...)); len(r.Fields) != 1 {
		t.Errorf("%v, want one field", r.Fields)
	}
	x.Notes().ResponseEdits = []filters.FieldEdit{edit}
	x.Answer(404, "", "", "")
	if r := filterstest.Local(x, c); len(r.Fields) != 1 {
		t.Errorf("of our own: %v, want one field", r.Fields)
	}
	x.Notes().ResponseEdits = []filters.FieldEdit{edit}
	x.ForgetNotes()
	if r := filterstest.Response(x, c); len(r.Fields) != 0 {
		t.Errorf("the next exchange has %v of the last one", r.Fields)
	}
}

func TestHTTPAnswers(t *testing.T) {
	some := func(m *mesh.ExtAuthz) {
		m.UpstreamOnAllow, m.DownstreamOnDeny, m.DownstreamOnAllow = []string{"x-user", "x-auth-*"}, []string{"x-why"}, []string{"set-cookie"}
	}
	all := func(m *mesh.ExtAuthz) { m.UpstreamOnAllow = []string{"*"} }
	for _, tt := range []struct {
		name   string
		edit   func(*mesh.ExtAuthz)
		status int
		fields []string
		body   string
		want   string
	}{
		{"ok", nil, 200, []string{"X-User", "alice", "X-Auth-A", "1"}, "fine", "/a/b?q=1&r=2 [{x-user mallory} {x-b 1}]"},
		{"ok_some", some, 200, []string{"X-User", "alice", "X-Auth-A", "1", "X-Other", "1"}, "", "/a/b?q=1&r=2 [{x-user alice} {x-b 1} {x-auth-a 1}]"},
		{"ok_down", some, 200, []string{"Set-Cookie", "a=1", "Set-Cookie", "b=2"}, "", "/a/b?q=1&r=2 [{x-user mallory} {x-b 1}] > [{x-from endpoint} {set-cookie a=1} {set-cookie b=2}]"},
		{"ok_all", all, 200, []string{"X-User", "alice", "Content-Type", "text/html"}, "text", "/a/b?q=1&r=2 [{x-user alice} {x-b 1}]"},
		{"remove", nil, 200, []string{headersToRemove, "x-user, Host", headersToRemove, "x-b"}, "", "/a/b?q=1&r=2 []"},
		{"created", nil, 201, nil, "", `201 UAEX ext_authz_denied "" []`},
		{"redirect", some, 302, []string{"Location", "/login", "X-Other", "1"}, "", `302 UAEX ext_authz_denied "" [{location /login}]`},
		{"denied_some", some, 403, []string{"X-Why", "because", "X-Other", "1"}, "no", `403 UAEX ext_authz_denied "no" [{x-why because}]`},
		{"denied", nil, 401, []string{"X-Why", "because"}, "no", `401 UAEX ext_authz_denied "no" [{x-why because}]`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := extauthztest.Start(t, nil, func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Date"], w.Header()["Content-Type"] = nil, nil // net/http's own
				for i := 0; i < len(tt.fields); i += 2 {
					w.Header().Add(tt.fields[i], tt.fields[i+1])
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			})
			r, _ := registry(t, s)
			if got := outcome(filterstest.Exchange(request("x-user", "mallory", "x-b", "1")), routeChain(t, r, ext(false, tt.edit))); got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestHTTPQuestion(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*mesh.ExtAuthz)
		change func(*mesh.Request)
		want   string
	}{
		{"plain", nil, nil, "POST Shop.example:80 /a/b?q=1&r=2 authorization=secret"},
		{"listed", func(m *mesh.ExtAuthz) { m.RequestHeaders = []string{"x-a", "*-b"} }, nil, "POST Shop.example:80 /a/b?q=1&r=2 authorization=secret x-a=1 x-b=2"},
		{"added", func(m *mesh.ExtAuthz) {
			m.RequestHeaders, m.AddHeaders = []string{"x-a"}, []mesh.Field{{Name: "x-a", Value: "mine"}}
		}, nil, "POST Shop.example:80 /a/b?q=1&r=2 authorization=secret x-a=mine"},
		{"prefix", func(m *mesh.ExtAuthz) { m.PathPrefix = "/check" }, nil, "POST Shop.example:80 /check/a/b?q=1&r=2 authorization=secret"},
		{"prefix_slash", func(m *mesh.ExtAuthz) { m.PathPrefix = "/check/" }, nil, "POST Shop.example:80 /check/a/b?q=1&r=2 authorization=secret"},
		{"encoded", nil, func(r *mesh.Request) { r.Path, r.Query = "/a%2Fb/%c3%a4", "a=%zz|" }, "POST Shop.example:80 /a%2Fb/%c3%a4?a=%zz| authorization=secret"},
		{"slashes", nil, func(r *mesh.Request) { r.Path = "//evil/a%2Fb" }, "POST Shop.example:80 //evil/a%2Fb?q=1&r=2 authorization=secret"},
		{"no_query", nil, func(r *mesh.Request) { r.Query, r.HasQuery = "", false }, "POST Shop.example:80 /a/b authorization=secret"},
		{"empty_query", nil, func(r *mesh.Request) { r.Query = "" }, "POST Shop.example:80 /a/b? authorization=secret"},
		{"options", nil, func(r *mesh.Request) { r.Method, r.Path, r.HasQuery, r.Query = "OPTIONS", "*", false, "" }, "OPTIONS Shop.example:80 / authorization=secret"},
		{"connect", nil, func(r *mesh.Request) { r.Method = "CONNECT" }, "GET Shop.example:80 /a/b?q=1&r=2 authorization=secret"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := extauthztest.Start(t, nil, nil)
			r, _ := registry(t, s)
			req := request("authorization", "secret", "x-a", "1", "x-b", "2", "x-c", "3", "user-agent", "me")
			if tt.change != nil {
				tt.change(req)
			}
			outcome(filterstest.Exchange(req), routeChain(t, r, ext(false, tt.edit)))
			heard, _ := s.Heard()
			if len(heard) != 1 {
				t.Fatalf("%d questions", len(heard))
			}
			h := heard[0]
			got := h.Method + " " + h.Host + " " + h.RequestURI
			for _, name := range []string{"Authorization", "User-Agent", "X-A", "X-B", "X-C"} {
				if v := strings.Join(h.Header.Values(name), ","); v != "" {
					got += " " + strings.ToLower(name) + "=" + v
				}
			}
			if got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

// FuzzAnswer: whatever a service says, no head gets what is none, and what is ours stays.
func FuzzAnswer(f *testing.F) {
	for _, r := range []*auth.CheckResponse{denial(401, "no", option("x-a", "1")), ok(&auth.OkHttpResponse{
		Headers: []*core.HeaderValueOption{option("x-a", "1\r\n"), option("Host", "a")}, HeadersToRemove: []string{"x-user"},
		QueryParametersToSet: []*core.QueryParameter{{Key: "q&", Value: "#"}},
	})} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "a=1&b=2")
	}
	f.Fuzz(func(t *testing.T, b []byte, query string) {
		var r auth.CheckResponse
		if proto.Unmarshal(b, &r) != nil {
			return
		}
		a, err := readAnswer(&r)
		if err != nil {
			return
		}
		p := &provider{ExtAuthz: ext(true, nil), totals: &totals{uncounted{}, uncounted{}, uncounted{}, uncounted{}}}
		req := request()
		req.Query, req.HasQuery = query, true
		x := filterstest.Exchange(req)
		result := p.heed(x, &a, goOn)
		if result == filters.Replied && (x.Reply.Status < 200 || x.Reply.Status > 599) {
			t.Errorf("status %d", x.Reply.Status)
		}
		for _, list := range []mesh.Fields{x.Req.Fields, x.Reply.Fields} {
			for _, e := range list {
				if !isName(e.Name) || !isValue(e.Value) || ours(e.Name) {
					t.Errorf("field %q: %q", e.Name, e.Value)
				}
			}
		}
		if (len(a.setQuery) > 0 || len(a.removeQuery) > 0) && isValue(query) && !isValue(x.Req.Query) {
			t.Errorf("query %q", x.Req.Query)
		}
	})
}
