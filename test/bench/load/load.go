// Package load brings netload, the load and the clock of benchmarks between hosts, to test
// hosts, and reads what it prints.
//
//	must(h.CopyIn(ctx, load.Build(t, "netload"), load.Path))
//	begin, answered, err := load.Times(line)
package load

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Path is where the hosts have it, and containers by a bind mount.
const Path = "/usr/local/bin/netload"

// Build compiles netload, or another helper beside it, without libraries of the machine, and
// returns where it is.
func Build(tb testing.TB, name string) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), name)
	cmd := exec.Command("go", "build", "-o", out, "github.com/weft-net/weft/test/bench/overlay/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%v\n%s", err, text)
	}
	return out
}

// Times are those of a line that says when something began and when it was answered, in
// nanoseconds since 1970.
func Times(line string) (begin, answered time.Time, err error) {
	first, second, _ := strings.Cut(strings.TrimSpace(line), " ")
	a, err := strconv.ParseInt(first, 10, 64)
	if err == nil {
		var b int64
		b, err = strconv.ParseInt(second, 10, 64)
		return time.Unix(0, a), time.Unix(0, b), err
	}
	return time.Time{}, time.Time{}, fmt.Errorf("netload says %q: %w", line, err)
}
