package telemetry

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"
)

// LevelTrace is below debug.
const LevelTrace = slog.LevelDebug - 4

// AdminOptions is what the admin server shows and steers. What is nil is not
// offered.
type AdminOptions struct {
	// Addr is "IP:PORT" and must be a loopback address: who can talk to the
	// admin server can stop the proxy. Empty means 127.0.0.1:15000.
	Addr string
	// Flag is what an error tells the user to change, for example "--admin".
	Flag string
	// Config returns what the proxy believes, to be shown as JSON.
	Config func() any
	// Level is the log level that /logging changes.
	Level *slog.LevelVar
	// Quit begins an orderly shutdown; it must not wait for its end.
	Quit    func()
	Ready   *Readiness
	Metrics *Metrics
	// Pages are further pages, listed on the index in their order.
	Pages []Page
	// Log receives what goes wrong while serving. Nil discards.
	Log *slog.Logger
}

// Page is one path of the admin server.
type Page struct {
	Path, Help string
	Handler    http.Handler
}

// NewAdmin returns the admin server, or an error if its address is not loopback.
func NewAdmin(o AdminOptions) (*Server, error) {
	if o.Addr == "" {
		o.Addr = fmt.Sprintf("127.0.0.1:%d", AdminPort)
	}
	if err := checkLoopback(o.Addr); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	pages := o.pages()
	for _, p := range pages {
		mux.Handle(p.Path, p.Handler)
	}
	// The profiles under /debug/pprof/ have paths of their own.
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/{$}", index(pages))
	s := newServer("admin", o.Addr, AdminPort, o.Flag, guard(mux), o.Log)
	s.writeTimeout = 6 * time.Minute // a profile may take five
	return s, nil
}

func (o *AdminOptions) pages() []Page {
	var pages []Page
	add := func(path, help string, h http.Handler) { pages = append(pages, Page{path, help, h}) }
	if o.Config != nil {
		add("/config_dump", "what this proxy believes, as JSON", dump(o.Config))
	}
	if o.Level != nil {
		add("/logging", "POST ?level=trace|debug|info|warn|error changes the log level; POST alone shows it", logging(o.Level))
	}
	if o.Quit != nil {
		add("/quitquitquit", "POST begins an orderly shutdown", quit(o.Quit))
	}
	if o.Ready != nil {
		add("/healthz/ready", "whether this proxy may get traffic", o.Ready)
	}
	if o.Metrics != nil {
		add("/stats/prometheus", "metrics", o.Metrics.Handler())
	}
	add("/debug/pprof/", "profiles of CPU, memory, goroutines, locks", http.HandlerFunc(pprof.Index))
	return append(pages, o.Pages...)
}

func checkLoopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("admin server: address %q is not IP:PORT: %w", addr, err)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
		return fmt.Errorf("admin server: address %q is not a loopback address, and who reaches the admin server can stop the proxy; use 127.0.0.1:PORT", addr)
	}
	return nil
}

// guard keeps web pages in a browser on this machine from using the admin
// server: those of other origins cannot change anything, and a name that an
// attacker points at 127.0.0.1 is not answered.
func guard(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	return origin.Handler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		host := req.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" && host != "" {
			plainText(w)
			w.WriteHeader(http.StatusForbidden)
			write(w, "the admin server answers to localhost and to IP addresses only\n")
			return
		}
		next.ServeHTTP(w, req)
	}))
}

func index(pages []Page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !allow(w, req, http.MethodGet, http.MethodHead) {
			return
		}
		plainText(w)
		for _, p := range pages {
			write(w, fmt.Sprintf("%-20s %s\n", p.Path, p.Help))
		}
	})
}

func dump(config func() any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		text, err := json.MarshalIndent(config(), "", "  ")
		if err != nil {
			plainText(w)
			w.WriteHeader(http.StatusInternalServerError)
			write(w, "writing the configuration as JSON: "+err.Error()+"\n")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(text, '\n'))
	})
}

func logging(level *slog.LevelVar) http.Handler {
	const usage = "usage: POST /logging?level=trace|debug|info|warn|error\n"
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !allow(w, req, http.MethodPost) {
			return
		}
		plainText(w)
		if v, ok := req.URL.Query()["level"]; ok {
			l, err := parseLevel(v[0])
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				write(w, fmt.Sprintf("Invalid level provided: %q\n%s", v[0], usage))
				return
			}
			level.Set(l)
		} else if _, ok := req.URL.Query()["reset"]; ok {
			level.Set(slog.LevelInfo)
		}
		write(w, "current log level is "+levelName(level.Level())+"\n")
	})
}

func parseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "trace":
		return LevelTrace, nil
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("unknown log level %q", s)
}

func levelName(l slog.Level) string {
	if l == LevelTrace {
		return "trace"
	}
	return strings.ToLower(l.String())
}

func quit(begin func()) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !allow(w, req, http.MethodPost) {
			return
		}
		plainText(w)
		write(w, "shutdown now\n")
		begin()
	})
}
