package e2e_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestPublish asks published ports of every form from everywhere, in both
// publish modes.
func TestPublish(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"docker", "native"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			eachEngine(t, func(s *site) {
				s.image("exposed", "EXPOSE 80/tcp", "EXPOSE 81/udp")
				s.network("pub", "--subnet", "10.51.0.0/24", "-o", "publish="+mode)
				s.network("other", "--subnet", "10.52.0.0/24", "-o", "publish="+mode)
				s.run("neighbour", "--network", "pub")
				s.run("stranger", "--network", "other")
				s.run("dockers")
				s.step("forms", func(s *site) { s.forms(mode) })
				s.step("clients", func(s *site) { s.clients(mode) })
				s.step("twenty at once", func(s *site) { s.twenty(mode) })
				s.step("taken and freed", func(s *site) { s.takenPorts(mode) })
				s.step("dual stack", func(s *site) { s.publishDual(mode) })
				s.step("connect and disconnect", func(s *site) { s.movingPorts(mode) })
				s.step("mixed", func(s *site) { s.mixedPorts(mode) })
				s.step("fresh UDP", func(s *site) { s.freshUDP(mode) })
				s.step("SCTP", func(s *site) { s.sctp(mode) })
			})
		})
	}
}

// weftPort is a line of `weft ports --json`.
type weftPort struct {
	Endpoint, Proto string
	Host, Container netip.AddrPort
}

// hostPortOf is where a container's port answers, as docker or weft says.
func (s *site) hostPortOf(mode, container, port string) string {
	s.Helper()
	if mode == "docker" {
		out := s.docker("port", container, port)
		m := regexp.MustCompile(`0\.0\.0\.0:(\d+)`).FindStringSubmatch(out)
		if m == nil {
			s.Fatalf("docker port %s %s: %s", container, port, out)
		}
		return m[1]
	}
	number, proto, _ := strings.Cut(port, "/")
	for _, p := range weftJSON[[]weftPort](s, "ports") {
		if strconv.Itoa(int(p.Container.Port())) == number && p.Proto == proto && strings.HasPrefix(s.ip(container, "pub"), p.Container.Addr().String()) {
			return strconv.Itoa(int(p.Host.Port()))
		}
	}
	s.Fatalf("weft ports lacks %s of %s", port, container)
	return ""
}

// everywhere are the places that ask for published ports.
func (s *site) everywhere() map[string]asker {
	s.Helper()
	return map[string]asker{
		"outside": s.fromOutside(), "the host": s.fromHost(), "a neighbour": s.inside("neighbour"),
		"another network": s.inside("stranger"), "docker0": s.inside("dockers"),
	}
}

func (s *site) forms(mode string) {
	host := s.IPv4.String()
	s.server("w1", "--network", "pub", "-p", "8080:80", "-p", "8081:81/udp")
	s.server("w2", "--network", "pub", "-p", "8100-8101:80-81", "-p", "8100-8101:80-81/udp")
	s.server("w3", "--network", "pub", "-p", "8110-8119:80")
	s.server("w4", "--network", "pub", "-p", "8110-8119:80") // the next of the range
	s.server("w5", "--network", "pub", "-p", "80", "-p", "81/udp")
	s.server("w6", "--network", "pub", "-p", host+":8120:80", "-p", host+":8121:81/udp")
	s.server("w7", "--network", "pub", "-p", "127.0.0.1:8130:80", "-p", "127.0.0.1:8131:81/udp", "-p", "127.0.0.1::80")
	s.docker("run", "-d", "--name", "w8", "--network", "pub", "-P", "exposed", "sh", "-c",
		"socat UDP4-RECVFROM:81,fork SYSTEM:'echo w8' & socat TCP4-LISTEN:80,fork,reuseaddr SYSTEM:'echo w8'")
	s.server("w9", "--network", "pub", "-p", "[::1]:8140:80", "-p", "["+s.IPv6.String()+"]:8141:80")
	any5, udp5 := s.hostPortOf(mode, "w5", "80/tcp"), s.hostPortOf(mode, "w5", "81/udp")
	any8, udp8 := s.hostPortOf(mode, "w8", "80/tcp"), s.hostPortOf(mode, "w8", "81/udp")

	var all []probe
	for who, from := range s.everywhere() {
		tcp := func(port, want string) {
			all = append(all, probe{who: who, from: from, to: host + ":" + port, want: want})
		}
		udp := func(port, want string) {
			if mode == "docker" && who == "docker0" && want != "w6" && !s.atLeast(28) {
				return // engines before 28 answer with docker0's address, also on their own networks
			}
			all = append(all, probe{who: who, from: from, to: host + ":" + port, want: want, udp: true})
		}
		tcp("8080", "w1")
		udp("8081", "w1")
		tcp("8100", "w2")
		udp("8101", "w2")
		tcp("8110", "w3")
		tcp("8111", "w4")
		tcp(any5, "w5")
		udp(udp5, "w5")
		tcp("8120", "w6")
		udp("8121", "w6")
		tcp(any8, "w8")
		udp(udp8, "w8")
		tcp("8130", "")
		udp("8131", "")
	}
	for _, loop := range []string{"127.0.0.1", "::1"} {
		for port, want := range map[int]string{8080: "w1", 8100: "w2", 8110: "w3", 8111: "w4"} {
			all = append(all, probe{who: "the host", from: s.fromHost(), to: hostPort(loop, port), want: want})
		}
		all = append(all, probe{who: "the host", from: s.fromHost(), to: hostPort(loop, 8081), udp: true, want: "w1"})
		all = append(all, probe{who: "the host", from: s.fromHost(), to: hostPort(loop, 8120)})
	}
	all = append(all,
		probe{who: "the host", from: s.fromHost(), to: "127.0.0.1:8130", want: "w7"},
		probe{who: "the host", from: s.fromHost(), to: "127.0.0.1:8131", udp: true, want: "w7"},
		probe{who: "outside", from: s.fromOutside(), to: hostPort(s.IPv6.String(), 8080), want: "w1"},
		probe{who: "outside", from: s.fromOutside(), to: hostPort(s.IPv6.String(), 8081), udp: true, want: "w1"},
		probe{who: "the host", from: s.fromHost(), to: "[::1]:8140", want: "w9"},
		probe{who: "outside", from: s.fromOutside(), to: hostPort(s.IPv6.String(), 8141), want: "w9"},
		probe{who: "outside", from: s.fromOutside(), to: hostPort(s.IPv6.String(), 8140)},
		probe{who: "a container's loopback", from: s.inside("neighbour"), to: "127.0.0.1:8130"},
	)
	s.expect(all...)
	s.showsPorts(mode)
	s.docker("rm", "-f", "w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9")
}

// freshUDP lets a client with one port of its own ask before and after the
// container is there: what conntrack remembers must not be in the way.
func (s *site) freshUDP(mode string) {
	ask := func() (string, error) {
		return s.out.Run(s.Context(), "sh", "-c", "echo | timeout 2 socat -T1 - UDP:"+s.IPv4.String()+":8190,sourceport=7190")
	}
	for _, name := range []string{"udp1", "udp2"} {
		if out, err := ask(); err == nil && out != "" {
			s.Errorf("nobody should answer yet: %s", out)
		}
		s.server(name, "--network", "pub", "-p", "8190:81/udp")
		err := s.soon(func() error {
			out, err := ask()
			if err == nil && !strings.Contains(out, name) {
				err = fmt.Errorf("the answer is %q", out)
			}
			return err
		})
		if err != nil {
			s.Errorf("%s (publish=%s) from a client that asked before: %v", name, mode, err)
		}
		s.docker("rm", "-f", name)
	}
}

// sctp is rules only: neither the kernel here nor the image speaks it.
func (s *site) sctp(mode string) {
	if mode == "docker" {
		return // the engine's proxy needs a kernel with SCTP
	}
	s.run("assoc", "--network", "pub", "-p", "8195:95/sctp")
	if out := s.sh("weft ports"); !strings.Contains(out, "8195") || !strings.Contains(out, "sctp") {
		s.Errorf("weft ports:\n%s", out)
	}
	if out := s.sh("nft list map inet weft any4"); !strings.Contains(out, "sctp . 8195") && !strings.Contains(out, "132 . 8195") {
		s.Errorf("map of the published ports:\n%s", out)
	}
	s.docker("rm", "-f", "assoc")
}

// mixedPorts moves a port between a network that the engine publishes for and
// one that weft publishes for.
func (s *site) mixedPorts(mode string) {
	unlike := map[string]string{"docker": "native", "native": "docker"}[mode]
	s.network("mixed", "--subnet", "10.54.0.0/24", "-o", "publish="+unlike)
	s.server("changer", "--network", "pub", "-p", "8185:80")
	at := s.IPv4.String() + ":8185"
	s.answers(s.fromOutside(), at, "changer")
	for range 2 {
		s.docker("network", "connect", "mixed", "changer")
		s.answers(s.fromOutside(), at, "changer")
		s.docker("network", "disconnect", "pub", "changer")
		s.answers(s.fromOutside(), at, "changer")
		s.pings(s.inside("changer"), s.out.IPv4.String())
		s.docker("network", "connect", "pub", "changer")
		s.answers(s.fromOutside(), at, "changer")
		s.docker("network", "disconnect", "mixed", "changer")
		s.answers(s.fromOutside(), at, "changer")
		s.pings(s.inside("changer"), s.out.IPv4.String())
	}
	s.docker("network", "connect", "mixed", "changer")
	s.docker("restart", "-t0", "changer")
	s.answers(s.fromOutside(), at, "changer")
	s.docker("rm", "-f", "changer")
	s.docker("network", "rm", "mixed")
}

// showsPorts compares what docker and weft show.
func (s *site) showsPorts(mode string) {
	s.Helper()
	ps := s.docker("ps", "--format", "{{.Names}} {{.Ports}}")
	ports := weftJSON[[]weftPort](s, "ports")
	if mode == "docker" {
		for _, words := range []string{"0.0.0.0:8080->80/tcp", "0.0.0.0:8081->81/udp", s.IPv4.String() + ":8120->80/tcp", "127.0.0.1:8130->80/tcp"} {
			if !strings.Contains(ps, words) {
				s.Errorf("docker ps lacks %s:\n%s", words, ps)
			}
		}
		if out := s.docker("port", "w1"); !strings.Contains(out, "80/tcp -> 0.0.0.0:8080") || !strings.Contains(out, "81/udp -> 0.0.0.0:8081") {
			s.Errorf("docker port w1: %s", out)
		}
		if len(ports) > 0 {
			s.Errorf("weft ports shows ports that the engine publishes: %+v", ports)
		}
		return
	}
	shown := map[string]bool{}
	for _, p := range ports {
		shown[fmt.Sprintf("%s/%s->%d", p.Host, p.Proto, p.Container.Port())] = true
	}
	for _, want := range []string{"0.0.0.0:8080/tcp->80", "[::]:8080/tcp->80", "0.0.0.0:8081/udp->81", s.IPv4.String() + ":8120/tcp->80", "127.0.0.1:8130/tcp->80"} {
		if !shown[want] {
			s.Errorf("weft ports lacks %s:\n%v", want, ports)
		}
	}
	if !strings.Contains(s.sh("weft ports"), "8080") {
		s.Error("weft ports, without --json, lacks 8080")
	}
}

// clients looks at the address that the server sees.
func (s *site) clients(mode string) {
	s.server("seen", "--network", "pub", "-p", "8150:80")
	at := s.IPv4.String() + ":8150"
	if mode == "docker" {
		// The engine's rules keep it for the outside alone.
		s.sees("outside", s.fromOutside(), at, s.out.IPv4)
		s.docker("rm", "-f", "seen")
		return
	}
	s.sees("outside", s.fromOutside(), at, s.out.IPv4)
	s.sees("another network", s.inside("stranger"), at, netip.MustParseAddr(s.ip("stranger", "other")))
	// The engine's own rules hide its containers, and from engine 28 on drop
	// answers to their real addresses: here there is only an answer.
	s.expect(probe{who: "itself", from: s.inside("seen"), to: at, want: "seen"})
	s.docker("rm", "-f", "seen")
}

func (s *site) twenty(mode string) {
	script := "for p in $(seq 1000 1019); do socat TCP-LISTEN:$p,fork,reuseaddr SYSTEM:'echo port $SOCAT_SOCKPORT' & done; wait"
	s.docker("run", "-d", "--name", "many", "--network", "pub", "-p", "9000-9019:1000-1019", "weft/test:latest", "sh", "-c", script)
	var all []probe
	for i := range 20 {
		all = append(all, probe{who: "outside", from: s.fromOutside(), to: hostPort(s.IPv4.String(), 9000+i), want: fmt.Sprintf("port %d", 1000+i)})
	}
	s.expect(all...)
	s.docker("restart", "-t0", "many")
	s.expect(all[0], all[19])
	s.docker("rm", "-f", "many")
	if left := weftJSON[[]weftPort](s, "ports"); mode == "native" && strings.Contains(fmt.Sprint(left), ":90") {
		s.Errorf("weft ports after rm: %+v", left)
	}
}

func (s *site) takenPorts(mode string) {
	s.server("first", "--network", "pub", "-p", "8160:80")
	second := []string{"run", "-d", "--name", "second", "--network", "pub", "-p", "8160:80", "weft/test:latest", "sleep", "infinity"}
	if mode == "native" {
		first := s.inspect("first", "{{.NetworkSettings.Networks.pub.EndpointID}}")
		s.refuse([]string{"0.0.0.0:8160", "already allocated", "weft endpoint", first[:12]}, second...)
	} else {
		s.refuse([]string{":8160", "already allocated"}, second...) // of either family
	}
	s.docker("rm", "-f", "second")
	s.answers(s.fromOutside(), s.IPv4.String()+":8160", "first")
	s.docker("rm", "-f", "first")
	s.server("third", "--network", "pub", "-p", "8160:80")
	s.answers(s.fromOutside(), s.IPv4.String()+":8160", "third")
	s.docker("rm", "-f", "third")

	held, err := s.Background("setpriv", "--reuid=65534", "--clear-groups", "socat", "TCP-LISTEN:8161,fork,reuseaddr", "EXEC:hostname")
	if err != nil {
		s.Fatal(err)
	}
	s.answers(s.fromHost(), "127.0.0.1:8161", "h1")
	second[7] = "8161:80"
	if mode == "native" {
		s.refuse([]string{"0.0.0.0:8161", "already allocated", "uid 65534"}, second...)
	} else {
		s.refuse([]string{"8161"}, second...)
	}
	s.docker("rm", "-f", "second")
	held.Stop()
	s.docker(second...)
	s.docker("rm", "-f", "second")
}

// publishDual publishes from a dual-stack network; the container keeps its ways
// out.
func (s *site) publishDual(mode string) {
	s.outsideServer(7000)
	s.network("dual", "--ipv6", "--subnet", "10.53.0.0/24", "--subnet", "fd53::/64", "-o", "publish="+mode)
	s.server("dd", "--network", "dual", "-p", "8170:80", "-p", "8171:81/udp")
	dd := s.inside("dd")
	s.expect(
		probe{who: "outside", from: s.fromOutside(), to: hostPort(s.IPv4.String(), 8170), want: "dd"},
		probe{who: "outside", from: s.fromOutside(), to: hostPort(s.IPv6.String(), 8170), want: "dd"},
		probe{who: "outside", from: s.fromOutside(), to: hostPort(s.IPv6.String(), 8171), udp: true, want: "dd"},
		probe{who: "the host", from: s.fromHost(), to: "[::1]:8170", want: "dd"},
		probe{who: "the host", from: s.fromHost(), to: hostPort(s.IPv6.String(), 8170), want: "dd"},
	)
	s.sees("dd", dd, hostPort(s.out.IPv4.String(), 7000), s.IPv4)
	s.sees("dd", dd, hostPort(s.out.IPv6.String(), 7000), s.IPv6)
	if mode == "native" {
		s.sees("outside", s.fromOutside(), hostPort(s.IPv6.String(), 8170), s.out.IPv6)
	}
	s.docker("rm", "-f", "dd")
	s.docker("network", "rm", "dual")
}

// movingPorts follows ports when the network that they were published on goes.
func (s *site) movingPorts(mode string) {
	s.server("mover", "--network", "pub", "-p", "8180:80")
	at := s.IPv4.String() + ":8180"
	s.answers(s.fromOutside(), at, "mover")
	for range 2 {
		s.docker("network", "connect", "other", "mover")
		s.answers(s.fromOutside(), at, "mover")
		s.docker("network", "disconnect", "pub", "mover")
		s.answers(s.fromOutside(), at, "mover")
		s.answers(s.fromHost(), "127.0.0.1:8180", "mover")
		s.pings(s.inside("mover"), s.out.IPv4.String())
		s.docker("network", "connect", "pub", "mover")
		s.answers(s.fromOutside(), at, "mover")
		s.docker("network", "disconnect", "other", "mover")
		s.answers(s.fromOutside(), at, "mover")
	}
	if mode == "docker" {
		if out := s.docker("port", "mover"); !strings.Contains(out, "0.0.0.0:8180") {
			s.Errorf("docker port mover: %q", out)
		}
	}
	// The engine's own bridge takes the ports over, and gives them back.
	s.docker("network", "connect", "bridge", "mover")
	s.docker("network", "disconnect", "pub", "mover")
	s.answers(s.fromOutside(), at, "mover")
	s.docker("network", "connect", "pub", "mover")
	s.docker("network", "disconnect", "bridge", "mover")
	s.answers(s.fromOutside(), at, "mover")
	s.docker("rm", "-f", "mover")
}
