package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

// patience is how long anything may take that a user waits for.
const patience = 5 * time.Second

// quick is docker for a command that weft must not slow down. When it is slow,
// a container without any network tells how slow the machine is.
func (s *site) quick(args ...string) string {
	s.Helper()
	begin := time.Now()
	out, err := s.Docker(s.Context(), args...)
	s.must(err)
	s.inTime("docker "+strings.Join(args, " "), time.Since(begin), patience)
	return out
}

// inTime compares what something took with what it may take, and as many times that as the
// machine itself is slow at the moment.
func (s *site) inTime(what string, took, limit time.Duration) {
	s.Helper()
	if took <= limit {
		return
	}
	// On a machine with nothing else to do it takes less than half a second.
	const usual = 500 * time.Millisecond
	if slow := s.slowness(); took.Seconds() > limit.Seconds()*max(1, slow.Seconds()/usual.Seconds()) {
		s.Errorf("%s: it took %v instead of %v, a container without a network takes %v", what, took, limit, slow)
	}
}

// slowness is what a container without any network takes at the moment.
func (s *site) slowness() time.Duration {
	s.Helper()
	begin := time.Now()
	s.docker("run", "--rm", "--network", "none", lab.Image, "true")
	return time.Since(begin)
}

// comesBack repeats for as long as the start of everything after a crash may
// take on a busy machine.
func (s *site) comesBack(what string, try func() error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 40*time.Second)
	defer cancel()
	if err := lab.Until(ctx, what, func(context.Context) error { return try() }); err != nil {
		s.Error(err)
	}
}

// A beat is a TCP connection that is never closed: it sends a line twenty times
// a second and waits for its echo.
type beat struct {
	who string
	// control marks a connection that weft has no part in.
	control bool
	*lab.Process
}

const beatScript = `
import socket, sys, time
c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
c.settimeout(20)
n, worst = 0, 0
while True:
    t = time.time()
    c.sendall(b"%d\n" % n)
    got = b""
    while not got.endswith(b"\n"):
        d = c.recv(99)
        if not d: sys.exit("the connection was closed")
        got += d
    n, worst = n + 1, max(worst, int((time.time() - t) * 1000))
    print(n, worst, flush=True)
    time.sleep(.2)
`

// beat opens such a connection. from names a container whose network it starts
// in, "host" or "outside".
func (s *site) beat(from, to string, port int) *beat {
	s.Helper()
	host, args := s.Host, []string{"python3", "-c", beatScript, to, strconv.Itoa(port)}
	switch from {
	case "outside":
		host = s.out
	case "host":
	default:
		args = append([]string{"nsenter", "-t", s.inspect(from, "{{.State.Pid}}"), "-n", "--"}, args...)
	}
	p, err := host.Background(args...)
	if err != nil {
		s.Fatal(err)
	}
	b := &beat{who: fmt.Sprintf("%s to %s", from, hostPort(to, port)), Process: p}
	s.Cleanup(func() { b.Stop() })
	return b
}

// last is the number of echoes so far and the longest wait for one, in ms.
func (b *beat) last() (n, worst int) {
	lines := bufio.NewScanner(strings.NewReader(b.Output()))
	for lines.Scan() {
		var x, y int
		if _, err := fmt.Sscan(lines.Text(), &x, &y); err == nil {
			n, worst = x, y
		}
	}
	return n, worst
}

// alive makes sure that the connections carry data from now on.
func (s *site) alive(beats ...*beat) {
	s.Helper()
	from := map[*beat]int{}
	for _, b := range beats {
		from[b], _ = b.last()
	}
	for _, b := range beats {
		err := s.soon(func() error {
			if n, _ := b.last(); n < from[b]+3 {
				return fmt.Errorf("%d echoes after %d", n, from[b])
			}
			return nil
		})
		if err != nil {
			s.Errorf("the connection from %s broke: %v\n%s", b.who, err, tail(b.Output(), 5))
		}
	}
}

// control opens a connection inside the machine outside. Where it stands still,
// the machine of the tests does.
func (s *site) control() *beat {
	s.Helper()
	const port = 7007
	server, err := s.out.Background("socat", fmt.Sprintf("TCP-LISTEN:%d,reuseaddr", port), "PIPE")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { server.Stop() })
	s.eventually("the server of the control", func() error {
		out, err := s.out.Run(s.Context(), "ss", "-Hltn", fmt.Sprintf("sport = :%d", port))
		if err == nil && out == "" {
			err = fmt.Errorf("it does not listen: %s", server.Output())
		}
		return err
	})
	b := s.beat("outside", "127.0.0.1", port)
	b.control = true
	return b
}

// unharmed is alive, and nobody had to wait longer than the control did.
func (s *site) unharmed(beats ...*beat) {
	s.Helper()
	s.alive(beats...)
	most := 5000
	for _, b := range beats {
		if _, worst := b.last(); b.control {
			most += worst
		}
	}
	for _, b := range beats {
		if _, worst := b.last(); worst > most {
			s.Errorf("the connection from %s stood still for %d ms, more than %d", b.who, worst, most)
		}
	}
}

func stopBeats(beats []*beat) {
	for _, b := range beats {
		b.Stop()
	}
}

// echo starts a container that answers its name on port 80 and echoes on port
// 7. It dies at once when it is stopped.
func (s *site) echo(name string, args ...string) {
	s.Helper()
	script := `for f in 4 6; do
  socat TCP$f-LISTEN:7,fork,reuseaddr$v6 PIPE &
  socat TCP$f-LISTEN:80,fork,reuseaddr$v6 SYSTEM:'echo ` + name + ` from $SOCAT_PEERADDR' &
  v6=,ipv6only=1
done; wait`
	s.docker(append(append([]string{"run", "-d", "--stop-signal", "KILL", "--name", name}, args...), lab.Image, "sh", "-c", script)...)
}

// house of a town: a server with its port.
type house struct {
	name, network string
	port          int
	always        bool
}

// town is a host full of weft's networks.
type town struct{ houses []house }

// newTown makes four networks, among them one that adopts ownBridge, with
// servers that publish their port 80 at port and port 7 at port+1000.
func (s *site) newTown() town {
	s.Helper()
	s.network("pub", "--subnet", "10.91.0.0/24")
	s.network("nat", "-o", "publish=native", "--ipam-driver", plugin, "--ipv6", "--subnet", "10.92.0.0/24", "--subnet", "fd92::/64")
	s.network("straight", "-o", "publish=native", "-o", "attach=direct", "--subnet", "10.93.0.0/24")
	s.network("own", "-o", "publish=native", "-o", "com.docker.network.bridge.name=br-own", "--ipam-driver", plugin, "--subnet", "10.94.0.0/24")
	t := town{houses: []house{
		{"alfa", "pub", 8001, false},
		{"bravo", "nat", 8002, true},
		{"carla", "straight", 8003, true},
		{"delta", "own", 8004, false},
		{"ernst", "pub", 8005, true},
		{"nelly", "nat", 8006, false},
	}}
	for _, h := range t.houses {
		args := []string{"--network", h.network, "-p", fmt.Sprintf("%d:80", h.port), "-p", fmt.Sprintf("%d:7", h.port+1000)}
		if h.always {
			args = append(args, "--restart", "always")
		}
		s.echo(h.name, args...)
	}
	s.open(t)
	direct := slices.ContainsFunc(weftJSON[[]admin.Endpoint](s, "endpoints"), func(ep admin.Endpoint) bool { return ep.Attach == "direct" })
	if direct != s.atLeast(28) {
		s.Errorf("attach=direct is in force: %v", direct)
	}
	return t
}

// ownBridge makes the bridge that weft adopts, as the host's administrator.
func (s *site) ownBridge() {
	s.Helper()
	s.sh("ip link add br-own type bridge && ip link set br-own up && ip addr add 10.94.0.200/24 dev br-own")
}

// open makes sure that every house answers: by its port from outside, by its
// name from its network, and over IPv6.
func (s *site) open(t town) {
	s.Helper()
	for _, h := range t.houses {
		s.answers(s.fromOutside(), hostPort(s.IPv4.String(), h.port), h.name)
	}
	s.answers(s.fromOutside(), hostPort(s.IPv6.String(), 8002), "bravo")
	s.answers(s.fromHost(), "127.0.0.1:8002", "bravo")
	s.answers(s.fromHost(), "[::1]:8002", "bravo")
	s.answers(s.inside("nelly"), "bravo:80", "bravo")
	s.answers(s.inside("alfa"), "ernst:80", "ernst")
	s.pings(s.inside("carla"), s.out.IPv4.String())
}

// reserved makes sure that weft holds the host ports that it publishes.
func (s *site) reserved(t town) {
	s.Helper()
	for _, h := range t.houses {
		if h.network == "pub" {
			continue
		}
		for _, script := range []string{"import socket; socket.socket().bind(('0.0.0.0', %d))", "import socket; socket.socket(socket.AF_INET6).bind(('::', %d))"} {
			if _, err := s.Run(s.Context(), "python3", "-c", fmt.Sprintf(script, h.port)); err == nil {
				s.Errorf("another process could take port %d", h.port)
			}
		}
	}
}

// beats opens connections into the town.
func (s *site) beats() []*beat {
	s.Helper()
	beats := []*beat{
		s.beat("outside", s.IPv4.String(), 9001),
		s.beat("outside", s.IPv4.String(), 9002),
		s.beat("outside", s.IPv6.String(), 9002),
		s.beat("outside", s.IPv4.String(), 9003),
		s.beat("outside", s.IPv4.String(), 9004),
		s.beat("nelly", s.ip("bravo", "nat"), 7),
		s.beat("nelly", s.ip6("bravo", "nat"), 7),
		s.beat("host", s.ip("carla", "straight"), 7),
		s.control(),
	}
	s.alive(beats...)
	return beats
}

// day does what users do every day, and takes the time.
func (s *site) day() {
	s.Helper()
	s.quick("run", "-d", "--name", "day", "--stop-signal", "KILL", "--network", "nat", "-p", "8099:80", lab.Image,
		"socat", "TCP-LISTEN:80,fork,reuseaddr", "SYSTEM:echo day")
	s.quick("network", "connect", "own", "day")
	s.answers(s.fromOutside(), hostPort(s.IPv4.String(), 8099), "day")
	s.pings(s.inside("day"), s.ip("delta", "own"))
	s.quick("network", "disconnect", "own", "day")
	s.quick("stop", "day")
	s.quick("start", "day")
	s.answers(s.fromOutside(), hostPort(s.IPv4.String(), 8099), "day")
	s.quick("rm", "-f", "day")
	s.quick("network", "create", "-d", plugin, "--ipam-driver", plugin, "dusk")
	s.quick("network", "rm", "dusk")
}

// getUp starts the containers that nobody starts by himself, and waits for the
// others.
func (s *site) getUp(t town) {
	s.Helper()
	for _, h := range t.houses {
		if !h.always {
			s.quick("start", h.name)
			continue
		}
		s.comesBack("container "+h.name+" to run again", func() error {
			if state := s.inspect(h.name, "{{.State.Status}}"); state != "running" {
				return fmt.Errorf("it is %s: %s", state, s.inspect(h.name, "{{.State.Error}}"))
			}
			return nil
		})
	}
}

// backInTime checks how long the engine took until it answered its API.
func (s *site) backInTime(what string, took time.Duration, err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
	s.Logf("%s: the API answered after %v", what, took.Round(time.Millisecond))
	s.inTime(what, took, 15*time.Second)
}
