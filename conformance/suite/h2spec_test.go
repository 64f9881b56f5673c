package suite

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/peers"
)

// h2specCases is how many cases h2spec has without its strict ones.
const h2specCases = 145

// h2specExplained are the cases that Cairn does not pass, each with the
// reason. A case that fails and is not here fails the suite; so does a case
// that is here and passes.
var h2specExplained = map[string]string{
	"http2/3.5: Sends invalid connection preface": "an HTTP port speaks both versions: what is no preface is HTTP/1.1, " +
		"and INVALID CONNECTION PREFACE is answered there with 400 and the connection's end; h2spec reads no frame in that (Envoy does the same)",
}

// h2spec runs the tool against an address and returns the number of cases
// that passed and the names of those that failed.
func h2spec(t *testing.T, host, port, path string) (passed int, failed []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	tool, err := peers.H2spec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	cmd := exec.CommandContext(ctx, tool, "--host", host, "--port", port, "--path", path, "--timeout", "3", "--junit-report", report)
	out, err := cmd.CombinedOutput()
	// It exits with an error when a case failed: the report says which.
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 0) {
		t.Fatalf("h2spec: %v\n%s", err, out)
	}
	passed, failed, err = readJUnit(report)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := passed + len(failed); n != h2specCases {
		t.Errorf("h2spec ran %d cases, not %d", n, h2specCases)
	}
	return passed, failed
}

// readJUnit reads h2spec's report.
func readJUnit(path string) (passed int, failed []string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, nil, fmt.Errorf("reading h2spec's report: %w", err)
	}
	var report struct {
		Suites []struct {
			Package string `xml:"package,attr"`
			Cases   []struct {
				Class   string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	// The report quotes what came over the wire, illegal characters and all.
	text = bytes.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, bytes.ToValidUTF8(text, nil))
	if err := xml.Unmarshal(text, &report); err != nil {
		return 0, nil, fmt.Errorf("reading h2spec's report: %w", err)
	}
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			if c.Failure != nil || c.Error != nil || c.Skipped != nil {
				failed = append(failed, s.Package+": "+c.Class)
			} else {
				passed++
			}
		}
	}
	slices.Sort(failed)
	return passed, failed, nil
}

// testH2spec holds Cairn to all cases but the explained ones.
func testH2spec(t *testing.T, host string, port uint16, path string) {
	passed, failed := h2spec(t, host, strconv.Itoa(int(port)), path)
	t.Logf("h2spec: %d of %d cases pass", passed, passed+len(failed))
	for _, name := range failed {
		if why, ok := h2specExplained[name]; ok {
			t.Logf("fails as expected: %s: %s", name, why)
		} else {
			t.Errorf("fails: %s", name)
		}
	}
	for name := range h2specExplained {
		if !slices.Contains(failed, name) {
			t.Errorf("passes now, so its explanation is to go: %s", name)
		}
	}
	if passed < 143 {
		t.Errorf("%d cases pass, at least 143 have to", passed)
	}
}

// TestReadJUnit keeps the reader honest: a report in which nothing failed and
// one that cannot be read must not look alike.
func TestReadJUnit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.xml")
	text := `<testsuites><testsuite name="3.5" package="http2/3.5" tests="2"><testcase package="http2/3.5" classname="Sends x" time="0.1"></testcase>` +
		"<testcase package=\"http2/3.5\" classname=\"Sends y\" time=\"0.1\"><failure>got \x00\xff</failure></testcase></testsuite></testsuites>"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	passed, failed, err := readJUnit(path)
	if err != nil || passed != 1 || strings.Join(failed, ",") != "http2/3.5: Sends y" {
		t.Errorf("%d %q %v", passed, failed, err)
	}
	if _, _, err := readJUnit(path + ".none"); err == nil {
		t.Error("a missing report was read")
	}
}
