package e2e_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// weftEndpoint is a line of `weft endpoints --json`.
type weftEndpoint struct {
	ID, Network, Attach, AttachWhy string
}

// attached makes sure how weft attached a container's endpoint: by how, and
// if it fell back, why.
func (s *site) attached(container, network, how, why string) {
	s.Helper()
	id := s.inspect(container, fmt.Sprintf(`{{(index .NetworkSettings.Networks %q).EndpointID}}`, network))
	all := weftJSON[[]weftEndpoint](s, "endpoints")
	i := slices.IndexFunc(all, func(e weftEndpoint) bool { return e.ID == id })
	if i < 0 || all[i].Attach != how || !strings.Contains(all[i].AttachWhy, why) {
		s.Errorf("%s on %s should be attached by %s (%q); the endpoints are %+v", container, network, how, why, all)
	}
}

// TestDirect uses attach=direct where the engine bears it, and the fallback
// where it does not.
func TestDirect(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		before, dockerd := s.hostState(), s.dockerd()
		s.outsideServer(7000)
		how, why, ifname := "docker", "older than 28", "eth0"
		if s.atLeast(28) {
			how, why, ifname = "direct", "", "weft0"
		}
		s.eventually("weft knows the engine", func() error {
			if st := weftJSON[struct {
				Direct bool
				Engine *struct{ Version string }
			}](s, "status"); st.Engine == nil || st.Direct != s.atLeast(28) {
				return fmt.Errorf("weft status: %+v", st)
			}
			return nil
		})
		s.network("dir", "--ipv6", "--subnet", "10.41.0.0/24", "--subnet", "fd41::/64", "-o", "attach=direct")
		s.network("dirnative", "--subnet", "10.42.0.0/24", "-o", "attach=direct", "-o", "publish=native")
		s.network("plain")
		s.step("names and ways out", func(s *site) { s.directNames(how, why, ifname) })
		s.step("ports", func(s *site) { s.directPorts(how, why) })
		s.step("beside a built-in bridge", (*site).directBeside)
		s.step("connect again and again", func(s *site) { s.directAgain(how, why) })
		if now := s.dockerd(); now != dockerd {
			s.Errorf("dockerd was %s and is %s", dockerd, now)
		}
		s.clear("dir", "dirnative", "plain")
		s.eventually("the host as before", func() error { return same(before, s.hostState()) })
	})
}

func (s *site) dockerd() string { return s.sh("pidof dockerd") }

func (s *site) directNames(how, why, ifname string) {
	s.server("d1", "--network", "dir", "--ip", "10.41.0.11", "--ip6", "fd41::11", "--mac-address", "02:00:00:41:00:11")
	s.server("d2", "--network", "dir", "--network-alias", "deux")
	s.attached("d1", "dir", how, why)
	d1, d2 := s.inside("d1"), s.inside("d2")
	out, err := d1("sh", "-c", "ip -o addr; ip -o link")
	for _, words := range []string{ifname, "10.41.0.11/24", "fd41::11/64", "02:00:00:41:00:11"} {
		if err != nil || !strings.Contains(out, words) {
			s.Errorf("d1 lacks %s (%v):\n%s", words, err, out)
		}
	}
	s.expect(
		probe{who: "d1", from: d1, to: "deux:80", want: "d2 from"},
		probe{who: "d2", from: d2, to: "d1:80", want: "d1 from"},
		probe{who: "d2", from: d2, to: "10.41.0.11:80", want: "d1 from " + s.ip("d2", "dir")},
		probe{who: "d2", from: d2, to: "[fd41::11]:80", want: "d1 from"},
		probe{who: "the host", from: s.fromHost(), to: "10.41.0.11:80", want: "d1"},
	)
	s.sees("d1", d1, s.out.IPv4.String()+":7000", s.IPv4)
	s.sees("d1", d1, hostPort(s.out.IPv6.String(), 7000), s.IPv6)
	s.docker("stop", "-t0", "d1")
	s.docker("start", "d1")
	s.expect(probe{who: "d2", from: d2, to: "d1:80", want: "d1 from"})
	s.docker("restart", "-t0", "d1")
	s.expect(probe{who: "d1 restarted", from: s.inside("d1"), to: "d2:80", want: "d2 from 10.41.0.11"})

	// Without an IPv6 subnet there is no IPv6 on the interface.
	s.run("n1", "--network", "dirnative")
	if out, err := s.inside("n1")("ip", "-6", "-o", "addr", "show", "scope", "link"); err != nil || out != "" {
		s.Errorf("n1 has IPv6 (%v): %s", err, out)
	}
	s.docker("rm", "-f", "n1")
	if how == "direct" {
		s.directNamed()
	}
}

// directNamed chooses the interface's name and settings.
func (s *site) directNamed() {
	// `docker run --network name=…` would write IFNAME in small letters.
	s.run("named")
	s.docker("network", "connect", "--driver-opt", "com.docker.network.endpoint.ifname=lan7",
		"--driver-opt", "com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1", "dir", "named")
	s.attached("named", "dir", "direct", "")
	out, err := s.inside("named")("sh", "-c", "ip -o link show lan7 && cat /proc/sys/net/ipv4/conf/lan7/log_martians")
	if err != nil || !strings.HasSuffix(out, "1") {
		s.Errorf("lan7 of named (%v): %s", err, out)
	}
	s.answers(s.inside("named"), "d2:80", "d2")
	s.docker("rm", "-f", "named")
	s.refuse([]string{"attach=direct"}, "run", "--rm", "--network", "name=plain,driver-opt=com.docker.network.endpoint.ifname=lan7",
		"weft/test:latest", "true")
}

func (s *site) directPorts(how, why string) {
	s.server("native", "--network", "dirnative", "-p", "8300:80", "-p", "8301:81/udp")
	s.attached("native", "dirnative", how, why)
	s.server("bydocker", "--network", "dir", "-p", "8302:80")
	if how == "direct" {
		s.attached("bydocker", "dir", "docker", "the engine publishes its ports")
	}
	out := s.fromOutside()
	s.expect(
		probe{who: "outside", from: out, to: s.IPv4.String() + ":8300", want: "native from " + s.out.IPv4.String()},
		probe{who: "outside", from: out, to: s.IPv4.String() + ":8301", udp: true, want: "native"},
		probe{who: "outside", from: out, to: s.IPv4.String() + ":8302", want: "bydocker"},
		probe{who: "outside", from: out, to: hostPort(s.IPv6.String(), 8300), want: "native"},
		probe{who: "the host", from: s.fromHost(), to: "127.0.0.1:8300", want: "native"},
		probe{who: "itself", from: s.inside("native"), to: s.IPv4.String() + ":8300", want: "native"},
		probe{who: "bydocker", from: s.inside("bydocker"), to: "d1:80", want: "d1"},
	)
	s.docker("rm", "-f", "native", "bydocker")
	s.silent(out, s.IPv4.String()+":8300")
}

// directBeside mixes with the engine's own interfaces, which it numbers itself.
func (s *site) directBeside() {
	both := func(name string) {
		s.Helper()
		s.answers(s.inside(name), "d1:80", "d1")
		s.pings(s.inside(name), s.ip("builtin", "bridge"))
		s.pings(s.inside(name), s.out.IPv4.String())
	}
	s.run("builtin")
	s.run("before")
	s.docker("network", "connect", "dir", "before")
	both("before")
	s.run("after", "--network", "dir")
	s.docker("network", "connect", "bridge", "after")
	both("after")
	s.docker("create", "--name", "created", "--network", "dir", "weft/test:latest", "sleep", "infinity")
	s.docker("network", "connect", "bridge", "created")
	s.docker("network", "connect", "dirnative", "created")
	s.docker("start", "created")
	both("created")
	for _, name := range []string{"before", "after", "created"} {
		s.docker("restart", "-t0", name)
		both(name)
	}
	s.docker("rm", "-f", "builtin", "before", "after", "created")
}

func (s *site) directAgain(how, why string) {
	s.server("again", "--network", "dir")
	for range 4 {
		s.docker("network", "disconnect", "dir", "again")
		s.docker("network", "connect", "--ip", "10.41.0.99", "dir", "again")
		s.attached("again", "dir", how, why)
		s.sees("d1", s.inside("d1"), "again:80", netip.MustParseAddr("10.41.0.11"))
	}
	s.docker("network", "connect", "dirnative", "again")
	s.attached("again", "dirnative", how, why)
	s.docker("network", "disconnect", "dir", "again")
	s.pings(s.inside("again"), s.out.IPv4.String())
	s.docker("stop", "-t0", "again")
	s.docker("start", "again")
	s.pings(s.inside("again"), s.out.IPv4.String())
	s.docker("rm", "-f", "again")
}

// TestDirectLiveRestore makes sure that attach=direct stays unused where it
// would make dockerd 28 panic.
func TestDirectLiveRestore(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		dockerd := s.dockerd()
		why := "live-restore"
		if !s.atLeast(28) {
			why = "older than 28"
		}
		s.network("dir", "-o", "attach=direct")
		s.server("d1", "--network", "dir")
		s.server("d2", "--network", "dir")
		s.attached("d1", "dir", "docker", "")
		s.docker("stop", "-t0", "d1")
		s.docker("start", "d1")
		s.attached("d1", "dir", "docker", why)
		s.docker("network", "disconnect", "dir", "d1")
		s.docker("network", "connect", "dir", "d1")
		s.attached("d1", "dir", "docker", why)
		s.answers(s.from("d1"), "d2:80", "d2")
		s.docker("stop", "-t0", "d1")
		s.docker("start", "d1")
		s.answers(s.from("d2"), "d1:80", "d1")
		s.clear("dir")
		if now := s.dockerd(); now != dockerd {
			s.Errorf("dockerd was %s and is %s", dockerd, now)
		}
	}, func(c *siteConfig) { c.host.DaemonJSON = `{"live-restore": true}` })
}
