package e2e_test

import (
	"bufio"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/test/lab"
)

// TestNames: two hosts find each other's containers by name, on each engine, whatever
// happens to containers, weft, the engine and the hosts.
func TestNames(t *testing.T) {
	t.Parallel()
	for _, engine := range storyEngines() {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, clusterConfig{engines: []string{engine, engine}, members: 1})
			upstreamResolver(t, c.lab.Outside)
			c.overlays("demo", "--subnet", "10.63.0.0/24", "--ipv6", "--subnet", "fd63::/64")
			c.overlays("apart", "--subnet", "10.64.0.0/24")
			h1 := c.sites[0]
			h1.docker("network", "create", "mine")
			h1.docker("run", "-d", "--name", "neighbour", "--network", "demo", "--network-alias", "next", lab.Image, "sleep", "inf")
			h1.docker("run", "-d", "--name", "client", "--network", "demo", "--link", "neighbour:linked", "--add-host", "fixed:192.0.2.9",
				"--dns", c.lab.Outside.IPv4.String(), lab.Image, "sleep", "inf")
			h1.docker("run", "-d", "--name", "stranger", "--network", "apart", "--dns", c.lab.Outside.IPv4.String(), lab.Image, "sleep", "inf")
			c.step("names of the other host", (*cluster).otherNames)
			c.step("names follow", (*cluster).namesFollow)
			if all := engines(); engine != all[len(all)-1] {
				return // weft's part in the rest is the same on all engines, and it takes its time
			}
			c.step("weft is killed while names are looked up", (*cluster).namesOutlive)
			c.step("weft is away for a while", (*cluster).namesAfterWeft)
			c.step("the store is away", (*cluster).namesWithoutStore)
			c.step("a container has too many names", (*cluster).tooManyNames)
			c.step("a host boots", (*cluster).namesAfterBoot)
			c.step("the engine is killed", (*cluster).namesAfterEngine)
			c.step("names at the host's address", (*cluster).namesAtAddress)
			c.step("a host is off", (*cluster).namesOfOff)
		})
	}
}

// lookup is what a name stands for in a container, sorted; the empty string for nothing.
func (s *site) lookup(container, name string) string {
	s.Helper()
	out, err := s.from(container)("getent", "ahosts", name)
	if err != nil && out == "" {
		return ""
	}
	var addrs []string
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 0 {
			addrs = append(addrs, fields[0])
		}
	}
	slices.Sort(addrs)
	return strings.Join(slices.Compact(addrs), " ")
}

// resolves waits until a name stands for these addresses in a container.
func (s *site) resolves(container, name string, want ...string) {
	s.Helper()
	slices.Sort(want)
	s.eventually(fmt.Sprintf("%s in %s", name, container), func() error {
		if got := s.lookup(container, name); got != strings.Join(want, " ") {
			return fmt.Errorf("it is %q instead of %v", got, want)
		}
		return nil
	})
}

// both are a container's addresses.
func (s *site) both(container, network string) []string {
	s.Helper()
	return []string{s.ip(container, network), s.ip6(container, network)}
}

func (c *cluster) otherNames() {
	h1, h2 := c.sites[0], c.sites[1]
	h2.docker("run", "-d", "--name", "redis", "--hostname", "cache-host", "--network", "demo", "--network-alias", "Cache_1", "--network-alias", "next",
		lab.Image, "sleep", "inf")
	id := h2.docker("ps", "-q", "-f", "name=redis")
	want := h2.both("redis", "demo")
	for _, name := range []string{"redis", "REDIS", "redis.", "redis.demo", id, "cache-host", "cache_1", "Cache_1.demo"} {
		h1.resolves("client", name, want...)
	}
	h1.resolves("client", "next", append(h1.both("neighbour", "demo"), want...)...)
	h2.resolves("redis", "next", append(h1.both("neighbour", "demo"), want...)...)
	h2.resolves("redis", "client", h1.both("client", "demo")...)
	for name, want := range map[string][]string{
		"neighbour": h1.both("neighbour", "demo"), "linked": h1.both("neighbour", "demo"), "fixed": {"192.0.2.9"}, "ext.test": {"192.0.2.7"}, "nobody": {""},
	} {
		h1.resolves("client", name, want...)
	}
	for _, name := range []string{"redis", "redis.demo", "cache-host"} {
		h1.resolves("stranger", name, "")
	}
	from := h1.from("client")
	for _, q := range [][]string{
		{"getent", "hosts", want[0]}, {"drill", "-x", want[0]}, {"drill", "-t", "redis", "A"}, {"drill", "redis", "AAAA"}, {"drill", "-t", "-b", "1232", "redis.demo", "A"},
	} {
		out, err := from(q...)
		if err != nil || !strings.Contains(out, "redis.demo") && !strings.Contains(out, want[0]) && !strings.Contains(out, want[1]) {
			h1.Errorf("%v: %v %s", q, err, out)
		}
	}
	list := h1.weft("names")
	for _, line := range []string{"demo redis " + want[0], "demo next 10.63.0."} {
		if !strings.Contains(strings.Join(strings.Fields(list), " "), line) {
			h1.Errorf("weft names lacks %q:\n%s", line, list)
		}
	}
	if st := weftJSON[admin.Status](h1, "status"); st.Names == nil || st.Names.Serving != 3 || len(st.Names.Problems) > 0 || st.Names.Problem != "" {
		h1.Errorf("weft status: %+v", st.Names)
	}
}

func (c *cluster) namesFollow() {
	h1, h2 := c.sites[0], c.sites[1]
	was := h2.both("redis", "demo")
	h2.docker("rename", "redis", "store")
	h1.resolves("client", "store", was...)
	h1.resolves("client", "redis", "")
	h2.docker("rename", "store", "redis")
	h1.resolves("client", "redis", h2.both("redis", "demo")...)
	h2.docker("restart", "-t", "0", "redis")
	h1.resolves("client", "redis", h2.both("redis", "demo")...)
	h2.resolves("redis", "client", h1.both("client", "demo")...)

	h2.docker("network", "disconnect", "demo", "redis")
	h1.resolves("client", "redis", "")
	h1.resolves("client", "next", h1.both("neighbour", "demo")...)
	h2.docker("network", "connect", "--alias", "again", "apart", "redis")
	h1.resolves("stranger", "again", h2.ip("redis", "apart"))
	h1.resolves("client", "again", "")
	h2.docker("network", "connect", "--alias", "again", "demo", "redis")
	h1.resolves("client", "again", h2.both("redis", "demo")...)
	h2.resolves("redis", "stranger", h1.ip("stranger", "apart"))

	// A network of the engine's own beside weft's, before it in the order of names.
	h1.docker("network", "connect", "mine", "client")
	h1.docker("run", "-d", "--name", "inmine", "--network", "mine", lab.Image, "sleep", "inf")
	h1.resolves("client", "inmine", h1.ip("inmine", "mine"))
	h1.resolves("client", "redis", h2.both("redis", "demo")...)
	h1.docker("network", "disconnect", "mine", "client")
	h1.resolves("client", "inmine", "")
	h1.docker("rm", "-f", "inmine")

	h2.docker("network", "disconnect", "apart", "redis")
	h1.resolves("stranger", "again", "")
	h2.docker("rm", "-f", "redis")
	h1.resolves("client", "redis", "")
	h2.docker("run", "-d", "--name", "redis", "--restart", "always", "--network", "demo", lab.Image, "sleep", "inf")
	h1.resolves("client", "redis", h2.both("redis", "demo")...)
}

// lookupScript asks the container's resolver for each name twenty times a second, from a
// socket that it keeps and from a new one in turn, and prints how often it got an address,
// how long it was without one at most, in ms, and whether the last question was answered
// with one.
const lookupScript = `
import os, socket, struct, sys, time
def ask(name):
    q = os.urandom(2) + struct.pack(">HHHHH", 0x100, 1, 0, 0, 0)
    q += b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0" + struct.pack(">HH", 1, 1)
    s = next(sockets)
    try:
        s.sendto(q, ("127.0.0.11", 53))
        a = s.recv(512)
        while a[:2] != q[:2]: # of a question that was given up
            a = s.recv(512)
    except OSError:
        return False
    return a[3] & 15 == 0 and a[6:8] != b"\0\0"
def turns():
    kept = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    kept.settimeout(.2)
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new:
            new.settimeout(.2)
            yield new
        yield kept
        yield kept
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as new:
            new.settimeout(.2)
            yield new
sockets = turns()
state = {n: [0, 0, time.time(), 0] for n in sys.argv[1:]}
while True:
    for n, s in state.items():
        ok = ask(n)
        now = time.time()
        if ok:
            s[0], s[1], s[2] = s[0] + 1, max(s[1], int((now - s[2]) * 1000)), now
        s[3] = int(ok)
        print(n, s[0], max(s[1], int((now - s[2]) * 1000)), s[3], flush=True)
    time.sleep(.05)
`

// lookups is a running lookupScript.
type lookups struct{ *lab.Process }

func (s *site) lookups(container string, names ...string) lookups {
	s.Helper()
	args := append([]string{"nsenter", "-t", s.inspect(container, "{{.State.Pid}}"), "-n", "--", "python3", "-c", lookupScript}, names...)
	p, err := s.Background(args...)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { p.Stop() })
	return lookups{p}
}

// last is the last line about a name.
func (l lookups) last(name string) (count, worst int, ok bool) {
	lines := bufio.NewScanner(strings.NewReader(l.Output()))
	for lines.Scan() {
		var n string
		var c, w, o int
		if _, err := fmt.Sscan(lines.Text(), &n, &c, &w, &o); err == nil && n == name {
			count, worst, ok = c, w, o == 1
		}
	}
	return count, worst, ok
}

func (c *cluster) namesOutlive() {
	h1, h2 := c.sites[0], c.sites[1]
	h1.docker("network", "create", "alone")
	for _, name := range []string{"control", "peer"} {
		h1.docker("run", "-d", "--name", name, "--network", "alone", lab.Image, "sleep", "inf")
	}
	h1.resolves("control", "peer", h1.ip("peer", "alone"))
	asked, control := h1.lookups("client", "neighbour", "redis"), h1.lookups("control", "peer")
	const kills = 3
	var took []time.Duration // from when weft is back
	for range kills {
		h1.must(h1.KillPlugin(c.Context()))
		begin := time.Now()
		before, _, _ := asked.last("redis")
		h1.comesBack("redis to resolve again", func() error {
			if n, _, ok := asked.last("redis"); !ok || n < before+3 {
				return fmt.Errorf("answered %d times: %v", n-before, ok)
			}
			return nil
		})
		again := time.Now()
		took = append(took, again.Sub(weftJSON[admin.Status](h1, "status").Started))
		h1.Logf("redis resolved %v after weft was killed, %v after it was back", again.Sub(begin).Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
		h1.eventually("the engine to take the next crash for another one", func() error {
			if st := weftJSON[admin.Status](h1, "status"); time.Since(st.Started) < 2*time.Second {
				return fmt.Errorf("weft runs since %v", st.Started)
			}
			return nil
		})
	}
	if slices.Sort(took); took[kills/2] > 2*time.Second { // the machine may be busy once
		h1.Errorf("names of the other host resolved %v after weft was back", took)
	}
	n, worst, _ := asked.last("neighbour")
	_, most, _ := control.last("peer")
	h1.Logf("%d lookups of a local name, without it for %d ms at most; the engine alone %d ms", n, worst, most)
	if worst > 1000+most {
		h1.Errorf("a local name did not resolve for %d ms", worst)
	}
	h1.namesWhileStopped(asked)
	asked.Stop()
	control.Stop()
	h1.docker("rm", "-f", "control", "peer")
	h1.docker("network", "rm", "alone")
	h1.resolves("client", "redis", h2.both("redis", "demo")...)
}

// namesWhileStopped: a weft that is there and does nothing is done without.
func (s *site) namesWhileStopped(asked lookups) {
	s.Helper()
	pid, err := s.PluginPID(s.Context())
	s.must(err)
	n, _, _ := asked.last("neighbour")
	s.sh(fmt.Sprintf("kill -STOP %d", pid))
	defer s.sh(fmt.Sprintf("kill -CONT %d", pid))
	begin := time.Now()
	s.comesBack("local names while weft is stopped", func() error {
		if now, _, ok := asked.last("neighbour"); !ok || now < n+100 { // more than it can have answered before
			return fmt.Errorf("%d answers after %d", now, n)
		}
		return nil
	})
	s.inTime("local names while weft is stopped", time.Since(begin), 20*time.Second)
	if _, worst, _ := asked.last("neighbour"); worst > 10_500 {
		s.Errorf("a local name did not resolve for %d ms", worst)
	}
}

// namesAfterWeft: what happened while weft was disabled is made up for, and containers that
// ask all the time do without it and find it again.
func (c *cluster) namesAfterWeft() {
	h1, h2 := c.sites[0], c.sites[1]
	h2.docker("run", "-d", "--name", "gone", "--network", "demo", lab.Image, "sleep", "inf")
	h1.resolves("client", "gone", h2.both("gone", "demo")...)
	c.must(h2.DisablePlugin(c.Context(), true))
	h2.docker("kill", "gone")
	c.must(h2.EnablePlugin(c.Context()))
	c.connected()
	h1.resolves("client", "gone", "")

	asked := h1.lookups("client", "neighbour", "redis")
	defer asked.Stop()
	h1.eventually("lookups", func() error {
		if n, _, _ := asked.last("redis"); n < 10 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	c.must(h1.DisablePlugin(c.Context(), true))
	n, was, _ := asked.last("neighbour")
	h1.eventually("local names without weft", func() error {
		if now, _, ok := asked.last("neighbour"); !ok || now < n+20 {
			return fmt.Errorf("%d answers after %d", now, n)
		}
		return nil
	})
	if _, worst, _ := asked.last("neighbour"); worst > max(1000, was) {
		h1.Errorf("a local name did not resolve for %d ms", worst)
	}
	c.must(h1.EnablePlugin(c.Context()))
	h1.eventually("names of the other host", func() error {
		if _, _, ok := asked.last("redis"); !ok {
			return fmt.Errorf("redis does not resolve")
		}
		return nil
	})
	h2.docker("rm", "-f", "gone")
	c.connected()
}

// namesWithoutStore: last known names go on, and what happens meanwhile is made up for.
func (c *cluster) namesWithoutStore() {
	h1, h2 := c.sites[0], c.sites[1]
	c.storeDown()
	h1.resolves("client", "redis", h2.both("redis", "demo")...)
	h2.docker("run", "-d", "--name", "late", "--network", "demo", lab.Image, "sleep", "inf")
	h2.resolves("late", "redis", h2.both("redis", "demo")...)
	h2.resolves("late", "client", h1.both("client", "demo")...)
	h1.resolves("client", "late", "")
	c.storeUp()
	h1.resolves("client", "late", h2.both("late", "demo")...)
	h2.docker("rm", "-f", "late")
	h1.resolves("client", "late", "")
}

// tooManyNames: a container whose names fill more than any record of the store may have keeps
// no other one from being known, and weft says what is left out. Nor does a name write what it
// likes to the operator's terminal.
func (c *cluster) tooManyNames() {
	h1, h2 := c.sites[0], c.sites[1]
	h2.sh(`docker run -d --name hoard --network demo --network-alias "$(printf 'bad\033[2J\nname')" \
$(seq -f '--network-alias %06g-'"$(printf '%056d.%063d.%063d' 0 0 0)" 7500) ` + lab.Image + ` sleep inf`)
	h2.docker("run", "-d", "--name", "after", "--network", "demo", lab.Image, "sleep", "inf")
	h1.resolves("client", "after", h2.both("after", "demo")...)
	h1.resolves("client", "hoard", h2.both("hoard", "demo")...)
	h2.eventually("weft to say what is left out", func() error {
		if out := h2.weft("status"); !strings.Contains(out, "container hoard (") || !strings.Contains(out, "of its names on network \"demo\" are left out") {
			return fmt.Errorf("it says\n%s", out)
		}
		return nil
	})
	if out := h1.weft("names"); !strings.Contains(out, `bad\x1b[2J\nname`) || strings.Contains(out, "\x1b") {
		h1.Errorf("weft names:\n%q", out)
	}
	h2.docker("rm", "-f", "hoard", "after")
	h1.resolves("client", "after", "")
	h2.eventually("weft to have nothing to say", func() error {
		if out := h2.weft("status"); strings.Contains(out, "left out") {
			return fmt.Errorf("it says\n%s", out)
		}
		return nil
	})
}

// namesAfterBoot: after a host was off, the names of all hosts are back; those of the others
// even while the store is away, as they were, and weft says that.
func (c *cluster) namesAfterBoot() {
	h1, h2 := c.sites[0], c.sites[1]
	boot := func() {
		c.must(h2.PowerOff(c.Context()))
		c.must(h2.Boot(c.Context()))
		h2.comesBack("redis to run again", func() error {
			_, err := h2.in("redis", "true")
			return err
		})
	}
	client := h1.both("client", "demo")
	boot()
	c.connected()
	h2.resolves("redis", "client", client...)
	h1.resolves("client", "redis", h2.both("redis", "demo")...)

	h1.docker("run", "-d", "--name", "passing", "--network", "demo", lab.Image, "sleep", "inf")
	h2.eventually("h2 to keep the names of h1", func() error {
		_, err := h2.Run(h2.Context(), "grep", "-aq", `"names":\["passing"`, "/var/lib/weft/journal.db")
		return err
	})
	c.storeDown()
	boot()
	h2.resolves("redis", "client", client...)
	h2.resolves("redis", "client.demo", client...)
	h2.resolves("redis", "passing", h1.both("passing", "demo")...)
	if out := h2.weft("names"); !strings.Contains(strings.Join(strings.Fields(out), " "), "demo client "+client[0]+" "+client[1]+" "+h1.Host.Name) {
		h2.Errorf("weft names:\n%s", out)
	}
	if out := h2.weft("status"); !strings.Contains(out, "those of other hosts are as of 20") {
		h2.Errorf("weft status:\n%s", out)
	}
	h1.docker("rm", "-f", "passing")
	c.storeUp()
	h2.resolves("redis", "passing", "")
	h2.resolves("redis", "client", client...)
	h1.resolves("client", "redis", h2.both("redis", "demo")...)
	if out := h2.weft("status"); strings.Contains(out, "those of other hosts") {
		h2.Errorf("weft status:\n%s", out)
	}
}

func (c *cluster) namesAfterEngine() {
	h1, h2 := c.sites[0], c.sites[1]
	c.must(h2.KillEngine(c.Context()))
	_, err := h2.StartEngine(c.Context())
	c.must(err)
	h2.comesBack("redis to run again", func() error {
		if up := h2.docker("ps", "-q", "-f", "name=redis", "-f", "status=running"); up == "" {
			return fmt.Errorf("it does not")
		}
		return nil
	})
	c.connected()
	h1.resolves("client", "redis", h2.both("redis", "demo")...)
	h2.resolves("redis", "client", h1.both("client", "demo")...)
}

// namesAtAddress: instead of in containers, names are answered at the host's address, for
// engines and containers that have it among their DNS servers; or nowhere.
func (c *cluster) namesAtAddress() {
	h1, h2 := c.sites[0], c.sites[1]
	want := h2.both("redis", "demo")
	c.must(h1.restartPlugin("WEFT_NAMES=address"))
	defer func() { c.must(h1.restartPlugin("WEFT_NAMES=on")) }()
	var at string
	h1.eventually("weft to answer at an address of the host", func() error {
		st := weftJSON[admin.Status](h1, "status")
		for _, a := range st.Names.Addresses {
			if strings.HasPrefix(a.String(), "10.63.") {
				at = a.Addr().String()
				return nil
			}
		}
		return fmt.Errorf("%+v", st.Names)
	})
	h1.docker("run", "-d", "--name", "asks", "--network", "demo", "--dns", at, "--dns", c.lab.Outside.IPv4.String(), lab.Image, "sleep", "inf")
	h1.resolves("asks", "redis", want...)
	h1.resolves("asks", "redis.demo", want...)
	h1.resolves("asks", "ext.test", "192.0.2.7") // by the next server
	h1.resolves("asks", "neighbour", h1.both("neighbour", "demo")...)
	h1.resolves("client", "redis", "")
	if out := h1.weft("status"); !strings.Contains(out, "answered at 10.6") {
		h1.Errorf("weft status:\n%s", out)
	}
	c.must(h1.restartPlugin("WEFT_NAMES=off"))
	h1.resolves("asks", "redis", "")
	h1.resolves("asks", "neighbour", h1.both("neighbour", "demo")...)
	h2.resolves("redis", "asks", h1.both("asks", "demo")...) // the other hosts learn the names nevertheless
	h1.docker("rm", "-f", "asks")
}

// namesOfOff: the names of a host that is off stay until it is removed, and weft says why.
func (c *cluster) namesOfOff() {
	h1, h2 := c.sites[0], c.sites[1]
	want := h2.both("redis", "demo")
	c.must(h2.PowerOff(c.Context()))
	h1.comesBack("a word about the names of "+h2.Host.Name, func() error {
		st := weftJSON[admin.Status](h1, "status")
		if len(st.Names.Stay) != 1 || !strings.Contains(st.Names.Stay[0], "weft host rm --powered-off "+h2.Host.Name) {
			return fmt.Errorf("%q", st.Names.Stay)
		}
		return nil
	})
	h1.resolves("client", "redis", want...)
	h1.weft("host", "rm", "--powered-off", h2.Host.Name)
	h1.resolves("client", "redis", "")
	if st := weftJSON[admin.Status](h1, "status"); len(st.Names.Stay) > 0 {
		h1.Errorf("%q", st.Names.Stay)
	}
}
