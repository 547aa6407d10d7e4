package e2e_test

import (
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

// TestSmoke is the shortest story: a network, two containers that know each
// other by name, a published port, and nothing left. Its engines are as Debian has them.
func TestSmoke(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		before := s.hostState()
		s.network("mynet", "--subnet", "192.168.0.0/16", "--gateway", "192.168.0.1")
		s.server("web", "--network", "mynet", "-p", "8080:80")
		s.run("client", "--network", "mynet")
		s.answers(s.from("client"), "web:80", "web from 192.168.")
		s.answers(s.fromOutside(), s.IPv4.String()+":8080", "web")
		if st := weftJSON[admin.Status](s, "status"); len(st.Troubles) > 0 {
			s.Errorf("weft status has troubles: %q", st.Troubles)
		}
		s.pings(s.from("client"), s.out.IPv4.String())
		s.docker("rm", "-f", "web", "client")
		s.docker("network", "rm", "mynet")
		s.eventually("the host as before", func() error { return same(before, s.hostState()) })
	}, func(c *siteConfig) { c.host.Light = false })
}

// TestOtherRuntime: crun hides from a plugin what the host mounts later, which weft tells.
func TestOtherRuntime(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.DefaultEngine, func(c *siteConfig) { c.host.DaemonJSON = `{"default-runtime": "crun"}` })
	s.network("mynet", "-o", "attach=direct")
	s.server("web", "--network", "mynet", "-p", "8080:80")
	s.answers(s.fromOutside(), s.IPv4.String()+":8080", "web")
	if st := weftJSON[admin.Status](s, "status"); len(st.Troubles) != 1 || !strings.Contains(st.Troubles[0], "default-runtime") {
		s.Errorf("weft status does not tell of the runtime: %q", st.Troubles)
	}
}
