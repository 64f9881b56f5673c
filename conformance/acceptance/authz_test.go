package acceptance

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// unsteady is what differs between two runs: addresses (of another range here), times, and ids that a waypoint makes up.
var unsteady = []struct {
	pattern *regexp.Regexp
	to      string
}{
	{regexp.MustCompile(`127\.\d+\.\d+\.\d+`), "ADDRESS"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`after [0-9.µms]+`), "after TIME"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`\r`), ""},
}

func steady(s string) string {
	for _, u := range unsteady {
		s = u.pattern.ReplaceAllString(s, u.to)
	}
	return strings.TrimSpace(s)
}

// TestAuthz runs every command of examples/authz/README.md and compares what it prints with what stands there.
func TestAuthz(t *testing.T) {
	needProgram(t, "bash", "curl")
	dir := filepath.Join(repo(t), "examples", "authz")
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := up(t, dir)
	waypoint := m.Waypoints[0]
	temp := t.TempDir()
	host := func(service string) string {
		address, _, _ := strings.Cut(m.addr(t, "authz", service), ":")
		return address
	}
	names := strings.Join([]string{
		"ORDERS=" + host("orders"), "CATALOG=" + host("catalog"), "LEDGER=" + host("ledger"),
		"VAULT=" + host("vault"), "NOTES=" + host("notes"), "TICKETS=" + host("tickets"), "WEB=" + m.pod(t, "web-").Address, "BATCH=" + m.pod(t, "batch-").Address,
		"VAULT_POD=" + m.pod(t, "vault-").Address, "WAYPOINT=" + waypoint.Address,
	}, "\n") + "\n"
	addresses, commands := "", 0
	// Other meshes may run on this machine, and this one has addresses of its own.
	here := strings.NewReplacer(
		"bin/cairn explain -f examples/authz", cairnPath(t)+" explain --range "+m.prefix.String()+" -f "+dir,
		"bin/cairn explain --replay", cairnPath(t)+" explain --range "+m.prefix.String()+" --replay",
		"bin/cairn explain", cairnPath(t)+" explain --admin "+waypoint.Admin,
		"examples/authz", dir, "/tmp/", temp+"/",
	)
	blocks := strings.Split(string(readme), "```")
	for i := 1; i < len(blocks); i += 2 {
		text, isCommand := strings.CutPrefix(blocks[i], "sh\n")
		switch {
		case !isCommand || strings.Contains(text, "make build"):
			continue
		case strings.Contains(text, "ORDERS="):
			_, functions, _ := strings.Cut(text, "\n\n")
			addresses = names + functions
			continue
		}
		commands++
		out := command(t, temp, "bash", "-c", addresses+here.Replace(text))
		want := ""
		if i+2 < len(blocks) && strings.TrimSpace(blocks[i+1]) == "" {
			want = blocks[i+2]
		}
		if want, got := steady(want), steady(out.stdout); got != want || out.stderr != "" {
			t.Errorf("%s\nREADME.md says\n%s\nand this is printed:\n%s\n%s", text, want, got, out.stderr)
		}
	}
	if commands < 9 {
		t.Errorf("README.md has %d blocks of commands", commands)
	}
}
