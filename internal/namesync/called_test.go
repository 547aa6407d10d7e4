package namesync

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/engine"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/ownership"
)

// TestNamesOf: a container's own names come first, and what no question can have, or is too
// much, is left out.
func TestNamesOf(t *testing.T) {
	long := strings.Repeat("x", labelLen)
	deep := strings.Repeat(strings.Repeat("y", 49)+".", 5) // 250 octets
	bad := []string{"a..b", ".", long + "x", deep + "12.4", strings.Repeat("z", 1<<20)}
	c := container("a0a0a0a0a0a0a0a0", "web")
	at := at("demo", "e1", "10.1.0.2")
	at.Aliases = slices.Concat(bad, []string{"web", long, deep + "123", "Under_Score", "final.", "\x1b[2J\n"})
	called, rest := namesOf(c, at)
	if want := []string{"web", "a0a0a0a0a0a0", long, deep + "123", "Under_Score", "final.", "\x1b[2J\n"}; !slices.Equal(called, want) {
		t.Errorf("%q", called)
	}
	if !slices.Equal(rest, bad) {
		t.Errorf("%.80q", rest)
	}
	at.Aliases = nil
	for i := range 50000 {
		at.Aliases = append(at.Aliases, fmt.Sprintf("alias-%d.example-of-a-name", i))
	}
	c.Hostname = "host"
	called, rest = namesOf(c, at)
	if len(called) != mostNames || !slices.Equal(called[:4], []string{"web", "a0a0a0a0a0a0", "host", at.Aliases[0]}) || len(rest) != 50000-(mostNames-3) {
		t.Errorf("%d names, %d are left out: %q", len(called), len(rest), called[:4])
	}
}

// TestLeftOut: what is left out is told, with the container, as long as it is so; and the log
// has it once.
func TestLeftOut(t *testing.T) {
	hoard := at("demo", "e1", "10.1.0.2")
	for i := range mostNames {
		hoard.Aliases = append(hoard.Aliases, fmt.Sprintf("alias\n%d", i))
	}
	apart := hoard
	apart.Network, apart.Endpoint = "mine-id", "e2" // the engine's own network: no matter
	w := &world{containers: map[string]engine.Container{"w1": container("w1", "web", hoard, apart)},
		networks: []engine.Network{{ID: "demo-id", Name: "demo"}, {ID: "mine-id", Name: "mine"}}, places: []Place{{"e1", "/ns/w1"}}}
	var log bytes.Buffer
	a := New(Config{Engine: w, Directory: w, Host: w, Me: func() ownership.Host { return "h1" }, Book: names.NewBook(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	look := func() {
		for range 2 {
			a.Container("")
			a.roster.step(t.Context(), time.Now())
			a.roster.work.Wait()
			a.compare()
		}
	}
	look()
	want := `container web (w1): 2 of its names on network "demo" are left out, the first is "alias\n126": weft takes 128 names of a container, of up to 253 octets, and 63 between two dots: give it fewer or shorter ones (--network-alias) and start it again`
	if got := a.Troubles(); !slices.Equal(got, []string{want}) {
		t.Errorf("%q", got)
	}
	look()
	if n := strings.Count(log.String(), "left out"); n != 1 {
		t.Errorf("the log has it %d times:\n%s", n, &log)
	}
	if got := len(w.called["e1"]); got != mostNames {
		t.Errorf("other hosts are told %d names", got)
	}
	w.set(func() { w.containers["w1"] = container("w1", "web", at("demo", "e1", "10.1.0.2")) })
	look()
	if got := a.Troubles(); len(got) > 0 {
		t.Errorf("%q", got)
	}
}
