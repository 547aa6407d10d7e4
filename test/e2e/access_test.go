package e2e_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/admin"
)

// accessPort is where the host serves its containers.
const accessPort = 7100

// TestHostAccess: a host and its own macvlan containers reach each other where the network
// says so, from the host's own addresses on the LAN and from one of the network's, while
// everything restarts that can.
func TestHostAccess(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		before := s.hostState()
		own := func(name string, args ...string) {
			s.network(name, append([]string{"--ipam-driver", plugin, "-o", "mode=macvlan", "-o", "parent=eth0"}, args...)...)
		}
		own("home", "--ipv6", "--subnet", "10.77.0.0/24", "--ip-range", "10.77.0.64/26", "--gateway", "10.77.0.1",
			"--subnet", "fd77::/64", "--ip-range", "fd77::1000/116", "--gateway", "fd77::1", "-o", "host_access=true")
		own("near", "--ipv6", "--subnet", "10.76.0.0/24", "--subnet", "fd76::/64", "-o", "host_access=true", "-o", "attach=direct")
		s.sh("ip addr add 10.75.0.11/24 dev eth0")
		own("off", "--subnet", "10.75.0.0/24")
		for _, name := range []string{"home", "near", "off"} {
			s.server("at-"+name, "--network", name, "--restart", "always", "--stop-signal", "KILL")
		}
		s.accessible()
		s.silent(s.fromHost(), s.ip("at-off", "off")+":80")
		s.silent(s.from("at-off"), hostPort("10.75.0.11", accessPort))
		s.sh("ip addr del 10.75.0.11/24 dev eth0")
		s.docker("rm", "-f", "at-off")
		s.docker("network", "rm", "off")

		s.step("modes that keep the host apart", func(s *site) {
			s.refuse([]string{"host_access=true needs macvlan_mode=bridge, and the network has private", "leave host_access out"},
				"network", "create", "-d", plugin, "-o", "mode=macvlan", "-o", "parent=eth0", "-o", "macvlan_mode=private", "-o", "host_access=true", "--subnet", "10.75.0.0/24", "bad")
		})
		s.step("a container leaves and comes back", func(s *site) {
			address := s.ip("at-home", "home")
			s.docker("network", "disconnect", "home", "at-home")
			if out := s.sh("ip route"); strings.Contains(out, address) {
				s.Errorf("its route stays:\n%s", out)
			}
			s.docker("network", "connect", "home", "at-home")
			s.docker("restart", "-t0", "at-near")
			s.accessible()
		})
		s.step("the plugin is killed", func(s *site) {
			s.must(s.KillPlugin(s.Context()))
			s.answers(s.from("at-home"), hostPort(s.IPv6.String(), accessPort), "host from")
			s.answers(s.fromHost(), hostPort(s.ip("at-home", "home"), 80), "at-home")
			s.comesBack("weft", func() error { _, err := s.Run(s.Context(), "weft", "status"); return err })
			s.accessible()
		})
		s.step("the engine restarts", func(s *site) {
			took, err := s.RestartEngine(s.Context())
			s.backInTime("restart", took, err)
			s.awaken("at-home", "at-near")
			s.accessible()
		})
		s.step("power cut", func(s *site) {
			s.must(s.PowerOff(s.Context()))
			s.must(s.Boot(s.Context()))
			s.awaken("at-home", "at-near")
			s.accessible()
		})
		s.docker("rm", "-f", "at-home", "at-near")
		s.docker("network", "rm", "home", "near")
		s.eventually("the host as before", func() error { return same(before, s.hostState()) })
		if out := s.sh("ip route; ip -6 route"); strings.Contains(out, "wh-") {
			s.Errorf("routes stay:\n%s", out)
		}
	})
}

// accessible: host and containers reach each other, both families, at all addresses; the
// machine outside knows the host by its card alone.
func (s *site) accessible() {
	s.Helper()
	for _, family := range []string{"4", "6,ipv6only=1"} {
		listen := fmt.Sprintf("TCP%s-LISTEN:%d,fork,reuseaddr%s", family[:1], accessPort, family[1:])
		if out, err := s.Run(s.Context(), "pgrep", "-f", listen); err == nil && out != "" {
			continue
		}
		_, err := s.Background("socat", listen, "SYSTEM:echo host from $SOCAT_PEERADDR")
		s.must(err)
	}
	hosts := map[string][]netip.Addr{"home": {s.IPv4, s.IPv6}}
	s.eventually("weft to say where the host is on near", func() error { // it looks when it has started
		for _, n := range weftJSON[[]admin.Network](s, "networks") {
			if len(n.Subnets) > 0 && n.Subnets[0].String() == "10.76.0.0/24" {
				hosts["near"] = n.HostAccess
			}
		}
		if len(hosts["near"]) != 2 {
			return fmt.Errorf("it is at %v", hosts["near"])
		}
		return nil
	})
	for name, at := range hosts {
		inside := s.from("at-" + name)
		for _, a := range at {
			s.answers(inside, hostPort(a.String(), accessPort), "host from")
		}
		for i, a := range []string{s.ip("at-"+name, name), s.ip6("at-"+name, name)} {
			s.answers(s.fromHost(), hostPort(a, 80), "at-"+name)
			s.sees("the host", s.fromHost(), hostPort(a, 80), at[i])
			s.sees("at-"+name, inside, hostPort(at[i].String(), accessPort), netip.MustParseAddr(a))
		}
	}
	for _, a := range []netip.Addr{s.IPv4, s.IPv6} {
		s.pings(s.fromOutside(), a.String())
	}
	known, err := s.out.Run(s.Context(), "ip", "neigh")
	s.must(err)
	for mac := range strings.FieldsSeq(s.sh(`for l in /sys/class/net/wh-*/address; do cat "$l"; done`)) {
		if strings.Contains(known, mac) {
			s.Errorf("the machine outside knows %s of the host's device beside its containers:\n%s", mac, known)
		}
	}
}
