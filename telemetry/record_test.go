package telemetry

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func exampleRecord() Record {
	return Record{
		Start:    time.Date(2026, 3, 1, 10, 39, 0, 530_600_000, time.UTC),
		Method:   "GET",
		Path:     "/productpage?u=1",
		Protocol: "HTTP/1.1",

		ResponseCode:        200,
		ResponseFlags:       "-",
		ResponseCodeDetails: "via_upstream",

		BytesReceived:       12,
		BytesSent:           4183,
		Duration:            25_600 * time.Microsecond,
		UpstreamServiceTime: 24 * time.Millisecond,

		UserAgent: "curl/8.5.0",
		RequestID: "1b5ee8a3-7a1b-9f4e-8f5c-0c3b9e6c2a11",
		Authority: "productpage:9080",

		UpstreamHost:            netip.MustParseAddrPort("10.244.0.14:9080"),
		UpstreamCluster:         "inbound-vip|9080|http|productpage.default.svc.cluster.local;",
		UpstreamLocalAddress:    netip.MustParseAddrPort("127.0.0.1:41234"),
		DownstreamLocalAddress:  netip.MustParseAddrPort("10.96.1.2:9080"),
		DownstreamRemoteAddress: netip.MustParseAddrPort("[fd00::7]:45376"),

		RouteName:       "default",
		SourcePrincipal: "spiffe://cluster.local/ns/default/sa/curl",
	}
}

func TestRecordText(t *testing.T) {
	full := exampleRecord()
	tests := []struct {
		name string
		r    Record
		want string
	}{
		{"full", full, `[2026-03-01T10:39:00.530Z] "GET /productpage?u=1 HTTP/1.1" 200 - via_upstream - "-" 12 4183 25 24 "-" "curl/8.5.0" "1b5ee8a3-7a1b-9f4e-8f5c-0c3b9e6c2a11" "productpage:9080" "10.244.0.14:9080" inbound-vip|9080|http|productpage.default.svc.cluster.local; 127.0.0.1:41234 10.96.1.2:9080 [fd00::7]:45376 - default`},
		{"empty", Record{}, `[0001-01-01T00:00:00.000Z] "- - -" 0 - - - "-" 0 0 0 - "-" "-" "-" "-" "-" - - - - - -`},
		{"hostile", Record{
			Start: full.Start, Method: "G E\"T", Path: "/a b\n[2026]\r\"x\\", Protocol: "HTTP/2", ResponseCode: 503, ResponseFlags: "UF,URX", ResponseCodeDetails: "a b",
			UpstreamTransportFailureReason: "tls \"x\" \x1b[31m", UserAgent: "é\u2028\x85\x00", RouteName: "r 1", UpstreamServiceTime: -1, UpstreamHost: full.UpstreamHost,
		}, `[2026-03-01T10:39:00.530Z] "G\x20E\"T /a\x20b\x0a[2026]\x0d\"x\\ HTTP/2" 503 UF,URX a\x20b - "tls \"x\" \x1b[31m" 0 0 0 - "-" "\xc3\xa9\xe2\x80\xa8\x85\x00" "-" "-" "10.244.0.14:9080" - - - - - r\x201`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := string(AppendRecord(nil, &tt.r))
			if diff := cmp.Diff(tt.want+"\n", got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestRecordJSON(t *testing.T) {
	r := exampleRecord()
	r.UserAgent = "a\"b\\\n\x1b\u2028\u202e\U000e0001é世\xff"
	got := string(AppendRecordJSON(nil, &r))
	want := `{"authority":"productpage:9080","bytes_received":12,"bytes_sent":4183,"connection_termination_details":null,` +
		`"downstream_local_address":"10.96.1.2:9080","downstream_remote_address":"[fd00::7]:45376","duration":25,"method":"GET","path":"/productpage?u=1",` +
		`"protocol":"HTTP/1.1","request_id":"1b5ee8a3-7a1b-9f4e-8f5c-0c3b9e6c2a11","requested_server_name":null,"response_code":200,` +
		`"response_code_details":"via_upstream","response_flags":"-","route_name":"default","source_principal":"spiffe://cluster.local/ns/default/sa/curl",` +
		`"start_time":"2026-03-01T10:39:00.530Z","upstream_cluster":"inbound-vip|9080|http|productpage.default.svc.cluster.local;",` +
		`"upstream_host":"10.244.0.14:9080","upstream_local_address":"127.0.0.1:41234","upstream_service_time":"24","upstream_transport_failure_reason":null,` +
		`"user_agent":"a\"b\\\u000a\u001b\u2028\u202e\udb40\udc01é世\ufffd","x_forwarded_for":null}` + "\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	var back map[string]any
	if err := json.Unmarshal([]byte(got), &back); err != nil {
		t.Fatal(err)
	}
	if ua := back["user_agent"]; ua != "a\"b\\\n\x1b\u2028\u202e\U000e0001é世\ufffd" {
		t.Errorf("user agent came back as %q", ua)
	}
	if len(back) != 25 {
		t.Errorf("%d keys; want 25", len(back))
	}
	if err := json.Unmarshal(AppendRecordJSON(nil, &Record{}), &back); err != nil || back["upstream_host"] != nil || back["response_flags"] != "-" {
		t.Errorf("empty record: %v, %v", err, back)
	}
}

func exampleConn() ConnRecord {
	return ConnRecord{
		Time: time.Date(2024, 6, 18, 10, 39, 0, 530_123_456, time.UTC),
		Src: EndpointRecord{
			Addr: netip.MustParseAddrPort("10.244.0.17:45376"), Workload: "curl-6f", Namespace: "default", Identity: "spiffe://cluster.local/ns/default/sa/curl",
		},
		Dst: EndpointRecord{
			Addr: netip.MustParseAddrPort("[::ffff:10.244.0.14]:15008"), Workload: "productpage-v1", Namespace: "bookinfo", Identity: "spiffe://cluster.local/ns/bookinfo/sa/pp", Cluster: "Kubernetes",
		},
		DstHBONE: "10.244.0.14:9080", DstService: "productpage.bookinfo.svc.cluster.local",
		BytesSent: 84, BytesRecv: 1723, Duration: 2_900 * time.Microsecond,
	}
}

func TestConnText(t *testing.T) {
	failed := exampleConn()
	failed.Err = "connection \"refused\"\nby peer"
	opened := ConnRecord{Time: failed.Time, Event: ConnOpened, Inbound: true, Src: EndpointRecord{Addr: failed.Src.Addr}}
	early := opened
	early.Event, early.Err = ConnFailed, "no certificate"
	tests := []struct {
		name string
		r    ConnRecord
		want string
	}{
		{"complete", exampleConn(), "2024-06-18T10:39:00.530123Z\tinfo\taccess\tconnection complete\t" + `src.addr=10.244.0.17:45376 src.workload="curl-6f" src.namespace="default" src.identity="spiffe://cluster.local/ns/default/sa/curl" dst.addr=10.244.0.14:15008 dst.hbone_addr=10.244.0.14:9080 dst.service="productpage.bookinfo.svc.cluster.local" dst.workload="productpage-v1" dst.namespace="bookinfo" dst.identity="spiffe://cluster.local/ns/bookinfo/sa/pp" dst.cluster="Kubernetes" direction="outbound" bytes_sent=84 bytes_recv=1723 duration="2ms"`},
		{"error", ConnRecord{Time: failed.Time, Err: failed.Err}, "2024-06-18T10:39:00.530123Z\terror\taccess\tconnection complete\t" + `direction="outbound" bytes_sent=0 bytes_recv=0 duration="0ms" error="connection \"refused\"\x0aby peer"`},
		{"opened", opened, "2024-06-18T10:39:00.530123Z\tdebug\taccess\tconnection opened\t" + `src.addr=10.244.0.17:45376 direction="inbound"`},
		{"failed", early, "2024-06-18T10:39:00.530123Z\twarn\taccess\tconnection failed\t" + `src.addr=10.244.0.17:45376 direction="inbound" error="no certificate"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want+"\n", string(AppendConn(nil, &tt.r))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestConnJSON(t *testing.T) {
	r := exampleConn()
	r.Err = "a\nb"
	got := string(AppendConnJSON(nil, &r))
	want := `{"level":"error","time":"2024-06-18T10:39:00.530123Z","scope":"access","src.addr":"10.244.0.17:45376","src.workload":"curl-6f","src.namespace":"default","src.identity":"spiffe://cluster.local/ns/default/sa/curl","dst.addr":"10.244.0.14:15008","dst.hbone_addr":"10.244.0.14:9080","dst.service":"productpage.bookinfo.svc.cluster.local","dst.workload":"productpage-v1","dst.namespace":"bookinfo","dst.identity":"spiffe://cluster.local/ns/bookinfo/sa/pp","dst.cluster":"Kubernetes","direction":"outbound","bytes_sent":84,"bytes_recv":1723,"duration":"2ms","error":"a\u000ab","message":"connection complete"}` + "\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !json.Valid([]byte(got)) {
		t.Error("not JSON")
	}
}

// TestTime compares with the standard library, leap years and all.
func TestTime(t *testing.T) {
	const day = 24 * time.Hour
	at := time.Date(1899, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	for range 300_000 / 29 {
		at = at.Add(29*day + 7*time.Hour + 11*time.Minute + 13*time.Second + 123_456_789)
		if got, want := string(appendTime(nil, at, 6)), at.Format("2006-01-02T15:04:05.000000Z"); got != want {
			t.Fatalf("got %s; want %s", got, want)
		}
		if got, want := string(appendTime(nil, at, 3)), at.Format("2006-01-02T15:04:05.000Z"); got != want {
			t.Fatalf("got %s; want %s", got, want)
		}
	}
	if got := string(appendTime(nil, time.Unix(1<<60, 0), 3)); got != "0000-00-00T00:00:00Z" {
		t.Errorf("far future = %s", got)
	}
	local := time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("x", 3600))
	if got := string(appendTime(nil, local, 3)); got != "2025-12-31T23:00:00.000Z" {
		t.Errorf("another time zone = %s", got)
	}
}

func TestLongFields(t *testing.T) {
	r := Record{Path: strings.Repeat("\x00", 1<<20), UserAgent: strings.Repeat("世", 1<<20)}
	for name, line := range map[string][]byte{"text": AppendRecord(nil, &r), "json": AppendRecordJSON(nil, &r)} {
		if len(line) > 9*maxField || !strings.Contains(string(line), "...") {
			t.Errorf("%s line has %d bytes", name, len(line))
		}
	}
	if !json.Valid(AppendRecordJSON(nil, &r)) {
		t.Error("cutting broke the JSON")
	}
}

// splitText takes a text line apart as a careful reader would: blanks part
// fields, except in quotes, where a backslash takes the next byte along.
func splitText(t *testing.T, line string) []string {
	t.Helper()
	var fields []string
	var field strings.Builder
	quoted := false
	for i := 0; i < len(line); i++ {
		switch b := line[i]; {
		case b == '\\' && i+1 < len(line):
			field.WriteByte(b)
			i++
			field.WriteByte(line[i])
		case b == '"':
			quoted = !quoted
		case b == ' ' && !quoted:
			fields = append(fields, field.String())
			field.Reset()
		default:
			field.WriteByte(b)
		}
	}
	if quoted {
		t.Fatalf("quotes are not closed: %q", line)
	}
	return append(fields, field.String())
}

func hostileRecord(s string) Record {
	r := exampleRecord()
	for _, p := range []*string{
		&r.Method, &r.Path, &r.Protocol, &r.ResponseFlags, &r.ResponseCodeDetails, &r.ConnectionTerminationDetails, &r.UpstreamTransportFailureReason, &r.ForwardedFor,
		&r.UserAgent, &r.RequestID, &r.Authority, &r.UpstreamCluster, &r.RequestedServerName, &r.RouteName, &r.SourcePrincipal,
	} {
		*p = s
	}
	return r
}

// FuzzRecord: whatever a peer says, a text line stays one line of printing
// ASCII with its 22 fields, and a JSON line one object that gives it back.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{"", "-", "a b", "\"", "\\", "\\\"", "\n", "\r\n[x] \"GET", "\x00\x7f", "é\u0085\u2028", "\xff\xfe", "\ud7ff\U0010ffff", "</script>", strings.Repeat("\\", 5000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := hostileRecord(s)
		text := string(AppendRecord(nil, &r))
		for i := range len(text) - 1 {
			if text[i] < 0x20 || text[i] > 0x7e {
				t.Fatalf("byte %#x in the text line %q", text[i], text)
			}
		}
		if fields := splitText(t, strings.TrimSuffix(text, "\n")); len(fields) != 22 {
			t.Fatalf("%d fields in %q", len(fields), text)
		}
		checkJSONLine(t, AppendRecordJSON(nil, &r), "user_agent", s)

		c := exampleConn()
		c.Src.Workload, c.DstService, c.DstHBONE, c.Err = s, s, s, s
		text = string(AppendConn(nil, &c))
		if strings.Count(text, "\t") != 4 || strings.Count(text, "\n") != 1 {
			t.Fatalf("connection line %q", text)
		}
		splitText(t, strings.TrimSuffix(text, "\n"))
		checkJSONLine(t, AppendConnJSON(nil, &c), "error", s)
	})
}

// checkJSONLine: one line, one object, no steering runes, and key holds sent.
func checkJSONLine(t *testing.T, line []byte, key, sent string) {
	t.Helper()
	if !utf8.Valid(line) || line[len(line)-1] != '\n' {
		t.Fatalf("line %q", line)
	}
	for _, r := range string(line[:len(line)-1]) {
		if !unicode.IsPrint(r) {
			t.Fatalf("rune %U in %q", r, line)
		}
	}
	var back map[string]any
	if err := json.Unmarshal(line, &back); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	if sent == "" || len(sent) > maxField {
		return
	}
	if got, want := back[key], strings.ToValidUTF8(sent, "\ufffd"); got != want && utf8.ValidString(sent) {
		t.Fatalf("%s = %q; want %q", key, got, want)
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	r, c := exampleRecord(), exampleConn()
	buf := make([]byte, 0, 4096)
	for name, f := range map[string]func(){
		"text":      func() { AppendRecord(buf, &r) },
		"json":      func() { AppendRecordJSON(buf, &r) },
		"conn":      func() { AppendConn(buf, &c) },
		"conn-json": func() { AppendConnJSON(buf, &c) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	r, c := exampleRecord(), exampleConn()
	buf := make([]byte, 0, 4096)
	for name, f := range map[string]func(){
		"text":      func() { AppendRecord(buf, &r) },
		"json":      func() { AppendRecordJSON(buf, &r) },
		"conn":      func() { AppendConn(buf, &c) },
		"conn-json": func() { AppendConnJSON(buf, &c) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}

func TestRecordDryRun(t *testing.T) {
	for dryRun, want := range map[string]bool{"": false, "limited by app/p/two": true} {
		line := AppendRecordJSON(nil, &Record{DryRun: dryRun})
		if got := strings.Contains(string(line), `,"dry_run":"limited by app/p/two",`); got != want || !json.Valid(line) {
			t.Errorf("%q: %s", dryRun, line)
		}
	}
}
