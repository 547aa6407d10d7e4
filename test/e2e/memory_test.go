package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

// TestMemory measures the plugin with 200 endpoints, each with links and two
// published ports, as if the engine had asked for them.
func TestMemory(t *testing.T) {
	t.Parallel()
	const endpoints, most = 200, 30_000_000 >> 10 // KiB
	s := newSite(t, lab.DefaultEngine)
	s.ask("NetworkDriver.CreateNetwork", s.networkDoc(1, "10.95.0.0/16", "10.95.0.1/16", object{"publish": "native"}))
	s.smallerThan(most, "with a network")
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < endpoints; i += 8 {
				if err := s.endpoint(i); err != nil {
					s.Errorf("endpoint %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	st := weftJSON[admin.Status](s, "status")
	ports := weftJSON[[]admin.Port](s, "ports")
	if st.Joined != endpoints || len(ports) != 4*endpoints {
		t.Fatalf("%d endpoints joined with %d ports, not %d with %d", st.Joined, len(ports), endpoints, 4*endpoints)
	}
	s.smallerThan(most, "after 200 endpoints were made and a burst is over")
	// A restart takes all of it up again, at once.
	s.must(s.KillPlugin(t.Context()))
	s.eventually("the plugin to serve again", func() error {
		_, err := s.Run(t.Context(), "weft", "status")
		return err
	})
	s.smallerThan(most, "after a restart with 200 endpoints")
	s.ask("NetworkDriver.DeleteNetwork", object{"NetworkID": netID(1)})
	s.forgotten()
}

// endpoint makes one and publishes two of its ports.
func (s *site) endpoint(i int) error {
	driver := s.driver()
	portmap := []object{}
	for _, port := range []int{80, 443} {
		host := 20000 + 2*i + port%2
		portmap = append(portmap, object{"Proto": 6, "IP": "", "Port": port, "HostIP": "", "HostPort": host, "HostPortEnd": host})
	}
	program := endpointRef(1, i)
	program["Options"] = object{"com.docker.network.portmap": portmap}
	for _, step := range []struct {
		method string
		doc    object
	}{
		{"CreateEndpoint", s.endpointDoc(1, i, fmt.Sprintf("10.95.1.%d/16", i+1))},
		{"Join", s.joinDoc(1, i)},
		{"ProgramExternalConnectivity", program},
	} {
		if _, err := driver.Call(s.Context(), "POST", "/NetworkDriver."+step.method, step.doc); err != nil {
			return err
		}
	}
	return nil
}

// smallerThan waits for the plugin's process to have no more memory than that: what a burst
// took goes back when it is over.
func (s *site) smallerThan(most int, when string) {
	s.Helper()
	pid, err := s.PluginPID(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	first := 0
	err = lab.Until(s.Context(), "less memory", func(context.Context) error {
		var rss int
		for line := range strings.Lines(s.sh(fmt.Sprintf("cat /proc/%d/status", pid))) {
			_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &rss) // other lines do not match
		}
		if first == 0 {
			first = rss
			s.Logf("VmRSS %s: %d KiB", when, rss)
		}
		if rss == 0 || rss > most {
			return fmt.Errorf("VmRSS is %d KiB, at most %d is allowed", rss, most)
		}
		return nil
	})
	if err != nil {
		s.Errorf("%s: %v", when, err)
	}
}
