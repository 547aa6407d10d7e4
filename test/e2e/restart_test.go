package e2e_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

const liveRestore = `{"live-restore": true}`

// TestRestart lets everything crash and restart that can, under running
// containers.
func TestRestart(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		s.ownBridge()
		all := s.newTown()
		for _, story := range []struct {
			name string
			tell func(*site, town)
		}{
			{"plugin killed", (*site).pluginKilled},
			{"plugin disabled and enabled", (*site).pluginDisabled},
			{"engine killed", (*site).engineKilled},
			{"engine restarted", (*site).engineRestarted},
			{"live-restore", (*site).liveRestored},
			{"power cut", (*site).powerCut},
		} {
			if s.step(story.name, func(s *site) { story.tell(s, all) }); s.Failed() {
				return // what follows would only wait for what is broken
			}
		}
	})
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *site) pluginKilled(t town) {
	s.Helper()
	beats := s.beats()
	endpoints := weftJSON[[]admin.Endpoint](s, "endpoints")
	s.must(s.KillPlugin(s.Context()))
	begin := time.Now()
	s.quick("network", "create", "-d", plugin, "after")
	s.Logf("a killed plugin served again after %v", time.Since(begin).Round(time.Millisecond))
	s.unharmed(beats...)
	s.open(t)
	s.reserved(t)
	s.quick("network", "rm", "after")
	s.sameEndpoints(endpoints)
	s.hasty()
	s.day()
	s.unharmed(beats...)
	stopBeats(beats)
}

// hasty starts containers while the plugin comes back: what handlers publish
// must outlive the repairs of the start.
func (s *site) hasty() {
	s.Helper()
	s.must(s.KillPlugin(s.Context()))
	const most = 6
	errs := make([]error, most)
	var wg sync.WaitGroup
	for i := range most {
		wg.Go(func() {
			_, errs[i] = s.Docker(s.Context(), "run", "-d", "--name", fmt.Sprintf("hasty%d", i), "--network", "nat", "-p", fmt.Sprintf("%d:80", 8200+i),
				lab.Image, "socat", "TCP-LISTEN:80,fork,reuseaddr", "SYSTEM:echo hasty")
		})
	}
	wg.Wait()
	var names []string
	for i, err := range errs {
		names = append(names, fmt.Sprintf("hasty%d", i))
		if err != nil {
			s.Error(err)
		}
	}
	st := weftJSON[admin.Status](s, "status")
	s.eventually("two more reconciliations", func() error {
		if now := weftJSON[admin.Status](s, "status"); now.Reconcile.Runs >= st.Reconcile.Runs+2 {
			return nil
		}
		s.sh("ip link add touch0 type bridge && ip link del touch0")
		return errors.New("nothing yet")
	})
	for i := range names {
		s.answers(s.fromOutside(), hostPort(s.IPv4.String(), 8200+i), "hasty")
	}
	s.docker(append([]string{"rm", "-f"}, names...)...)
}

// sameEndpoints compares what weft says of its endpoints with before.
func (s *site) sameEndpoints(before []admin.Endpoint) {
	s.Helper()
	after := weftJSON[[]admin.Endpoint](s, "endpoints")
	if err := same(asText(before), asText(after)); err != nil {
		s.Errorf("endpoints: %v", err)
	}
}

func (s *site) pluginDisabled(t town) {
	s.Helper()
	beats := s.beats()
	s.must(s.DisablePlugin(s.Context(), true))
	s.alive(beats...)
	// New connections as well: the rules stay.
	for _, h := range t.houses {
		s.answers(s.fromOutside(), hostPort(s.IPv4.String(), h.port), h.name)
	}
	s.answers(s.inside("nelly"), "bravo:80", "bravo")
	begin := time.Now()
	s.must(s.EnablePlugin(s.Context()))
	s.inTime("docker plugin enable", time.Since(begin), patience)
	s.unharmed(beats...)
	s.open(t)
	s.reserved(t)
	s.day()
	stopBeats(beats)
}

func (s *site) engineKilled(t town) {
	s.Helper()
	s.must(s.KillEngine(s.Context()))
	took, err := s.StartEngine(s.Context())
	s.backInTime("start after a kill", took, err)
	s.getUp(t)
	s.open(t)
	s.reserved(t)
	s.day()
}

// engineRestarted turns live-restore on for what follows.
func (s *site) engineRestarted(t town) {
	s.Helper()
	s.must(s.SetDaemonJSON(s.Context(), liveRestore))
	took, err := s.RestartEngine(s.Context())
	s.backInTime("restart", took, err)
	s.getUp(t)
	s.open(t)
	s.reserved(t)
}

// liveRestored has an engine that keeps its containers.
func (s *site) liveRestored(t town) {
	s.Helper()
	beats := s.beats()
	s.endsEngine()
	took, err := s.StartEngine(s.Context())
	s.backInTime("restart with live-restore", took, err)
	s.unharmed(beats...)
	s.open(t)
	s.must(s.KillEngine(s.Context()))
	s.alive(beats...)
	took, err = s.StartEngine(s.Context())
	s.backInTime("start after a kill with live-restore", took, err)
	s.unharmed(beats...)
	s.open(t)
	s.reserved(t)
	s.day()
	s.quick("restart", "bravo")
	s.quick("restart", "ernst")
	s.unharmed(beats[0], beats[3], beats[4], beats[7], beats[8])
	s.open(t)
	stopBeats(beats)
}

// powerCut loses the kernel's state and /run. The administrator's own bridge
// is not there yet when the host boots.
func (s *site) powerCut(t town) {
	s.Helper()
	s.must(s.PowerOff(s.Context()))
	begin := time.Now()
	s.must(s.Boot(s.Context()))
	s.backInTime("boot", time.Since(begin), nil)
	s.refuse([]string{"br-own"}, "start", "delta")
	s.ownBridge()
	s.getUp(t)
	s.open(t)
	s.reserved(t)
	s.day()
	if out := s.sh("ip addr show dev br-own"); !strings.Contains(out, "10.94.0.1/24") {
		s.Errorf("br-own lacks weft's address:\n%s", out)
	}
}

// endsEngine makes sure that the engine does not wait for weft when it stops.
func (s *site) endsEngine() {
	s.Helper()
	begin := time.Now()
	s.must(s.StopEngine(s.Context()))
	if took := time.Since(begin); took > 4*time.Second {
		s.Errorf("the engine took %v to stop: it waits five seconds for whoever reads its events", took)
	}
}
