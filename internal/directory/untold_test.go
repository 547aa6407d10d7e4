package directory_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/store"
)

// TestUntold: an endpoint that the store does not take keeps no other one from being told,
// and it is said as long as it is so.
func TestUntold(t *testing.T) {
	fake, c := store.NewFake(), &clock{}
	a := startHost(t, "h1", fake.Peer(), t.TempDir(), c)
	a.Until("ready", a.Ready)
	n := a.found(network("demo"))
	// Together they are more than one transaction takes.
	names := map[string][]string{"e0": {strings.Repeat("x", 1536<<10)}}
	for i := range 60 {
		names[fmt.Sprint("e", i+1)] = []string{strings.Repeat("y", 32<<10)}
	}
	a.SetNames(names, true)
	for i := range 61 {
		a.Publish(n.UUID, endpoint(fmt.Sprint("e", i), fmt.Sprintf("10.1.0.%d", 2+i)))
	}
	count := func() int { return strings.Count(keys(t, fake), "ep/") }
	a.Until("all others are told", func() bool { return count() == 60 })
	if got := a.Troubles(); len(got) > 0 {
		t.Errorf("at once: %q", got)
	}
	a.Until("it is said", func() bool { c.pass(time.Second); return len(a.Troubles()) > 0 })
	got := a.Troubles()
	for _, words := range []string{"network demo:", "/e0: too large for one transaction"} {
		if len(got) != 1 || !strings.Contains(got[0], words) {
			t.Errorf("%q lacks %q", got, words)
		}
	}
	a.Publish(n.UUID, endpoint("e99", "10.1.0.99"))
	a.Until("what is new is told", func() bool { return count() == 61 })
	a.Withdraw(n.UUID, "e1")
	a.Until("what is gone is told", func() bool { return count() == 60 })
	a.SetNames(map[string][]string{"e0": {"short"}}, false)
	a.Until("it is told", func() bool { return count() == 61 })
	a.Until("nothing is said any more", func() bool { return len(a.Troubles()) == 0 })
}

// TestUntoldForAMoment: what the store took a little later is no trouble.
func TestUntoldForAMoment(t *testing.T) {
	fake, c := store.NewFake(), &clock{}
	s := fake.Peer()
	a := startHost(t, "h1", s, t.TempDir(), c)
	a.Until("ready", a.Ready)
	n := a.found(network("demo"))
	s.Inject(store.FaultLost)
	a.Publish(n.UUID, endpoint("e1", "10.1.0.2"))
	a.Until("e1 is told", func() bool { return told(t, fake, "e1") })
	c.pass(time.Minute)
	a.Until("nothing is said", func() bool { return len(a.Troubles()) == 0 })
}
